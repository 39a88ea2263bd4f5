// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! Memory of the node and of each workload: what is used and for what, what is available, swap, page
//! faults, limits and how often they were met, and what reclaim had to look at.
//!
//! # How
//! `/proc/meminfo`, `/proc/vmstat`, `/proc/buddyinfo` and `/proc/swaps` (proc(5), mm/vmstat.c), and
//! `/sys/devices/system/node` where there are several NUMA nodes; of workloads the files of the memory controller, v1 and v2 (Documentation/admin-guide/cgroup-v2.rst). Once an interval.
//!
//! # Signals
//! `system.memory.*` and `system.paging.*`; `linux.memory.size` (each line of `/proc/meminfo` that is a
//! size), `linux.memory.reclaim.*`, `linux.memory.allocation.stalls`, `linux.memory.compaction.runs`,
//! `linux.memory.workingset.refaults`, `linux.memory.oom.killed`, `linux.memory.free.block.count`, `linux.memory.numa.*`;
//! `container.memory.*`,
//! `container.paging.faults`; `linux.container.memory.*`.
//!
//! # Limits
//! `used` is MemTotal less MemAvailable: what a new program could not have. So the states of
//! `system.memory.usage` overlap and are not to be added up. A workload's figures are its cgroup's with all
//! below it; a cgroup that only holds other workloads (a slice) has none; `working_set` is use less inactive file cache, as the kubelet and Docker have it. On v1
//! nothing counts reclaim by workload, and swap is known where the kernel accounts for it
//! (`swapaccount=1`). The root cgroup's memory is the node's.
//!
//! # What to do next
//! Little available and `linux.memory.allocation.stalls` that grow: programs wait for memory; see the
//! `memreclaim` collector and `system.memory.linux.pressure.total`. A workload whose working set is near
//! `linux.container.memory.limit`: raise the limit, or find what grows. Many refaults: its file cache does not fit.

mod workload;
mod zones;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc};
use crate::host::proc::{Figures, Swap};
use crate::host::{Cgroups, Host};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value};
use crate::workload::Workloads;

const STATE: Key = Key::new("system.memory.state", "used, free, buffers, cached");
const SLAB_STATE: Key = Key::new("system.memory.linux.slab.state", "reclaimable, unreclaimable");
const KIND: Key =
    Key::new("linux.memory.kind", "What the memory is for, in the kernel's word: of meminfo or memory.stat");
const DEVICE: Key = attr::SYSTEM_DEVICE;
const PAGING_STATE: Key = Key::new("system.paging.state", "used, free");
const FAULT: Key = Key::new("system.paging.fault.type", "major: a disk had to be read; minor: none");
const DIRECTION: Key = Key::new("system.paging.direction", "in, out");
const RECLAIMER: Key = Key::new(
    "linux.memory.reclaimer",
    "direct: who asked for memory; kswapd, khugepaged: kernel threads; proactive: user space asked for it",
);
const OUTCOME: Key = Key::new("linux.memory.compaction.outcome", "success, fail");
const REFAULT: Key = Key::new("linux.memory.refault.type", "anon, file");

static USAGE: MetricDef =
    MetricDef::up_down_counter("system.memory.usage", "By", "Memory in use, by state; states overlap").by(&[STATE]);
static LIMIT: MetricDef =
    MetricDef::up_down_counter("system.memory.limit", "By", "Memory that the kernel manages (MemTotal)");
static UTILIZATION: MetricDef =
    MetricDef::gauge("system.memory.utilization", "1", "Share of the node's memory, by state").by(&[STATE]);
static AVAILABLE: MetricDef = MetricDef::up_down_counter(
    "system.memory.linux.available",
    "By",
    "Memory that programs can have without swapping (MemAvailable)",
);
static SHARED: MetricDef =
    MetricDef::up_down_counter("system.memory.linux.shared", "By", "Shared memory, tmpfs included (Shmem)");
static SLAB: MetricDef =
    MetricDef::up_down_counter("system.memory.linux.slab.usage", "By", "The kernel's own objects").by(&[SLAB_STATE]);
static HUGE_LIMIT: MetricDef = MetricDef::up_down_counter(
    "system.memory.linux.hugepages.limit",
    "{page}",
    "Huge pages of the default size in the pool; outside of what is available",
);
static HUGE_USAGE: MetricDef =
    MetricDef::up_down_counter("system.memory.linux.hugepages.usage", "{page}", "Huge pages of the pool, by state")
        .by(&[HUGE_STATE]);
const HUGE_STATE: Key = Key::new("system.memory.linux.hugepages.state", "used, free");
static HUGE_RESERVED: MetricDef = MetricDef::up_down_counter(
    "system.memory.linux.hugepages.reserved",
    "{page}",
    "Free huge pages that are promised to someone",
);
static HUGE_SURPLUS: MetricDef =
    MetricDef::up_down_counter("system.memory.linux.hugepages.surplus", "{page}", "Huge pages above the pool's size");
static HUGE_SIZE: MetricDef =
    MetricDef::up_down_counter("system.memory.linux.hugepages.page_size", "By", "Size of those huge pages");
static SIZE: MetricDef =
    MetricDef::up_down_counter("linux.memory.size", "By", "Each size that /proc/meminfo has").by(&[KIND]);

static PAGING_USAGE: MetricDef =
    MetricDef::up_down_counter("system.paging.usage", "By", "Swap space by device").by(&[DEVICE, PAGING_STATE]);
static PAGING_UTILIZATION: MetricDef =
    MetricDef::gauge("system.paging.utilization", "1", "Share of the swap space").by(&[DEVICE, PAGING_STATE]);
static FAULTS: MetricDef = MetricDef::counter("system.paging.faults", "{fault}", "Page faults").by(&[FAULT]);
static OPERATIONS: MetricDef =
    MetricDef::counter("system.paging.operations", "{operation}", "Pages swapped").by(&[DIRECTION]);
static PAGED: MetricDef =
    MetricDef::counter("linux.memory.paging.io", "By", "Read from and written to disks through the page cache")
        .by(&[DIRECTION]);

static SCANNED: MetricDef =
    MetricDef::counter("linux.memory.reclaim.scanned", "{page}", "Pages that reclaim looked at").by(&[RECLAIMER]);
static RECLAIMED: MetricDef =
    MetricDef::counter("linux.memory.reclaim.reclaimed", "{page}", "Pages that reclaim freed").by(&[RECLAIMER]);
static STALLS: MetricDef =
    MetricDef::counter("linux.memory.allocation.stalls", "{stall}", "Allocations that had to reclaim memory first");
static COMPACTIONS: MetricDef =
    MetricDef::counter("linux.memory.compaction.runs", "{run}", "Direct compactions, by outcome").by(&[OUTCOME]);
static REFAULTS: MetricDef = MetricDef::counter(
    "linux.memory.workingset.refaults",
    "{page}",
    "Pages that were needed again soon after they had been reclaimed",
)
.by(&[REFAULT]);
static OOM_KILLS: MetricDef = MetricDef::counter(
    "linux.memory.oom.killed",
    "{process}",
    "Processes that the kernel killed for want of memory, since boot",
);

/// Settings of `memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reports each line of `/proc/meminfo` as `linux.memory.size`, some fifty series.
    pub all_sizes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { all_sizes: true }
    }
}

impl Settings for Config {}

/// Memory of the node and of each workload.
pub struct Memory {
    config: Config,
    host: Host,
    cgroups: Cgroups,
    workloads: Workloads,
}

impl Collector for Memory {
    const INFO: Info = Info {
        name: "memory",
        summary: "memory, swap and reclaim of the node and of each workload",
        doc: head_doc(include_str!("mod.rs")),
        metrics: &[
            &USAGE,
            &LIMIT,
            &UTILIZATION,
            &AVAILABLE,
            &SHARED,
            &SLAB,
            &HUGE_LIMIT,
            &HUGE_USAGE,
            &HUGE_RESERVED,
            &HUGE_SURPLUS,
            &HUGE_SIZE,
            &SIZE,
            &PAGING_USAGE,
            &PAGING_UTILIZATION,
            &FAULTS,
            &OPERATIONS,
            &PAGED,
            &SCANNED,
            &RECLAIMED,
            &STALLS,
            &COMPACTIONS,
            &REFAULTS,
            &OOM_KILLS,
            &zones::BLOCKS,
            &zones::SIZE,
            &zones::ALLOCATIONS,
            &workload::USAGE,
            &workload::WORKING_SET,
            &workload::RSS,
            &workload::AVAILABLE,
            &workload::FAULTS,
            &workload::LIMIT,
            &workload::CACHE,
            &workload::SWAP,
            &workload::SIZE,
            &workload::EVENTS,
            &workload::SCANNED,
            &workload::RECLAIMED,
        ],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        Ok(Memory { config, host: cx.host.clone(), cgroups, workloads: cx.workloads.clone() })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl MetricCollector for Memory {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        for workload in self.workloads.leaves() {
            workload::write(&self.cgroups, &workload, out);
        }
        zones::write(&self.host, out);
        // One file that cannot be read costs no other's figures.
        let info = self.host.meminfo().map(|info| {
            node(&info, out);
            if self.config.all_sizes {
                sizes(&info, out);
            }
        });
        let stat = self.host.vmstat().map(|stat| paging(&stat, out));
        let swaps = self.host.swaps().map(|swaps| {
            for swap in swaps {
                swapped(&swap, out);
            }
        });
        info.and(stat)?;
        // Without CONFIG_SWAP there is no such file.
        match swaps {
            Err(e) if !e.is_missing() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn node(info: &Figures, out: &mut Metrics) {
    let get = |name| info.get(name);
    let mut level = |def, attributes: &[(Key, Value)], bytes: Option<u64>| out.count_some(def, None, attributes, bytes);
    let total = get("MemTotal");
    let used = total.zip(get("MemAvailable")).map(|(total, available)| total.saturating_sub(available));
    let states = [("used", used), ("free", get("MemFree")), ("buffers", get("Buffers")), ("cached", get("Cached"))];
    for (state, bytes) in states {
        level(&USAGE, &[(STATE, state.into())], bytes);
    }
    level(&LIMIT, &[], total);
    level(&AVAILABLE, &[], get("MemAvailable"));
    level(&SHARED, &[], get("Shmem"));
    level(&SLAB, &[(SLAB_STATE, "reclaimable".into())], get("SReclaimable"));
    level(&SLAB, &[(SLAB_STATE, "unreclaimable".into())], get("SUnreclaim"));
    level(&HUGE_LIMIT, &[], get("HugePages_Total"));
    level(&HUGE_USAGE, &[(HUGE_STATE, "free".into())], get("HugePages_Free"));
    let used_pages = get("HugePages_Total").zip(get("HugePages_Free")).map(|(all, free)| all.saturating_sub(free));
    level(&HUGE_USAGE, &[(HUGE_STATE, "used".into())], used_pages);
    level(&HUGE_RESERVED, &[], get("HugePages_Rsvd"));
    level(&HUGE_SURPLUS, &[], get("HugePages_Surp"));
    level(&HUGE_SIZE, &[], get("Hugepagesize"));
    let Some(total) = total.filter(|t| *t > 0) else { return };
    for (state, bytes) in states {
        if let Some(bytes) = bytes {
            out.value(&UTILIZATION, None, &[(STATE, state.into())], ratio(bytes, total));
        }
    }
}

fn sizes(info: &Figures, out: &mut Metrics) {
    // The others are numbers of pages.
    for (kind, bytes) in info.iter().filter(|(name, _)| !name.starts_with("HugePages_")) {
        out.count(&SIZE, None, &[(KIND, kind.to_owned().into())], bytes);
    }
}

/// What pages were moved, looked for and missed. Lines that a kernel lacks give no point.
fn paging(stat: &Figures, out: &mut Metrics) {
    let mut count = |def, attributes: &[(Key, Value)], n: Option<u64>| out.count_some(def, None, attributes, n);
    let (all, major) = (stat.get("pgfault"), stat.get("pgmajfault"));
    count(&FAULTS, &[(FAULT, "major".into())], major);
    count(&FAULTS, &[(FAULT, "minor".into())], all.zip(major).map(|(all, major)| all.saturating_sub(major)));
    count(&OPERATIONS, &[(DIRECTION, "in".into())], stat.get("pswpin"));
    count(&OPERATIONS, &[(DIRECTION, "out".into())], stat.get("pswpout"));
    // In KiB, whatever the size of a page is (block/blk-core.c, mm/vmstat.c).
    let bytes = |name| stat.get(name).map(|kib| kib.saturating_mul(1024));
    count(&PAGED, &[(DIRECTION, "in".into())], bytes("pgpgin"));
    count(&PAGED, &[(DIRECTION, "out".into())], bytes("pgpgout"));
    for reclaimer in RECLAIMERS {
        let of = |what: &str| stat.get(&format!("{what}_{reclaimer}"));
        count(&SCANNED, &[(RECLAIMER, reclaimer.into())], of("pgscan"));
        count(&RECLAIMED, &[(RECLAIMER, reclaimer.into())], of("pgsteal"));
    }
    count(&STALLS, &[], stat.sum("allocstall_").or_else(|| stat.get("allocstall")));
    count(&COMPACTIONS, &[(OUTCOME, "success".into())], stat.get("compact_success"));
    count(&COMPACTIONS, &[(OUTCOME, "fail".into())], stat.get("compact_fail"));
    for kind in ["anon", "file"] {
        count(&REFAULTS, &[(REFAULT, kind.into())], stat.get(&format!("workingset_refault_{kind}")));
    }
    count(&OOM_KILLS, &[], stat.get("oom_kill"));
}

/// Who reclaims: by each name there is one line, of the node's vmstat and of a cgroup's memory.stat. The
/// lines by kind of page (`pgscan_anon`) have the same pages again.
const RECLAIMERS: [&str; 4] = ["direct", "kswapd", "khugepaged", "proactive"];

fn swapped(swap: &Swap, out: &mut Metrics) {
    let free = swap.size.saturating_sub(swap.used);
    for (state, bytes) in [("used", swap.used), ("free", free)] {
        let attributes = [(DEVICE, swap.device.clone().into()), (PAGING_STATE, state.into())];
        out.count(&PAGING_USAGE, None, &attributes, bytes);
        if swap.size > 0 {
            out.value(&PAGING_UTILIZATION, None, &attributes, ratio(bytes, swap.size));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    /// Each figure has an input number of its own, so that none can stand for another.
    #[test]
    fn figures_of_the_node() {
        let rig = Rig::new().unwrap();
        let meminfo = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\nBuffers: 30 kB\nCached: 200 kB\n\
                       Shmem: 7 kB\nSReclaimable: 11 kB\nSUnreclaim: 13 kB\nHugePages_Total: 5\nHugePages_Free: 3\n\
                       HugePages_Rsvd: 1\nHugePages_Surp: 2\nHugepagesize: 2048 kB\n";
        rig.write("proc/meminfo", meminfo).unwrap();
        let vmstat = "pgfault 50\npgmajfault 8\npswpin 3\npswpout 4\npgpgin 9\npgpgout 10\npgscan_kswapd 130272\n\
                      pgscan_direct 900\npgscan_direct_throttle 77\npgscan_anon 0\npgscan_file 131172\npgsteal_direct 850\n\
                      allocstall_dma 1\nallocstall_normal 2\nallocstall_movable 4\ncompact_fail 6\ncompact_success 5\n\
                      workingset_refault_anon 21\nworkingset_refault_file 22\noom_kill 2\n";
        rig.write("proc/vmstat", vmstat).unwrap();
        let swaps = "Filename Type Size Used Priority\n/dev/dm\\0401 partition 1000 250 -2\n";
        rig.write("proc/swaps", swaps).unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Memory>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        let get = |name, attributes: &[(&str, &str)]| out.figure(name, None, attributes);
        let kib = |n: f64| Some(n * 1024.0);
        for (state, n) in [("used", 600.0), ("free", 100.0), ("buffers", 30.0), ("cached", 200.0)] {
            assert_eq!(get("system.memory.usage", &[("system.memory.state", state)]), kib(n));
        }
        assert_eq!(get("system.memory.utilization", &[("system.memory.state", "used")]), Some(0.6));
        assert_eq!(get("system.memory.limit", &[]), kib(1000.0));
        assert_eq!(get("system.memory.linux.available", &[]), kib(400.0));
        assert_eq!(get("system.memory.linux.shared", &[]), kib(7.0));
        assert_eq!(
            get("system.memory.linux.slab.usage", &[("system.memory.linux.slab.state", "unreclaimable")]),
            kib(13.0)
        );
        assert_eq!(
            get("system.memory.linux.hugepages.usage", &[("system.memory.linux.hugepages.state", "used")]),
            Some(2.0)
        );
        assert_eq!(get("linux.memory.size", &[("linux.memory.kind", "Hugepagesize")]), kib(2048.0));
        assert_eq!(get("linux.memory.size", &[("linux.memory.kind", "HugePages_Total")]), None);
        assert_eq!(get("system.paging.faults", &[("system.paging.fault.type", "minor")]), Some(42.0));
        assert_eq!(get("linux.memory.paging.io", &[("system.paging.direction", "out")]), kib(10.0));
        let reclaimer = |name| [("linux.memory.reclaimer", name)];
        assert_eq!(get("linux.memory.reclaim.scanned", &reclaimer("direct")), Some(900.0));
        assert_eq!(get("linux.memory.reclaim.scanned", &reclaimer("kswapd")), Some(130_272.0));
        assert_eq!(get("linux.memory.reclaim.scanned", &reclaimer("proactive")), None);
        assert_eq!(get("linux.memory.reclaim.reclaimed", &reclaimer("direct")), Some(850.0));
        assert_eq!(get("linux.memory.allocation.stalls", &[]), Some(7.0));
        assert_eq!(get("linux.memory.workingset.refaults", &[("linux.memory.refault.type", "file")]), Some(22.0));
        assert_eq!(get("linux.memory.oom.killed", &[]), Some(2.0));
        let swap = [("system.device", "/dev/dm 1"), ("system.paging.state", "used")];
        assert_eq!(get("system.paging.usage", &swap), kib(250.0));
        assert_eq!(get("system.paging.utilization", &swap), Some(0.25));
    }

    /// A kernel without swap is no failure; a file that is broken is one, and the others' figures are there.
    #[test]
    fn files_that_are_missing() {
        let rig = Rig::new().unwrap();
        rig.write("proc/meminfo", "MemTotal: 1000 kB\n").unwrap();
        rig.write("proc/vmstat", "oom_kill 2\n").unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Memory>(), "all_sizes = false").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!(out.figure("system.memory.usage", None, &[("system.memory.state", "used")]), None);
        assert_eq!(out.figure("linux.memory.size", None, &[("linux.memory.kind", "MemTotal")]), None);
        out.drain();
        rig.remove("proc/meminfo").unwrap();
        assert!(c.collect(&mut out).unwrap_err().to_string().contains("meminfo"));
        assert_eq!(out.figure("linux.memory.oom.killed", None, &[]), Some(2.0));
    }
}
