// SPDX-License-Identifier: Apache-2.0
//! The kernel's side of the sampler: who wants which samples, and the perf events that take them.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::HZ;
use crate::probe::skeletons::cpu_sample::setting;
use crate::probe::{Object, Sampling, Table};

/// What the sampler asks of the kernel; tests stand in for it.
pub(super) trait Control: Send + Sync {
    /// `CLOCK_BOOTTIME`, as samples carry it.
    fn now_ns(&self) -> u64;
    /// Starts or stops the perf events.
    fn run(&self, on: bool) -> Result<()>;
    /// Sets the subscribers of the node, a bit each.
    fn set_node(&self, subscribers: u64) -> Result<()>;
    /// Sets the subscribers of a cgroup; 0: it is forgotten.
    fn set_cgroup(&self, id: u64, subscribers: u64) -> Result<()>;
    /// Sets the subscribers of a process; 0: it is forgotten.
    fn set_process(&self, tgid: u32, subscribers: u64) -> Result<()>;
    /// Has one sample of so many kept for the history; 0: none.
    fn set_history(&self, every: u32) -> Result<()>;
    /// Samples of a subscriber, or of the [`HISTORY`], that the ring had no room for, since the load.
    fn lost(&self, subscriber: u32) -> u64;
}

/// The history's index among the losses.
pub(super) const HISTORY: u32 = 64;

/// The loaded object.
pub(super) struct Kernel {
    object: Object,
    cgroups: Table<u64, u64>,
    processes: Table<u32, u64>,
    lost: Table<u32, u64>,
    /// Opened at once, while the privileges are there.
    sampling: Mutex<Sampling>,
}

impl Kernel {
    pub fn new(object: &Object) -> Result<Self> {
        Ok(Kernel {
            cgroups: object.table("cgroup_subscribers")?,
            processes: object.table("process_subscribers")?,
            lost: object.table("lost_by_subscriber")?,
            sampling: Mutex::new(object.sample("sample", HZ)?),
            object: object.clone(),
        })
    }
}

impl Control for Kernel {
    fn now_ns(&self) -> u64 {
        crate::probe::sys::boot_ns()
    }

    fn run(&self, on: bool) -> Result<()> {
        let mut sampling = self.sampling.lock().unwrap_or_else(PoisonError::into_inner);
        if !on {
            return sampling.stop();
        }
        if sampling.is_outdated() {
            match self.object.sample("sample", HZ) {
                Ok(fresh) => *sampling = fresh,
                Err(e) => tracing::info!("CPUs that came later are not sampled: {e:#}"),
            }
        }
        sampling.start()
    }

    fn set_node(&self, subscribers: u64) -> Result<()> {
        self.object.set(setting::NODE_SUBSCRIBERS, subscribers)
    }

    fn set_cgroup(&self, id: u64, subscribers: u64) -> Result<()> {
        if subscribers == 0 { self.cgroups.remove(&id).map(drop) } else { self.cgroups.put(&id, &subscribers) }
    }

    fn set_process(&self, tgid: u32, subscribers: u64) -> Result<()> {
        if subscribers == 0 { self.processes.remove(&tgid).map(drop) } else { self.processes.put(&tgid, &subscribers) }
    }

    fn set_history(&self, every: u32) -> Result<()> {
        self.object.set(setting::HISTORY_EVERY, every)
    }

    fn lost(&self, subscriber: u32) -> u64 {
        let by_cpu = self.lost.get_per_cpu(&subscriber).ok().flatten().unwrap_or_default();
        by_cpu.iter().sum()
    }
}
