// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How much the node has to do: load averages, threads that run or wait for a CPU, threads that wait
//! for I/O, and how many threads were created, context switches made and interrupts taken.
//!
//! # How
//! `/proc/loadavg` and `/proc/stat` (proc(5)), read once an interval.
//!
//! # Signals
//! `system.cpu.load_average.1m`, `.5m` and `.15m`; `linux.thread.runnable.count`,
//! `linux.thread.blocked.count`, `linux.thread.created`, `linux.cpu.context_switches`,
//! `linux.cpu.interrupts`.
//!
//! # Limits
//! Linux counts threads in uninterruptible sleep into the load averages (kernel/sched/loadavg.c): a
//! high load with idle CPUs is waiting, not work. Runnable and blocked are of the moment of the
//! reading. Interrupts are all that the architecture counts, timers included.
//!
//! # What to do next
//! Load far above the number of CPUs: compare `linux.thread.runnable.count` with
//! `linux.thread.blocked.count`. Runnable: see `container.cpu.usage` and
//! `linux.sched.runqueue.latency`. Blocked: a disk or a file server; see the `hungtask` collector.
//! Many threads created: a program that starts others in a loop.

use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc};
use crate::host::Host;
use crate::signal::{MetricDef, Metrics};

static LOAD: [MetricDef; 3] = [
    MetricDef::gauge("system.cpu.load_average.1m", "{thread}", "Threads that ran or waited, on average over 1 minute"),
    MetricDef::gauge("system.cpu.load_average.5m", "{thread}", "The same over 5 minutes"),
    MetricDef::gauge("system.cpu.load_average.15m", "{thread}", "The same over 15 minutes"),
];
static RUNNABLE: MetricDef =
    MetricDef::up_down_counter("linux.thread.runnable.count", "{thread}", "Threads that run or wait for a CPU");
static BLOCKED: MetricDef =
    MetricDef::up_down_counter("linux.thread.blocked.count", "{thread}", "Threads that wait for I/O");
static CREATED: MetricDef =
    MetricDef::counter("linux.thread.created", "{thread}", "Threads and processes created since boot");
static SWITCHES: MetricDef =
    MetricDef::counter("linux.cpu.context_switches", "{context_switch}", "Context switches of all CPUs since boot");
static INTERRUPTS: MetricDef =
    MetricDef::counter("linux.cpu.interrupts", "{interrupt}", "Interrupts that all CPUs took since boot");

/// Load of the node.
pub struct Load {
    host: Host,
}

impl Collector for Load {
    const INFO: Info = Info {
        name: "load",
        summary: "load averages, runnable and blocked threads, context switches, interrupts",
        doc: head_doc(include_str!("load.rs")),
        metrics: &[&LOAD[0], &LOAD[1], &LOAD[2], &RUNNABLE, &BLOCKED, &CREATED, &SWITCHES, &INTERRUPTS],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(Load { host: cx.host.clone() })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for Load {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let stat = self.host.stat()?;
        out.count(&RUNNABLE, None, &[], stat.running.into());
        out.count(&BLOCKED, None, &[], stat.blocked.into());
        out.count(&CREATED, None, &[], stat.forks);
        out.count(&SWITCHES, None, &[], stat.context_switches);
        out.count(&INTERRUPTS, None, &[], stat.interrupts);
        for (def, load) in LOAD.iter().zip(self.host.loadavg()?.load) {
            out.value(def, None, &[], load);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;
    use crate::signal::metric::Reading;

    /// Every figure lands under its name; without a load average the others are there all the same.
    #[test]
    fn figures_of_the_node() {
        let rig = Rig::new().unwrap();
        let stat = "cpu  1 0 1 1\ncpu0 1 0 1 1\nintr 77 5 0\nctxt 99\nprocesses 5\nprocs_running 2\nprocs_blocked 1\n";
        rig.write("proc/stat", stat).unwrap();
        rig.write("proc/loadavg", "0.20 0.18 0.12 1/80 11206\n").unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Load>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        let value = |p: &crate::signal::Point| match p.reading {
            Reading::Int(n) => (p.def.name, n.to_string()),
            Reading::Double(d) => (p.def.name, d.to_string()),
            ref other => panic!("{other:?}"),
        };
        let points: Vec<_> = out.points().iter().map(value).collect();
        let expected = [
            ("linux.thread.runnable.count", "2"),
            ("linux.thread.blocked.count", "1"),
            ("linux.thread.created", "5"),
            ("linux.cpu.context_switches", "99"),
            ("linux.cpu.interrupts", "77"),
            ("system.cpu.load_average.1m", "0.2"),
            ("system.cpu.load_average.5m", "0.18"),
            ("system.cpu.load_average.15m", "0.12"),
        ];
        assert_eq!(points, expected.map(|(name, v)| (name, v.to_owned())));
        rig.write("proc/loadavg", "nonsense").unwrap();
        let mut out = Metrics::default();
        assert!(c.collect(&mut out).unwrap_err().to_string().contains("loadavg"));
        assert_eq!(out.points().len(), 5);
    }
}
