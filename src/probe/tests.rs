// SPDX-License-Identifier: Apache-2.0
//! On the kernel at hand, as root: a probe that uses every part of `probe.h`.
#![cfg(test)]

use std::time::Duration;

use super::{CgroupId, LoadError, LoadOptions, Loader, Reader, RecordSet, Setting, Stop};

#[expect(dead_code, reason = "not all of it is looked at")]
mod fixtures {
    crate::include_skeletons!("fixtures");
}
use fixtures::selftest::{Record, Records, SKELETON, ThreadKey, setting, switch};

/// Whether BPF can be loaded; prints why not.
pub(super) fn can_load() -> bool {
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
    let refused = &object.hooks()[0].refused;
    assert_eq!(refused.len(), 2);
    assert!(refused[1].contains("invalid bpf_context access"), "the verifier's reason is quoted: {refused:?}");
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

/// A slot that must have a hook and has none here is an error that names it, what was tried, and
/// why each was refused; `try_load` tells the same without keeping anything.
#[test]
fn a_missing_hook_is_reported() {
    if !can_load() {
        return;
    }
    let mut loader = Loader::new();
    let Err(e) = loader.load(SKELETON.options()) else { panic!("it loaded") };
    let LoadError::NoHook { object: "selftest", slot: "extra", tried } = &e else { panic!("{e}") };
    assert_eq!(tried.len(), 1);
    // Where tracefs is not mounted, that is the reason.
    let reason =
        ["not on this kernel", "needs tracefs", "tracefs not found"].into_iter().find(|r| e.to_string().contains(r));
    assert!(e.to_string().contains("tp/bianque/absent") && reason.is_some(), "{e}");
    let report = loader.try_load(&SKELETON, &["extra"]);
    assert!(report.error.is_none() && report.hooks.len() == 3);
    assert!(loader.try_load(&SKELETON, &[]).error.is_some());
}

/// What the skeleton does not have is refused by name before the kernel sees anything.
#[test]
fn unknown_names_are_refused() {
    if !can_load() {
        return;
    }
    let mut loader = Loader::new();
    let wrong_size = LoadOptions { settings: vec![("min_ns", vec![0; 4])], ..SKELETON.options() };
    for (options, said) in [
        (SKELETON.options().setting(Setting::new("no_such"), 1_u32), "selftest: there is no setting no_such"),
        (SKELETON.options().map_size("no_such", 1), "selftest: there is no map no_such to resize"),
        (wrong_size, "selftest: setting min_ns has 8 bytes, not 4"),
    ] {
        let Err(e) = loader.load(options) else { panic!("it loaded") };
        assert_eq!(e.to_string(), said);
    }
    let object = loader.load(SKELETON.options().without(&["extra", "switched", "sample"])).unwrap();
    assert!(object.set(Setting::new("no_such"), 1_u32).is_err());
    assert!(object.table::<u32, u32>("switches_by_thread").is_err());
    assert!(object.sample("sample", 99).is_err());
}

/// A map is as large as asked for, in one object after the other of the same loader; reads cross
/// many batches; draining empties.
#[test]
fn maps_are_resized_read_and_drained() {
    if !can_load() {
        return;
    }
    let mut loader = Loader::new();
    let bare = || SKELETON.options().without(&["extra", "switched", "sample"]);
    let large = loader.load(bare().map_size("switches_by_thread", 20_000)).unwrap();
    let small = loader.load(bare()).unwrap();
    let mut table = large.table::<ThreadKey, u64>("switches_by_thread").unwrap();
    for tid in 0..20_000 {
        table.put(&ThreadKey { tgid: 1, tid }, &u64::from(tid)).unwrap();
    }
    let (mut sum, mut n) = (0, 0);
    assert_eq!(
        table
            .for_each(|k, v| {
                assert_eq!(u64::from(k.tid), v[0]);
                sum += v[0];
                n += 1;
            })
            .unwrap(),
        20_000
    );
    assert_eq!((sum, n), (20_000 * 19_999 / 2, 20_000));
    assert!(table.remove(&ThreadKey { tgid: 1, tid: 7 }).unwrap());
    assert!(!table.remove(&ThreadKey { tgid: 1, tid: 7 }).unwrap());
    assert_eq!(table.drain(|_, _| ()).unwrap(), 19_999);
    assert_eq!(table.for_each(|_, _| ()).unwrap(), 0);
    let table = small.table::<ThreadKey, u64>("switches_by_thread").unwrap();
    let fits = (0..20_000).take_while(|tid| table.put(&ThreadKey { tgid: 1, tid: *tid }, &0).is_ok()).count();
    assert_eq!(fits, 4096);
}

/// Sampling runs the program on every CPU while the handle is held, and stops with it.
#[test]
fn sampling_starts_and_stops() {
    if !can_load() {
        return;
    }
    let object = Loader::new().load(SKELETON.options().without(&["extra", "switched"])).unwrap();
    let mut counts = object.table::<u32, u64>("switches_by_cpu").unwrap();
    let mut count = || {
        let mut by_cpu = Vec::new();
        counts
            .for_each(|k, v| {
                if *k == 1 {
                    by_cpu = v.to_vec()
                }
            })
            .unwrap();
        by_cpu
    };
    assert!(count().iter().all(|n| *n == 0));
    let online = aya::util::online_cpus().unwrap();
    let sampling = object.sample("sample", 499).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(count().iter().all(|n| *n == 0), "it rests at first");
    sampling.start().unwrap();
    // A CPU that idles all the while may take no sample: give each one something to do.
    let until = std::time::Instant::now() + Duration::from_millis(500);
    let spin = || while std::time::Instant::now() < until {};
    std::thread::scope(|s| (0..2 * online.len()).for_each(|_| drop(s.spawn(spin))));
    sampling.stop().unwrap();
    let after = count();
    assert!(online.iter().all(|c| after[*c as usize] >= 10), "{after:?}");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(count(), after);
    assert_eq!(object.costs().unwrap()[0].runs, after.iter().sum::<u64>());
}

/// What found no room is counted, and what found room is read in order.
#[test]
fn losses_are_counted() {
    if !can_load() {
        return;
    }
    let me = std::process::id();
    let options = SKELETON.options().setting(setting::ONLY_TGID, me).without(&["extra", "sample"]);
    let object = Loader::new().load(options).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    // Nobody reads: 4096 bytes hold 46 records of 80 bytes with their headers.
    while object.lost().unwrap()[0] < 10 && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    object.set(setting::ONLY_TGID, 0).unwrap();
    let lost = object.lost().unwrap();
    assert!(lost[0] >= 10, "{lost:?}");
    let stop = Stop::new().unwrap();
    stop.stop();
    let mut times = Vec::new();
    Reader::new(&[object])
        .unwrap()
        .run(&stop, |_, ring, bytes| {
            if let Record::Switched(r) = Records::decode(ring, bytes).unwrap() {
                times.push(r.time_ns);
            }
        })
        .unwrap();
    assert!(times.len() >= 40 && times.len() <= 51, "{}", times.len());
}

/// Bytes of another size than the ring's record, or of a ring that is not there, are no record.
#[test]
fn wrong_bytes_are_no_record() {
    let aligned = [0_u64; 16];
    let bytes = zerocopy::IntoBytes::as_bytes(&aligned);
    assert!(Records::decode(0, &bytes[..80]).is_ok());
    let e = Records::decode(0, &bytes[..72]).unwrap_err();
    assert_eq!(e.to_string(), "record of ring 0 has 72 bytes, not 80");
    assert!(Records::decode(2, &bytes[..80]).is_err());
}
