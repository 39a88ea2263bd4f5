// SPDX-License-Identifier: Apache-2.0
//! `sched`: CPU time and run-queue wait of every cgroup, from one hook on the context switch.
//!
//! Each CPU counts in a cache of its own; cgroups that had to make room there are in a hash. A
//! reading adds both up, and the run that each CPU is in the middle of. The parts cannot be read at
//! one moment, so a cgroup that just makes room may be missing its last figures for one reading;
//! what was told before is kept meanwhile, so that no figure ever falls.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Feature;
use crate::probe::skeletons::sched::{self, SchedCpu, SchedGroup};
use crate::probe::{CgroupId, LoadError, Loader, Object, Table};

/// Buckets of a wait histogram; the last holds 32 s and all that is longer.
pub const WAIT_SLOTS: usize = 26;
/// Bucket `i` holds waits of `[2^(i + WAIT_EXPONENT), 2^(i + 1 + WAIT_EXPONENT))` seconds.
pub const WAIT_EXPONENT: i32 = -20;
/// The root cgroup's kernfs id.
const ROOT: u64 = 1;
/// A cgroup that did not run for so long leaves the kernel's hash.
const IDLE_NS: u64 = 300_000_000_000;
/// A CPU that switches while its part is copied is read again, so often at most.
const ATTEMPTS: usize = 6;

/// How long tasks waited on a run queue, since the probe was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waits {
    /// Waits below 2^-20 s.
    pub zero: u64,
    pub slots: [u64; WAIT_SLOTS],
    pub total_ns: u64,
}

impl Waits {
    /// All waits, those of nothing included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.zero + self.slots.iter().sum::<u64>()
    }
}

/// Waits of the node and of each cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunQueue {
    pub node: Waits,
    pub cgroups: Vec<(CgroupId, Waits)>,
}

/// Figures that only grow.
pub trait Growing: Clone + Default + PartialEq {
    /// What was added since `earlier`.
    #[must_use]
    fn since(&self, earlier: &Self) -> Self;
    /// Adds what another one grew by.
    fn add(&mut self, growth: &Self);
    /// The larger of each figure.
    fn rise_to(&mut self, other: &Self);
}

impl Growing for u64 {
    fn since(&self, earlier: &Self) -> Self {
        self.saturating_sub(*earlier)
    }
    fn add(&mut self, growth: &Self) {
        *self = self.saturating_add(*growth);
    }
    fn rise_to(&mut self, other: &Self) {
        *self = (*self).max(*other);
    }
}

impl Growing for Waits {
    fn since(&self, earlier: &Self) -> Self {
        Waits {
            zero: self.zero.since(&earlier.zero),
            slots: std::array::from_fn(|i| self.slots[i].since(&earlier.slots[i])),
            total_ns: self.total_ns.since(&earlier.total_ns),
        }
    }
    fn add(&mut self, growth: &Self) {
        self.zero.add(&growth.zero);
        self.slots.iter_mut().zip(&growth.slots).for_each(|(s, g)| s.add(g));
        self.total_ns.add(&growth.total_ns);
    }
    fn rise_to(&mut self, other: &Self) {
        self.zero.rise_to(&other.zero);
        self.slots.iter_mut().zip(&other.slots).for_each(|(s, o)| s.rise_to(o));
        self.total_ns.rise_to(&other.total_ns);
    }
}

/// Turns readings into growth, one for each consumer. A cgroup that was not in the last reading
/// began at zero: it is new, or was idle for so long that the kernel forgot it.
#[derive(Debug, Clone)]
pub struct Differences<T> {
    last: HashMap<CgroupId, T>,
}

impl<T> Default for Differences<T> {
    fn default() -> Self {
        Differences { last: HashMap::new() }
    }
}

impl<T: Growing> Differences<T> {
    /// What each cgroup grew by since the call before, all it has at the first call. Those that did
    /// not grow are left out.
    pub fn of(&mut self, reading: Vec<(CgroupId, T)>) -> Vec<(CgroupId, T)> {
        let growth = reading.iter().map(|(id, now)| match self.last.get(id) {
            Some(earlier) => (*id, now.since(earlier)),
            None => (*id, now.clone()),
        });
        let growth = growth.filter(|(_, g)| *g != T::default()).collect();
        self.last = reading.into_iter().collect();
        growth
    }
}

/// The loaded probe. Cheap to clone; every consumer takes differences, nobody resets anything.
#[derive(Clone)]
pub struct Sched {
    object: Object,
    /// Number of the cpu controller's hierarchy.
    hierarchy: u32,
    readings: Arc<Mutex<Readings>>,
}

struct Readings {
    object: Object,
    cpus: Table<u32, SchedCpu>,
    evicted: Table<u64, SchedGroup>,
    totals: Totals,
}

impl Sched {
    /// Loads the probe with the features of it that are asked for.
    ///
    /// # Errors
    /// The program, the hook and the kernel's reason.
    pub fn load(loader: &mut Loader, features: &BTreeSet<Feature>) -> Result<Self, LoadError> {
        let hierarchy = hierarchy_of("cpu", &loader.proc().join("cgroups"));
        let on = |f| u32::from(features.contains(&f));
        let options = sched::SKELETON
            .options()
            .switch(sched::switch::CPU_TIME, on(Feature::SchedCpuTime))
            .switch(sched::switch::RUN_QUEUE, on(Feature::SchedRunQueue))
            .switch(sched::switch::UNIFIED, u32::from(hierarchy == 0));
        let object = loader.load(options)?;
        let readings = Readings::of(&object)
            .map_err(|e| LoadError::Object { object: sched::SKELETON.name, reason: format!("{e:#}") })?;
        Ok(Sched { object, hierarchy, readings: Arc::new(Mutex::new(readings)) })
    }

    /// CPU time of each cgroup in nanoseconds since the probe was loaded, without its children's,
    /// the runs under way included. The root's entry holds kernel threads too; idle time is nobody's.
    ///
    /// # Errors
    /// The maps could not be read.
    pub fn cpu_time(&self) -> anyhow::Result<Vec<(CgroupId, u64)>> {
        let readings = self.read()?;
        Ok(readings.totals.groups.iter().map(|(id, g)| (self.cgroup(*id), g.figures.run_ns)).collect())
    }

    /// How long tasks waited on the run queues since the probe was loaded.
    ///
    /// # Errors
    /// The maps could not be read.
    pub fn run_queue(&self) -> anyhow::Result<RunQueue> {
        let readings = self.read()?;
        let cgroups = readings.totals.groups.iter().map(|(id, g)| (self.cgroup(*id), g.figures.waits.clone()));
        Ok(RunQueue { node: readings.totals.node.clone(), cgroups: cgroups.collect() })
    }

    /// The probe's object, for its hooks and cost.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// How often a cgroup's figures were lost because the hash was full, as of the last reading.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).totals.lost
    }

    fn cgroup(&self, id: u64) -> CgroupId {
        CgroupId { hierarchy: self.hierarchy, id }
    }

    fn read(&self) -> anyhow::Result<MutexGuard<'_, Readings>> {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        readings.refresh()?;
        Ok(readings)
    }
}

impl Readings {
    fn of(object: &Object) -> anyhow::Result<Self> {
        let (cpus, evicted) = (object.table("sched_cpus")?, object.table("sched_evicted")?);
        Ok(Readings { object: object.clone(), cpus, evicted, totals: Totals::default() })
    }

    fn refresh(&mut self) -> anyhow::Result<()> {
        // The hash first: what makes room after that is missing for now, instead of being there twice.
        let mut evicted = Vec::new();
        self.evicted.for_each(|id, groups| evicted.extend(groups.iter().map(|g| (*id, Figures::of(g)))))?;
        let cpus = self.read_cpus()?;
        for id in self.totals.absorb(&evicted, &cpus, self.object.monotonic_ns()) {
            self.evicted.remove(&id)?;
        }
        Ok(())
    }

    /// One value a CPU, each copied while the CPU did not switch, where that could be had: no switch
    /// was under way when its copy began, and none had begun when the next copy did.
    fn read_cpus(&self) -> anyhow::Result<Vec<Cpu>> {
        let mut cpus: Vec<Cpu> = Vec::new();
        let mut copies = self.cpus.get_per_cpu(&0)?.unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let later = self.cpus.get_per_cpu(&0)?.unwrap_or_default();
            cpus.resize_with(copies.len(), Cpu::default);
            for ((cpu, copy), later) in cpus.iter_mut().zip(&copies).zip(&later) {
                if !cpu.at_rest {
                    *cpu = Cpu::of(copy, copy.begun == copy.done && copy.begun == later.begun);
                }
            }
            if cpus.iter().all(|c| c.at_rest) {
                break;
            }
            copies = later;
        }
        Ok(cpus)
    }
}

/// CPU time and waits of one cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Figures {
    run_ns: u64,
    waits: Waits,
}

impl Figures {
    fn of(g: &SchedGroup) -> Self {
        Figures { run_ns: g.run_ns, waits: Waits { zero: g.wait_zero, slots: g.wait, total_ns: g.wait_ns } }
    }

    fn add(&mut self, other: &Figures) {
        self.run_ns.add(&other.run_ns);
        self.waits.add(&other.waits);
    }

    fn rise_to(&mut self, other: &Figures) {
        self.run_ns.rise_to(&other.run_ns);
        self.waits.rise_to(&other.waits);
    }

    fn is_zero(&self) -> bool {
        self.run_ns == 0 && self.waits.zero == 0 && self.waits.total_ns == 0
    }
}

/// One CPU's part of a reading.
#[derive(Debug, Clone, Default)]
struct Cpu {
    /// No switch came between.
    at_rest: bool,
    lost: u64,
    /// Waits of cgroups that were lost.
    overflow: Waits,
    groups: Vec<(u64, Figures)>,
    /// Who runs since when, on the monotonic clock.
    running: Option<(u64, u64)>,
}

impl Cpu {
    fn of(v: &SchedCpu, at_rest: bool) -> Self {
        let current = usize::try_from(v.current).ok().and_then(|i| v.groups.get(i.checked_sub(1)?));
        let groups = v.groups.iter().map(|g| (cgroup_of(g.id), Figures::of(g))).filter(|(_, f)| !f.is_zero());
        // Before the first comparison of the clocks nothing can be said.
        let running = current.filter(|_| at_rest && v.compared != 0);
        Cpu {
            at_rest,
            lost: v.lost,
            overflow: Figures::of(&v.overflow).waits,
            groups: groups.collect(),
            running: running.map(|g| (cgroup_of(g.id), v.start.wrapping_add(v.offset))),
        }
    }
}

/// What was told so far.
#[derive(Debug, Default)]
struct Totals {
    node: Waits,
    /// Of cgroups that were forgotten: the node's sum keeps them.
    forgotten: Waits,
    groups: HashMap<u64, Group>,
    lost: u64,
}

#[derive(Debug, Default)]
struct Group {
    figures: Figures,
    /// When a figure last grew.
    grown_ns: u64,
}

impl Totals {
    /// Adds a reading up; returns the keys that should leave the kernel's hash.
    fn absorb(&mut self, evicted: &[(u64, Figures)], cpus: &[Cpu], now_ns: u64) -> Vec<u64> {
        let mut sums: HashMap<u64, Figures> = HashMap::new();
        for (id, figures) in evicted {
            sums.entry(cgroup_of(*id)).or_default().add(figures);
        }
        let mut node = self.forgotten.clone();
        self.lost = 0;
        for cpu in cpus {
            node.add(&cpu.overflow);
            self.lost += cpu.lost;
            for (id, figures) in &cpu.groups {
                sums.entry(*id).or_default().add(figures);
            }
            if let Some((id, since)) = cpu.running {
                sums.entry(id).or_default().run_ns += now_ns.saturating_sub(since);
            }
        }
        sums.values().for_each(|sum| node.add(&sum.waits));
        self.node.rise_to(&node);
        for (id, sum) in &sums {
            let group = self.groups.entry(*id).or_default();
            let before = group.figures.clone();
            group.figures.rise_to(sum);
            if group.grown_ns == 0 || group.figures != before {
                group.grown_ns = now_ns;
            }
        }
        self.forget(evicted, cpus, now_ns)
    }

    /// Forgets cgroups that are idle for long and cached by no CPU: they are gone, or begin at zero again.
    fn forget(&mut self, evicted: &[(u64, Figures)], cpus: &[Cpu], now_ns: u64) -> Vec<u64> {
        let cached: BTreeSet<u64> =
            cpus.iter().flat_map(|c| c.groups.iter().map(|(id, _)| *id).chain(c.running.map(|(id, _)| id))).collect();
        self.groups.retain(|id, g| cached.contains(id) || now_ns.saturating_sub(g.grown_ns) < IDLE_NS);
        let leaving: Vec<_> = evicted.iter().filter(|(id, _)| !self.groups.contains_key(&cgroup_of(*id))).collect();
        leaving.iter().for_each(|(_, figures)| self.forgotten.add(&figures.waits));
        leaving.iter().map(|(id, _)| *id).collect()
    }
}

/// The probe leaves 0 where a task is in no cgroup of its own: it is the root's then.
fn cgroup_of(id: u64) -> u64 {
    if id == 0 { ROOT } else { id }
}

/// `/proc/cgroups`: `name hierarchy cgroups enabled`; 0 where v1 does not have the controller.
fn hierarchy_of(controller: &str, file: &Path) -> u32 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let number = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == controller).then(|| words.next()?.parse().ok())?
    };
    text.lines().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
