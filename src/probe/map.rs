// SPDX-License-Identifier: Apache-2.0
//! Typed maps, read in batches: 0.25–0.5 µs an entry, where one call an entry takes 2.7–3.4 µs.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::MapDef;
use super::memory_map::MemoryMap;
use super::sys::{BatchToken, RawMap};

/// Entries of one batch at first; doubled when a bucket of the map holds more.
const BATCH: usize = 512;

/// `enum bpf_map_type` of the maps that have a value for each possible CPU.
pub(super) const PER_CPU: &[u32] = &[5, 6, 10];

/// A hash, array or stack map of an object. Reads see a moving picture: entries that come and go
/// meanwhile may be missed.
pub struct Table<K, V> {
    place: Place,
    def: &'static MapDef,
    cpus: usize,
    keys: Vec<u64>,
    values: Vec<u64>,
    batch: usize,
    batches_work: bool,
    ty: PhantomData<fn() -> (K, V)>,
}

/// Where a map is.
enum Place {
    Kernel(OwnedFd),
    Memory(Arc<MemoryMap>),
}

/// What a key or value is made of: any bytes are one, and it has no padding.
pub trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Plain for T {}

impl<K: Plain, V: Plain> Table<K, V> {
    pub(super) fn new(fd: OwnedFd, def: &'static MapDef) -> Result<Self> {
        let cpus = if PER_CPU.contains(&def.kind) { possible_cpus()? } else { 1 };
        Self::at(Place::Kernel(fd), def, cpus)
    }

    /// `cpus`: 1, or how many values a key has.
    pub(super) fn of_memory(map: Arc<MemoryMap>, def: &'static MapDef, cpus: usize) -> Result<Self> {
        Self::at(Place::Memory(map), def, cpus)
    }

    fn at(place: Place, def: &'static MapDef, cpus: usize) -> Result<Self> {
        let per_cpu = PER_CPU.contains(&def.kind);
        let sizes = (def.key_size as usize, def.value_size as usize);
        ensure!(
            sizes == (size_of::<K>(), size_of::<V>()),
            "map {} has keys and values of {} and {} bytes, not {} and {}",
            def.name,
            sizes.0,
            sizes.1,
            size_of::<K>(),
            size_of::<V>()
        );
        ensure!(
            !per_cpu || size_of::<V>().is_multiple_of(8),
            "map {}: per-CPU values are read in units of 8 bytes: pad the value",
            def.name
        );
        Ok(Table {
            place,
            def,
            cpus,
            keys: Vec::new(),
            values: Vec::new(),
            batch: BATCH,
            batches_work: true,
            ty: PhantomData,
        })
    }

    fn raw<'a>(&self, fd: &'a OwnedFd) -> RawMap<'a> {
        RawMap { fd: fd.as_fd(), key_size: size_of::<K>(), value_size: size_of::<V>() * self.cpus }
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        match &self.place {
            Place::Kernel(fd) => self.raw(fd).lookup(key, value),
            Place::Memory(map) => Ok(map.lookup(key, value)),
        }
    }

    fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match &self.place {
            Place::Kernel(fd) => self.raw(fd).update(key, value),
            Place::Memory(map) => map.update(key, value),
        }
    }

    fn delete(&self, key: &[u8]) -> io::Result<bool> {
        match &self.place {
            Place::Kernel(fd) => self.raw(fd).delete(key),
            Place::Memory(map) => map.delete(key),
        }
    }

    /// Entries that there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.def.max_entries as usize
    }

    /// The value of a key; of a per-CPU map use [`get_per_cpu`](Self::get_per_cpu).
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        ensure!(self.cpus == 1 || !PER_CPU.contains(&self.def.kind), "map {} has a value for each CPU", self.def.name);
        let mut value = V::new_zeroed();
        let found = self.lookup(key.as_bytes(), value.as_mut_bytes());
        Ok(found.with_context(|| format!("read map {}", self.def.name))?.then_some(value))
    }

    /// The values of a key, one a possible CPU.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn get_per_cpu(&self, key: &K) -> Result<Option<Vec<V>>> {
        let mut values = vec![V::new_zeroed(); self.cpus];
        let found = self.lookup(key.as_bytes(), values.as_mut_slice().as_mut_bytes());
        Ok(found.with_context(|| format!("read map {}", self.def.name))?.then_some(values))
    }

    /// Adds or replaces an entry (not of a per-CPU map).
    ///
    /// # Errors
    /// The map is full, or the kernel's reason.
    pub fn put(&self, key: &K, value: &V) -> Result<()> {
        let done = self.update(key.as_bytes(), value.as_bytes());
        done.with_context(|| format!("write map {}", self.def.name))
    }

    /// Adds or replaces an entry with one value, of a per-CPU map with one for each CPU.
    pub(super) fn put_all(&self, key: &K, values: &[V]) -> Result<()> {
        ensure!(
            values.len() == self.cpus,
            "map {} has {} values a key, not {}",
            self.def.name,
            self.cpus,
            values.len()
        );
        self.update(key.as_bytes(), values.as_bytes()).with_context(|| format!("write map {}", self.def.name))
    }

    /// Removes an entry; false when there was none.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn remove(&self, key: &K) -> Result<bool> {
        self.delete(key.as_bytes()).with_context(|| format!("delete from map {}", self.def.name))
    }

    /// Calls `f` with each key and its value, or its values by CPU. Returns how many there were.
    ///
    /// # Errors
    /// The kernel's reason; `f` may have seen some entries.
    pub fn for_each(&mut self, f: impl FnMut(&K, &[V])) -> Result<usize> {
        self.walk(false, f).with_context(|| format!("read map {}", self.def.name))
    }

    /// The same, and takes the entries out of the map.
    ///
    /// # Errors
    /// The kernel's reason; `f` may have seen some entries.
    pub fn drain(&mut self, f: impl FnMut(&K, &[V])) -> Result<usize> {
        self.walk(true, f).with_context(|| format!("take from map {}", self.def.name))
    }

    fn walk(&mut self, delete: bool, mut f: impl FnMut(&K, &[V])) -> io::Result<usize> {
        match &self.place {
            Place::Memory(map) => return walk_memory(map, self.cpus, delete, &mut f),
            Place::Kernel(fd) if !self.batches_work => return walk_slowly(self.raw(fd), self.cpus, delete, &mut f),
            Place::Kernel(_) => {}
        }
        let mut token = BatchToken::new();
        let mut seen = 0;
        loop {
            self.make_room();
            let Place::Kernel(fd) = &self.place else { return Ok(seen) };
            let raw = self.raw(fd);
            let (keys, values) = (self.keys.as_mut_bytes(), self.values.as_mut_bytes());
            match raw.batch(&mut token, keys, values, delete) {
                Ok((n, last)) => {
                    each(&keys[..n * raw.key_size], &values[..n * raw.value_size], self.cpus, &mut f);
                    seen += n;
                    if last || n == 0 {
                        return Ok(seen);
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => self.batch *= 2,
                // Not for this map type on this kernel, e.g. per-CPU arrays before 5.13 (f008d732ab18).
                Err(e) if seen == 0 && matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP)) => {
                    self.batches_work = false;
                    return walk_slowly(raw, self.cpus, delete, &mut f);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn make_room(&mut self) {
        let n = self.batch.min((self.def.max_entries as usize).max(1));
        self.keys.resize((n * size_of::<K>()).div_ceil(8), 0);
        self.values.resize((n * size_of::<V>() * self.cpus).div_ceil(8), 0);
    }
}

/// One call an entry.
fn walk_slowly<K: Plain, V: Plain>(
    map: RawMap<'_>,
    cpus: usize,
    delete: bool,
    f: &mut impl FnMut(&K, &[V]),
) -> io::Result<usize> {
    let mut values = vec![V::new_zeroed(); cpus];
    let mut next = K::new_zeroed();
    let mut more = map.next_key(None, next.as_mut_bytes())?;
    let mut seen = 0;
    while more {
        let key = next;
        more = map.next_key(Some(key.as_bytes()), next.as_mut_bytes())?;
        if map.lookup(key.as_bytes(), values.as_mut_slice().as_mut_bytes())? {
            f(&key, &values);
            seen += 1;
            if delete {
                map.delete(key.as_bytes())?;
            }
        }
    }
    Ok(seen)
}

/// The same of a map in memory, whose bytes may lie at any address.
fn walk_memory<K: Plain, V: Plain>(
    map: &MemoryMap,
    cpus: usize,
    delete: bool,
    f: &mut impl FnMut(&K, &[V]),
) -> io::Result<usize> {
    let mut values = vec![V::new_zeroed(); cpus];
    let keys = map.keys();
    for bytes in &keys {
        let Ok(key) = K::read_from_bytes(bytes) else { continue };
        if map.lookup(bytes, values.as_mut_slice().as_mut_bytes()) {
            f(&key, &values);
        }
        if delete {
            map.delete(bytes)?;
        }
    }
    Ok(keys.len())
}

/// The kernel's own ENOTSUPP, which is not the C library's.
const ENOTSUPP: i32 = 524;

fn each<K: Plain, V: Plain>(keys: &[u8], values: &[u8], cpus: usize, f: &mut impl FnMut(&K, &[V])) {
    // Both casts hold by construction: buffers are u64s, cut to whole entries.
    let (Ok(keys), Ok(values)) = (<[K]>::ref_from_bytes(keys), <[V]>::ref_from_bytes(values)) else { return };
    for (key, values) in keys.iter().zip(values.chunks_exact(cpus)) {
        f(key, values);
    }
}

/// CPUs that could ever be there: per-CPU maps have a value for each.
pub(super) fn possible_cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, e)| anyhow::Error::new(e).context(format!("read {path}")))
}
