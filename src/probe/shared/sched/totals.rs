// SPDX-License-Identifier: Apache-2.0
//! Adds up what the CPUs' caches and the hash hold of each cgroup, over the whole life of the probe.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::probe::Latencies;
use crate::probe::skeletons::sched::{SchedCpu, SchedGroup};
use crate::signal::Growing;

/// The root cgroup's kernfs id.
const ROOT: u64 = 1;
/// A cgroup that did not run for so long leaves the kernel's hash.
pub(super) const IDLE_NS: u64 = 300_000_000_000;
/// The same while the hash is crowded: longer than consumers let pass between two readings by default.
pub(super) const IDLE_CROWDED_NS: u64 = 60_000_000_000;
/// So many entries of the hash's 2,048 (`sched_evicted`) are a crowd.
pub(super) const CROWDED: usize = 1_536;

/// CPU time and waits of one cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub run_ns: u64,
    pub waits: Latencies,
}

impl Figures {
    pub fn of(g: &SchedGroup) -> Self {
        Figures { run_ns: g.run_ns, waits: g.wait }
    }

    fn with(&self, other: &Figures, f: impl Fn(u64, u64) -> u64) -> Self {
        Figures { run_ns: f(self.run_ns, other.run_ns), waits: self.waits.with(&other.waits, f) }
    }

    fn add(&mut self, other: &Figures) {
        *self = self.with(other, u64::saturating_add);
    }

    fn is_zero(&self) -> bool {
        self.run_ns == 0 && self.waits.zero == 0 && self.waits.total_ns == 0
    }

    fn is_below(&self, other: &Figures) -> bool {
        self.run_ns < other.run_ns || !self.waits.continues(&other.waits)
    }
}

/// How often something became the node's alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// The figures of a cgroup on a CPU found no room in the hash.
    pub figures: u64,
    /// A part of a wait found no room among those that go on on another CPU.
    pub unplaced: u64,
    /// A run queue had booked waits that no program saw.
    pub unseen: u64,
}

impl Lost {
    fn of(v: &SchedCpu) -> Self {
        Lost { figures: v.lost, unplaced: v.unplaced, unseen: v.unseen }
    }

    fn and(self, other: Self) -> Self {
        Lost {
            figures: self.figures + other.figures,
            unplaced: self.unplaced + other.unplaced,
            unseen: self.unseen + other.unseen,
        }
    }
}

/// One CPU's part of a reading.
#[derive(Debug, Clone, Default)]
pub(super) struct Cpu {
    /// No switch came between.
    pub at_rest: bool,
    pub lost: Lost,
    /// Waits that are no cgroup's by one of these.
    pub overflow: Latencies,
    pub groups: Vec<(u64, Figures)>,
    /// Who runs since when, on the monotonic clock.
    pub running: Option<(u64, u64)>,
}

impl Cpu {
    pub fn of(v: &SchedCpu, at_rest: bool) -> Self {
        let current = usize::try_from(v.current).ok().and_then(|i| v.groups.get(i.checked_sub(1)?));
        let groups = v.groups.iter().map(|g| (cgroup_of(g.id), Figures::of(g))).filter(|(_, f)| !f.is_zero());
        // Before the first comparison of the clocks nothing can be said.
        let running = current.filter(|_| at_rest && v.compared != 0);
        Cpu {
            at_rest,
            lost: Lost::of(v),
            overflow: Figures::of(&v.overflow).waits,
            groups: groups.collect(),
            running: running.map(|g| (cgroup_of(g.id), v.start.wrapping_add(v.offset))),
        }
    }
}

/// What was reported so far.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub node: Latencies,
    /// Of cgroups that were forgotten: the node's sum keeps them.
    forgotten: Latencies,
    pub groups: HashMap<u64, Group>,
    pub lost: Lost,
    generations: u64,
}

/// One cgroup.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub figures: Figures,
    /// Another number after the cgroup was forgotten and came back.
    pub generation: u64,
    /// Of `figures`, what the kernel side no longer has.
    gone: Figures,
    /// What there was of it when some was missing that may have been lost.
    rest: Option<Figures>,
    /// When a figure last grew.
    grown_ns: u64,
}

impl Group {
    /// Takes what the kernel side has of it now. `may_be_lost`: what is missing need not be on its way from a CPU
    /// to the hash; if it is still missing at the next reading it does not come back, and counting goes on
    /// from what was reported.
    fn take(&mut self, now: &Figures, may_be_lost: bool, now_ns: u64) {
        let mut sum = now.with(&self.gone, u64::saturating_add);
        match self.rest.take() {
            _ if !sum.is_below(&self.figures) => {}
            Some(rest) => {
                let rest = rest.with(now, u64::min);
                self.gone = self.figures.with(&rest, u64::saturating_sub);
                sum = now.with(&self.gone, u64::saturating_add);
            }
            None => self.rest = may_be_lost.then(|| now.clone()),
        }
        let risen = self.figures.with(&sum, u64::max);
        if self.grown_ns == 0 || risen != self.figures {
            self.grown_ns = now_ns;
        }
        self.figures = risen;
    }
}

impl Totals {
    /// Adds a reading up; returns the keys that should leave the kernel's hash.
    pub fn absorb(&mut self, evicted: &[(u64, Figures)], cpus: &[Cpu], now_ns: u64) -> Vec<u64> {
        let lost = cpus.iter().map(|cpu| cpu.lost).fold(Lost::default(), Lost::and);
        let losing = std::mem::replace(&mut self.lost, lost).figures < lost.figures;
        let (sums, mut node) = self.sum_up(evicted, cpus, now_ns);
        sums.values().for_each(|sum| node.add(&sum.waits));
        self.node = self.node.with(&node, u64::max);
        // Who has an entry in the hash loses nothing.
        let safe: HashSet<u64> = evicted.iter().map(|(id, _)| cgroup_of(*id)).collect();
        for (id, sum) in &sums {
            let group = self.groups.entry(*id).or_insert_with(|| {
                self.generations += 1;
                Group { generation: self.generations, ..Group::default() }
            });
            group.take(sum, losing && !safe.contains(id), now_ns);
        }
        // All of it may be in the overflow, with nothing left on any CPU.
        if losing {
            for (_, group) in self.groups.iter_mut().filter(|(id, _)| !sums.contains_key(id)) {
                group.take(&Figures::default(), true, now_ns);
            }
        }
        self.forget(evicted, cpus, now_ns)
    }

    /// The figures of each cgroup, and the node's waits that are no cgroup's any more.
    fn sum_up(&self, evicted: &[(u64, Figures)], cpus: &[Cpu], now_ns: u64) -> (HashMap<u64, Figures>, Latencies) {
        let mut sums: HashMap<u64, Figures> = HashMap::new();
        let mut node = self.forgotten;
        for (id, figures) in evicted {
            sums.entry(cgroup_of(*id)).or_default().add(figures);
        }
        for cpu in cpus {
            node.add(&cpu.overflow);
            for (id, figures) in &cpu.groups {
                sums.entry(*id).or_default().add(figures);
            }
            if let Some((id, since)) = cpu.running {
                sums.entry(id).or_default().run_ns += now_ns.saturating_sub(since);
            }
        }
        (sums, node)
    }

    /// Forgets cgroups that are idle for long and cached by no CPU: they are gone, or begin at zero again.
    fn forget(&mut self, evicted: &[(u64, Figures)], cpus: &[Cpu], now_ns: u64) -> Vec<u64> {
        let cached: BTreeSet<u64> =
            cpus.iter().flat_map(|c| c.groups.iter().map(|(id, _)| *id).chain(c.running.map(|(id, _)| id))).collect();
        let idle = if evicted.len() < CROWDED { IDLE_NS } else { IDLE_CROWDED_NS };
        self.groups.retain(|id, g| cached.contains(id) || now_ns.saturating_sub(g.grown_ns) < idle);
        let leaving: Vec<_> = evicted.iter().filter(|(id, _)| !self.groups.contains_key(&cgroup_of(*id))).collect();
        leaving.iter().for_each(|(_, figures)| self.forgotten.add(&figures.waits));
        leaving.iter().map(|(id, _)| *id).collect()
    }
}

/// The probe leaves 0 where a task is in no cgroup of its own: it is the root's then.
fn cgroup_of(id: u64) -> u64 {
    if id == 0 { ROOT } else { id }
}
