// SPDX-License-Identifier: Apache-2.0
//! Kernel symbols from `/proc/kallsyms` (proc(5)). Read by ourselves, as blazesym leaves out the
//! module's name and keeps each name in an allocation of its own.
//!
//! Modules come and go, and one takes the place of another: a name is given only within the bounds of the
//! module that it is of, and the symbols are read again when `/proc/modules` has changed.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{call_sites, restore};
use crate::signal::{Frame, Stack};

const KALLSYMS: &str = "/proc/kallsyms";

/// A function of the kernel itself is not larger.
const LARGEST_FUNCTION: u64 = 1 << 20;

/// What is generated (BPF programs, trampolines) has no bounds in any file; nor is it large.
const LARGEST_GENERATED: u64 = 64 << 10;

/// For an address without a name, and for generated code, which `/proc/modules` does not list, the
/// symbols are read again, but no more often.
const REREAD: Duration = Duration::from_secs(60);

/// `/proc/modules` is looked at no more often, however many stacks there are; and for an address without a name.
const MODULES_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const UNKNOWN: Duration = Duration::from_millis(100);

/// Stacks that are kept; each is some 3 KiB.
const STACKS: usize = 256;

/// All functions of the kernel and its modules, read at the first use.
pub struct Kallsyms {
    /// Where procfs is.
    proc: PathBuf,
    read: Option<Instant>,
    /// When `/proc/modules` was last looked at, and what it said.
    looked: Option<Instant>,
    loaded: u64,
    /// Sorted by address.
    symbols: Vec<Symbol>,
    names: String,
    modules: Vec<Module>,
    error: Option<String>,
    /// Stacks that were asked for, by their addresses; gone when the symbols are read again.
    stacks: HashMap<Box<[u64]>, Stack>,
}

struct Symbol {
    address: u64,
    name: u32,
    len: u16,
    /// Index into `modules`, plus one; 0 for the kernel itself.
    module: u16,
}

struct Module {
    name: Arc<str>,
    /// End of its code; `None`: it is generated.
    end: Option<u64>,
}

impl Default for Kallsyms {
    fn default() -> Self {
        Self::under("/proc")
    }
}

impl Kallsyms {
    pub fn under(proc: impl Into<PathBuf>) -> Self {
        Kallsyms {
            proc: proc.into(),
            read: None,
            looked: None,
            loaded: 0,
            symbols: Vec::new(),
            names: String::new(),
            modules: Vec::new(),
            error: None,
            stacks: HashMap::new(),
        }
    }

    /// In a storm, the same few stacks come again and again.
    pub fn stack(&mut self, addresses: &[u64]) -> Stack {
        self.check_modules(MODULES_CHECK_INTERVAL);
        if let Some(known) = self.stacks.get(addresses) {
            return known.clone();
        }
        let frames: Vec<_> = call_sites(addresses).into_iter().map(|a| self.frame(a)).collect();
        let lasting = frames.iter().all(|f| f.symbol.is_some() && !self.is_generated(f.address));
        let stack = restore(frames);
        if lasting {
            if self.stacks.len() == STACKS {
                self.stacks.clear();
            }
            self.stacks.insert(addresses.into(), stack.clone());
        }
        stack
    }

    pub fn frame(&mut self, address: u64) -> Frame {
        if self.find(address).is_none() {
            // It may be of a module that was loaded just now.
            self.check_modules(UNKNOWN);
        }
        let sure = self.find(address).is_some() && !self.is_generated(address);
        if !sure && self.read.is_none_or(|t| t.elapsed() > REREAD) {
            self.reread();
        }
        let Some(s) = self.find(address) else { return Frame { address, ..Frame::default() } };
        let name = &self.names[s.name as usize..s.name as usize + usize::from(s.len)];
        Frame {
            symbol: Some(Arc::from(name)),
            module: self.module_of(s).map(|m| Arc::clone(&m.name)),
            offset: address - s.address,
            address,
            build_id: None,
        }
    }

    pub fn hidden(&mut self) -> Option<String> {
        if self.read.is_none() {
            self.reread();
        }
        self.error.clone()
    }

    fn find(&self, address: u64) -> Option<&Symbol> {
        let after = self.symbols.partition_point(|s| s.address <= address);
        let s = self.symbols.get(after.checked_sub(1)?)?;
        let within = match self.module_of(s).map(|m| m.end) {
            None => address - s.address < LARGEST_FUNCTION,
            Some(None) => address - s.address < LARGEST_GENERATED,
            Some(Some(end)) => address < end,
        };
        within.then_some(s)
    }

    fn module_of(&self, s: &Symbol) -> Option<&Module> {
        usize::from(s.module).checked_sub(1).and_then(|i| self.modules.get(i))
    }

    fn is_generated(&self, address: u64) -> bool {
        self.find(address).and_then(|s| self.module_of(s)).is_some_and(|m| m.end.is_none())
    }

    /// Forgets the symbols when modules were loaded or unloaded, if it has not looked within `pause`.
    fn check_modules(&mut self, pause: Duration) {
        if self.looked.is_some_and(|t| t.elapsed() < pause) {
            return;
        }
        self.looked = Some(Instant::now());
        let loaded = fingerprint(&self.module_list());
        if self.read.is_some() && loaded != self.loaded {
            self.reread();
        }
        self.loaded = loaded;
    }

    fn module_list(&self) -> String {
        // None: a kernel without modules has no such file.
        std::fs::read_to_string(self.proc.join("modules")).unwrap_or_default()
    }

    fn reread(&mut self) {
        let modules = self.module_list();
        let new = match File::open(self.proc.join("kallsyms")) {
            Ok(f) => Self::parse(BufReader::with_capacity(1 << 16, f), &modules),
            Err(e) => Kallsyms {
                read: Some(Instant::now()),
                error: Some(format!("{KALLSYMS} cannot be read: {e}")),
                ..Self::default()
            },
        };
        let proc = std::mem::take(&mut self.proc);
        *self = Kallsyms { proc, looked: self.looked, loaded: fingerprint(&modules), ..new };
    }

    fn parse(mut lines: impl BufRead, modules: &str) -> Self {
        let mut k = Kallsyms { read: Some(Instant::now()), ..Self::default() };
        let ends: HashMap<&str, u64> = modules.lines().filter_map(module_end).collect();
        let (mut line, mut any) = (String::new(), false);
        while lines.read_line(&mut line).is_ok_and(|n| n > 0) {
            any = true;
            k.add(line.trim_end(), &ends);
            line.clear();
        }
        k.symbols.sort_by_key(|s| s.address);
        k.symbols.shrink_to_fit();
        k.names.shrink_to_fit();
        if k.symbols.is_empty() {
            k.error = Some(if any {
                format!(
                    "{KALLSYMS} shows no addresses: give CAP_SYSLOG, or set the sysctl kernel.kptr_restrict to 0 or 1"
                )
            } else {
                format!("{KALLSYMS} is empty: the kernel was built without CONFIG_KALLSYMS")
            });
        }
        k
    }

    /// A line: address, kind, name, and the module in brackets if it is of one.
    fn add(&mut self, line: &str, ends: &HashMap<&str, u64>) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { return };
        let Ok(address) = u64::from_str_radix(address, 16) else { return };
        // Padding before functions has a symbol of its own since 6.2 (9f2899fe36a6), never on a stack.
        if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") || name.starts_with("__pfx_") {
            return;
        }
        let (Ok(at), Ok(len)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else { return };
        let module = words.next().map_or(0, |m| self.module(m, ends));
        self.names.push_str(name);
        self.symbols.push(Symbol { address, name: at, len, module });
    }

    fn module(&mut self, bracketed: &str, ends: &HashMap<&str, u64>) -> u16 {
        let name = bracketed.trim_matches(['[', ']']);
        // Symbols of one module follow each other.
        if self.modules.last().is_none_or(|m| *m.name != *name) {
            self.modules.push(Module { name: Arc::from(name), end: ends.get(name).copied() });
        }
        u16::try_from(self.modules.len()).unwrap_or(0)
    }
}

/// `xfs 2523136 1 - Live 0xffffffffc1000000`: name, bytes, users, who they are, state, start (proc(5)).
fn module_end(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (name, bytes) = (words.next()?, words.next()?.parse::<u64>().ok()?);
    let start = u64::from_str_radix(words.nth(3)?.trim_start_matches("0x"), 16).ok()?;
    Some((name, start.checked_add(bytes)?))
}

/// Of what is loaded where: the number of users changes all the time.
fn fingerprint(modules: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    modules.lines().filter_map(module_end).for_each(|module| module.hash(&mut hasher));
    hasher.finish()
}
