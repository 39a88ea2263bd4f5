// SPDX-License-Identifier: Apache-2.0
//! User stacks: an address to its mapping (`/proc/PID/maps`, proc(5)), the mapping to the file as
//! the process sees it, the file's offset to a symbol by blazesym.
#![expect(unsafe_code, reason = "a Symbolizer is moved between threads, see there")]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazesym::symbolize::source::{Elf, Process as ProcessSource, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};

use super::jit::PerfMap;
use crate::probe::sys::open_in_root;
use crate::signal::Frame;

/// Files whose symbols are kept, and processes whose mappings are.
const FILES: usize = 32;
const PROCESSES: usize = 64;

/// Mappings are read again after this long: libraries are loaded at any time.
const FRESH: Duration = Duration::from_secs(5);

/// And after this long when code runs where none was mapped: a broken stack shall not cost a reading each.
const UNMAPPED: Duration = Duration::from_millis(100);

/// Everything about user addresses.
#[derive(Default)]
pub struct Processes {
    files: Files,
    known: HashMap<u32, Known>,
    clock: u64,
}

/// What is kept of one process, also after its end.
struct Known {
    /// In clock ticks after boot: tells a reused pid.
    start: u64,
    read: Instant,
    mappings: Vec<Mapping>,
    jit: PerfMap,
    used: u64,
}

/// An executable mapping.
#[derive(Clone)]
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    path: Option<Arc<str>>,
    inode: u64,
    file: Option<FileKey>,
}

impl Processes {
    /// Ends where the stack leaves the mapped code: code built without frame pointers keeps other
    /// things where the kernel looks for a return address, and what follows is as wrong.
    pub fn frames(&mut self, pid: u32, addresses: &[u64]) -> Vec<Frame> {
        self.clock += 1;
        let alive = self.look_at(pid, addresses);
        let Some(mut known) = self.known.remove(&pid) else {
            return addresses.iter().map(|a| Frame { address: *a, ..Frame::default() }).collect();
        };
        known.used = self.clock;
        let mut perf_map_read = !alive;
        let code = 1 + addresses.iter().skip(1).take_while(|a| known.holds(**a)).count();
        let mapped = addresses.iter().take(code);
        let frames = mapped.map(|a| self.frame(pid, &mut known, *a, &mut perf_map_read)).collect();
        self.known.insert(pid, known);
        if self.known.len() > PROCESSES
            && let Some(oldest) = self.known.iter().min_by_key(|(_, k)| k.used).map(|(p, _)| *p)
        {
            self.known.remove(&oldest);
        }
        frames
    }

    /// Makes sure that the mappings are the process's own and fresh. False when it is gone.
    fn look_at(&mut self, pid: u32, addresses: &[u64]) -> bool {
        let Some(start) = start_time(pid) else { return false };
        let known = self.known.get(&pid).filter(|k| k.start == start);
        let fresh = known.is_some_and(|k| {
            let mapped = addresses.iter().all(|a| k.holds(*a));
            k.read.elapsed() < if mapped { FRESH } else { UNMAPPED }
        });
        if !fresh {
            // A process that is ending has no mappings any more: what was seen earlier still holds.
            let mappings = mappings(pid);
            if mappings.is_empty() && known.is_some() {
                return true;
            }
            let jit = self.known.remove(&pid).filter(|k| k.start == start).map(|k| k.jit).unwrap_or_default();
            self.known.insert(pid, Known { start, read: Instant::now(), mappings, jit, used: self.clock });
        }
        true
    }

    fn frame(&mut self, pid: u32, known: &mut Known, address: u64, perf_map_read: &mut bool) -> Frame {
        let mut frame = Frame { address, ..Frame::default() };
        let Some(mapping) = known.mappings.iter_mut().find(|m| m.holds(address)) else { return frame };
        let offset = address - mapping.start + mapping.offset;
        frame.module.clone_from(&mapping.path);
        frame.offset = offset;
        if mapping.inode != 0 {
            let key = mapping.file.or_else(|| self.files.open(pid, mapping));
            mapping.file = key;
            if let Some((symbol, into, build_id)) = key.and_then(|k| self.files.symbol(k, offset, self.clock)) {
                frame.build_id = build_id;
                if let Some(symbol) = symbol {
                    frame.symbol = Some(symbol);
                    frame.offset = into;
                    return frame;
                }
            }
        } else if mapping.path.as_deref() == Some("[vdso]") {
            if let Some((symbol, into)) = self.files.vdso(pid, address) {
                frame.symbol = Some(symbol);
                frame.offset = into;
            }
            return frame;
        }
        if !*perf_map_read {
            *perf_map_read = true;
            let name = format!("tmp/perf-{}.map", own_pid(pid).unwrap_or(pid));
            if let Some(file) = open_in_root(&root(pid), Path::new(&name)).ok().filter(is_regular) {
                known.jit.refresh(&file);
            }
        }
        if let Some((symbol, into)) = known.jit.find(address) {
            frame.symbol = Some(symbol);
            frame.offset = into;
        }
        frame
    }
}

impl Known {
    fn holds(&self, address: u64) -> bool {
        self.mappings.iter().any(|m| m.holds(address))
    }
}

impl Mapping {
    fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// A file by device, inode and time of change.
type FileKey = (u64, u64, i64, i64);

struct ElfFile {
    file: File,
    build_id: Option<Arc<str>>,
    used: u64,
}

/// ELF files that are open, whichever process showed them to us.
#[derive(Default)]
struct Files {
    open: HashMap<FileKey, ElfFile>,
    symbolizer: Owned,
}

struct Owned(Symbolizer);

// SAFETY: a Symbolizer holds Rc, but every clone of them is inside it: we register no resolver of
// our own, and what it returns borrows from it and is copied before the call ends. So the whole
// moves from thread to thread, one at a time.
unsafe impl Send for Owned {}

impl Default for Owned {
    fn default() -> Self {
        // Names of functions only: DWARF of a large program would take hundreds of MiB.
        Owned(Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false).enable_auto_reload(false).build())
    }
}

impl Files {
    fn open(&mut self, pid: u32, mapping: &Mapping) -> Option<FileKey> {
        // The mapping's own file, whatever became of its path; this needs CAP_CHECKPOINT_RESTORE.
        let by_mapping = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
        let by_path = || {
            let path = mapping.path.as_deref()?.trim_start_matches('/');
            open_in_root(&root(pid), Path::new(path)).ok()
        };
        let file = File::open(by_mapping).ok().or_else(by_path).filter(is_regular)?;
        let m = file.metadata().ok()?;
        let key = (m.dev(), m.ino(), m.mtime(), m.mtime_nsec());
        if let Entry::Vacant(place) = self.open.entry(key) {
            let build_id = blazesym::helper::read_elf_build_id(&fd_path(&file)).ok().flatten();
            let build_id = build_id.map(|id| id.iter().map(|b| format!("{b:02x}")).collect::<String>().into());
            place.insert(ElfFile { file, build_id, used: u64::MAX });
            if self.open.len() > FILES {
                self.forget_oldest();
            }
        }
        Some(key)
    }

    fn forget_oldest(&mut self) {
        let Some(key) = self.open.iter().min_by_key(|(_, f)| f.used).map(|(k, _)| *k) else { return };
        if let Some(f) = self.open.remove(&key) {
            // Before the number of the descriptor is used again.
            let path = fd_path(&f.file);
            if self.symbolizer.0.evict(&blazesym::symbolize::evict::Elf::new(path).into()).is_err() {
                self.symbolizer = Owned::default();
            }
        }
    }

    /// Symbol, offset into it, and the file's build id; `None` when the file is no longer open.
    #[expect(clippy::type_complexity, reason = "of one caller")]
    fn symbol(&mut self, key: FileKey, offset: u64, now: u64) -> Option<(Option<Arc<str>>, u64, Option<Arc<str>>)> {
        let f = self.open.get_mut(&key)?;
        f.used = now;
        let source = Source::Elf(Elf { debug_syms: false, ..Elf::new(fd_path(&f.file)) });
        let build_id = f.build_id.clone();
        Some(match self.symbolizer.0.symbolize_single(&source, Input::FileOffset(offset)) {
            Ok(Symbolized::Sym(s)) => (Some(Arc::from(&*s.name)), s.offset as u64, build_id),
            _ => (None, 0, build_id),
        })
    }

    fn vdso(&mut self, pid: u32, address: u64) -> Option<(Arc<str>, u64)> {
        let mut process = ProcessSource::new(pid.into());
        (process.debug_syms, process.perf_map, process.map_files) = (false, false, false);
        match self.symbolizer.0.symbolize_single(&Source::Process(process), Input::AbsAddr(address)) {
            Ok(Symbolized::Sym(s)) => Some((Arc::from(&*s.name), s.offset as u64)),
            _ => None,
        }
    }
}

/// Opens the same file again, also when its path is in another mount namespace or gone.
fn fd_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn root(pid: u32) -> PathBuf {
    format!("/proc/{pid}/root").into()
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.is_file())
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The process's id as it sees itself.
fn own_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("NSpid:"))?.split_ascii_whitespace().last()?.parse().ok()
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps).lines().filter_map(mapping).collect()
}

/// `55f1-55f2 r-xp 00001000 fd:01 1234    /usr/bin/cat`
fn mapping(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let (w, r) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = r;
        w
    };
    let (range, permissions, offset, _device, inode) = (word(), word(), word(), word(), word());
    let (start, end) = range.split_once('-')?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let path = rest.trim();
    permissions.contains('x').then_some(())?;
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        path: (!path.is_empty()).then(|| Arc::from(path)),
        inode: inode.parse().ok()?,
        file: None,
    })
}
