// SPDX-License-Identifier: Apache-2.0
//! `sched`: CPU time and run-queue wait of every cgroup, from one hook on the context switch.
//!
//! Each CPU counts in a cache of its own; cgroups that had to make room there are in a hash. A
//! reading adds both up, and the run that each CPU is in the middle of. The parts cannot be read at
//! one moment, so a cgroup that just makes room may be missing its last figures for one reading;
//! what was reported before is kept meanwhile, so that no figure ever falls.
//!
//! Waits are what the kernel itself books, those that go on on another CPU included. Where run queues have
//! sums of their own, these show at each switch whether any was missed.

mod totals;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Feature, Loading, SharedProbe, hierarchy_of};
use crate::probe::map::possible_cpus;
use crate::probe::skeletons::sched::{self, SchedCpu, SchedGroup};
use crate::probe::{CgroupId, Latencies, LoadError, Object, Skeleton, Table};
use crate::signal::Total;
use totals::{Cpu, Figures, Group, Lost, Totals};

/// A CPU that switches while its part is copied is read again, so often at most.
const ATTEMPTS: usize = 6;

/// As in `sched/moved.bpf.c`: tasks that are told apart where run queues have no sums, which shows in `/proc`
/// (`CONFIG_SCHEDSTATS`).
const SEEN_TASKS: u32 = 1 << 17;

/// Waits of the node and of each cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunQueue {
    pub node: Latencies,
    pub cgroups: Vec<Total<CgroupId, Latencies>>,
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

impl SharedProbe for Sched {
    const SKELETON: &'static Skeleton = &sched::SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let hierarchy = hierarchy_of("cpu", &loading.proc().join("cgroups"));
        let fail = |e: anyhow::Error| LoadError::Object { object: sched::SKELETON.name, reason: format!("{e:#}") };
        let cpus = u32::try_from(possible_cpus().map_err(fail)?).unwrap_or(u32::MAX);
        let on = |f| u32::from(loading.wants(f));
        let options = sched::SKELETON
            .options()
            .switch(sched::switch::CPU_TIME, on(Sched::CPU_TIME))
            .switch(sched::switch::RUN_QUEUE, on(Sched::RUN_QUEUE))
            .switch(sched::switch::UNIFIED, u32::from(hierarchy == 0))
            .map_size("sched_queues", cpus)
            .map_size("sched_seen", if loading.proc().join("schedstat").exists() { 1 } else { SEEN_TASKS })
            .without(if loading.wants(Sched::RUN_QUEUE) { &[] } else { &["moved"] });
        let object = loading.load(options)?;
        let readings = Readings::of(&object).map_err(fail)?;
        Ok(Sched { object, hierarchy, readings: Arc::new(Mutex::new(readings)) })
    }

    fn object(&self) -> &Object {
        &self.object
    }

    /// How often a cgroup's figures, or a part of a wait, became the node's alone, as of the last reading.
    fn lost(&self) -> u64 {
        let lost = self.losses();
        lost.figures + lost.unplaced
    }

    /// How often a run queue had booked waits that no program saw, as of the last reading.
    fn unseen(&self) -> u64 {
        self.losses().unseen
    }
}

impl Sched {
    /// CPU time of every cgroup.
    pub const CPU_TIME: Feature = Feature::of::<Sched>("cpu_time");
    /// Run-queue wait of the node and of every cgroup.
    pub const RUN_QUEUE: Feature = Feature::of::<Sched>("run_queue");

    /// CPU time of each cgroup in nanoseconds since the probe was loaded, without its children's,
    /// the runs under way included. The root's entry holds kernel threads too; idle time is nobody's.
    ///
    /// # Errors
    /// The maps could not be read.
    pub fn cpu_time(&self) -> anyhow::Result<Vec<Total<CgroupId, u64>>> {
        let readings = self.read()?;
        let total = |(id, g): (&u64, &Group)| Total::new(self.cgroup(*id), g.generation, g.figures.run_ns);
        Ok(readings.totals.groups.iter().map(total).collect())
    }

    /// How long tasks waited on the run queues since the probe was loaded.
    ///
    /// # Errors
    /// The maps could not be read.
    pub fn run_queue(&self) -> anyhow::Result<RunQueue> {
        let readings = self.read()?;
        let total = |(id, g): (&u64, &Group)| Total::new(self.cgroup(*id), g.generation, g.figures.waits);
        Ok(RunQueue { node: readings.totals.node, cgroups: readings.totals.groups.iter().map(total).collect() })
    }

    fn losses(&self) -> Lost {
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

#[cfg(test)]
mod tests;
