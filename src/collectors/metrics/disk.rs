// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! What block devices did: bytes, requests and their time by direction, how long the device was busy, how
//! many requests waited in it; and what each workload read and wrote.
//!
//! # How
//! `/proc/diskstats` (Documentation/admin-guide/iostats.rst); of workloads `io.stat` of cgroup v2, or
//! `blkio.throttle.io_service_bytes_recursive` and `io_serviced_recursive` of v1. Once an interval.
//!
//! # Signals
//! `system.disk.io`, `.operations`, `.merged`, `.operation_time`, `.io_time`, `.limit`; `linux.disk.queue.time`,
//! `linux.disk.in_flight`, `linux.disk.discard.*`, `linux.disk.flush.*`; `container.disk.io`,
//! `linux.container.disk.operations`.
//!
//! # Limits
//! Whole devices; partitions with `partitions = true`. A device on top of others (dm, md) has the same bytes
//! again: do not add them up. `system.disk.io_time` is sampled by the kernel since 5.0 when requests begin
//! and end, may grow faster than the clock, and says little of devices that do many at once. A workload's
//! writes through the page cache are counted on v2 by file systems that know its cgroup (ext4, xfs,
//! btrfs); on v1 only what it does directly is. A device that was never used has no series.
//!
//! # What to do next
//! `linux.disk.queue.time` divided by time is the mean length of the queue; `operation_time` by `operations`
//! the mean latency. Which workload: `container.disk.io`. Who waits: `container.io.linux.pressure.total`.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::unwrapped::Unwrapped;
use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc};
use crate::host::proc::{Disk, DiskOps, head_of};
use crate::host::{Cgroups, Host};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value, Workload};
use crate::workload::Workloads;

const DIRECTION: Key = attr::DISK_IO_DIRECTION;
const BY: &[Key] = &[attr::SYSTEM_DEVICE, DIRECTION];
const DEVICE: &[Key] = &[attr::SYSTEM_DEVICE];

static IO: MetricDef = MetricDef::counter("system.disk.io", "By", "Read from and written to the device").by(BY);
static OPERATIONS: MetricDef =
    MetricDef::counter("system.disk.operations", "{operation}", "Requests that the device has done").by(BY);
static MERGED: MetricDef =
    MetricDef::counter("system.disk.merged", "{operation}", "Requests that became part of another").by(BY);
static OPERATION_TIME: MetricDef =
    MetricDef::counter("system.disk.operation_time", "s", "Time that requests took, over all of them").by(BY);
static IO_TIME: MetricDef =
    MetricDef::counter("system.disk.io_time", "s", "Time that the device had something to do").by(DEVICE);
static LIMIT: MetricDef = MetricDef::up_down_counter("system.disk.limit", "By", "Size of the device").by(DEVICE);
static QUEUE_TIME: MetricDef = MetricDef::counter(
    "linux.disk.queue.time",
    "s",
    "Time times the requests under way; its rate is their mean number",
)
.by(DEVICE);
static IN_FLIGHT: MetricDef =
    MetricDef::up_down_counter("linux.disk.in_flight", "{operation}", "Requests under way at the reading").by(DEVICE);
static DISCARDS: MetricDef =
    MetricDef::counter("linux.disk.discard.operations", "{operation}", "Discards that the device has done").by(DEVICE);
static DISCARDED: MetricDef = MetricDef::counter("linux.disk.discard.io", "By", "What they discarded").by(DEVICE);
static DISCARD_TIME: MetricDef =
    MetricDef::counter("linux.disk.discard.time", "s", "Time that they took, over all of them").by(DEVICE);
static FLUSHES: MetricDef =
    MetricDef::counter("linux.disk.flush.operations", "{operation}", "Flushes of the device's cache").by(DEVICE);
static FLUSH_TIME: MetricDef =
    MetricDef::counter("linux.disk.flush.time", "s", "Time that they took, over all of them").by(DEVICE);
static CONTAINER_IO: MetricDef =
    MetricDef::counter("container.disk.io", "By", "Read and written by the workload").by(BY);
static CONTAINER_OPERATIONS: MetricDef =
    MetricDef::counter("linux.container.disk.operations", "{operation}", "Requests of the workload").by(BY);

/// Settings of `disk`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reports partitions beside whole devices.
    pub partitions: bool,
}

impl Settings for Config {}

/// Block devices.
pub struct Disks {
    config: Config,
    host: Host,
    cgroups: Cgroups,
    workloads: Workloads,
    times: HashMap<String, Times>,
}

impl Collector for Disks {
    const INFO: Info = Info {
        name: "disk",
        summary: "what block devices did, and for which workload",
        doc: head_doc(include_str!("disk.rs")),
        metrics: &[
            &IO,
            &OPERATIONS,
            &MERGED,
            &OPERATION_TIME,
            &IO_TIME,
            &LIMIT,
            &QUEUE_TIME,
            &IN_FLIGHT,
            &DISCARDS,
            &DISCARDED,
            &DISCARD_TIME,
            &FLUSHES,
            &FLUSH_TIME,
            &CONTAINER_IO,
            &CONTAINER_OPERATIONS,
        ],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        let (host, workloads) = (cx.host.clone(), cx.workloads.clone());
        Ok(Disks { config, host, cgroups, workloads, times: HashMap::new() })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl MetricCollector for Disks {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let disks = self.host.disks()?;
        let names: HashMap<(u32, u32), &str> = disks.iter().map(|d| (d.number, d.name.as_str())).collect();
        for workload in self.workloads.leaves() {
            self.of_workload(&workload, &names, out);
        }
        let seen = with_paths(&disks, |name| self.is_hidden(name));
        self.times.retain(|name, _| seen.iter().any(|d| d.name == *name));
        for disk in &seen {
            let size = self.host.block_device(&disk.name, "size");
            let is_wanted = size.is_some() || self.config.partitions;
            if is_wanted && (disk.read, disk.write) != <(DiskOps, DiskOps)>::default() {
                write(disk, self.times.entry(disk.name.clone()).or_default(), out);
                let sectors: Option<u64> = size.and_then(|s| s.parse().ok());
                if let Some(bytes) = sectors.map(|n| n.saturating_mul(512)) {
                    out.count(&LIMIT, None, &[device(&disk.name)], bytes);
                }
            }
        }
        Ok(())
    }
}

impl Disks {
    /// Paths are the only devices that the kernel hides, so no other is asked.
    fn is_hidden(&self, name: &str) -> bool {
        head_of(name).is_some() && self.host.block_device(name, "hidden").is_some_and(|hidden| hidden == "1")
    }

    fn of_workload(&self, workload: &Arc<Workload>, names: &HashMap<(u32, u32), &str>, out: &mut Metrics) {
        let Ok(all) = self.cgroups.io(&workload.cgroup) else { return };
        for io in all {
            // One that is gone meanwhile is known by its number.
            let name =
                names.get(&io.device).map_or_else(|| format!("{}:{}", io.device.0, io.device.1), |n| (*n).into());
            for (way, bytes, operations) in [("read", io.read_bytes, io.reads), ("write", io.written_bytes, io.writes)]
            {
                let attributes = [device(&name), (DIRECTION, way.into())];
                out.count(&CONTAINER_IO, Some(workload), &attributes, bytes);
                out.count(&CONTAINER_OPERATIONS, Some(workload), &attributes, operations);
            }
        }
    }
}

fn device(name: &str) -> (Key, Value) {
    (attr::SYSTEM_DEVICE, name.to_owned().into())
}

/// Without the paths of NVMe's own multipathing, hidden devices such as `nvme0c1n1`: what they did is
/// that of `nvme0n1`, where that one does not count itself.
fn with_paths(disks: &[Disk], is_hidden: impl Fn(&str) -> bool) -> Vec<Disk> {
    let (paths, mut heads): (Vec<_>, Vec<_>) = disks.iter().cloned().partition(|d| is_hidden(&d.name));
    for head in &mut heads {
        if (head.read, head.write) == <(DiskOps, DiskOps)>::default() {
            let name = head.name.clone();
            for path in paths.iter().filter(|p| head_of(&p.name).as_ref() == Some(&name)) {
                add(head, path);
            }
        }
    }
    heads
}

fn add(to: &mut Disk, path: &Disk) {
    let sum = |a: DiskOps, b: DiskOps| DiskOps {
        operations: a.operations + b.operations,
        merged: a.merged + b.merged,
        bytes: a.bytes + b.bytes,
        time_ms: a.time_ms.wrapping_add(b.time_ms),
    };
    (to.read, to.write) = (sum(to.read, path.read), sum(to.write, path.write));
    to.in_flight += path.in_flight;
    to.busy_ms = to.busy_ms.wrapping_add(path.busy_ms);
    to.weighted_ms = to.weighted_ms.wrapping_add(path.weighted_ms);
}

/// A device's times, as sums that do not wrap.
#[derive(Debug, Default)]
struct Times {
    read: Unwrapped,
    write: Unwrapped,
    busy: Unwrapped,
    weighted: Unwrapped,
    discard: Unwrapped,
    flush: Unwrapped,
}

#[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years")]
fn seconds(count: &mut Unwrapped, ms: u32) -> f64 {
    count.sum(ms) as f64 / 1e3
}

fn write(disk: &Disk, times: &mut Times, out: &mut Metrics) {
    let name = device(&disk.name);
    for (way, ops, time) in [("read", disk.read, &mut times.read), ("write", disk.write, &mut times.write)] {
        let attributes = [name.clone(), (DIRECTION, way.into())];
        out.count(&IO, None, &attributes, ops.bytes);
        out.count(&OPERATIONS, None, &attributes, ops.operations);
        out.count(&MERGED, None, &attributes, ops.merged);
        out.value(&OPERATION_TIME, None, &attributes, seconds(time, ops.time_ms));
    }
    let name = [name];
    out.value(&IO_TIME, None, &name, seconds(&mut times.busy, disk.busy_ms));
    out.value(&QUEUE_TIME, None, &name, seconds(&mut times.weighted, disk.weighted_ms));
    out.count(&IN_FLIGHT, None, &name, disk.in_flight);
    if let Some(discard) = disk.discard {
        out.count(&DISCARDS, None, &name, discard.operations);
        out.count(&DISCARDED, None, &name, discard.bytes);
        out.value(&DISCARD_TIME, None, &name, seconds(&mut times.discard, discard.time_ms));
    }
    if let Some((flushes, ms)) = disk.flush {
        out.count(&FLUSHES, None, &name, flushes);
        out.value(&FLUSH_TIME, None, &name, seconds(&mut times.flush, ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    const PATH: &str = "/system.slice/web.service";

    fn collected(rig: &Rig, config: &str) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<Disks>(), config).unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    fn ways(device: &str, way: &str) -> [(&'static str, String); 2] {
        [("system.device", device.to_owned()), ("disk.io.direction", way.to_owned())]
    }

    fn get(out: &Metrics, name: &str, cgroup: Option<&str>, attributes: &[(&str, String)]) -> Option<f64> {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| (*k, v.as_str())).collect();
        out.figure(name, cgroup, &attributes)
    }

    /// Each column lands under its name; partitions, and devices that nobody used, only where wanted.
    #[test]
    fn figures_of_a_device() {
        let rig = Rig::new().unwrap();
        let stats = "254 0 vda 1 2 3 4000 5 6 7 8000 9 10000 11000 12 13 14 15000 16 17000\n\
                     254 1 vda1 1 2 3 4 5 6 7 8 9 10 11\n7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n";
        rig.write("proc/diskstats", stats).unwrap();
        rig.write("sys/block/vda/size", "2048\n").unwrap();
        rig.write("sys/block/loop0/size", "0\n").unwrap();
        let out = collected(&rig, "");
        let of = |name, way| get(&out, name, None, &ways("vda", way));
        assert_eq!((of("system.disk.io", "read"), of("system.disk.io", "write")), (Some(1536.0), Some(3584.0)));
        assert_eq!((of("system.disk.operations", "write"), of("system.disk.merged", "read")), (Some(5.0), Some(2.0)));
        assert_eq!(of("system.disk.operation_time", "write"), Some(8.0));
        let of = |name| get(&out, name, None, &[("system.device", "vda".to_owned())]);
        assert_eq!((of("system.disk.io_time"), of("linux.disk.queue.time")), (Some(10.0), Some(11.0)));
        assert_eq!((of("linux.disk.in_flight"), of("system.disk.limit")), (Some(9.0), Some(1_048_576.0)));
        assert_eq!((of("linux.disk.discard.operations"), of("linux.disk.discard.io")), (Some(12.0), Some(7168.0)));
        assert_eq!((of("linux.disk.discard.time"), of("linux.disk.flush.operations")), (Some(15.0), Some(16.0)));
        assert_eq!(of("linux.disk.flush.time"), Some(17.0));
        let devices = |out: &Metrics| {
            let names = out.points().iter().filter(|p| p.def.name == "linux.disk.in_flight");
            names.map(|p| p.attributes.get("system.device").unwrap().as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(devices(&out), ["vda"]);
        assert_eq!(devices(&collected(&rig, "partitions = true")), ["vda", "vda1"]);
    }

    /// Times are printed as 32 bits: where one wraps, the sum goes on.
    #[test]
    fn times_go_on_where_they_wrap() {
        let rig = Rig::new().unwrap();
        rig.write("sys/block/vda/size", "2048\n").unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Disks>(), "").unwrap();
        for (ms, s) in [("4294617635", 4_294_617.635), ("1024485", 4_295_991.781)] {
            rig.write("proc/diskstats", format!("254 0 vda 1 0 0 0 5 0 0 {ms} 0 0 0\n")).unwrap();
            let mut out = Metrics::default();
            c.collect(&mut out).unwrap();
            assert_eq!(get(&out, "system.disk.operation_time", None, &ways("vda", "write")), Some(s));
        }
    }

    /// Paths of NVMe multipathing are their head's, once.
    #[test]
    fn paths_are_their_heads() {
        let rig = Rig::new().unwrap();
        let stats = "0 0 nvme0c0n1 100 0 8 0 0 0 0 0 0 0 0\n0 1 nvme0c1n1 50 0 8 0 0 0 0 0 0 0 0\n\
                     259 1 nvme0n1 0 0 0 0 0 0 0 0 0 0 0\n0 2 nvme1c0n1 7 0 8 0 0 0 0 0 0 0 0\n\
                     259 2 nvme1n1 7 0 8 0 0 0 0 0 0 0 0\n";
        rig.write("proc/diskstats", stats).unwrap();
        for (name, hidden) in [("nvme0c0n1", "1"), ("nvme0c1n1", "1"), ("nvme1c0n1", "1"), ("nvme0n1", "0")] {
            rig.write(&format!("sys/block/{name}/hidden"), hidden).unwrap();
        }
        for name in ["nvme0n1", "nvme1n1"] {
            rig.write(&format!("sys/block/{name}/size"), "8\n").unwrap();
        }
        let out = collected(&rig, "");
        let reads = |device| get(&out, "system.disk.operations", None, &ways(device, "read"));
        assert_eq!((reads("nvme0n1"), reads("nvme1n1"), reads("nvme0c0n1")), (Some(150.0), Some(7.0), None));
    }

    /// A workload's I/O by device; one that is not in diskstats (any more) by its number, other keys are passed over.
    #[test]
    fn figures_of_a_workload() {
        let rig = Rig::new().unwrap();
        rig.cgroup(PATH).unwrap();
        rig.write("proc/diskstats", "254 0 vda 1 2 3 4 5 6 7 8 9 10 11\n").unwrap();
        let text = "254:0 rbytes=512 wbytes=4096 rios=1 wios=2 dbytes=0 dios=0 cost.usage=5\n8:16 rbytes=7 wbytes=0 rios=1 wios=0\n\
                    nonsense\n";
        rig.write(&format!("sys/fs/cgroup{PATH}/io.stat"), text).unwrap();
        let out = collected(&rig, "");
        let of = |name, device, way| get(&out, name, Some(PATH), &ways(device, way));
        assert_eq!(of("container.disk.io", "vda", "read"), Some(512.0));
        assert_eq!(of("container.disk.io", "vda", "write"), Some(4096.0));
        assert_eq!(of("linux.container.disk.operations", "vda", "write"), Some(2.0));
        assert_eq!(of("container.disk.io", "8:16", "read"), Some(7.0));
    }
}
