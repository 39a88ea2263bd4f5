// SPDX-License-Identifier: Apache-2.0
//! A kernel made of memory: objects "load" into it without privileges, their maps are tables that a test
//! fills, and no program runs. Everything above [`Loader`](super::Loader) works on it unchanged.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::map::{PER_CPU, Plain};
use super::memory_map::{MemoryMap, lock};
use super::{Hook, LoadOptions, MapDef, Object, Skeleton, Table};

/// A kernel made of memory. Cheap to clone; clones are the same kernel.
#[derive(Clone)]
pub struct Memory(Arc<Kernel>);

struct Kernel {
    proc: PathBuf,
    cpus: usize,
    monotonic_ns: AtomicU64,
    /// Hooks that it lacks: object, slot, and why.
    refused: Mutex<Vec<(&'static str, &'static str, String)>>,
    parts: Mutex<HashMap<&'static str, Arc<Parts>>>,
    objects: Mutex<HashMap<&'static str, Object>>,
}

/// What of an object is there before it is loaded, and stays when it is loaded again.
pub(super) struct Parts {
    kernel: Memory,
    maps: Mutex<HashMap<&'static str, Arc<MemoryMap>>>,
    /// What iterators write, by slot.
    iterators: Mutex<HashMap<String, Vec<u8>>>,
}

impl Memory {
    /// `proc`: where the node's `/proc` is; `cpus`: how many values a per-CPU map has.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>, cpus: usize) -> Self {
        Memory(Arc::new(Kernel {
            proc: proc.into(),
            cpus: cpus.max(1),
            // Not at the very start: probes take a zero for "never".
            monotonic_ns: AtomicU64::new(1_000_000_000),
            refused: Mutex::default(),
            parts: Mutex::default(),
            objects: Mutex::default(),
        }))
    }

    pub(super) fn proc(&self) -> &Path {
        &self.0.proc
    }

    pub(super) fn cpus(&self) -> usize {
        self.0.cpus
    }

    /// `CLOCK_MONOTONIC` as its programs read it.
    #[must_use]
    pub fn monotonic_ns(&self) -> u64 {
        self.0.monotonic_ns.load(Ordering::Relaxed)
    }

    /// Lets time go by.
    pub fn advance(&self, by: Duration) {
        self.0.monotonic_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Has no hook for this slot, as a kernel of another version or configuration.
    pub fn refuse(&self, skeleton: &'static Skeleton, slot: &'static str, why: &str) {
        lock(&self.0.refused).push((skeleton.name, slot, why.to_owned()));
    }

    /// Puts an entry into a map: one value, of a per-CPU map one for each CPU.
    ///
    /// # Errors
    /// There is no such map, its sizes are others, or it is full.
    pub fn put<K: Plain, V: Plain>(&self, skeleton: &'static Skeleton, map: &str, key: &K, values: &[V]) -> Result<()> {
        let table = self.table::<K, V>(skeleton, map)?;
        table.put_all(key, values)
    }

    /// A map of an object, loaded or not.
    ///
    /// # Errors
    /// There is no such map, or its sizes are others.
    pub fn table<K: Plain, V: Plain>(&self, skeleton: &'static Skeleton, map: &str) -> Result<Table<K, V>> {
        let def = skeleton.maps.iter().find(|m| m.name == map);
        self.parts(skeleton).table(def.with_context(|| format!("{} has no map {map}", skeleton.name))?)
    }

    /// What an `iter/…` slot of an object writes from now on.
    pub fn iterates<T: Plain>(&self, skeleton: &'static Skeleton, slot: &str, records: &[T]) {
        let bytes = records.iter().flat_map(|r| r.as_bytes()).copied().collect();
        lock(&self.parts(skeleton).iterators).insert(slot.to_owned(), bytes);
    }

    /// The object as it was last loaded, for the settings that it was given. `None`: nobody loaded it.
    #[must_use]
    pub fn object(&self, skeleton: &'static Skeleton) -> Option<Object> {
        lock(&self.0.objects).get(skeleton.name).cloned()
    }

    /// The first variant of each slot, unless it is refused.
    pub(super) fn choose(&self, options: &LoadOptions) -> Vec<Hook> {
        let skeleton = options.skeleton;
        let refused = lock(&self.0.refused);
        let slots = skeleton.slots().into_iter().filter(|s| !options.without.contains(s));
        slots
            .map(|slot| match refused.iter().find(|(object, s, _)| *object == skeleton.name && *s == slot) {
                Some((.., why)) => Hook { slot, attached: None, refused: vec![why.clone()] },
                None => {
                    let attached = skeleton.programs.iter().find(|p| p.slot == slot);
                    Hook { slot, attached, refused: Vec::new() }
                }
            })
            .collect()
    }

    pub(super) fn parts(&self, skeleton: &'static Skeleton) -> Arc<Parts> {
        let mut all = lock(&self.0.parts);
        let new = || Arc::new(Parts { kernel: self.clone(), maps: Mutex::default(), iterators: Mutex::default() });
        all.entry(skeleton.name).or_insert_with(new).clone()
    }

    pub(super) fn loaded(&self, object: &Object) {
        lock(&self.0.objects).insert(object.name(), object.clone());
    }
}

impl Parts {
    pub fn table<K: Plain, V: Plain>(&self, def: &'static MapDef) -> Result<Table<K, V>> {
        let cpus = if PER_CPU.contains(&def.kind) { self.kernel.cpus() } else { 1 };
        let map = lock(&self.maps).entry(def.name).or_insert_with(|| Arc::new(MemoryMap::new(def, cpus))).clone();
        Table::of_memory(map, def, cpus)
    }

    pub fn iterate(&self, slot: &str) -> Vec<u8> {
        lock(&self.iterators).get(slot).cloned().unwrap_or_default()
    }

    pub fn monotonic_ns(&self) -> u64 {
        self.kernel.monotonic_ns()
    }
}
