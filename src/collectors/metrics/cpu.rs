// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! Who uses the CPUs: the node by mode (user, system, idle, stolen …), each workload in CPU seconds
//! and CPUs, what limit it has, and how long that limit held it back.
//!
//! # How
//! The node from `/proc/stat`. Workloads from the shared `sched` probe, which adds up run times at
//! each context switch: one map reading for all of them, and short-lived ones are not missed.
//! Limits and throttling from the cgroup's `cpu.max` and `cpu.stat` (v1: `cpu.cfs_quota_us`).
//!
//! # Signals
//! `system.cpu.time`, `system.cpu.utilization`, `linux.cpu.softirq.time`, `system.cpu.logical.count`; `container.cpu.time`,
//! `container.cpu.usage`, `linux.container.cpu.limit`, `linux.container.cpu.throttled.time`,
//! `linux.container.cpu.throttled.periods`, `linux.container.cpu.periods`.
//!
//! # Limits
//! A workload's time counts from the agent's start. It is what the scheduler charges: time that
//! interrupts took, or that the hypervisor gave to others, is left out where the kernel can tell
//! it. A thread that moves to another cgroup counts there from its next switch. The limit is the
//! tightest of the workload's cgroup and its ancestors; throttling is its own cgroup's. The mode
//! `interrupt` has hardware and soft interrupts, so that the modes add up to all time;
//! `linux.cpu.softirq.time` is the softirqs' part of it. The kernel lets the node's times fall (idle after a CPU was unplugged, iowait by
//! some ticks): they are held, and count on from there.
//!
//! # What to do next
//! A workload near its limit with throttled time that grows needs a higher limit or less
//! parallelism. One far from its limit that is slow nonetheless: see `linux.container.sched.runqueue.latency`.
//! Much `steal`: the node's own host is overcommitted. Much `linux.cpu.softirq.time`: see the `softirq` collector.

mod node;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::accumulate::Accumulator;
use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc};
use crate::host::cgroup::Cgroups;
use crate::host::{Clock, Host};
use crate::probe::CgroupId;
use crate::probe::shared::sched::Sched;
use crate::signal::semconv::attr;
use crate::signal::units::seconds;
use crate::signal::{Key, MetricDef, Metrics, Total, Workload};
use crate::workload::Workloads;
use node::Node;

const MODES: &[Key] = &[attr::CPU_MODE, attr::CPU_LOGICAL_NUMBER];
const CPU: &[Key] = &[attr::CPU_LOGICAL_NUMBER];

static NODE_TIME: MetricDef = MetricDef::counter("system.cpu.time", "s", "What the node's CPUs did, by mode").by(MODES);
static NODE_UTILIZATION: MetricDef =
    MetricDef::gauge("system.cpu.utilization", "1", "Share of the CPUs' time since the reading before").by(MODES);
/// Of `interrupt`; the conventions have no mode of its own for it.
static SOFTIRQ_TIME: MetricDef =
    MetricDef::counter("linux.cpu.softirq.time", "s", "Part of the interrupt mode that softirqs took").by(CPU);
/// How many there are; the alert on the agent's cost divides by it.
pub static CPU_COUNT: MetricDef =
    MetricDef::up_down_counter("system.cpu.logical.count", "{cpu}", "CPUs that are online");
static TIME: MetricDef = MetricDef::counter("container.cpu.time", "s", "CPU time that the workload used");
static USAGE: MetricDef =
    MetricDef::gauge("container.cpu.usage", "{cpu}", "CPUs that the workload used, since the reading before");
static LIMIT: MetricDef = MetricDef::up_down_counter(
    "linux.container.cpu.limit",
    "{cpu}",
    "CPUs that its cgroup and that one's ancestors allow it",
);
static THROTTLED_TIME: MetricDef =
    MetricDef::counter("linux.container.cpu.throttled.time", "s", "Time that its limit held it back, over all CPUs");
static THROTTLED_PERIODS: MetricDef =
    MetricDef::counter("linux.container.cpu.throttled.periods", "{period}", "Periods in which its limit held it back");
static PERIODS: MetricDef =
    MetricDef::counter("linux.container.cpu.periods", "{period}", "Periods of its limit in which it ran");

/// Settings of `cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reports the node's time and utilization for each CPU, instead of for all together.
    pub per_cpu: bool,
}

impl Settings for Config {}

/// CPU time of the node and of each workload.
pub struct Cpu {
    config: Config,
    host: Host,
    cgroups: Cgroups,
    clock: Clock,
    workloads: Workloads,
    sched: Sched,
    node: Node,
    usage: Usage,
}

impl Collector for Cpu {
    const INFO: Info = Info {
        name: "cpu",
        summary: "CPU time of the node and of each workload, limits and throttling",
        doc: head_doc(include_str!("cpu.rs")),
        enabled: true,
        needs: &[Sched::CPU_TIME],
        object: None,
        optional: &[],
        capabilities: &[],
        metrics: &[
            &NODE_TIME,
            &NODE_UTILIZATION,
            &SOFTIRQ_TIME,
            &CPU_COUNT,
            &TIME,
            &USAGE,
            &LIMIT,
            &THROTTLED_TIME,
            &THROTTLED_PERIODS,
            &PERIODS,
        ],
        events: &[],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let sched = cx.shared::<Sched>()?;
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        Ok(Cpu {
            config,
            host: cx.host.clone(),
            cgroups,
            clock: cx.clock.clone(),
            workloads: cx.workloads.clone(),
            sched,
            node: Node::default(),
            usage: Usage::default(),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl MetricCollector for Cpu {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let node = self.host.stat().map(|stat| self.node.write(&stat, self.config.per_cpu, out));
        self.usage.write(self.sched.cpu_time()?, self.clock.now().boot_ns, &self.workloads, out);
        for (workload, ..) in self.usage.times.workloads() {
            limits(&self.cgroups, workload, out);
        }
        Ok(node?)
    }
}

/// What workloads used, from the shared probe.
#[derive(Default)]
struct Usage {
    times: Accumulator<CgroupId, (), u64>,
    last_ns: Option<u64>,
}

impl Usage {
    fn write(&mut self, reading: Vec<Total<CgroupId, u64>>, now_ns: u64, workloads: &Workloads, out: &mut Metrics) {
        self.times.feed(workloads, reading, |cgroup| workloads.of_cgroup(cgroup), |_| ());
        let elapsed = self.last_ns.replace(now_ns).map(|last| now_ns.saturating_sub(last)).filter(|e| *e > 0);
        for (workload, (), time_ns) in self.times.workloads() {
            out.value(&TIME, Some(workload), &[], seconds(time_ns.total));
            if let Some(elapsed) = elapsed {
                out.value(&USAGE, Some(workload), &[], seconds(time_ns.growth) / seconds(elapsed));
            }
        }
    }
}

/// Limit and throttling of one workload; nothing where it has none, or is just going away.
fn limits(cgroups: &Cgroups, workload: &std::sync::Arc<Workload>, out: &mut Metrics) {
    let Some(cpus) = cgroups.cpus_allowed(&workload.cgroup) else { return };
    out.value(&LIMIT, Some(workload), &[], cpus);
    let Ok(stat) = cgroups.throttling(&workload.cgroup) else { return };
    out.value(&THROTTLED_TIME, Some(workload), &[], seconds(stat.throttled_ns));
    out.count(&THROTTLED_PERIODS, Some(workload), &[], stat.throttled);
    out.count(&PERIODS, Some(workload), &[], stat.periods);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zerocopy::FromZeros as _;

    use super::*;
    use crate::collectors::testing::Rig;
    use crate::host::Host;
    use crate::probe::skeletons::sched::{SKELETON, SchedGroup};
    use crate::signal::Timestamp;
    use crate::signal::metric::Reading;

    pub const S: u64 = 1_000_000_000;

    pub fn get(out: &Metrics, name: &str, mode: Option<&str>) -> Vec<f64> {
        let wanted = out.points().iter().filter(|p| p.def.name == name);
        let wanted = wanted.filter(|p| mode.is_none_or(|m| p.attributes.get("cpu.mode").unwrap().as_str() == Some(m)));
        let value = |r: &Reading| match r {
            Reading::Double(d) => *d,
            Reading::Int(n) => f64::from(u32::try_from(*n).unwrap()),
            other => panic!("{other:?}"),
        };
        wanted.map(|p| value(&p.reading)).collect()
    }

    /// A workload's time grows by what its cgroups ran, its usage is that over the time between
    /// readings; the root's time is no workload's.
    #[test]
    fn usage_of_a_workload() {
        let (mut usage, mut out) = (Usage::default(), Metrics::default());
        let workloads = Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1));
        let id = |id| CgroupId { hierarchy: 1, id };
        workloads.on_mkdir(id(1), "/");
        workloads.on_mkdir(id(7), "/system.slice/a.service");
        let reading = |all: &[(u64, u64)]| all.iter().map(|(n, s)| Total::new(id(*n), 1, s * S)).collect();
        usage.write(reading(&[(1, 50), (7, 3)]), 100 * S, &workloads, &mut out);
        assert_eq!(
            (get(&out, "container.cpu.time", None), get(&out, "container.cpu.usage", None)),
            (vec![3.0], vec![])
        );
        out.drain();
        usage.write(reading(&[(1, 60), (7, 8)]), 110 * S, &workloads, &mut out);
        assert_eq!(
            (get(&out, "container.cpu.time", None), get(&out, "container.cpu.usage", None)),
            (vec![8.0], vec![0.5])
        );
    }

    /// Limit and throttling are told where a limit is, in CPUs and seconds; else nothing.
    #[test]
    fn limits_where_there_are_some() {
        let d = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = d.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        put("proc/self/cgroup", "0::/\n");
        put("sys/fs/cgroup/cgroup.controllers", "cpu memory");
        put("sys/fs/cgroup/a.service/cpu.max", "150000 100000\n");
        put("sys/fs/cgroup/a.service/cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_usec 2500000\n");
        put("sys/fs/cgroup/b.service/cpu.max", "max 100000\n");
        let host = Host::under(d.path());
        let cgroups = Cgroups::read(&host).unwrap();
        let workloads = Workloads::new(&host, &Clock::fixed(Timestamp(1), 1));
        let workload = |id, path| -> Arc<Workload> {
            workloads.on_mkdir(CgroupId { hierarchy: 0, id }, path);
            workloads.of_cgroup(CgroupId { hierarchy: 0, id }).unwrap()
        };
        let mut out = Metrics::default();
        limits(&cgroups, &workload(7, "/a.service"), &mut out);
        assert_eq!(get(&out, "linux.container.cpu.limit", None), [1.5]);
        assert_eq!(get(&out, "linux.container.cpu.throttled.time", None), [2.5]);
        assert_eq!(get(&out, "linux.container.cpu.throttled.periods", None), [4.0]);
        assert_eq!(get(&out, "linux.container.cpu.periods", None), [9.0]);
        out.drain();
        limits(&cgroups, &workload(8, "/b.service"), &mut out);
        assert!(out.points().is_empty());
    }

    fn sched_group(run_ns: u64) -> SchedGroup {
        SchedGroup { run_ns, ..SchedGroup::new_zeroed() }
    }

    /// On a whole node: a workload's time and use by the probe, its limit and throttling by its cgroup's files.
    #[test]
    fn a_workload_and_its_limit() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/system.slice/web.service").unwrap();
        rig.write("sys/fs/cgroup/system.slice/web.service/cpu.max", "150000 100000\n").unwrap();
        let throttled = "nr_periods 9\nnr_throttled 4\nthrottled_usec 2500000\n";
        rig.write("sys/fs/cgroup/system.slice/web.service/cpu.stat", throttled).unwrap();
        let mut cpu = rig.run(&crate::collectors::metrics::<Cpu>(), "").unwrap();
        for run_s in [3, 8] {
            rig.kernel().put(&SKELETON, "sched_evicted", &cgroup.id, &[sched_group(run_s * S)]).unwrap();
            let mut out = Metrics::default();
            cpu.collect(&mut out).unwrap();
            rig.advance(std::time::Duration::from_secs(10));
            assert_eq!(get(&out, "container.cpu.time", None), [f64::from(u32::try_from(run_s).unwrap())]);
            let usage: &[f64] = if run_s == 3 { &[] } else { &[0.5] };
            assert_eq!(get(&out, "container.cpu.usage", None), usage);
            assert_eq!(get(&out, "linux.container.cpu.limit", None), [1.5]);
            assert_eq!(get(&out, "linux.container.cpu.throttled.time", None), [2.5]);
            assert_eq!(get(&out, "linux.container.cpu.throttled.periods", None), [4.0]);
            assert_eq!(get(&out, "system.cpu.time", Some("idle")), [1.0]);
        }
    }

    /// Without the node's file the workloads are still reported, and the run has failed.
    #[test]
    fn without_the_nodes_file() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut cpu = rig.run(&crate::collectors::metrics::<Cpu>(), "").unwrap();
        rig.kernel().put(&SKELETON, "sched_evicted", &cgroup.id, &[sched_group(S)]).unwrap();
        rig.remove("proc/stat").unwrap();
        let mut out = Metrics::default();
        assert!(cpu.collect(&mut out).is_err());
        assert_eq!(get(&out, "container.cpu.time", None), [1.0]);
    }
}
