// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! For how long threads ran on the node's CPUs, for how long they were runnable and waited for one, and how often one
//! was put on a CPU.
//!
//! # How
//! `/proc/schedstat` (Documentation/scheduler/sched-stats.rst, versions 15 to 17), which the scheduler itself adds up; no
//! probe is needed. Once an interval.
//!
//! # Signals
//! `linux.sched.run.time`, `linux.sched.wait.time`, `linux.sched.timeslices`; with `per_cpu` by CPU.
//!
//! # Limits
//! Not where the kernel is built without CONFIG_SCHEDSTATS. Each stretch is counted when it ends: a thread that nobody
//! else wants the CPU of is seen late. Time in which a thread's cgroup was throttled may be waiting, too. What a CPU
//! counted is kept while it is off line.
//!
//! # What to do next
//! The rate of `linux.sched.wait.time` is how many threads waited on average, that of `linux.sched.run.time` how many ran. For
//! how long each waited: `linux.sched.runqueue.latency`; who: `linux.container.sched.runqueue.latency`. Waiting divided by
//! timeslices is the mean wait.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc};
use crate::host::Host;
use crate::host::proc::RunQueue;
use crate::signal::semconv::attr;
use crate::signal::units::seconds;
use crate::signal::{Key, MetricDef, Metrics, Value};

const CPU: &[Key] = &[attr::CPU_LOGICAL_NUMBER];

static RUN: MetricDef =
    MetricDef::counter("linux.sched.run.time", "s", "Time that threads ran, over all of them").by(CPU);
static WAIT: MetricDef =
    MetricDef::counter("linux.sched.wait.time", "s", "Time that runnable threads waited for a CPU, over all of them")
        .by(CPU);
static SLICES: MetricDef =
    MetricDef::counter("linux.sched.timeslices", "{timeslice}", "Times that a thread was put on a CPU").by(CPU);

/// Settings of `schedstat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reports each CPU, instead of all together.
    pub per_cpu: bool,
}

impl Settings for Config {}

/// The scheduler's own sums.
pub struct SchedStat {
    per_cpu: bool,
    host: Host,
    /// By CPU, those that are off line too: their sums stand still and go on when they are back.
    last: BTreeMap<u32, RunQueue>,
}

impl Collector for SchedStat {
    const INFO: Info = Info {
        name: "schedstat",
        summary: "time that threads ran and waited for a CPU, by the scheduler's own count",
        doc: head_doc(include_str!("schedstat.rs")),
        metrics: &[&RUN, &WAIT, &SLICES],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        match host.schedstat() {
            Ok(_) => Ok(Vec::new()),
            Err(e) if e.is_missing() => Err(Unavailable::because(
                "this kernel keeps no statistics of its scheduler: it needs CONFIG_SCHEDSTATS",
            )),
            Err(e) => Err(Unavailable::because(e.to_string())),
        }
    }

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(SchedStat { per_cpu: config.per_cpu, host: cx.host.clone(), last: BTreeMap::new() })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.per_cpu = config.per_cpu;
        Ok(())
    }
}

impl MetricCollector for SchedStat {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let online = self.host.schedstat()?;
        self.last.extend(online.iter().map(|of| (of.cpu, *of)));
        if self.per_cpu {
            for of in &online {
                write(of, &[(attr::CPU_LOGICAL_NUMBER, Value::from(of.cpu))], out);
            }
        } else if let Some(all) = self.last.values().copied().reduce(sum) {
            write(&all, &[], out);
        }
        Ok(())
    }
}

fn sum(a: RunQueue, b: RunQueue) -> RunQueue {
    RunQueue {
        cpu: a.cpu,
        ran_ns: a.ran_ns.saturating_add(b.ran_ns),
        waited_ns: a.waited_ns.saturating_add(b.waited_ns),
        slices: a.slices.saturating_add(b.slices),
    }
}

fn write(of: &RunQueue, by: &[(Key, Value)], out: &mut Metrics) {
    out.value(&RUN, None, by, seconds(of.ran_ns));
    out.value(&WAIT, None, by, seconds(of.waited_ns));
    out.count(&SLICES, None, by, of.slices);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    const NAMES: [&str; 3] = ["linux.sched.run.time", "linux.sched.wait.time", "linux.sched.timeslices"];

    fn file(cpus: &[(u32, u64)]) -> String {
        let line = |(cpu, s): &(u32, u64)| format!("cpu{cpu} 0 0 9 9 9 9 {s}000000000 {s}500000000 {s}\ndomain0 3 0\n");
        format!("version 15\ntimestamp 1\n{}", cpus.iter().map(line).collect::<String>())
    }

    fn collected(c: &mut crate::collectors::testing::Rigged<'_>) -> Metrics {
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    /// Nanoseconds become seconds; a CPU that is off line keeps what it counted.
    #[test]
    fn of_all_cpus() {
        let rig = Rig::new().unwrap();
        rig.write("proc/schedstat", file(&[(0, 10), (3, 4)])).unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<SchedStat>(), "").unwrap();
        let of = |out: &Metrics| NAMES.map(|name| out.figure(name, None, &[]).unwrap());
        assert_eq!(of(&collected(&mut c)), [14.0, 15.0, 14.0]);
        rig.write("proc/schedstat", file(&[(0, 11)])).unwrap();
        assert_eq!(of(&collected(&mut c)), [15.0, 16.0, 15.0]);
        rig.write("proc/schedstat", file(&[(0, 11), (3, 5)])).unwrap();
        assert_eq!(of(&collected(&mut c)), [16.0, 17.0, 16.0]);
    }

    /// By CPU there is no sum, and no series of one that is off line.
    #[test]
    fn each_cpu_by_itself() {
        let rig = Rig::new().unwrap();
        rig.write("proc/schedstat", file(&[(0, 10), (3, 4)])).unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<SchedStat>(), "per_cpu = true").unwrap();
        let of = |out: &Metrics, cpu| out.figure(NAMES[1], None, &[("cpu.logical_number", cpu)]);
        let out = collected(&mut c);
        assert_eq!((of(&out, "0"), of(&out, "3"), out.points().len()), (Some(10.5), Some(4.5), 6));
        rig.write("proc/schedstat", file(&[(0, 11)])).unwrap();
        let out = collected(&mut c);
        assert_eq!((of(&out, "0"), of(&out, "3")), (Some(11.5), None));
    }

    /// Without statistics, or with some of a form that is not known, it is unavailable and says why.
    #[test]
    fn without_statistics() {
        let rig = Rig::new().unwrap();
        rig.write("proc/schedstat", "version 99\ncpu0 1 2 3 4 5 6 7 8 9\n").unwrap();
        assert!(SchedStat::survey(rig.host()).unwrap_err().to_string().contains("99"));
        rig.remove("proc/schedstat").unwrap();
        assert!(SchedStat::survey(rig.host()).unwrap_err().to_string().contains("CONFIG_SCHEDSTATS"));
        assert!(rig.run(&crate::collectors::metrics::<SchedStat>(), "").is_err());
    }
}
