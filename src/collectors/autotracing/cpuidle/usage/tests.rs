// SPDX-License-Identifier: Apache-2.0
//! Sequences of readings of cgroups, as the scheduler's probe gives them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::collectors::detect::Reason;
use crate::host::{Clock, Host};
use crate::signal::Timestamp;

const SECOND: u64 = 1_000_000_000;

/// A node whose cgroups use what a test says, second by second.
struct Node {
    clock: Clock,
    workloads: Workloads,
    usage: Usage,
    config: Config,
    /// CPU time of each cgroup, in nanoseconds.
    times: BTreeMap<u64, u64>,
    /// What every workload may use.
    capacity: Capacity,
}

fn id(id: u64) -> CgroupId {
    CgroupId { hierarchy: 0, id }
}

impl Node {
    fn new(capacity: f64) -> Self {
        let clock = Clock::fixed(Timestamp(1_000 * SECOND), 1_000 * SECOND);
        let workloads = Workloads::new(&Host::under("/nowhere"), &clock);
        let (usage, config, times) = (Usage::default(), Config::default(), BTreeMap::new());
        Node { clock, workloads, usage, config, times, capacity: Capacity { cpus: capacity, shared: Vec::new() } }
    }

    fn container(&self, n: u64) -> String {
        let path = format!("/docker/{}", "a".repeat(64));
        self.workloads.on_mkdir(id(n), &path);
        path
    }

    /// Lets a second go by in which these used so many CPUs, and gives what comes of it.
    fn second(&mut self, used: &[(u64, f64)]) -> Vec<Verdict> {
        self.clock.advance(Duration::from_secs(1));
        for (cgroup, cpus) in used {
            *self.times.entry(*cgroup).or_default() += (cpus * 1e9) as u64;
        }
        let reading = self.times.iter().map(|(cgroup, ns)| Total::new(id(*cgroup), 1, *ns)).collect();
        let capacity = self.capacity.clone();
        let judge = Judge {
            config: &self.config,
            workloads: &self.workloads,
            capacity: &|_| capacity.clone(),
            wanted: &|_| true,
            now: self.clock.now(),
        };
        self.usage.step(reading, &judge)
    }

    /// Seconds like that, and how often something was opened, recovered and dropped in them.
    fn seconds(&mut self, n: usize, used: &[(u64, f64)]) -> (usize, usize, usize) {
        let verdicts: Vec<_> = (0..n).flat_map(|_| self.second(used)).collect();
        counted(&verdicts)
    }
}

fn counted(verdicts: &[Verdict]) -> (usize, usize, usize) {
    let count = |f: fn(&Step) -> bool| verdicts.iter().filter(|v| f(&v.step)).count();
    (
        count(|s| matches!(s, Step::Open { .. })),
        count(|s| matches!(s, Step::Recover)),
        count(|s| matches!(s, Step::Drop)),
    )
}

/// A container that is always at its limit, by children that each live a second: it is opened once and stays so,
/// also after the first children were forgotten by the workload table, and by the probe.
#[test]
fn children_that_come_and_go_hide_nothing() {
    let mut node = Node::new(0.5);
    let path = node.container(7);
    node.second(&[]);
    let mut verdicts = Vec::new();
    for second in 0..660 {
        let child = 1_000 + second;
        node.workloads.on_mkdir(id(child), &format!("{path}/job{second}"));
        verdicts.extend(node.second(&[(child, 0.5)]));
        node.workloads.on_rmdir(id(child));
        if let Some(idle) = second.checked_sub(300) {
            node.times.remove(&(1_000 + idle));
        }
    }
    assert_eq!(counted(&verdicts), (1, 0, 0));
    let sampled = verdicts.iter().filter(|v| matches!(v.step, Step::Begin | Step::Hold));
    let new: Vec<_> = sampled.filter_map(|v| v.figures.as_ref()).map(|f| f.cgroups.len()).collect();
    assert!(new.len() > 600 && new.iter().all(|n| *n == 1), "those that ran are to be sampled");
}

/// A child with much CPU time that leaves the reading in the middle of the window throws no suspect away.
#[test]
fn a_forgotten_child_is_no_pause() {
    let mut node = Node::new(1.0);
    let path = node.container(7);
    node.workloads.on_mkdir(id(8), &format!("{path}/old"));
    node.times.insert(8, 5_000 * SECOND);
    node.second(&[]);
    assert_eq!(node.seconds(5, &[(7, 1.0)]), (0, 0, 0));
    node.times.remove(&8);
    assert_eq!(node.seconds(7, &[(7, 1.0)]), (1, 0, 0));
}

/// A container that used half of what it may before the agent came is no jump, then or later; one that is born
/// later and does the same is.
#[test]
fn only_who_is_new_jumps_from_nothing() {
    let mut node = Node::new(1.0);
    node.container(7);
    assert_eq!(node.seconds(200, &[(7, 0.51)]), (0, 0, 0));
    node.workloads.on_mkdir(id(8), "/batch");
    let verdicts: Vec<_> = (0..20).flat_map(|_| node.second(&[(7, 0.51), (8, 0.51)])).collect();
    assert_eq!(counted(&verdicts), (1, 0, 0));
    let opened = verdicts.iter().find(|v| matches!(v.step, Step::Open { .. })).unwrap();
    assert!(matches!(opened.step, Step::Open { reason: Reason::Jump, taken: true, .. }));
    let figures = opened.figures.as_ref().unwrap();
    assert_eq!((figures.workload.cgroup.as_str(), figures.usual), ("/batch", Some(0.0)));
    assert!((figures.share() - 0.51).abs() < 1e-9);
}

/// Units count only where they are asked for; who is asked for later is learnt first.
#[test]
fn units_are_asked_for() {
    let mut node = Node::new(1.0);
    node.workloads.on_mkdir(id(7), "/system.slice/a.service");
    assert_eq!(node.seconds(60, &[(7, 0.6)]), (0, 0, 0));
    node.config.units = true;
    node.usage.begin_again();
    assert_eq!(node.seconds(120, &[(7, 0.6)]), (0, 0, 0));
    assert_eq!(node.seconds(12, &[(7, 1.0)]), (1, 0, 0));
}

/// What ends while it is open has recovered some seconds later, and what is suspect then is dropped.
#[test]
fn an_end_is_a_recovery() {
    let mut node = Node::new(1.0);
    node.container(7);
    node.second(&[]);
    assert_eq!(node.seconds(15, &[(7, 1.0)]), (1, 0, 0));
    node.workloads.on_mkdir(id(8), "/job");
    assert_eq!(node.seconds(3, &[(7, 1.0), (8, 1.0)]), (0, 0, 0));
    node.workloads.on_rmdir(id(7));
    node.workloads.on_rmdir(id(8));
    assert_eq!(node.seconds(5, &[]), (0, 1, 1));
    assert_eq!(node.seconds(40, &[]), (0, 0, 0));
    assert!(node.usage.limits.is_empty());
}

/// A small limit that is used up is one as a large one is; a jump below 0.05 CPUs is nothing, nor is what is below
/// any limit that the kernel knows.
#[test]
fn small_limits_are_limits() {
    for (limit, used, opened) in [(0.04, 0.04, 1), (0.04, 0.03, 0), (0.005, 0.005, 0)] {
        let mut node = Node::new(limit);
        node.second(&[]);
        node.container(7);
        assert_eq!(node.seconds(30, &[(7, used)]), (opened, 0, 0), "{used} of {limit}");
    }
}

/// A pod's limit is used up by its containers together: each that takes its part is reported, one beside them that uses
/// little is not, nor anybody while there is room.
#[test]
fn a_shared_limit_is_used_up_together() {
    let mut node = Node::new(0.4);
    let pod = "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555";
    node.capacity.shared.push((pod.to_owned(), 0.4));
    node.second(&[]);
    for (n, c) in [(7, "a"), (8, "b"), (9, "c"), (10, "d")] {
        node.workloads.on_mkdir(id(n), &format!("{pod}/{}", c.repeat(64)));
    }
    assert_eq!(node.seconds(30, &[(7, 0.09), (8, 0.09), (9, 0.09), (10, 0.02)]), (0, 0, 0));
    let verdicts: Vec<_> = (0..15).flat_map(|_| node.second(&[(7, 0.13), (8, 0.12), (9, 0.13), (10, 0.02)])).collect();
    assert_eq!(counted(&verdicts), (3, 0, 0));
    let opened = verdicts.iter().filter(|v| matches!(v.step, Step::Open { reason: Reason::Level, .. }));
    for figures in opened.filter_map(|v| v.figures.as_ref()) {
        let shared = figures.shared.as_ref().unwrap();
        assert_eq!((shared.path.as_str(), shared.limit), (pod, 0.4));
        assert!((shared.cpus - 0.4).abs() < 1e-9 && figures.cpus > 0.1);
    }
    assert_eq!(node.seconds(5, &[(7, 0.01)]), (0, 3, 0));
}
