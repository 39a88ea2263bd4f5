// SPDX-License-Identifier: Apache-2.0
//! A loaded object: its hooks, settings, maps, losses and cost.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{Iter, PerfEvent};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::attach::{Link, explain, typed};
use super::map::{Plain, Table};
use super::memory::Parts;
use super::perf::Sampling;
use super::sys::{RawMap, monotonic_ns};
use super::{Hook, HookKind, ProbeStat, Program, Setting, Skeleton, VariableDef};

/// The map that SETTING's variables are in.
const SETTINGS: &str = ".data.setting";

/// A loaded and attached object. Cheap to clone; detaches when the last clone is dropped.
#[derive(Clone)]
pub struct Object {
    inner: Arc<Inner>,
}

struct Inner {
    skeleton: &'static Skeleton,
    hooks: Vec<Hook>,
    /// The settings' bytes as the programs have them; held while they are written.
    settings: Mutex<Vec<u64>>,
    place: Place,
}

/// Where an object is loaded.
enum Place {
    Kernel(Box<Loaded>),
    Memory(Arc<Parts>),
}

/// What the kernel has of an object.
struct Loaded {
    maps: HashMap<String, OwnedFd>,
    /// Attached ones, by name.
    programs: HashMap<&'static str, OwnedFd>,
    rings: Mutex<Vec<Option<RingBuf<MapData>>>>,
    /// Only where programs are attached later: perf events and iterators.
    ebpf: Mutex<Option<Ebpf>>,
    _links: Vec<Link>,
}

/// What a program cost since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    pub program: &'static Program,
    pub runs: u64,
    /// Mean of the runs that were timed, about one in 1,024; includes the clock's own reading.
    pub mean_ns: f64,
    /// Runs that the kernel left out, as an interrupt came while the program ran on that CPU. Before Linux 5.12 it
    /// ran all the same.
    pub missed: u64,
}

impl Cost {
    /// CPU time of all runs, by count and mean.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn total_ns(&self) -> f64 {
        self.runs as f64 * self.mean_ns
    }
}

/// `recursion_misses` of a program (kernel/bpf/syscall.c); 0 where the kernel does not count them.
fn missed(program: BorrowedFd<'_>) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("recursion_misses:"));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

impl Object {
    pub(super) fn new(skeleton: &'static Skeleton, mut ebpf: Ebpf, hooks: Vec<Hook>, links: Vec<Link>) -> Result<Self> {
        let mut rings = Vec::new();
        for ring in skeleton.rings {
            let map = ebpf.take_map(ring.name).with_context(|| format!("no ring {}", ring.name))?;
            rings.push(Some(RingBuf::try_from(map).with_context(|| format!("map ring {}", ring.name))?));
        }
        let mut maps = HashMap::new();
        for (name, map) in ebpf.maps() {
            let fd = fd(map).try_clone_to_owned().with_context(|| format!("keep map {name}"))?;
            maps.insert(name.to_owned(), fd);
        }
        let mut programs = HashMap::new();
        for program in hooks.iter().filter_map(|h| h.attached) {
            let loaded = ebpf.program(program.name).with_context(|| format!("no program {}", program.name))?;
            let fd = loaded.fd().with_context(|| format!("{program} is not loaded"))?.as_fd().try_clone_to_owned();
            programs.insert(program.name, fd.with_context(|| format!("keep {program}"))?);
        }
        let later = |p: &Program| matches!(p.kind, HookKind::PerfEvent | HookKind::Iterator);
        let keep = hooks.iter().any(|h| h.attached.is_some_and(later));
        let ebpf = Mutex::new(keep.then_some(ebpf));
        let loaded = Loaded { maps, programs, rings: Mutex::new(rings), ebpf, _links: links };
        let settings = loaded.settings(skeleton)?;
        Ok(Self::at(skeleton, hooks, settings, Place::Kernel(Box::new(loaded))))
    }

    /// `file`: the object's file, with the settings as they are wanted.
    pub(super) fn in_memory(skeleton: &'static Skeleton, hooks: Vec<Hook>, file: &[u8], parts: Arc<Parts>) -> Self {
        let mut settings = vec![0_u64; settings_len(skeleton).div_ceil(8)];
        for def in skeleton.settings {
            let (to, from, size) = (def.offset as usize, def.file_offset as usize, def.size as usize);
            if let Some(value) = file.get(from..from + size) {
                settings.as_mut_bytes()[to..to + size].copy_from_slice(value);
            }
        }
        Self::at(skeleton, hooks, settings, Place::Memory(parts))
    }

    fn at(skeleton: &'static Skeleton, hooks: Vec<Hook>, settings: Vec<u64>, place: Place) -> Self {
        Object { inner: Arc::new(Inner { skeleton, hooks, settings: Mutex::new(settings), place }) }
    }

    /// The object's name: its BPF file's stem.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.skeleton.name
    }

    #[must_use]
    pub fn skeleton(&self) -> &'static Skeleton {
        self.inner.skeleton
    }

    /// What became of each slot.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.inner.hooks
    }

    /// The program that a slot attached, if any.
    #[must_use]
    pub fn attached(&self, slot: &str) -> Option<&'static Program> {
        self.inner.hooks.iter().find(|h| h.slot == slot)?.attached
    }

    /// Writes a setting while the programs run.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set<T: IntoBytes + Immutable>(&self, setting: Setting<T>, value: T) -> Result<()> {
        let def = self.setting(setting.name, size_of::<T>())?;
        let mut all = lock(&self.inner.settings);
        let at = def.offset as usize;
        all.as_mut_bytes()[at..at + size_of::<T>()].copy_from_slice(value.as_bytes());
        let Place::Kernel(loaded) = &self.inner.place else { return Ok(()) };
        let len = settings_len(self.inner.skeleton);
        let raw = RawMap { fd: loaded.map_fd(SETTINGS)?, key_size: 4, value_size: len };
        raw.update(&0_u32.to_ne_bytes(), &all.as_bytes()[..len])
            .with_context(|| format!("set {} of {}", setting.name, self.name()))
    }

    /// Reads a setting as it was last written.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn get<T: FromBytes>(&self, setting: Setting<T>) -> Result<T> {
        let def = self.setting(setting.name, size_of::<T>())?;
        let all = lock(&self.inner.settings);
        let at = def.offset as usize;
        T::read_from_bytes(&all.as_bytes()[at..at + size_of::<T>()])
            .ok()
            .with_context(|| format!("read {}", setting.name))
    }

    fn setting(&self, name: &str, size: usize) -> Result<&'static VariableDef> {
        let found = self.inner.skeleton.settings.iter().find(|d| d.name == name && d.size as usize == size);
        found.with_context(|| format!("{} has no setting {name} of {size} bytes", self.name()))
    }

    /// A map, typed; keys and values are the skeleton's structs or plain integers.
    ///
    /// # Errors
    /// There is no such map, or its sizes are others.
    pub fn table<K: Plain, V: Plain>(&self, name: &str) -> Result<Table<K, V>> {
        let def = self.inner.skeleton.maps.iter().find(|m| m.name == name);
        let def = def.with_context(|| format!("{} has no map {name}", self.name()))?;
        match &self.inner.place {
            Place::Kernel(loaded) => Table::new(loaded.map_fd(name)?.try_clone_to_owned()?, def),
            Place::Memory(parts) => parts.table(def),
        }
    }

    /// Records that found no room, by ring.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn lost(&self) -> Result<Vec<u64>> {
        let stats = self.stats()?;
        Ok(self.inner.skeleton.rings.iter().map(|r| stats.get(r.stat as usize).map_or(0, |s| s.count)).collect())
    }

    /// Runs and mean time of each attached program.
    ///
    /// # Errors
    /// The kernel's reason.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn costs(&self) -> Result<Vec<Cost>> {
        let stats = self.stats()?;
        let attached = self.inner.hooks.iter().filter_map(|h| h.attached);
        Ok(attached
            .filter_map(|program| {
                let s = stats.get(program.stat? as usize)?;
                let mean_ns = if s.timed == 0 { 0.0 } else { s.timed_ns as f64 / s.timed as f64 };
                let missed = self.missed(program);
                Some(Cost { program, runs: s.count, mean_ns, missed })
            })
            .collect())
    }

    fn missed(&self, program: &Program) -> u64 {
        let Place::Kernel(loaded) = &self.inner.place else { return 0 };
        loaded.programs.get(program.name).map_or(0, |fd| missed(fd.as_fd()))
    }

    /// `CLOCK_MONOTONIC` as the programs read it (`bpf_ktime_get_ns`).
    pub(super) fn monotonic_ns(&self) -> u64 {
        match &self.inner.place {
            Place::Kernel(_) => monotonic_ns(),
            Place::Memory(parts) => parts.monotonic_ns(),
        }
    }

    /// All of `probe_stats`, summed over the CPUs.
    fn stats(&self) -> Result<Vec<ProbeStat>> {
        let mut table = self.table::<u32, ProbeStat>("probe_stats")?;
        let mut stats = Vec::new();
        table.for_each(|_, cpus| {
            stats.push(cpus.iter().fold(ProbeStat::default(), |a, b| ProbeStat {
                count: a.count + b.count,
                timed: a.timed + b.timed,
                timed_ns: a.timed_ns + b.timed_ns,
            }));
        })?;
        Ok(stats)
    }

    /// Has a `perf_event` slot run `hz` times a second on every CPU that is online, once it is started
    /// (software CPU clock; a CPU that idles may not be sampled).
    ///
    /// # Errors
    /// The slot is not loaded, or the kernel's reason.
    pub fn sample(&self, slot: &str, hz: u64) -> Result<Sampling> {
        let program = self.later(slot, HookKind::PerfEvent)?;
        let Place::Kernel(loaded) = &self.inner.place else { return Ok(Sampling::of_nothing()) };
        let mut ebpf = lock(&loaded.ebpf);
        let ebpf = ebpf.as_mut().context("not loaded")?;
        let event = typed::<PerfEvent>(ebpf, program).map_err(|e| anyhow::anyhow!(explain(&e)))?;
        Sampling::open(event.fd().map_err(|e| anyhow::anyhow!(explain(&e)))?.as_fd(), hz)
    }

    /// Runs an `iter/…` slot once, until it has written `most` records of the type that `ITERATES` declares.
    ///
    /// # Errors
    /// The slot is not loaded, or the kernel's reason.
    pub fn iterate<T: Plain>(&self, slot: &str, most: usize) -> Result<Vec<T>> {
        let room = most.saturating_mul(size_of::<T>());
        let mut bytes = Vec::new();
        let read = self.output(slot)?.take(room as u64).read_to_end(&mut bytes);
        read.with_context(|| format!("{}: run the iterator {slot}", self.name()))?;
        // What the kernel cut off is no record.
        Ok(bytes.chunks_exact(size_of::<T>()).filter_map(|c| T::read_from_bytes(c).ok()).collect())
    }

    fn output(&self, slot: &str) -> Result<Box<dyn Read>> {
        let program = self.later(slot, HookKind::Iterator)?;
        let loaded = match &self.inner.place {
            Place::Kernel(loaded) => loaded,
            Place::Memory(parts) => return Ok(Box::new(Cursor::new(parts.iterate(slot)))),
        };
        let mut ebpf = lock(&loaded.ebpf);
        let ebpf = ebpf.as_mut().context("not loaded")?;
        let iter = typed::<Iter>(ebpf, program).map_err(|e| anyhow::anyhow!(explain(&e)))?;
        let link = iter.attach().and_then(|id| iter.take_link(id));
        let link = link.map_err(|e| anyhow::anyhow!("run {program}: {}", explain(&e)))?;
        Ok(Box::new(link.into_file().with_context(|| format!("open {program}"))?))
    }

    fn later(&self, slot: &str, kind: HookKind) -> Result<&'static Program> {
        let program = self.attached(slot).with_context(|| format!("{}: slot {slot} is not loaded", self.name()))?;
        ensure!(program.kind == kind, "{}: slot {slot} is {program}, not {}", self.name(), kind.name());
        Ok(program)
    }

    /// Hands over a ring to its only reader; `None` when one has it.
    pub(super) fn take_ring(&self, index: usize) -> Option<RingBuf<MapData>> {
        let Place::Kernel(loaded) = &self.inner.place else { return None };
        lock(&loaded.rings).get_mut(index)?.take()
    }
}

impl Loaded {
    fn map_fd(&self, name: &str) -> Result<BorrowedFd<'_>> {
        self.maps.get(name).map(OwnedFd::as_fd).with_context(|| format!("there is no map {name}"))
    }

    /// The settings as they are now.
    fn settings(&self, skeleton: &Skeleton) -> Result<Vec<u64>> {
        let len = settings_len(skeleton);
        let mut all = vec![0_u64; len.div_ceil(8)];
        if len > 0 {
            let raw = RawMap { fd: self.map_fd(SETTINGS)?, key_size: 4, value_size: len };
            raw.lookup(&0_u32.to_ne_bytes(), &mut all.as_mut_bytes()[..len]).context("read the settings")?;
        }
        Ok(all)
    }
}

/// Bytes of all settings together.
fn settings_len(skeleton: &Skeleton) -> usize {
    skeleton.settings.iter().map(|d| (d.offset + d.size) as usize).max().unwrap_or(0)
}

/// What a panic left is still whole: nothing here is half written.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fd(map: &Map) -> BorrowedFd<'_> {
    use Map::{
        Array, ArrayOfMaps, BloomFilter, CgroupArray, CgroupStorage, CgrpStorage, CpuMap, DevMap, DevMapHash,
        HashOfMaps, InodeStorage, LpmTrie, LruHashMap, PerCpuArray, PerCpuCgroupStorage, PerCpuHashMap,
        PerCpuLruHashMap, PerfEventArray, ProgramArray, Queue, ReusePortSockArray, SkStorage, SockHash, SockMap, Stack,
        StackTraceMap, Unsupported, XskMap,
    };
    match map {
        Array(m)
        | ArrayOfMaps(m)
        | BloomFilter(m)
        | CgroupArray(m)
        | CgroupStorage(m)
        | CgrpStorage(m)
        | CpuMap(m)
        | DevMap(m)
        | DevMapHash(m)
        | Map::HashMap(m)
        | HashOfMaps(m)
        | InodeStorage(m)
        | LpmTrie(m)
        | LruHashMap(m)
        | PerCpuArray(m)
        | PerCpuCgroupStorage(m)
        | PerCpuHashMap(m)
        | PerCpuLruHashMap(m)
        | PerfEventArray(m)
        | ProgramArray(m)
        | Queue(m)
        | ReusePortSockArray(m)
        | Map::RingBuf(m)
        | SkStorage(m)
        | SockHash(m)
        | SockMap(m)
        | Stack(m)
        | StackTraceMap(m)
        | Unsupported(m)
        | XskMap(m) => m.fd().as_fd(),
    }
}
