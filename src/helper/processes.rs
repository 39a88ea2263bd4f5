// SPDX-License-Identifier: Apache-2.0
//! User stacks: an address to its mapping (`/proc/PID/maps`, proc(5)), the mapping to the file as
//! the process sees it, the file's offset to a symbol.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::elf::{ElfFiles, FileKey};
use super::messages::Wanted;
use super::perf_map::PerfMap;
use crate::signal::Frame;

/// Processes whose mappings are kept, and bytes of their perf maps together.
const PROCESSES: usize = 64;
const PERF_MAPS: usize = 48 << 20;

/// Mappings are read again after this long: libraries are loaded at any time.
const FRESH: Duration = Duration::from_secs(5);

/// And after this long when code runs where none was mapped: a broken stack shall not cost a reading each.
const UNMAPPED: Duration = Duration::from_millis(100);

/// Bytes of the text that lists mappings, and executable ones that are kept: 64,000 mappings are 6 MiB.
const LARGEST_MAPS: u64 = 8 << 20;
const MAPPINGS: usize = 16 << 10;

/// How files of a process are had. Nothing is opened here.
pub trait Files {
    fn open(&mut self, wanted: Wanted<'_>) -> Option<File>;

    /// Whether the file system of this device may be asked; 0: one that is not known.
    fn may_touch(&mut self, device: u64) -> bool;
}

/// Everything about user addresses.
#[derive(Default)]
pub struct Processes {
    elf: ElfFiles,
    known: HashMap<u32, Known>,
    clock: u64,
}

/// What is kept of one process, also after its end.
struct Known {
    /// In clock ticks after boot: distinguishes a reused pid.
    start: u64,
    read: Instant,
    /// Sorted by address.
    mappings: Vec<Mapping>,
    perf_map: PerfMap,
    used: u64,
}

/// An executable mapping.
#[derive(Clone)]
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    path: Option<Arc<str>>,
    /// `major << 32 | minor`
    device: u64,
    inode: u64,
    file: Option<FileKey>,
}

impl Processes {
    pub fn new(vdso: Option<File>) -> Self {
        Processes { elf: ElfFiles::new(vdso), ..Self::default() }
    }

    /// Ends where the stack leaves the mapped code: code built without frame pointers keeps other
    /// things where the kernel looks for a return address, and what follows is as wrong.
    pub fn frames(&mut self, files: &mut dyn Files, pid: u32, addresses: &[u64]) -> Vec<Frame> {
        self.clock += 1;
        let alive = self.look_at(files, pid, addresses);
        let Some(mut known) = self.known.remove(&pid) else {
            return addresses.iter().map(|a| Frame { address: *a, ..Frame::default() }).collect();
        };
        known.used = self.clock;
        let mut perf_map_read = !alive;
        let code = 1 + addresses.iter().skip(1).take_while(|a| known.find(**a).is_some()).count();
        let mapped = addresses.iter().take(code);
        let frames = mapped.map(|a| self.frame(files, &mut known, *a, &mut perf_map_read)).collect();
        self.known.insert(pid, known);
        self.forget_oldest();
        frames
    }

    fn forget_oldest(&mut self) {
        let perf_maps = |known: &HashMap<u32, Known>| known.values().map(|k| k.perf_map.bytes()).sum::<usize>();
        while self.known.len() > PROCESSES || self.known.len() > 1 && perf_maps(&self.known) > PERF_MAPS {
            let Some(oldest) = self.known.iter().min_by_key(|(_, k)| k.used).map(|(p, _)| *p) else { return };
            self.known.remove(&oldest);
        }
    }

    /// Makes sure that the mappings are the process's own and fresh. False when it is gone.
    fn look_at(&mut self, files: &mut dyn Files, pid: u32, addresses: &[u64]) -> bool {
        let Some(start) = files.open(Wanted::Stat).and_then(start_time) else { return false };
        let known = self.known.get(&pid).filter(|k| k.start == start);
        let fresh = known.is_some_and(|k| {
            let mapped = addresses.iter().all(|a| k.find(*a).is_some());
            k.read.elapsed() < if mapped { FRESH } else { UNMAPPED }
        });
        if !fresh {
            // A process that is ending has no mappings any more: what was seen earlier still holds.
            let mappings = files.open(Wanted::Maps).map(mappings).unwrap_or_default();
            if mappings.is_empty() && known.is_some() {
                return true;
            }
            let before = self.known.remove(&pid).filter(|k| k.start == start);
            let perf_map = before.map(|k| k.perf_map).unwrap_or_default();
            self.known.insert(pid, Known { start, read: Instant::now(), mappings, perf_map, used: self.clock });
        }
        true
    }

    fn frame(&mut self, files: &mut dyn Files, known: &mut Known, address: u64, perf_map_read: &mut bool) -> Frame {
        let mut frame = Frame { address, ..Frame::default() };
        let Some(mapping) = known.find(address).and_then(|i| known.mappings.get_mut(i)) else { return frame };
        let offset = (address - mapping.start).wrapping_add(mapping.offset);
        frame.module.clone_from(&mapping.path);
        frame.offset = offset;
        let named = if mapping.path.as_deref() == Some("[vdso]") {
            self.elf.vdso(offset, mapping.end - mapping.start)
        } else {
            self.in_file(files, mapping, offset, &mut frame.build_id)
        };
        let named = named.or_else(|| {
            if !*perf_map_read {
                *perf_map_read = true;
                read_perf_map(files, &mut known.perf_map);
            }
            known.perf_map.find(address)
        });
        if let Some((symbol, into)) = named {
            (frame.symbol, frame.offset) = (Some(symbol), into);
        }
        frame
    }

    fn in_file(
        &mut self,
        files: &mut dyn Files,
        mapping: &mut Mapping,
        offset: u64,
        build_id: &mut Option<Arc<str>>,
    ) -> Option<(Arc<str>, u64)> {
        if mapping.inode == 0 || !files.may_touch(mapping.device) {
            return None;
        }
        // The mapping's own file, whatever became of its path; this needs CAP_CHECKPOINT_RESTORE.
        let opened = mapping.file.filter(|key| self.elf.has(key)).or_else(|| {
            let own = files.open(Wanted::Mapped { start: mapping.start, end: mapping.end });
            let by_path = |files: &mut dyn Files| files.open(Wanted::InRoot(mapping.path.as_deref()?));
            // A package upgrade replaces the program, and there is nothing under its path, or another.
            let is_mapped = |f: &File| f.metadata().is_ok_and(|m| m.ino() == mapping.inode);
            let program = |files: &mut dyn Files| files.open(Wanted::Executable).filter(is_mapped);
            let file = own.or_else(|| by_path(files)).or_else(|| program(files))?;
            self.elf.add(file)
        });
        mapping.file = opened;
        let (symbol, id) = self.elf.symbol(&opened?, offset, self.clock)?;
        *build_id = id;
        symbol
    }
}

fn read_perf_map(files: &mut dyn Files, map: &mut PerfMap) {
    // Which device its folder is on is not known before it is looked at.
    if !files.may_touch(0) {
        return;
    }
    let pid = files.open(Wanted::Status).and_then(own_pid);
    let path = pid.map(|pid| format!("/tmp/perf-{pid}.map"));
    if let Some(file) = path.and_then(|p| files.open(Wanted::InRoot(&p))) {
        map.refresh(&file);
    }
}

impl Known {
    /// Index of the mapping that holds the address.
    fn find(&self, address: u64) -> Option<usize> {
        let i = self.mappings.partition_point(|m| m.start <= address).checked_sub(1)?;
        self.mappings.get(i).is_some_and(|m| address < m.end).then_some(i)
    }
}

/// As far as the limit.
pub fn bytes(file: File, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// As far as the limit; names of programs need not be UTF-8.
fn text(file: File, limit: u64) -> Option<String> {
    Some(String::from_utf8_lossy(&bytes(file, limit)?).into_owned())
}

/// Of `/proc/PID/stat`.
fn start_time(stat: File) -> Option<u64> {
    // Field 22; the name in parentheses may hold anything.
    text(stat, 4096)?.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The process's id as it sees itself, of `/proc/PID/status`.
fn own_pid(status: File) -> Option<u32> {
    let status = text(status, 16 << 10)?;
    status.lines().find_map(|l| l.strip_prefix("NSpid:"))?.split_ascii_whitespace().last()?.parse().ok()
}

fn mappings(maps: File) -> Vec<Mapping> {
    let text = text(maps, LARGEST_MAPS).unwrap_or_default();
    text.lines().filter_map(mapping).take(MAPPINGS).collect()
}

/// `55f1-55f2 r-xp 00001000 fd:01 1234    /usr/bin/cat`
fn mapping(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let (w, r) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = r;
        w
    };
    let (range, permissions, offset, device, inode) = (word(), word(), word(), word(), word());
    let (start, end) = range.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let path = rest.trim();
    permissions.contains('x').then_some(())?;
    let (start, end) = (hex(start)?, hex(end)?);
    (start < end).then_some(())?;
    Some(Mapping {
        start,
        end,
        offset: hex(offset)?,
        path: (!path.is_empty()).then(|| Arc::from(path)),
        device: hex(major)? << 32 | hex(minor)?,
        inode: inode.parse().ok()?,
        file: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Executable mappings with their device; others are left out.
    #[test]
    fn lines_of_maps() {
        let m = mapping("55f1-55f2 r-xp 00001000 fd:01 1234    /usr/my cat").unwrap();
        assert_eq!((m.start, m.end, m.offset, m.inode), (0x55f1, 0x55f2, 0x1000, 1234));
        assert_eq!((m.path.as_deref(), m.device), (Some("/usr/my cat"), 0xfd << 32 | 1));
        assert!(mapping("55f1-55f2 rw-p 00001000 fd:01 1234 /usr/bin/cat").is_none());
    }

    proptest! {
        /// No line makes it panic.
        #[test]
        fn never_panics(line in "[0-9a-f]{0,18}-?[0-9a-f]{0,18} ?r-xp.{0,40}") {
            let _ = mapping(&line);
        }
    }
}
