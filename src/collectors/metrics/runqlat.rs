// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How long threads that could run had to wait for a CPU: the node's tasks as a whole, and each
//! workload's. It is what a user feels as slowness while the CPU graph still looks fine.
//!
//! # How
//! The shared `sched` probe on `sched_switch`. The kernel keeps in each task when it became
//! runnable or was preempted; the incoming task's wait is one subtraction at the switch. When a
//! waiting task is moved to another CPU (`sched_migrate_task`), what it waited so far is kept until it
//! runs, and is part of its one wait. So the sums are those of `/proc/PID/task/*/schedstat`. Counted
//! in the kernel in powers of two of a second; waits below 1 us are counted as zero.
//!
//! # Signals
//! `linux.sched.runqueue.latency` for the node, `linux.container.sched.runqueue.latency` for each
//! workload: histograms of seconds. Idle tasks do not count.
//!
//! # Limits
//! The time that a CPU limit (quota) held a task back counts as waiting: read it beside
//! `linux.container.cpu.throttled.time`. A wait counts once it has ended. A task that moved to another
//! cgroup counts there from its next switch. What is lost is counted in `bianque.records.lost` of `sched`:
//! `map_full`, more than 2,048 moved tasks waited at once (and without `CONFIG_SCHEDSTATS`, the task has the
//! lowest 17 bits of its id in common with another); `unseen`, waits that are the node's only, as the kernel
//! ran no program: some hosted kernels leave out a few switches.
//!
//! # What to do next
//! High for the node: more runnable threads than CPUs; see `system.cpu.utilization` and which
//! workload has the highest `container.cpu.usage`. High for one workload only: its own limit, its
//! `cpu.weight` against its neighbours, or its cpuset.

use crate::collectors::accumulate::Accumulator;
use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc};
use crate::probe::shared::sched::{RunQueue, Sched};
use crate::probe::{CgroupId, Latencies};
use crate::signal::{MetricDef, Metrics};
use crate::workload::Workloads;

static NODE: MetricDef =
    MetricDef::histogram("linux.sched.runqueue.latency", "s", "Time that runnable threads waited for a CPU");
static WORKLOAD: MetricDef =
    MetricDef::histogram("linux.container.sched.runqueue.latency", "s", "Time that its threads waited for a CPU");

/// Run-queue latency of the node and of each workload.
pub struct RunqLat {
    sched: Sched,
    workloads: Workloads,
    report: Report,
}

impl Collector for RunqLat {
    const INFO: Info = Info {
        name: "runqlat",
        summary: "How long runnable threads waited for a CPU",
        doc: head_doc(include_str!("runqlat.rs")),
        enabled: true,
        needs: &[Sched::RUN_QUEUE],
        object: None,
        optional: &[],
        capabilities: &[],
        metrics: &[&NODE, &WORKLOAD],
        events: &[],
    };
    type Config = NoSettings;

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let sched = cx.shared::<Sched>()?;
        Ok(RunqLat { sched, workloads: cx.workloads.clone(), report: Report::default() })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for RunqLat {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        self.report.write(self.sched.run_queue()?, &self.workloads, out);
        Ok(())
    }
}

#[derive(Default)]
struct Report {
    waits: Accumulator<CgroupId, (), Latencies>,
}

impl Report {
    fn write(&mut self, reading: RunQueue, workloads: &Workloads, out: &mut Metrics) {
        out.histogram(&NODE, None, &[], reading.node.histogram());
        self.waits.feed(workloads, reading.cgroups, |cgroup| workloads.of_cgroup(cgroup), |_| ());
        for (workload, (), waits) in self.waits.workloads() {
            out.histogram(&WORKLOAD, Some(workload), &[], waits.total.histogram());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::host::{Clock, Host};
    use crate::probe::skeletons::sched::{SKELETON, SchedGroup};
    use crate::signal::metric::Reading;
    use crate::signal::{Timestamp, Total};

    fn waits(zero: u64, slot: usize, n: u64, total_ns: u64) -> Latencies {
        let mut waits = Latencies { zero, total_ns, ..Latencies::default() };
        waits.slots[slot] = n;
        waits
    }

    /// A workload's histogram is the sum over its cgroups; the node's is the probe's own.
    #[test]
    fn a_workloads_cgroups_add_up() {
        let workloads = Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1));
        let id = |id| CgroupId { hierarchy: 1, id };
        workloads.on_mkdir(id(7), "/a.service");
        workloads.on_mkdir(id(8), "/a.service/child");
        let reading = RunQueue {
            node: waits(9, 10, 5, 3_000_000_000),
            cgroups: vec![
                Total::new(id(1), 1, waits(5, 3, 1, 7)),
                Total::new(id(7), 1, waits(3, 10, 2, 2_000_000_000)),
                Total::new(id(8), 1, waits(1, 10, 2, 5)),
            ],
        };
        let (mut report, mut out) = (Report::default(), Metrics::default());
        report.write(reading, &workloads, &mut out);
        let histograms: Vec<_> = out
            .points()
            .iter()
            .map(|p| match &p.reading {
                Reading::Histogram(h) => (p.workload.as_ref().map(|w| w.cgroup.as_str()), h.clone()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(histograms.len(), 2);
        let (who, node) = &histograms[0];
        assert_eq!((*who, node.zero_count, node.offset, node.counts[10], node.sum), (None, 9, -20, 5, Some(3.0)));
        let (who, own) = &histograms[1];
        assert_eq!((*who, own.zero_count, own.counts[10], own.count()), (Some("/a.service"), 4, 4, 8));
    }

    /// From the kernel's tables to the histograms of the node and of the workload.
    #[test]
    fn waits_of_a_workload() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut group = SchedGroup::new_zeroed();
        group.wait = waits(3, 10, 2, 2_000_000_000);
        rig.kernel().put(&SKELETON, "sched_evicted", &cgroup.id, &[group]).unwrap();
        let mut out = Metrics::default();
        rig.run(&crate::collectors::metrics::<RunqLat>(), "").unwrap().collect(&mut out).unwrap();
        let of = |p: &crate::signal::metric::Point| match &p.reading {
            Reading::Histogram(h) => (p.def.name, p.workload.as_ref().map(|w| w.cgroup.clone()), h.counts[10], h.sum),
            other => panic!("{other:?}"),
        };
        let points: Vec<_> = out.points().iter().map(of).collect();
        let who = Some("/a.service".to_owned());
        let expected = [(NODE.name, None, 2, Some(2.0)), (WORKLOAD.name, who, 2, Some(2.0))];
        assert_eq!(points, expected);
    }
}
