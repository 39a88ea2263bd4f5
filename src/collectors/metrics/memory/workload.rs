// SPDX-License-Identifier: Apache-2.0
//! Memory of one workload, from its cgroup's files.

use std::sync::Arc;

use super::{FAULT, KIND, RECLAIMER, RECLAIMERS};
use crate::host::Cgroups;
use crate::host::cgroup::{Memory, MemoryEvents};
use crate::signal::{Key, MetricDef, Metrics, Value, Workload};

const EVENT: Key = Key::new(
    "linux.memory.event",
    "low, high, max: that bound was met; oom: none could be reclaimed; oom_kill: processes killed; oom_group_kill: cgroups killed as a whole",
);

pub static USAGE: MetricDef =
    MetricDef::up_down_counter("container.memory.usage", "By", "Memory that is charged to it, cache included");
pub static WORKING_SET: MetricDef = MetricDef::up_down_counter(
    "container.memory.working_set",
    "By",
    "Its use less inactive file cache: what it cannot do without",
);
pub static RSS: MetricDef =
    MetricDef::up_down_counter("container.memory.rss", "By", "Its anonymous memory, huge pages included");
pub static AVAILABLE: MetricDef =
    MetricDef::up_down_counter("container.memory.available", "By", "Its limit less its working set");
pub static FAULTS: MetricDef = MetricDef::counter("container.paging.faults", "{fault}", "Its page faults").by(&[FAULT]);
pub static LIMIT: MetricDef = MetricDef::up_down_counter(
    "linux.container.memory.limit",
    "By",
    "What its cgroup and that one's ancestors allow it",
);
pub static CACHE: MetricDef =
    MetricDef::up_down_counter("linux.container.memory.cache", "By", "Its file cache, tmpfs included");
pub static SWAP: MetricDef = MetricDef::up_down_counter("linux.container.memory.swap", "By", "Its memory in swap");
pub static SIZE: MetricDef =
    MetricDef::up_down_counter("linux.container.memory.size", "By", "Parts of its memory, as memory.stat names them")
        .by(&[KIND]);
pub static EVENTS: MetricDef =
    MetricDef::counter("linux.container.memory.events", "{event}", "How often it met its bounds").by(&[EVENT]);
pub static SCANNED: MetricDef =
    MetricDef::counter("linux.container.memory.reclaim.scanned", "{page}", "Pages of it that reclaim looked at")
        .by(&[RECLAIMER]);
pub static RECLAIMED: MetricDef =
    MetricDef::counter("linux.container.memory.reclaim.reclaimed", "{page}", "Pages of it that reclaim freed")
        .by(&[RECLAIMER]);

/// Lines of v2's memory.stat and what v1 calls the same, children included.
const SIZES: [(&str, Option<&str>); 13] = [
    ("anon", Some("total_rss")),
    ("anon_thp", Some("total_rss_huge")),
    ("file", Some("total_cache")),
    ("file_mapped", Some("total_mapped_file")),
    ("file_dirty", Some("total_dirty")),
    ("file_writeback", Some("total_writeback")),
    ("shmem", Some("total_shmem")),
    ("unevictable", Some("total_unevictable")),
    ("slab_reclaimable", None),
    ("slab_unreclaimable", None),
    ("kernel_stack", None),
    ("pagetables", None),
    ("sock", None),
];

/// Nothing where it has no cgroup of the memory controller, or is just going away.
pub fn write(cgroups: &Cgroups, workload: &Arc<Workload>, out: &mut Metrics) {
    let Ok(memory) = cgroups.memory(&workload.cgroup) else { return };
    let limit = cgroups.memory_allowed(&workload.cgroup);
    sizes(&memory, limit, workload, out);
    counts(&memory, workload, out);
    if let Ok(events) = cgroups.memory_events(&workload.cgroup) {
        write_events(&events, workload, out);
    }
}

fn sizes(memory: &Memory, limit: Option<u64>, workload: &Arc<Workload>, out: &mut Metrics) {
    let mut level =
        |def, attributes: &[(Key, Value)], bytes: Option<u64>| out.count_some(def, Some(workload), attributes, bytes);
    let inactive_file = line(memory, "inactive_file", Some("total_inactive_file"));
    let working_set = inactive_file.map(|inactive| memory.current.saturating_sub(inactive));
    level(&USAGE, &[], Some(memory.current));
    level(&WORKING_SET, &[], working_set);
    level(&RSS, &[], line(memory, "anon", Some("total_rss")));
    level(&LIMIT, &[], limit);
    level(&AVAILABLE, &[], limit.zip(working_set).map(|(limit, used)| limit.saturating_sub(used)));
    level(&CACHE, &[], line(memory, "file", Some("total_cache")));
    level(&SWAP, &[], memory.swap_current);
    for (kind, v1) in SIZES {
        level(&SIZE, &[(KIND, kind.into())], line(memory, kind, v1));
    }
}

fn counts(memory: &Memory, workload: &Arc<Workload>, out: &mut Metrics) {
    let mut count =
        |def, attributes: &[(Key, Value)], n: Option<u64>| out.count_some(def, Some(workload), attributes, n);
    let all = line(memory, "pgfault", Some("total_pgfault"));
    let major = line(memory, "pgmajfault", Some("total_pgmajfault"));
    count(&FAULTS, &[(FAULT, "major".into())], major);
    count(&FAULTS, &[(FAULT, "minor".into())], all.zip(major).map(|(all, major)| all.saturating_sub(major)));
    for reclaimer in RECLAIMERS {
        count(&SCANNED, &[(RECLAIMER, reclaimer.into())], memory.stat(&format!("pgscan_{reclaimer}")));
        count(&RECLAIMED, &[(RECLAIMER, reclaimer.into())], memory.stat(&format!("pgsteal_{reclaimer}")));
    }
}

fn write_events(events: &MemoryEvents, workload: &Arc<Workload>, out: &mut Metrics) {
    let all = [
        ("low", events.low),
        ("high", events.high),
        ("max", events.max),
        ("oom", events.oom),
        ("oom_kill", events.oom_kill),
        ("oom_group_kill", events.oom_group_kill),
    ];
    for (event, n) in all {
        out.count_some(&EVENTS, Some(workload), &[(EVENT, event.into())], n);
    }
}

/// v1's lines without `total_` are of the cgroup without its children, and some are called as v2's: so v1's
/// comes first.
fn line(memory: &Memory, v2: &str, v1: Option<&str>) -> Option<u64> {
    v1.and_then(|v1| memory.stat(v1)).or_else(|| memory.stat(v2))
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use crate::collectors::testing::Rig;
    use crate::signal::Metrics;

    const PATH: &str = "/system.slice/web.service";

    fn collected(rig: &Rig) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<Memory>(), "").unwrap();
        let mut out = Metrics::default();
        // The node's own files are not there.
        let _ = c.collect(&mut out);
        out
    }

    /// Each figure has an input number of its own; the limit is the tightest of the ancestors.
    #[test]
    fn files_of_v2() {
        let rig = Rig::new().unwrap();
        rig.cgroup(PATH).unwrap();
        let put = |file: &str, text: &str| rig.write(&format!("sys/fs/cgroup{PATH}/{file}"), text).unwrap();
        put("memory.current", "1000\n");
        put("memory.max", "max\n");
        put("memory.swap.current", "17\n");
        rig.write("sys/fs/cgroup/system.slice/memory.max", "5000\n").unwrap();
        put(
            "memory.stat",
            "anon 300\nfile 250\nshmem 40\ninactive_file 100\nactive_file 110\nslab_reclaimable 60\npgfault 90\n\
             pgmajfault 4\npgscan_direct 8\npgscan 9\npgsteal_kswapd 3\n",
        );
        put("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\n");
        let out = collected(&rig);
        let get = |name, attributes: &[(&str, &str)]| out.figure(name, Some(PATH), attributes);
        assert_eq!(get("container.memory.usage", &[]), Some(1000.0));
        assert_eq!(get("container.memory.working_set", &[]), Some(900.0));
        assert_eq!(get("container.memory.rss", &[]), Some(300.0));
        assert_eq!(get("linux.container.memory.limit", &[]), Some(5000.0));
        assert_eq!(get("container.memory.available", &[]), Some(4100.0));
        assert_eq!(get("linux.container.memory.cache", &[]), Some(250.0));
        assert_eq!(get("linux.container.memory.swap", &[]), Some(17.0));
        assert_eq!(get("linux.container.memory.size", &[("linux.memory.kind", "slab_reclaimable")]), Some(60.0));
        assert_eq!(get("linux.container.memory.size", &[("linux.memory.kind", "sock")]), None);
        assert_eq!(get("container.paging.faults", &[("system.paging.fault.type", "minor")]), Some(86.0));
        let reclaimer = |name| [("linux.memory.reclaimer", name)];
        assert_eq!(get("linux.container.memory.reclaim.scanned", &reclaimer("direct")), Some(8.0));
        assert_eq!(get("linux.container.memory.reclaim.reclaimed", &reclaimer("kswapd")), Some(3.0));
        for (event, n) in [("low", 1.0), ("high", 2.0), ("max", 3.0), ("oom", 4.0), ("oom_kill", 5.0)] {
            assert_eq!(get("linux.container.memory.events", &[("linux.memory.event", event)]), Some(n));
        }
    }

    /// Without a limit nothing is said to be available; what cannot be read gives no point, not zero.
    #[test]
    fn no_limit_and_no_stat() {
        let rig = Rig::new().unwrap();
        rig.cgroup(PATH).unwrap();
        rig.write(&format!("sys/fs/cgroup{PATH}/memory.current"), "1000\n").unwrap();
        let out = collected(&rig);
        let names: Vec<_> = out.points().iter().filter(|p| p.workload.is_some()).map(|p| p.def.name).collect();
        assert_eq!(names, ["container.memory.usage"]);
    }
}
