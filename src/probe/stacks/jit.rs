// SPDX-License-Identifier: Apache-2.0
//! Perf maps: names that JITs write for perf (tools/perf/Documentation/jit-interface.txt).

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes of a perf map that are read; a large Java service has a few MiB.
const LARGEST: u64 = 32 << 20;

/// The perf map of one process.
#[derive(Default)]
pub struct PerfMap {
    version: Option<(u64, SystemTime)>,
    /// Sorted by address; of those at one address the last written comes last.
    functions: Vec<(u64, u64, Arc<str>)>,
}

impl PerfMap {
    /// Reads the file again when it has changed.
    pub fn refresh(&mut self, file: &File) {
        let version = file.metadata().ok().and_then(|m| Some((m.len(), m.modified().ok()?)));
        if version.is_none() || version == self.version {
            return;
        }
        let mut text = Vec::new();
        if file.take(LARGEST).read_to_end(&mut text).is_ok() {
            *self = Self::parse(&String::from_utf8_lossy(&text));
            self.version = version;
        }
    }

    /// Lines of `START SIZE name`, numbers in hexadecimal.
    pub fn parse(text: &str) -> Self {
        let hex = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok();
        let line = |l: &str| {
            let (start, rest) = l.split_once(' ')?;
            let (size, name) = rest.split_once(' ')?;
            Some((hex(start)?, hex(size)?, Arc::from(name.trim_end())))
        };
        let mut functions: Vec<_> = text.lines().filter_map(line).collect();
        functions.sort_by_key(|f: &(u64, u64, Arc<str>)| f.0);
        PerfMap { version: None, functions }
    }

    /// Name of the function at an address, and the offset into it.
    pub fn find(&self, address: u64) -> Option<(Arc<str>, u64)> {
        let after = self.functions.partition_point(|f| f.0 <= address);
        let (start, size, name) = self.functions.get(after.checked_sub(1)?)?;
        (address - start < *size).then(|| (Arc::clone(name), address - start))
    }
}
