// SPDX-License-Identifier: Apache-2.0
//! On the kernel at hand, as root: a probe that uses every part of `probe.h`.
#![cfg(test)]

use std::time::Duration;

use super::{CgroupId, Loader, Reader, RecordSet, Stop};

#[expect(dead_code, reason = "not all of it is looked at")]
mod fixtures {
    crate::include_skeletons!("fixtures");
}
use fixtures::selftest::{Record, Records, SKELETON, ThreadKey, setting, switch};

/// Whether BPF can be loaded; prints why not.
fn can_load() -> bool {
    // The effective uid is enough here: tests run as root or as nobody in particular.
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        eprintln!("skipped: loading BPF programs needs root");
    }
    root
}

/// Everything end to end: fallback of hooks with reasons, switches, settings before and after
/// attaching, records through both kinds of ring, cgroup identity both ways, maps, cost.
#[test]
fn a_probe_works_end_to_end() {
    if !can_load() {
        return;
    }
    let me = std::process::id();
    let mut loader = Loader::new();
    let options = SKELETON.options().switch(switch::BY_THREAD, 1).setting(setting::ONLY_TGID, me).optional(&["extra"]);
    let object = loader.load(options).unwrap();
    drop(loader);

    for h in object.hooks() {
        eprintln!("{h:?}");
    }
    assert_eq!(object.attached("switched").unwrap().name, "switched__btf");
    assert_eq!(object.hooks()[0].refused.len(), 2);
    assert!(object.attached("extra").is_none());
    assert_eq!(object.get(setting::ONLY_TGID).unwrap(), me);

    let stop = Stop::new().unwrap();
    let reader = Reader::new(std::slice::from_ref(&object)).unwrap();
    let stopper = stop.clone();
    let napper = std::thread::spawn(move || {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stopper.stop();
    });
    let (mut switched, mut seen, mut cgroup) = (0, 0, None);
    reader
        .run(&stop, |o, ring, bytes| {
            assert_eq!(o, 0);
            match Records::decode(ring, bytes).unwrap() {
                Record::Switched(r) => {
                    assert_eq!(r.thread.tgid, me);
                    assert_eq!(r.cgroup, r.cgroup_read, "typed loads and probe reads agree");
                    assert_ne!(r.cgroup.id, 0);
                    cgroup = Some(CgroupId::from(r.cgroup));
                    switched += 1;
                }
                Record::Seen(s) => {
                    assert_eq!(s.count, 1);
                    seen += 1;
                }
            }
        })
        .unwrap();
    napper.join().unwrap();
    eprintln!("{switched} switched, {seen} seen, cgroup {cgroup:?}, lost {:?}", object.lost().unwrap());
    assert!(switched >= 10 && seen >= 10, "{switched} {seen}");

    // The cgroup's id is the inode of its directory, in the hierarchy of the memory controller.
    let cgroup = cgroup.unwrap();
    let lines = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let line = lines.lines().find(|l| l.starts_with(&format!("{}:", cgroup.hierarchy))).unwrap();
    eprintln!("{line}");
    assert!(cgroup.hierarchy == 0 || line.contains("memory"), "{line}");

    let mut by_thread = object.table::<ThreadKey, u64>("switches_by_thread").unwrap();
    let mut total = 0;
    let n = by_thread
        .for_each(|k, v| {
            assert_eq!(k.tgid, me);
            total += v[0];
        })
        .unwrap();
    assert!(n >= 1 && total >= 10, "{n} threads, {total} switches");
    let mut by_cpu = object.table::<u32, u64>("switches_by_cpu").unwrap();
    let mut cpus = Vec::new();
    by_cpu
        .for_each(|k, v| {
            if *k == 0 {
                cpus = v.to_vec()
            }
        })
        .unwrap();
    assert!(cpus.iter().sum::<u64>() >= total);

    let costs = object.costs().unwrap();
    eprintln!("{costs:?}");
    assert!(costs[0].runs >= total && costs[0].mean_ns > 0.0);

    // Set to another process, ours is no longer reported.
    object.set(setting::ONLY_TGID, 1).unwrap();
    let before = by_thread.get(&ThreadKey { tgid: me, tid: me }).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(by_thread.get(&ThreadKey { tgid: me, tid: me }).unwrap(), before);
}
