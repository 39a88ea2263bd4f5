// SPDX-License-Identifier: Apache-2.0
//! Growth by workload and labels, from the totals that a probe counts by its own keys.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::signal::{Growing, Total, Workload, WorkloadKey};
use crate::workload::Workloads;

/// Sums of the node and of each workload, by label.
///
/// It is fed with whole readings of totals by kernel key `K` (a cgroup, a network namespace with a reason, …) and
/// adds what each key grew by to the workload that has the key now: keys come and go, their workload's sum stays.
/// A key of another generation, or that was missing in the reading before, began at zero.
#[derive(Debug)]
pub struct Accumulator<K, L, T> {
    last: HashMap<K, (u64, T)>,
    node: Sums<L, T>,
    workloads: HashMap<WorkloadKey, Owner<L, T>>,
    /// Of keys without a workload: it may be heard of after it did something.
    unnamed: HashMap<K, (L, T)>,
    bound: Option<Bound<L>>,
}

/// What one series came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum<T> {
    /// Since the first reading in which the workload was seen.
    pub total: T,
    /// In the latest reading.
    pub growth: T,
}

type Sums<L, T> = HashMap<L, Sum<T>>;

#[derive(Debug)]
struct Owner<L, T> {
    workload: Arc<Workload>,
    sums: Sums<L, T>,
    /// It lived at the reading before, or is new.
    alive: bool,
    grew: bool,
    /// It is to be reported.
    shown: bool,
}

/// How many labels an owner may have, and the one that stands for what is beyond.
#[derive(Debug)]
struct Bound<L> {
    labels: usize,
    rest: fn(&L) -> L,
}

impl<K, L, T> Default for Accumulator<K, L, T> {
    fn default() -> Self {
        Accumulator {
            last: HashMap::new(),
            node: HashMap::new(),
            workloads: HashMap::new(),
            unnamed: HashMap::new(),
            bound: None,
        }
    }
}

impl<K: Hash + Eq + Copy, L: Hash + Eq + Clone, T: Growing> Accumulator<K, L, T> {
    /// For labels that are not the collector's own, such as names that a device gives: after so many of them the
    /// node and each workload count further ones under `rest`.
    #[must_use]
    pub fn bounded(labels: usize, rest: fn(&L) -> L) -> Self {
        Accumulator { bound: Some(Bound { labels, rest }), ..Accumulator::default() }
    }

    /// Has the node's sums of these labels there from the start, at zero.
    #[must_use]
    pub fn with_labels(mut self, labels: impl IntoIterator<Item = L>) -> Self {
        self.node.extend(labels.into_iter().map(|l| (l, Sum::default())));
        self
    }

    /// Takes a reading of all keys. `owner` is asked for keys that grew; those that it cannot name it is asked for
    /// once more at the next reading, after which their growth is the node's alone.
    pub fn feed(
        &mut self,
        workloads: &Workloads,
        reading: impl IntoIterator<Item = Total<K, T>>,
        mut owner: impl FnMut(K) -> Option<Arc<Workload>>,
        mut label: impl FnMut(K) -> L,
    ) {
        self.begin();
        let waiting = std::mem::take(&mut self.unnamed);
        let mut last = HashMap::with_capacity(self.last.len());
        for Total { key, generation, total } in reading {
            let growth = match self.last.get(&key) {
                Some((same, earlier)) if *same == generation => total.grown_since(earlier),
                _ => total.clone(),
            };
            if growth != T::default() {
                let label = label(key);
                add(&mut self.node, self.bound.as_ref(), &label, &growth);
                match owner(key) {
                    Some(w) => self.add(w, &label, &growth),
                    None => drop(self.unnamed.insert(key, (label, growth))),
                }
            }
            last.insert(key, (generation, total));
        }
        self.last = last;
        for (key, (label, growth)) in waiting {
            if let Some(w) = owner(key) {
                self.add(w, &label, &growth);
            }
        }
        self.end(workloads);
    }

    fn begin(&mut self) {
        for owner in self.workloads.values_mut() {
            owner.grew = false;
            owner.sums.values_mut().for_each(|s| s.growth = T::default());
        }
        self.node.values_mut().for_each(|s| s.growth = T::default());
    }

    fn add(&mut self, workload: Arc<Workload>, label: &L, growth: &T) {
        let owner = self.workloads.entry(workload.key).or_insert_with(|| Owner {
            workload,
            sums: HashMap::new(),
            alive: true,
            grew: false,
            shown: true,
        });
        owner.grew = true;
        add(&mut owner.sums, self.bound.as_ref(), label, growth);
    }

    /// A workload that is gone is reported once more, with what it did last. Its sum is kept for as long as the table
    /// keeps its name: one that comes back, as a unit that is started again, goes on from there.
    fn end(&mut self, workloads: &Workloads) {
        self.workloads.retain(|key, owner| {
            let known = workloads.by_key(*key);
            let is_known = known.is_some();
            owner.workload = known.unwrap_or_else(|| owner.workload.clone());
            let alive = workloads.is_alive(*key);
            owner.shown = std::mem::replace(&mut owner.alive, alive) || alive || owner.grew;
            owner.shown || is_known
        });
    }

    /// The node's sums: all growth, whoever it belongs to.
    pub fn node(&self) -> impl Iterator<Item = (&L, &Sum<T>)> {
        self.node.iter()
    }

    /// The sums of every workload that is there.
    pub fn workloads(&self) -> impl Iterator<Item = (&Arc<Workload>, &L, &Sum<T>)> {
        self.workloads
            .values()
            .filter(|o| o.shown)
            .flat_map(|o| o.sums.iter().map(|(label, sum)| (&o.workload, label, sum)))
    }
}

fn add<L: Hash + Eq + Clone, T: Growing>(sums: &mut Sums<L, T>, bound: Option<&Bound<L>>, label: &L, growth: &T) {
    let sum = match sums.get_mut(label) {
        Some(sum) => sum,
        None => {
            let full = bound.filter(|b| sums.len() >= b.labels);
            sums.entry(full.map_or_else(|| label.clone(), |b| (b.rest)(label))).or_default()
        }
    };
    sum.total.add(growth);
    sum.growth.add(growth);
}

#[cfg(test)]
mod tests;
