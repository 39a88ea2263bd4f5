// SPDX-License-Identifier: Apache-2.0
//! Hashes in which programs count by a key, and from which user space takes keys that are idle, so that they
//! have room for others.

use std::collections::HashMap;
use std::hash::Hash;

use anyhow::Result;

use crate::probe::map::Plain;
use crate::probe::{Object, Table};
use crate::signal::{Growing, Total};

/// A key that was not hit for so long leaves the kernel's hash.
const IDLE_NS: u64 = 300_000_000_000;

/// What a program counts under a key.
pub(super) trait Count: Plain {
    /// What of it is of interest.
    type Total: Growing;

    /// How often it was counted; it grows whenever anything of the total does.
    fn hits(&self) -> u64;
    /// When it was counted last, as `bpf_ktime_get_ns` has it.
    fn last_ns(&self) -> u64;
    fn total(&self) -> Self::Total;
}

/// A hash of counts `V` by `K`, one or one for each CPU; read as groups of type `G`.
pub(super) struct Counted<K, V, G> {
    table: Table<K, V>,
    generations: Generations<G>,
}

/// Tells a group that was removed and came back from one that stayed.
struct Generations<K> {
    last: u64,
    of: HashMap<K, u64>,
}

impl<K> Default for Generations<K> {
    fn default() -> Self {
        Generations { last: 0, of: HashMap::new() }
    }
}

impl<K: Hash + Eq + Copy> Generations<K> {
    fn of(&mut self, key: K) -> u64 {
        *self.of.entry(key).or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }

    fn removed(&mut self, key: &K) {
        self.of.remove(key);
    }
}

impl<K: Plain, V: Count, G: Hash + Eq + Copy> Counted<K, V, G> {
    /// The map of this name.
    ///
    /// # Errors
    /// There is no such map, or its sizes are others.
    pub fn of(object: &Object, name: &str) -> Result<Self> {
        Ok(Counted { table: object.table(name)?, generations: Generations::default() })
    }

    /// Sums over the CPUs, and makes room: a group that has been idle for minutes, or the longest of all
    /// where the map fills, is reported once more.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn read(&mut self, now: u64, group: impl Fn(K) -> G) -> Result<Vec<Total<G, V::Total>>> {
        let (mut all, mut ages) = (Vec::new(), Vec::new());
        let Counted { table, generations } = self;
        table.for_each(|key, cpus| {
            let last = cpus.iter().map(V::last_ns).max().unwrap_or(0);
            let group = group(*key);
            all.push(Total::new(group, generations.of(group), total(cpus)));
            ages.push((last, *key, hits(cpus)));
        })?;
        ages.sort_unstable_by_key(|(last, ..)| *last);
        let room = table.capacity();
        let over = if ages.len() > room / 4 * 3 { ages.len() - room / 2 } else { 0 };
        let idle = ages.iter().take_while(|(last, ..)| now.saturating_sub(*last) > IDLE_NS).count();
        for (_, key, read) in ages.iter().take(over.max(idle)) {
            // One that was hit since it was read stays, as these hits would be nobody's.
            if table.get_per_cpu(key)?.is_some_and(|cpus| hits(&cpus) == *read) {
                table.remove(key)?;
                generations.removed(&group(*key));
            }
        }
        Ok(all)
    }
}

fn hits<V: Count>(cpus: &[V]) -> u64 {
    cpus.iter().map(V::hits).sum()
}

fn total<V: Count>(cpus: &[V]) -> V::Total {
    cpus.iter().fold(V::Total::default(), |mut sum, cpu| {
        sum.add(&cpu.total());
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group keeps its number for as long as it is counted, and has another after it was removed.
    #[test]
    fn a_removed_group_begins_anew() {
        let mut generations = Generations::default();
        let (first, other) = (generations.of(7), generations.of(8));
        assert_ne!(first, other);
        assert_eq!(generations.of(7), first);
        generations.removed(&7);
        assert!(![first, other].contains(&generations.of(7)));
        assert_eq!(generations.of(8), other);
    }
}
