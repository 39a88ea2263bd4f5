// SPDX-License-Identifier: Apache-2.0
//! Kernel symbols from `/proc/kallsyms` (proc(5)). Read by ourselves, as blazesym leaves out the
//! module's name and keeps each name in an allocation of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{call_sites, restore};
use crate::signal::{Frame, Stack};

/// Where the file is, unless a test says otherwise.
const KALLSYMS: &str = "/proc/kallsyms";

/// A function is not larger: what lies further behind the last symbol is in a module loaded since.
const LARGEST_FUNCTION: u64 = 1 << 20;

/// Modules come and go: the file is read again for an unknown address, but no more often.
const REREAD: Duration = Duration::from_secs(60);

/// Stacks that are kept; each is some 3 KiB.
const STACKS: usize = 256;

/// All functions of the kernel and its modules, read at the first use.
#[derive(Default)]
pub struct Kallsyms {
    /// `None`: the running kernel's.
    file: Option<PathBuf>,
    read: Option<Instant>,
    /// Sorted by address.
    symbols: Vec<Symbol>,
    names: String,
    modules: Vec<Arc<str>>,
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

impl Kallsyms {
    /// Of another file than the running kernel's.
    pub fn of(file: PathBuf) -> Self {
        Kallsyms { file: Some(file), ..Self::default() }
    }

    /// In a storm, the same few stacks come again and again.
    pub fn stack(&mut self, addresses: &[u64]) -> Stack {
        if let Some(known) = self.stacks.get(addresses) {
            return known.clone();
        }
        let frames: Vec<_> = call_sites(addresses).into_iter().map(|a| self.frame(a)).collect();
        let named = frames.iter().all(|f| f.symbol.is_some());
        let stack = restore(addresses, frames);
        if named {
            if self.stacks.len() == STACKS {
                self.stacks.clear();
            }
            self.stacks.insert(addresses.into(), stack.clone());
        }
        stack
    }

    pub fn frame(&mut self, address: u64) -> Frame {
        if self.find(address).is_none() && self.read.is_none_or(|t| t.elapsed() > REREAD) {
            self.reread();
        }
        let Some(s) = self.find(address) else { return Frame { address, ..Frame::default() } };
        let name = &self.names[s.name as usize..s.name as usize + usize::from(s.len)];
        let module = usize::from(s.module).checked_sub(1).and_then(|i| self.modules.get(i));
        Frame {
            symbol: Some(Arc::from(name)),
            module: module.cloned(),
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
        (address - s.address < LARGEST_FUNCTION).then_some(s)
    }

    fn reread(&mut self) {
        let file = self.file.take();
        let path = file.as_deref().unwrap_or(Path::new(KALLSYMS));
        *self = match std::fs::File::open(path) {
            Ok(f) => Self::parse(BufReader::with_capacity(1 << 16, f)),
            Err(e) => Kallsyms {
                read: Some(Instant::now()),
                error: Some(format!("{KALLSYMS} cannot be read: {e}")),
                ..Self::default()
            },
        };
        self.file = file;
    }

    pub fn parse(mut lines: impl BufRead) -> Self {
        let mut k = Kallsyms { read: Some(Instant::now()), ..Self::default() };
        let (mut line, mut any) = (String::new(), false);
        while lines.read_line(&mut line).is_ok_and(|n| n > 0) {
            any = true;
            k.add(line.trim_end());
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
    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { return };
        let Ok(address) = u64::from_str_radix(address, 16) else { return };
        // Padding before functions has a symbol of its own since 6.2 (9f2899fe36a6), never on a stack.
        if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") || name.starts_with("__pfx_") {
            return;
        }
        let (Ok(at), Ok(len)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else { return };
        let module = words.next().map_or(0, |m| self.module(m));
        self.names.push_str(name);
        self.symbols.push(Symbol { address, name: at, len, module });
    }

    fn module(&mut self, bracketed: &str) -> u16 {
        let name = bracketed.trim_matches(['[', ']']);
        // Symbols of one module follow each other.
        if self.modules.last().is_none_or(|m| **m != *name) {
            self.modules.push(Arc::from(name));
        }
        u16::try_from(self.modules.len()).unwrap_or(0)
    }
}
