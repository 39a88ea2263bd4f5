// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How long requests of block devices took, by device and operation, for the node and each workload: from when
//! they were made until they were done, and of that the time that the device had them. It is what a program waits
//! for that reads what is not in memory, or that wants to know its data safe.
//!
//! # How
//! The shared `block` probe on `block_rq_complete` (include/trace/events/block.h). The kernel keeps in each request when
//! it was made when its device was given it, and for which cgroup. Counted in the kernel in powers of two of a second;
//! what is below 1 us is counted as zero.
//!
//! # Signals
//! `linux.disk.request.duration` and `linux.disk.device.duration`, `linux.container.disk.request.duration` and
//! `linux.container.disk.device.duration`, by `system.device` and `disk.io.direction`: histograms of seconds, since the
//! agent started. Requests that are done are those of `/proc/diskstats`, which calls the wish for a flush a write:
//! its writes are our `write` and `flush` together, its flushes those of `linux.disk.device.duration`.
//!
//! # Limits
//! A request is made when the kernel has room for it in the device's queue: what waited before, for room or as a limit
//! (`io.max`, iocost) held it back, is not in it. A device's time is that of its last attempt. A flush that the device does
//! serves all who wait for one, and is no workload's. Requests that were merged are one, of the workload of the first.
//! A workload's are those of its cgroup of the `io` (v1: `blkio`) controller: where that is off for it, they are those of
//! the cgroup above. What it writes through the page cache counts on v2 with file systems that know its cgroup (ext4,
//! xfs, btrfs), and on v1 not. Whole devices; those without requests of their own (dm, md, zram) have none here: see the
//! devices below. None while `/sys/block/DEVICE/queue/iostats` is 0; no device's time where no part of the kernel asks
//! for it (`wbt`, which most kernels begin with, kyber, bfq of later kernels, a target of `io.latency`). Commands that
//! programs give to a device by themselves (SG_IO, NVMe passthrough) are none.
//!
//! # What to do next
//! Device and request alike long: the device is slow or has too much to do; see `system.disk.io` and which workload has the most
//! of `container.disk.io`. Only the request: it waits for the scheduler, or for others in the queue; see `linux.disk.queue.time`.
//! Long flushes: a cache that is slow to empty, or somebody who calls fsync(2) often. Who waits: `container.io.linux.pressure.total`.

use std::sync::Arc;

use crate::collectors::accumulate::Accumulator;
use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc};
use crate::host::proc::head_of;
use crate::probe::Latencies;
use crate::probe::shared::Block;
use crate::probe::shared::block::{IoGroup, IoOperation, IoTimes};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Workload};
use crate::workload::Workloads;

const BY: &[Key] = &[attr::SYSTEM_DEVICE, attr::DISK_IO_DIRECTION];

static REQUESTS: MetricDef =
    MetricDef::histogram("linux.disk.request.duration", "s", "Time from when a request was made until it was done")
        .by(BY);
static DEVICES: MetricDef =
    MetricDef::histogram("linux.disk.device.duration", "s", "Time that the device had a request until it was done")
        .by(BY);
static WORKLOAD_REQUESTS: MetricDef = MetricDef::histogram(
    "linux.container.disk.request.duration",
    "s",
    "Time from when a request of the workload was made until it was done",
)
.by(BY);
static WORKLOAD_DEVICES: MetricDef = MetricDef::histogram(
    "linux.container.disk.device.duration",
    "s",
    "Time that the device had a request of the workload until it was done",
)
.by(BY);

/// Devices and operations, of the node and of each workload; further ones are counted as those of `OTHER`.
const MAX_LABELS: usize = 256;
const OTHER: &str = "OTHER";

const OPERATIONS: [(IoOperation, &str); 4] = [
    (IoOperation::IO_READ, "read"),
    (IoOperation::IO_WRITE, "write"),
    (IoOperation::IO_FLUSH, "flush"),
    (IoOperation::IO_DISCARD, "discard"),
];

/// A device's name and what it was to do.
type Label = (String, &'static str);

/// Latency of block I/O.
pub struct IoLat {
    probe: Block,
    workloads: Workloads,
    times: Accumulator<IoGroup, Label, IoTimes>,
}

impl Collector for IoLat {
    const INFO: Info = Info {
        name: "iolat",
        summary: "How long disk I/O took, in the queue and in the device",
        doc: head_doc(include_str!("iolat.rs")),
        needs: &[Block::LATENCIES],
        metrics: &[&REQUESTS, &DEVICES, &WORKLOAD_REQUESTS, &WORKLOAD_DEVICES],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let times = Accumulator::bounded(MAX_LABELS, |(_, operation): &Label| (OTHER.to_owned(), *operation));
        Ok(IoLat { probe: cx.shared()?, workloads: cx.workloads.clone(), times })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for IoLat {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let reading = self.probe.latencies()?;
        self.times.feed(&self.workloads, reading, |group| self.workloads.of_cgroup(group.cgroup?), label);
        for (label, times) in self.times.node() {
            write(label, None, [(&REQUESTS, &times.total.request), (&DEVICES, &times.total.device)], out);
        }
        for (workload, label, times) in self.times.workloads() {
            let both = [(&WORKLOAD_REQUESTS, &times.total.request), (&WORKLOAD_DEVICES, &times.total.device)];
            write(label, Some(workload), both, out);
        }
        Ok(())
    }
}

/// A path's requests are its head's, as `disk` has it.
fn label(group: IoGroup) -> Label {
    let device = group.device();
    let operation = OPERATIONS.iter().find(|(o, _)| *o == group.operation).map_or("other", |(_, name)| name);
    (head_of(&device).unwrap_or(device), operation)
}

fn write(
    (device, operation): &Label,
    workload: Option<&Arc<Workload>>,
    both: [(&'static MetricDef, &Latencies); 2],
    out: &mut Metrics,
) {
    let by = [(attr::SYSTEM_DEVICE, device.clone().into()), (attr::DISK_IO_DIRECTION, (*operation).into())];
    for (def, latencies) in both.into_iter().filter(|(_, l)| l.count() > 0) {
        out.histogram(def, workload, &by, latencies.histogram());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::probe::CgroupId;
    use crate::probe::skeletons::block::{IoKey, IoLatencies, SKELETON};
    use crate::signal::metric::Reading;

    /// So many requests of `slot`, of a second each; the device had them for half of it.
    fn put(rig: &Rig, cgroup: CgroupId, device: &str, operation: IoOperation, (n, of_device): (u64, u64)) {
        let mut key = IoKey { operation, ..IoKey::new_zeroed() };
        (key.cgroup, key.hierarchy) = (cgroup.id, cgroup.hierarchy);
        key.device[..device.len()].copy_from_slice(device.as_bytes());
        let mut value = IoLatencies { last_ns: rig.kernel().monotonic_ns(), ..IoLatencies::new_zeroed() };
        (value.request.slots[20], value.request.total_ns) = (n, n * 1_000_000_000);
        (value.device.slots[19], value.device.total_ns) = (of_device, of_device * 500_000_000);
        rig.kernel().put(&SKELETON, "block_ios", &key, &[value]).unwrap();
    }

    const NOBODY: CgroupId = CgroupId { hierarchy: 0, id: 0 };

    /// Each point as "metric workload device operation count sum", sorted.
    fn points(out: &Metrics) -> Vec<String> {
        let text = |p: &crate::signal::Point| {
            let Reading::Histogram(h) = &p.reading else { panic!("{p:?}") };
            let at = |key: Key| p.attributes.get(key.name).unwrap().as_str().unwrap().to_owned();
            let who = p.workload.as_ref().map_or("-", |w| w.cgroup.as_str());
            let (device, operation) = (at(attr::SYSTEM_DEVICE), at(attr::DISK_IO_DIRECTION));
            format!("{} {who} {device} {operation} {} {}", p.def.name, h.count(), h.sum.unwrap())
        };
        let mut all: Vec<_> = out.points().iter().map(text).collect();
        all.sort();
        all
    }

    fn collected(rig: &Rig) -> Vec<String> {
        let mut out = Metrics::default();
        rig.run(&crate::collectors::metrics::<IoLat>(), "").unwrap().collect(&mut out).unwrap();
        points(&out)
    }

    /// What a workload did is the node's as well; what nobody did, the node's alone; what has no count, no series.
    #[test]
    fn requests_of_a_workload() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        put(&rig, cgroup, "sda", IoOperation::IO_WRITE, (4, 4));
        put(&rig, cgroup, "sda", IoOperation::IO_FLUSH, (1, 0));
        put(&rig, NOBODY, "sda", IoOperation::IO_WRITE, (2, 0));
        put(&rig, NOBODY, "sda", IoOperation::IO_FLUSH, (0, 2));
        let expected = [
            "linux.container.disk.device.duration /a.service sda write 4 2",
            "linux.container.disk.request.duration /a.service sda flush 1 1",
            "linux.container.disk.request.duration /a.service sda write 4 4",
            "linux.disk.device.duration - sda flush 2 1",
            "linux.disk.device.duration - sda write 4 2",
            "linux.disk.request.duration - sda flush 1 1",
            "linux.disk.request.duration - sda write 6 6",
        ];
        assert_eq!(collected(&rig), expected);
    }

    /// Paths of a multipath device are the device's, together.
    #[test]
    fn paths_are_their_heads() {
        let rig = Rig::new().unwrap();
        put(&rig, NOBODY, "nvme0c0n1", IoOperation::IO_READ, (3, 0));
        put(&rig, NOBODY, "nvme0c1n1", IoOperation::IO_READ, (2, 0));
        put(&rig, NOBODY, "nvme0n2", IoOperation::IO_READ, (1, 0));
        let expected =
            ["linux.disk.request.duration - nvme0n1 read 5 5", "linux.disk.request.duration - nvme0n2 read 1 1"];
        assert_eq!(collected(&rig), expected);
    }

    /// However many devices there are, the series are bounded and nothing is left out of their sum.
    #[test]
    fn many_devices_are_bounded() {
        let rig = Rig::new().unwrap();
        for i in 0..300 {
            put(&rig, NOBODY, &format!("loop{i}"), IoOperation::IO_READ, (1, 0));
        }
        let all = collected(&rig);
        assert_eq!(all.len(), MAX_LABELS + 1);
        assert!(all.contains(&"linux.disk.request.duration - OTHER read 44 44".to_owned()), "{all:?}");
    }
}
