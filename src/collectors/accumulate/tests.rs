// SPDX-License-Identifier: Apache-2.0
//! Keys, names and workloads that come, go and come back.

use super::*;
use crate::host::{Clock, Host};
use crate::probe::CgroupId;
use crate::signal::Timestamp;

fn id(id: u64) -> CgroupId {
    CgroupId { hierarchy: 0, id }
}

fn workloads() -> Workloads {
    Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1))
}

type ByCgroup = Accumulator<CgroupId, (), u64>;

/// Feeds totals of cgroups, all of the same generation.
fn feed(a: &mut ByCgroup, w: &Workloads, reading: &[(u64, u64)]) {
    feed_generations(a, w, &reading.iter().map(|(c, n)| (*c, 1, *n)).collect::<Vec<_>>());
}

fn feed_generations(a: &mut ByCgroup, w: &Workloads, reading: &[(u64, u64, u64)]) {
    let totals = reading.iter().map(|(c, generation, n)| Total::new(id(*c), *generation, *n));
    a.feed(w, totals, |c| w.of_cgroup(c), |_| ());
}

/// Each workload with its sum and what it grew by in the latest reading.
fn sums(a: &ByCgroup) -> Vec<(String, u64, u64)> {
    let mut all: Vec<_> = a.workloads().map(|(w, (), s)| (w.cgroup.clone(), s.total, s.growth)).collect();
    all.sort();
    all
}

fn node(a: &ByCgroup) -> u64 {
    a.node().map(|(_, s)| s.total).sum()
}

/// What a child did stays with its workload after the child is gone, also when its total leaves the reading; the
/// root is no workload's, and the node has everything.
#[test]
fn children_add_up() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    w.on_mkdir(id(1), "/");
    w.on_mkdir(id(7), "/system.slice/a.service");
    w.on_mkdir(id(8), "/system.slice/a.service/child");
    let unit = |total, growth| vec![("/system.slice/a.service".to_owned(), total, growth)];
    feed(&mut a, &w, &[(1, 9), (7, 10), (8, 5)]);
    assert_eq!(sums(&a), unit(15, 15));
    w.on_rmdir(id(8));
    feed(&mut a, &w, &[(1, 9), (7, 11), (8, 5)]);
    assert_eq!(sums(&a), unit(16, 1));
    feed(&mut a, &w, &[(1, 9), (7, 12)]);
    assert_eq!((sums(&a), node(&a)), (unit(17, 1), 26));
    feed(&mut a, &w, &[(1, 9), (7, 12)]);
    assert_eq!(sums(&a), unit(17, 0));
}

/// The end of a workload is reported once more with what it did last, and then no longer.
#[test]
fn the_dead_leave() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    w.on_mkdir(id(7), "/job");
    feed(&mut a, &w, &[(7, 10)]);
    w.on_rmdir(id(7));
    feed(&mut a, &w, &[(7, 13)]);
    assert_eq!(sums(&a), [("/job".to_owned(), 13, 3)]);
    feed(&mut a, &w, &[(7, 13)]);
    assert_eq!(sums(&a), []);
    assert_eq!(node(&a), 13);
}

/// A container that is gone at one reading and back at the next, as after `docker restart`, keeps its sum and
/// is in every reading.
#[test]
fn a_restarted_container_keeps_its_sum() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    let path = format!("/docker/{}", "a".repeat(64));
    w.on_mkdir(id(7), &path);
    feed(&mut a, &w, &[(7, 10)]);
    w.on_rmdir(id(7));
    feed(&mut a, &w, &[(7, 12)]);
    assert_eq!(sums(&a), [(path.clone(), 12, 2)]);
    w.on_mkdir(id(8), &path);
    feed(&mut a, &w, &[(7, 12), (8, 4)]);
    assert_eq!(sums(&a), [(path.clone(), 16, 4)]);
    feed(&mut a, &w, &[(7, 12), (8, 4)]);
    assert_eq!(sums(&a), [(path, 16, 0)]);
}

/// A unit that comes back minutes later goes on from what it had; not after the table has forgotten it.
#[test]
fn a_unit_that_comes_back_goes_on() {
    let clock = Clock::fixed(Timestamp(1), 1);
    let (w, mut a) = (Workloads::new(&Host::under("/nowhere"), &clock), ByCgroup::default());
    let path = "/system.slice/a.service";
    w.on_mkdir(id(7), path);
    feed(&mut a, &w, &[(7, 10)]);
    w.on_rmdir(id(7));
    for reported in [1, 0, 0] {
        feed(&mut a, &w, &[(7, 10)]);
        assert_eq!(sums(&a).len(), reported);
    }
    w.on_mkdir(id(8), path);
    feed(&mut a, &w, &[(8, 4)]);
    assert_eq!(sums(&a), [(path.to_owned(), 14, 4)]);
    w.on_rmdir(id(8));
    clock.advance(std::time::Duration::from_secs(301));
    w.on_mkdir(id(9), "/other");
    feed(&mut a, &w, &[]);
    feed(&mut a, &w, &[]);
    w.on_mkdir(id(10), path);
    feed(&mut a, &w, &[(10, 3)]);
    assert_eq!(sums(&a), [(path.to_owned(), 3, 3)]);
}

/// What a cgroup did before its name was known is its workload's, if the name comes by the next reading.
#[test]
fn a_late_name() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    feed(&mut a, &w, &[(7, 10)]);
    assert_eq!((sums(&a), node(&a)), (vec![], 10));
    w.on_mkdir(id(7), "/job");
    feed(&mut a, &w, &[(7, 11)]);
    assert_eq!((sums(&a), node(&a)), (vec![("/job".to_owned(), 11, 11)], 11));
    feed(&mut a, &w, &[(7, 11), (8, 10)]);
    feed(&mut a, &w, &[(7, 11), (8, 10)]);
    w.on_mkdir(id(8), "/late");
    feed(&mut a, &w, &[(7, 11), (8, 10)]);
    assert_eq!(sums(&a).len(), 1);
}

/// A name that comes later is the one that is reported, under the same sum.
#[test]
fn the_newest_name_is_reported() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    w.on_mkdir(id(7), "/job");
    feed(&mut a, &w, &[(7, 10)]);
    let key = w.of_cgroup(id(7)).unwrap().key;
    w.update(key, |w| w.container_name = Some("job".to_owned()));
    feed(&mut a, &w, &[(7, 10)]);
    let (named, (), sum) = a.workloads().next().unwrap();
    assert_eq!((named.container_name.as_deref(), sum.total), (Some("job"), 10));
}

/// A key that the kernel side forgot and counted anew is new, whether its total is smaller or larger than the
/// one before, and whether a reading without it came between or not.
#[test]
fn a_key_that_came_back_is_new() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    w.on_mkdir(id(7), "/job");
    feed_generations(&mut a, &w, &[(7, 1, 100)]);
    for (generation, total, sum) in [(2, 30, 130), (3, 200, 330), (3, 200, 330), (3, 210, 340)] {
        feed_generations(&mut a, &w, &[(7, generation, total)]);
        assert_eq!(sums(&a)[0].1, sum, "with {total} of generation {generation}");
    }
    // Without generations a reading that lacks it, or a total that fell, says the same.
    feed_generations(&mut a, &w, &[]);
    feed_generations(&mut a, &w, &[(7, 3, 250)]);
    assert_eq!(sums(&a)[0].1, 590);
    feed_generations(&mut a, &w, &[(7, 3, 5)]);
    assert_eq!(sums(&a)[0].1, 595);
}

/// Growth goes to who has the key when it grows.
#[test]
fn a_key_changes_hands() {
    let (w, mut a) = (workloads(), ByCgroup::default());
    w.on_mkdir(id(7), "/first");
    w.on_mkdir(id(8), "/second");
    let owned_by = |owner: u64| move |_: CgroupId| Some(id(owner));
    for (owner, total) in [(7, 10), (8, 15)] {
        let owner = owned_by(owner);
        a.feed(&w, [Total::new(id(99), 1, total)], |k| w.of_cgroup(owner(k)?), |_| ());
    }
    assert_eq!(sums(&a), [("/first".to_owned(), 10, 0), ("/second".to_owned(), 5, 5)]);
}

/// Labels are series of their own; beyond the bound they are counted under the one that stands for the rest, and
/// none of the growth is missing. Labels that were asked for are there at zero.
#[test]
fn labels_are_bounded() {
    let w = workloads();
    w.on_mkdir(id(0), "/job");
    let mut a: Accumulator<u64, String, u64> =
        Accumulator::bounded(3, |_| "other".to_owned()).with_labels(["0".to_owned()]);
    assert_eq!(a.node().map(|(l, s)| (l.as_str(), s.total)).collect::<Vec<_>>(), [("0", 0)]);
    for total in 1..=2 {
        let reading = (0..10).map(|n| Total::new(n, 0, total));
        a.feed(&w, reading, |_| w.of_cgroup(id(0)), |n| n.to_string());
    }
    let mut of_job: Vec<_> = a.workloads().map(|(_, l, s)| (l.as_str(), s.total)).collect();
    of_job.sort_unstable();
    assert_eq!(of_job, [("0", 2), ("1", 2), ("2", 2), ("other", 14)]);
    assert_eq!(a.node().map(|(_, s)| s.total).sum::<u64>(), 20);
    assert_eq!(a.node().count(), 4);
}
