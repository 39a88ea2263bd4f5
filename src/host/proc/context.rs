// SPDX-License-Identifier: Apache-2.0
//! What a process publishes of itself for those who watch it: OpenTelemetry's process context,
//! OTEP 4719, found by the name of its mapping.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use crate::host::{Host, ReadError, Reading};

/// Names of the mapping, by what the publisher's kernel and sandbox let it do; ` (deleted)` may follow.
const NAMES: [&str; 3] = ["[anon_shmem:OTEL_CTX]", "/memfd:OTEL_CTX", "[anon:OTEL_CTX]"];
const SIGNATURE: &[u8; 8] = b"OTEL_CTX";
const VERSION: u32 = 2;
/// As the ebpf-profiler has it; the text sets no limit.
const MAX_PAYLOAD: u32 = 64 << 10;
/// A publisher that writes all the time is left alone.
const TRIES: usize = 3;
/// 50,000 mappings take 40 ms to list: beyond this much text nobody looks.
const MAX_MAPS: u64 = 2 << 20;

impl Host {
    /// The payload that a process has published, a protobuf message; `None`: it publishes nothing that can be read.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Missing`] when it has exited.
    pub fn process_context(&self, pid: u32) -> Reading<Option<Vec<u8>>> {
        let open = |path: &Path| File::open(path).map_err(|e| ReadError::io(path, e));
        let maps = self.proc.join(pid.to_string()).join("maps");
        let Some(address) = mapping(BufReader::new(open(&maps)?.take(MAX_MAPS))) else { return Ok(None) };
        let memory = open(&self.proc.join(pid.to_string()).join("mem"))?;
        Ok((0..TRIES).find_map(|_| read(&memory, address)))
    }
}

/// Start of the mapping, in lines `start-end perms offset device inode name`.
fn mapping(maps: impl BufRead) -> Option<u64> {
    let mut lines = maps.split(b'\n').map_while(Result::ok);
    lines.find_map(|line| {
        let line = String::from_utf8_lossy(&line);
        let name = line.splitn(6, ' ').nth(5)?.trim_start();
        let name = name.trim_end_matches(" (deleted)");
        NAMES.contains(&name).then(|| u64::from_str_radix(line.split('-').next()?, 16).ok()).flatten()
    })
}

/// A time before and after that is the same means that what is between is whole.
fn read(memory: &File, address: u64) -> Option<Vec<u8>> {
    let mut header = [0; 32];
    memory.read_exact_at(&mut header, address).ok()?;
    let word = |at: usize| Some(u64::from_ne_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let (size, time, payload) = (half(12)?, word(16)?, word(24)?);
    // Time 0: it is being written.
    if !header.starts_with(SIGNATURE) || half(8)? != VERSION || time == 0 || !(1..=MAX_PAYLOAD).contains(&size) {
        return None;
    }
    fence(Ordering::SeqCst);
    let mut bytes = vec![0; size as usize];
    memory.read_exact_at(&mut bytes, payload).ok()?;
    fence(Ordering::SeqCst);
    let mut after = [0; 8];
    memory.read_exact_at(&mut after, address + 16).ok()?;
    (u64::from_ne_bytes(after) == time).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each of the names, and none that only looks like one.
    #[test]
    fn the_mapping_is_found_by_its_name() {
        let maps = |name: &str| {
            format!("55d0-55d1 r--p 0 00:00 7    /bin/x\n7f0000001000-7f0000002000 rw-p 00000000 00:01 5 {name}\n")
        };
        for name in ["/memfd:OTEL_CTX (deleted)", "[anon_shmem:OTEL_CTX]", "  [anon:OTEL_CTX]"] {
            assert_eq!(mapping(maps(name).as_bytes()), Some(0x7f00_0000_1000), "{name}");
        }
        for name in ["/memfd:OTEL_CTX2 (deleted)", "/tmp/[anon:OTEL_CTX]", "", "[heap]"] {
            assert_eq!(mapping(maps(name).as_bytes()), None, "{name}");
        }
    }

    fn memory(time: u64, size: u32, version: u32) -> Vec<u8> {
        let mut m = vec![0; 16];
        m.extend(SIGNATURE);
        m.extend(version.to_ne_bytes());
        m.extend(size.to_ne_bytes());
        m.extend(time.to_ne_bytes());
        m.extend(48u64.to_ne_bytes());
        m.extend(b"payload");
        m
    }

    /// Only a header that is whole and done is believed, and no size beyond the limit.
    #[test]
    fn the_header_is_checked() {
        let read_from = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            read(&File::open(file.path()).unwrap(), 16)
        };
        assert_eq!(read_from(&memory(5, 7, 2)).as_deref(), Some(&b"payload"[..]));
        for bad in [memory(0, 7, 2), memory(5, 0, 2), memory(5, 8, 2), memory(5, MAX_PAYLOAD + 1, 2), memory(5, 7, 1)] {
            assert_eq!(read_from(&bad), None);
        }
    }

    proptest! {
        /// No bytes make it panic.
        #[test]
        fn never_panics(maps in "(?s)([0-9a-f]{0,18}-?.{0,40}\\[anon:OTEL_CTX\\]\n?){0,3}") {
            let _ = mapping(maps.as_bytes());
        }
    }
}
