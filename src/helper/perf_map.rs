// SPDX-License-Identifier: Apache-2.0
//! Perf maps: names that JITs write for perf (tools/perf/Documentation/jit-interface.txt).

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use super::wire::{NAME, cut};

/// Bytes and lines of a perf map that are read; a large Java service has a few MiB, 50,000 lines.
const LARGEST: u64 = 8 << 20;
const LINES: usize = 200_000;

/// The perf map of one process.
#[derive(Default)]
pub struct PerfMap {
    version: Option<(u64, SystemTime)>,
    names: String,
    /// Sorted by address; of those at one address the last written comes last.
    functions: Vec<Function>,
}

struct Function {
    start: u64,
    size: u64,
    name: u32,
    len: u16,
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
        let mut map = PerfMap::default();
        for line in text.lines().take(LINES) {
            map.add(line);
        }
        map.functions.sort_by_key(|f| f.start);
        map.functions.shrink_to_fit();
        map.names.shrink_to_fit();
        map
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let hex = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).ok();
        let (start, rest) = line.split_once(' ')?;
        let (size, name) = rest.split_once(' ')?;
        let (start, size, name) = (hex(start)?, hex(size)?, cut(name, NAME).trim_end());
        let (at, len) = (u32::try_from(self.names.len()).ok()?, u16::try_from(name.len()).ok()?);
        self.names.push_str(name);
        self.functions.push(Function { start, size, name: at, len });
        Some(())
    }

    /// Name of the function at an address, and the offset into it.
    pub fn find(&self, address: u64) -> Option<(Arc<str>, u64)> {
        let after = self.functions.partition_point(|f| f.start <= address);
        let f = self.functions.get(after.checked_sub(1)?)?;
        let name = self.names.get(f.name as usize..f.name as usize + usize::from(f.len))?;
        (address - f.start < f.size).then(|| (Arc::from(name), address - f.start))
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.names.capacity() + self.functions.capacity() * size_of::<Function>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of code compiled twice at one place, the later name holds; gaps have none.
    #[test]
    fn text() {
        let map = PerfMap::parse("1000 20 LFoo;::bar\nbroken\n1000 10 new name\n2000 8 other\n");
        assert_eq!(map.find(0x1004).unwrap(), ("new name".into(), 4));
        assert_eq!(map.find(0x2007).unwrap().1, 7);
        assert!(map.find(0x2008).is_none() && map.find(0xfff).is_none());
    }

    /// Neither one name nor many lines take more than their share.
    #[test]
    fn bounds() {
        let one = PerfMap::parse(&format!("1000 10 {}\n", "x".repeat(8_000_000)));
        assert!(one.find(0x1004).unwrap().0.len() == NAME && one.bytes() < 4096);
        let many = PerfMap::parse(&"1 1 \n".repeat(LINES + 5));
        assert_eq!(many.functions.len(), LINES);
    }

    /// A file that grows is read again, as far as the limit.
    #[test]
    fn large_file() {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut map = PerfMap::default();
        writeln!(file, "1000 10 first").unwrap();
        map.refresh(&file.reopen().unwrap());
        assert_eq!(&*map.find(0x1000).unwrap().0, "first");
        write!(file, "{}\n2000 10 beyond\n", " ".repeat(8 << 20)).unwrap();
        map.refresh(&file.reopen().unwrap());
        assert!(map.find(0x1000).is_some() && map.find(0x2000).is_none());
    }
}
