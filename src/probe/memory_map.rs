// SPDX-License-Identifier: Apache-2.0
//! A map of a kernel that is made of memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::MapDef;

/// `enum bpf_map_type` of the maps that have all their entries from the start.
const ARRAYS: &[u32] = &[2, 6];
/// Of those that make room for what is new.
const LRU: &[u32] = &[9, 10];

/// One map of such a kernel.
pub(super) struct MemoryMap {
    def: &'static MapDef,
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryMap {
    pub fn new(def: &'static MapDef, cpus: usize) -> Self {
        let value = vec![0; def.value_size as usize * cpus];
        let keys = if ARRAYS.contains(&def.kind) { 0..def.max_entries } else { 0..0 };
        let entries = keys.map(|k| (k.to_ne_bytes().to_vec(), value.clone())).collect();
        MemoryMap { def, entries: Mutex::new(entries) }
    }

    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> bool {
        let entries = lock(&self.entries);
        let found = entries.get(key).filter(|v| v.len() == value.len());
        found.inspect(|v| value.copy_from_slice(v)).is_some()
    }

    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut entries = lock(&self.entries);
        if !entries.contains_key(key) && entries.len() >= self.def.max_entries as usize {
            if !LRU.contains(&self.def.kind) {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            entries.pop_first();
        }
        entries.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        if ARRAYS.contains(&self.def.kind) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(lock(&self.entries).remove(key).is_some())
    }

    pub fn keys(&self) -> Vec<Vec<u8>> {
        lock(&self.entries).keys().cloned().collect()
    }
}

/// What a panic left is still whole: nothing here is half written.
pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
