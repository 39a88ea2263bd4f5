// SPDX-License-Identifier: Apache-2.0

use super::*;
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::collectors::testing::Rig;
use crate::probe::skeletons::tasks::{self, BlockedTask};
use crate::signal::Evidence;

const MUTEX: u64 = 0xffff_ffff_8100_0000;
const VFORK: u64 = 0xffff_ffff_8200_0000;

/// Tasks that are blocked for a second in a function.
fn blocked(cgroup: u64, function: u64, pids: std::ops::Range<u32>) -> Vec<BlockedTask> {
    pids.map(|pid| {
        let mut r = BlockedTask::new_zeroed();
        (r.time_ns, r.blocked_ns, r.start_ns, r.switches) = (1, 1_000_000_000, 7, 5);
        (r.cgroup.id, r.thread.tgid, r.thread.tid) = (cgroup, pid, pid);
        (r.stack[0], r.stack_bytes) = (function + 0x10, 8);
        (r.lock, r.owner.tid, r.owner.tgid) = (0xffff_8880_0000_1000, 77, 77);
        r.owner.comm[..4].copy_from_slice(b"lazy");
        r
    })
    .collect()
}

fn rig() -> Rig {
    let rig = Rig::new().unwrap();
    rig.write("proc/kallsyms", "ffffffff81000000 T __mutex_lock\nffffffff82000000 T wait_for_vfork_done\n").unwrap();
    rig.write("proc/diskstats", "8 0 sda 5 0 40 3 0 0 0 0 4 10 10\n").unwrap();
    rig
}

/// Every change in so many seconds.
fn changes(rig: &Rig, c: &mut crate::collectors::testing::Rigged<'_>, seconds: u64) -> Vec<Change> {
    let mut all = Vec::new();
    for _ in 0..seconds {
        rig.advance(Duration::from_secs(1));
        all.extend(c.check().unwrap());
    }
    all
}

/// Settings out of range are refused with what would be valid.
#[test]
fn settings_are_checked() {
    assert_eq!(Config::default().validate(), Ok(()));
    let refused = |c: Config| c.validate().map_err(|e| (e.key, e.expected)).unwrap_err();
    assert_eq!(refused(Config { tasks: 1, ..Config::default() }), ("tasks", "from 2 to 4096".to_owned()));
    let short = Config { blocked: HumanDuration::from_millis(1), ..Config::default() };
    assert_eq!(refused(short), ("blocked", "from 100ms to 1m".to_owned()));
}

/// A workload with too many is named, with what they wait for, who has the lock, and the devices; the node is not, too.
#[test]
fn a_workloads_pile() {
    let rig = rig();
    let cgroup = rig.cgroup("/db.service").unwrap();
    let mut c = rig.run(&crate::collectors::autotracing::<DLoad>(), "window = \"2s\"").unwrap();
    let mut all = blocked(cgroup.id, MUTEX, 100..112);
    all.extend(blocked(cgroup.id + 1000, MUTEX, 200..209));
    rig.kernel().iterates(&tasks::SKELETON, "walk", all.as_bytes());
    let found = changes(&rig, &mut c, 30);
    let [Change::Onset(t)] = &found[..] else { panic!("{found:?}") };
    let expected =
        "12 tasks of db.service are blocked in the kernel, for up to 1.0 s, most wait for mutex: __mutex_lock";
    assert_eq!(t.message, expected);
    let capture = c.capture(t, Limits { duration: Duration::ZERO, stacks: 10 }).unwrap();
    let [
        Evidence::Profile(p),
        Evidence::Table(waits),
        Evidence::Table(locks),
        Evidence::Table(devices),
        Evidence::Series(_),
    ] = &capture.evidence[..]
    else {
        panic!("{capture:?}")
    };
    assert_eq!((p.total(), p.lost), (10, 2));
    let text = |s: &str| Some(crate::signal::Value::from(s.to_owned()));
    assert_eq!(waits.cells()[0][..4], [text("mutex"), text("__mutex_lock"), None, text("db.service")]);
    assert_eq!(waits.cells()[0][4], Some(12_u64.into()));
    assert_eq!((&locks.cells()[0][2], &locks.cells()[0][4]), (&text("lazy (pid 77)"), &Some(12_u64.into())));
    assert_eq!(devices.cells()[0][..2], [text("sda"), Some(4_u64.into())]);
    // What is left of it is its own, whoever else waits.
    let mut fewer = blocked(cgroup.id, MUTEX, 100..103);
    fewer.extend(blocked(cgroup.id + 1000, MUTEX, 200..220));
    rig.kernel().iterates(&tasks::SKELETON, "walk", fewer.as_bytes());
    let capture = c.capture(t, Limits { duration: Duration::ZERO, stacks: 10 }).unwrap();
    let Evidence::Profile(p) = &capture.evidence[0] else { panic!("{capture:?}") };
    assert_eq!((p.total(), p.lost), (3, 0));
    rig.kernel().iterates(&tasks::SKELETON, "walk", [0_u8; 0].as_slice());
    let found = changes(&rig, &mut c, 60);
    assert!(matches!(&found[..], [Change::Recovered(..)]), "{found:?}");
}

/// Few of each of many workloads are the node's pile; those that wait for a child are none.
#[test]
fn the_nodes_pile() {
    let rig = rig();
    let mut c = rig.run(&crate::collectors::autotracing::<DLoad>(), "window = \"2s\"").unwrap();
    let mut all = Vec::new();
    for n in 0..3_u32 {
        let cgroup = rig.cgroup(&format!("/few{n}.service")).unwrap();
        all.extend(blocked(cgroup.id, VFORK, 500 + n * 100..520 + n * 100));
        all.extend(blocked(cgroup.id, MUTEX, 100 * n..100 * n + 3));
    }
    rig.kernel().iterates(&tasks::SKELETON, "walk", all.as_bytes());
    assert!(changes(&rig, &mut c, 30).is_empty());
    let more = rig.cgroup("/few3.service").unwrap();
    all.extend(blocked(more.id, MUTEX, 300..303));
    rig.kernel().iterates(&tasks::SKELETON, "walk", all.as_bytes());
    let found = changes(&rig, &mut c, 30);
    let [Change::Onset(t)] = &found[..] else { panic!("{found:?}") };
    assert!(t.workload.is_none() && t.message.starts_with("12 tasks of the node's other workloads"), "{}", t.message);
}
