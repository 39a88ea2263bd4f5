// SPDX-License-Identifier: Apache-2.0

use std::time::Duration;

use super::*;
use zerocopy::FromZeros as _;

use crate::collectors::testing::Rig;
use crate::probe::skeletons::cpu_sample::CpuSample as Record;
use crate::signal::Evidence;

/// Writes `/proc/stat`: each CPU spent so many seconds in programs, in the kernel and idle, and was stolen for so many.
fn stat(rig: &Rig, cpus: usize, [user, system, idle, steal]: [u64; 4]) {
    let line = |name: &str, times: u64| {
        let [user, system, idle, steal] = [user, system, idle, steal].map(|s| s * 100 * times);
        format!("{name} {user} 0 {system} {idle} 0 0 0 {steal} 0 0\n")
    };
    let mut text = line("cpu ", cpus as u64);
    (0..cpus).for_each(|n| text += &line(&format!("cpu{n}"), 1));
    rig.write("proc/stat", format!("{text}intr 0\nctxt 0\nbtime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"))
        .unwrap();
}

/// Settings out of range are refused with what would be valid.
#[test]
fn settings_are_checked() {
    assert_eq!(Config::default().validate(), Ok(()));
    let refused = |c: Config| c.validate().map_err(|e| (e.key, e.expected)).unwrap_err();
    assert_eq!(refused(Config { jump_limit: 0.0, ..Config::default() }), ("jump_limit", "from 0.1 to 1".to_owned()));
    let short = Config { capture: HumanDuration::from_secs(0), ..Config::default() };
    assert_eq!(refused(short), ("capture", "from 1s to 5m".to_owned()));
}

/// The kernel takes most of the node: an incident with who asked for what, and its end. Nothing is sampled before
/// and after.
#[test]
fn the_kernel_takes_the_node() {
    let rig = Rig::new().unwrap();
    let cgroup = rig.cgroup("/batch").unwrap();
    rig.write("proc/kallsyms", "ffffffff81000000 T __x64_sys_read\nffffffff81001000 T next\n").unwrap();
    let mut c = rig.run(&crate::collectors::autotracing::<CpuSys>(), "window = \"2s\"").unwrap();
    let mut r = Record::new_zeroed();
    (r.time_ns, r.subscribers, r.cgroup) = (u64::MAX, 1, cgroup.id);
    (r.kernel[0], r.kernel_bytes) = (0xffff_ffff_8100_0010, 8);
    (r.thread.tgid, r.thread.tid) = (42, 42);
    r.thread.comm[..2].copy_from_slice(b"dd");
    let (mut system, mut idle, mut found) = (0, 0, Vec::new());
    for second in 0..30 {
        rig.advance(Duration::from_secs(1));
        if (10..16).contains(&second) {
            system += 1
        } else {
            idle += 1
        }
        stat(&rig, 4, [0, system, idle, 0]);
        for change in c.check().unwrap() {
            if let Change::Onset(t) = &change {
                for _ in 0..3 {
                    c.record("cpu_sample", &r).unwrap();
                }
                let capture = c.capture(t, Limits { duration: Duration::ZERO, stacks: 10 }).unwrap();
                let [Evidence::Profile(p), Evidence::Table(entries), Evidence::Table(callers), Evidence::Series(_)] =
                    &capture.evidence[..]
                else {
                    panic!("{capture:?}")
                };
                assert_eq!((p.stacks.len(), p.total()), (1, 3));
                assert_eq!(entries.cells()[0][0], Some("read".into()));
                let names = ["/batch", "/batch", "dd"].map(|n| Some(n.into()));
                assert_eq!(callers.cells()[0][..3], names);
            }
            found.push((second, change));
        }
    }
    let [(_, Change::Onset(t)), (_, Change::Recovered(..))] = &found[..] else { panic!("{found:?}") };
    assert_eq!(t.message, "the kernel takes 4.00 of the node's 4 CPUs (100 %), usually 0 %");
    assert!(t.capture);
}

/// One task of many CPUs, and one that shares its CPU with a program, are no trouble of the node's; what the
/// hypervisor takes is not time that the node had.
#[test]
fn shares_are_of_what_the_node_had() {
    let times = |user_ns, system_ns, idle_ns, steal_ns| CpuTimes {
        user_ns,
        system_ns,
        idle_ns,
        steal_ns,
        ..CpuTimes::default()
    };
    let between = |now| Usage::between(CpuTimes::default(), now, 4).unwrap();
    let one = between(times(0, 100, 300, 0));
    assert_eq!((one.share, one.cpus, one.reading().negligible), (0.25, 1.0, true));
    let stolen = between(times(0, 100, 0, 300));
    assert_eq!((stolen.share, stolen.reading().negligible), (1.0, false));
    let alone = Usage::between(CpuTimes::default(), times(5, 95, 0, 0), 1).unwrap();
    assert!(!alone.reading().negligible);
    assert!(Usage::between(times(1, 1, 1, 1), times(1, 1, 1, 1), 4).is_none());
}
