// SPDX-License-Identifier: Apache-2.0
//! What of an event's key was said, counted and forgotten; and on the kernel at hand, all CPUs at once.

use std::time::Instant;

use zerocopy::IntoBytes;

use super::*;
use crate::probe::tests::can_load;
use crate::probe::{Loader, Memory, Reader, RecordSet, Stop};

#[expect(dead_code, reason = "not all of it is looked at")]
mod fixtures {
    crate::include_skeletons!("fixtures");
}
use fixtures::limits::{Record, Records, SKELETON, setting};

const BURST: u64 = 20;

fn key(cgroup: u64) -> LimitKey {
    LimitKey {
        cgroup: CgroupRef { id: cgroup, hierarchy: 0, reserved: 0 },
        reason: 0,
        netns: 0,
        ring: SKELETON.rings[0].stat,
    }
}

fn head_of(cgroup: u64, begun_ns: u64, suppressed: u64) -> Limited {
    Limited { key: key(cgroup), suppressed, begun_ns }
}

/// Each event says what came since the last of its own key, whatever order records of several CPUs come in,
/// and never more than there was.
#[test]
fn what_was_suppressed_is_said_once() {
    let mut said = Said::default();
    let mut say = |cgroup, begun, n| said.since_last(&head_of(cgroup, begun, n));
    assert_eq!([say(1, 5, 100), say(1, 5, 103), say(2, 5, 7)], [100, 3, 7]);
    assert_eq!([say(1, 5, 102), say(1, 5, 104)], [0, 1], "a record that was overtaken");
    // The entry had to make room, and came again.
    assert_eq!([say(1, 9, 2), say(1, 9, 2), say(1, 5, 104)], [2, 0, 0]);
    assert_eq!(say(1, 0, 50), 0, "without an entry nothing is known");
}

/// However many keys come by, memory stays bounded, and a key in use is kept.
#[test]
fn what_was_said_is_bounded() {
    let mut said = Said::default();
    said.since_last(&head_of(1, 5, 10));
    for i in 0..3 * KEYS as u64 {
        said.since_last(&head_of(100 + i, 5, 1));
        assert_eq!(said.since_last(&head_of(1, 5, 10)), 0);
    }
    assert!(said.of.len() <= KEYS + 1);
}

/// A record of an unlimited ring has no head, nor has a short one.
#[test]
fn heads_are_of_limited_rings() {
    let record = head_of(3, 5, 1);
    assert_eq!(head(SKELETON.rings, 0, record.as_bytes()), Some(record));
    assert_eq!(head(SKELETON.rings, 1, record.as_bytes()), None);
    assert_eq!(head(SKELETON.rings, 0, &record.as_bytes()[..40]), None);
    assert_eq!(head(fixtures::selftest::SKELETON.rings, 0, record.as_bytes()), None);
}

/// Growth is under its cgroup while its entry is there, and under none where only the total has it.
#[test]
fn growth_is_found_by_cgroup() {
    let kernel = Memory::new("/proc", 2);
    let object = Loader::in_memory(&kernel).load(SKELETON.options()).unwrap();
    let put = |cgroup, begun_ns, suppressed, lost| {
        let limiter = Limiter { spent_ns: 0, suppressed, lost, begun_ns };
        kernel.put(&SKELETON, LIMITS, &key(cgroup), &[limiter]).unwrap();
    };
    let total = |suppressed, crowded| {
        let counts = [LimitCount { suppressed, crowded }, LimitCount::default()];
        kernel.put(&SKELETON, COUNTS, &SKELETON.rings[0].stat, &counts).unwrap();
    };
    let mut limits = Limits::of(&object).unwrap().unwrap();
    let mut check = || {
        let mut all = limits.check().unwrap();
        all.sort_by_key(|m| m.key.map(|k| k.cgroup.id));
        all.iter().map(|m| (m.key.map(|k| k.cgroup.id), m.suppressed, m.lost, m.crowded)).collect::<Vec<_>>()
    };
    assert_eq!(check(), []);
    put(1, 5, 10, 2);
    put(2, 5, 1, 0);
    total(11, 0);
    assert_eq!(check(), [(Some(1), 10, 2, 0), (Some(2), 1, 0, 0)]);
    assert_eq!(check(), []);
    // An entry made room and came again: what it had not been asked for is in the total.
    put(1, 9, 3, 0);
    total(20, 4);
    assert_eq!(check(), [(None, 6, 0, 4), (Some(1), 3, 0, 0)]);
}

/// A map of limits is large enough that CPUs do not evict each other's entries.
#[test]
fn large_machines_have_more_entries() {
    let def = SKELETON.maps.iter().find(|m| m.name == LIMITS).unwrap();
    assert_eq!((entries(def, 1), entries(def, 64)), (1024, 16_384));
}

/// The stress: all CPUs hit the limits of two keys that they share, one of each thread's own, and more keys
/// than there are entries. Every hit is a record, suppressed or lost; no count ever falls or wraps; no key
/// has more than its limit and one a CPU; and each quiet key has all of its own.
#[test]
fn every_hit_is_counted_once() {
    if !can_load() {
        return;
    }
    let options = SKELETON.options().setting(setting::ONLY_TGID, std::process::id());
    let object = Loader::new().load(options).unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let before = Instant::now();
    let stop = Stop::new().unwrap();
    let reader = Reader::new(std::slice::from_ref(&object)).unwrap();
    let (stopper, mut records) = (stop.clone(), HashMap::<u64, u64>::new());
    let mut said = Said::default();
    let mut spoken = 0;
    let stopped = std::thread::scope(|s| {
        let hammering = s.spawn(|| {
            hammer(&object, 2 * cpus);
            stopper.stop();
        });
        reader
            .run(&stop, |_, ring, bytes| {
                let Ok(Record::Asked(r)) = Records::decode(ring, bytes) else { panic!("no record") };
                *records.entry(r.limited.key.cgroup.id).or_default() += 1;
                let news = said.since_last(&r.limited);
                assert!(news <= r.limited.suppressed);
                spoken += news;
            })
            .unwrap();
        hammering.join()
    });
    stopped.unwrap();
    let seconds = before.elapsed().as_secs() + 1;
    let hits: u64 = object.table::<u32, u64>("hits").unwrap().get_per_cpu(&0).unwrap().unwrap().iter().sum();
    let mut limits = Limits::of(&object).unwrap().unwrap();
    let found = limits.check().unwrap();
    let sum = |f: fn(&Missing) -> u64| found.iter().map(f).sum::<u64>();
    let (suppressed, lost, crowded) = (sum(|m| m.suppressed), sum(|m| m.lost), sum(|m| m.crowded));
    let handed = records.values().sum::<u64>();
    eprintln!("{hits} hits, {handed} records, {suppressed} suppressed, {lost} lost, {crowded} crowded");
    assert_eq!(hits, handed + suppressed + lost + crowded);
    assert!(suppressed > 10_000 && spoken <= suppressed, "{suppressed} {spoken}");
    let most = BURST + seconds + cpus;
    for shared in [SHARED, SHARED + 1] {
        assert!((BURST..=most).contains(&records[&shared]), "{} of {shared}", records[&shared]);
    }
    for quiet in QUIET..QUIET + 2 * cpus {
        assert_eq!(records.get(&quiet), Some(&QUIET_HITS), "of {quiet}");
    }
}

/// Keys of all threads, of one each, and of nobody twice.
const SHARED: u64 = 1;
const QUIET: u64 = 1000;
const OTHERS: u64 = 1_000_000;
const QUIET_HITS: u64 = 10;
/// More than the map has entries on this machine.
const KEYS_OF_A_THREAD: u64 = 3000;
const FLOOD: u64 = 200_000;

/// Has each of so many threads make its events.
fn hammer(object: &Object, threads: u64) {
    object.set(setting::NUMBER, libc::SYS_getpgid.unsigned_abs()).unwrap();
    let flooded = std::sync::Barrier::new(usize::try_from(threads).unwrap());
    std::thread::scope(|s| {
        for t in 0..threads {
            let flooded = &flooded;
            s.spawn(move || {
                for i in 0..FLOOD {
                    ask(SHARED + i % 2);
                    if i % (FLOOD / QUIET_HITS) == 0 {
                        ask(QUIET + t);
                    }
                }
                flooded.wait();
                // Each has its tokens, all together more than the ring's room.
                for i in 0..KEYS_OF_A_THREAD {
                    ask(OTHERS + t * KEYS_OF_A_THREAD + i);
                }
            });
        }
    });
    object.set(setting::NUMBER, u64::MAX).unwrap();
}

#[expect(unsafe_code, reason = "rustix has no such call without a feature that nothing else needs")]
fn ask(key: u64) {
    // SAFETY: it takes a number. There is no such process; the call is what counts.
    unsafe { libc::getpgid(i32::try_from(key).unwrap()) };
}
