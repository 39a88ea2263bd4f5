// SPDX-License-Identifier: Apache-2.0
//! Adds up what cgroups did by the workload that they belong to.

use std::collections::HashMap;
use std::sync::Arc;

use crate::probe::CgroupId;
use crate::probe::shared::sched::Growing;
use crate::signal::{Workload, WorkloadKey};
use crate::workload::Workloads;

/// Figures that only grow, by workload: child cgroups come and go, their workload's sum stays.
#[derive(Debug)]
pub struct ByWorkload<T> {
    sums: HashMap<WorkloadKey, Sum<T>>,
    /// Of cgroups that nobody could name yet: a new one may be heard of after it ran.
    unnamed: HashMap<CgroupId, T>,
}

#[derive(Debug)]
struct Sum<T> {
    workload: Arc<Workload>,
    figures: T,
    /// It was there at the call before, or is new.
    alive: bool,
}

impl<T> Default for ByWorkload<T> {
    fn default() -> Self {
        ByWorkload { sums: HashMap::new(), unnamed: HashMap::new() }
    }
}

impl<T: Growing> ByWorkload<T> {
    /// Adds what cgroups grew by since the last call. What still has no name at the next call
    /// belongs to the node: root cgroups, and what was too short-lived to be seen.
    pub fn add(&mut self, workloads: &Workloads, growth: Vec<(CgroupId, T)>) {
        let earlier = std::mem::take(&mut self.unnamed);
        let first = growth.into_iter().map(|(cgroup, g)| (cgroup, g, true));
        for (cgroup, growth, first) in first.chain(earlier.into_iter().map(|(cgroup, g)| (cgroup, g, false))) {
            if let Some(workload) = workloads.of_cgroup(cgroup) {
                match self.sums.get_mut(&workload.key) {
                    Some(sum) => sum.figures.add(&growth),
                    None => drop(self.sums.insert(workload.key, Sum { workload, figures: growth, alive: true })),
                }
            } else if first {
                self.unnamed.insert(cgroup, growth);
            }
        }
        // One that is gone is told once more, with what it did last.
        self.sums.retain(|key, sum| {
            let was = std::mem::replace(&mut sum.alive, workloads.is_alive(*key));
            if let Some(newest) = workloads.by_key(*key) {
                sum.workload = newest;
            }
            was
        });
    }

    /// Every workload that is there, with its sum.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Workload>, &T)> {
        self.sums.values().map(|sum| (&sum.workload, &sum.figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Clock, Host};
    use crate::signal::Timestamp;

    fn id(id: u64) -> CgroupId {
        CgroupId { hierarchy: 0, id }
    }

    fn workloads() -> Workloads {
        Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1))
    }

    fn sums(by: &ByWorkload<u64>) -> Vec<(String, u64)> {
        let mut all: Vec<_> = by.iter().map(|(w, n)| (w.cgroup.clone(), *n)).collect();
        all.sort();
        all
    }

    /// A child's share stays with its workload after the child is gone; a dead workload is told
    /// once more and then no longer; the root is nobody's.
    #[test]
    fn children_fold_and_the_dead_leave() {
        let w = workloads();
        w.on_mkdir(id(1), "/");
        w.on_mkdir(id(7), "/system.slice/a.service");
        w.on_mkdir(id(8), "/system.slice/a.service/child");
        let mut by = ByWorkload::default();
        by.add(&w, vec![(id(1), 9), (id(7), 10), (id(8), 5)]);
        let path = "/system.slice/a.service".to_owned();
        assert_eq!(sums(&by), [(path.clone(), 15)]);
        w.on_rmdir(id(8));
        by.add(&w, vec![(id(7), 1)]);
        assert_eq!(sums(&by), [(path.clone(), 16)]);
        w.on_rmdir(id(7));
        by.add(&w, vec![(id(7), 1)]);
        assert_eq!(sums(&by), [(path, 17)]);
        by.add(&w, vec![]);
        assert_eq!(sums(&by), []);
    }

    /// What a cgroup did before its name was known is its workload's, if the name comes by the next call.
    #[test]
    fn a_late_name() {
        let w = workloads();
        let mut by = ByWorkload::default();
        by.add(&w, vec![(id(7), 10)]);
        assert_eq!(sums(&by), []);
        w.on_mkdir(id(7), "/job");
        by.add(&w, vec![(id(7), 1)]);
        assert_eq!(sums(&by), [("/job".to_owned(), 11)]);
        by.add(&w, vec![(id(8), 10)]);
        by.add(&w, vec![]);
        w.on_mkdir(id(8), "/late");
        by.add(&w, vec![]);
        assert_eq!(sums(&by).len(), 1);
    }
}
