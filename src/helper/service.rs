// SPDX-License-Identifier: Apache-2.0
//! What a process says of its service: by its environment, and by what it publishes of itself for those who
//! watch it: OpenTelemetry's process context, OTEP 4719, found by the name of its mapping.
//!
//! Its memory may be pages of any file system, which then has to answer; of the environment, the kernel gives
//! anonymous pages only (7f7ccc2ccc2e).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{Ordering, fence};

use super::messages::Wanted;
use super::processes::{Files, bytes};
use crate::workload::service::ServiceEnv;

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
/// The kernel lets a program have a quarter of its stack for it, 2 MiB as a rule.
const MAX_ENVIRONMENT: u64 = 2 << 20;

/// By the environment that the process was started with. Nothing else of it leaves here: it may hold secrets.
pub fn environment(files: &mut dyn Files) -> Option<ServiceEnv> {
    let all = bytes(files.open(Wanted::Environment)?, MAX_ENVIRONMENT)?;
    Some(ServiceEnv::of_list(all.split(|b| *b == 0).filter_map(|v| std::str::from_utf8(v).ok())))
}

/// By the process context that it has published; `None`: none that can be read.
pub fn published(files: &mut dyn Files) -> Option<ServiceEnv> {
    let maps = bytes(files.open(Wanted::Maps)?, MAX_MAPS)?;
    let maps = String::from_utf8_lossy(&maps);
    let at = maps.lines().filter_map(area).find(|a| NAMES.contains(&a.name.trim_end_matches(" (deleted)")))?;
    if !may_read(files, &at) {
        return None;
    }
    let memory = files.open(Wanted::Memory)?;
    let payload = (0..TRIES).find_map(|_| {
        let header = header(&memory, at.start)?;
        let area = maps.lines().filter_map(area).find(|a| a.start <= header.payload && header.payload < a.end)?;
        may_read(files, &area).then(|| payload(&memory, at.start, &header)).flatten()
    });
    Some(ServiceEnv::of_context(&payload?))
}

/// Whether reading these pages waits for no file system that is to be left alone.
fn may_read(files: &mut dyn Files, area: &Area<'_>) -> bool {
    area.inode == 0 || files.may_touch(area.device)
}

/// A mapping: a line `start-end perms offset major:minor inode name`.
struct Area<'a> {
    start: u64,
    end: u64,
    /// `major << 32 | minor`
    device: u64,
    inode: u64,
    name: &'a str,
}

fn area(line: &str) -> Option<Area<'_>> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let inode = fields.next()?.parse().ok()?;
    let name = fields.next().unwrap_or("").trim_start();
    Some(Area { start: hex(start)?, end: hex(end)?, device: hex(major)? << 32 | hex(minor)?, inode, name })
}

/// Of what is published.
struct Header {
    size: u32,
    time: u64,
    payload: u64,
}

fn header(memory: &File, address: u64) -> Option<Header> {
    let mut header = [0; 32];
    memory.read_exact_at(&mut header, address).ok()?;
    let word = |at: usize| Some(u64::from_ne_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let (size, time, payload) = (half(12)?, word(16)?, word(24)?);
    // Time 0: it is being written.
    let whole = header.starts_with(SIGNATURE) && half(8)? == VERSION && time != 0;
    (whole && (1..=MAX_PAYLOAD).contains(&size)).then_some(Header { size, time, payload })
}

/// A time before and after that is the same means that what is between is whole.
fn payload(memory: &File, address: u64, header: &Header) -> Option<Vec<u8>> {
    fence(Ordering::SeqCst);
    let mut bytes = vec![0; header.size as usize];
    memory.read_exact_at(&mut bytes, header.payload).ok()?;
    fence(Ordering::SeqCst);
    let mut after = [0; 8];
    memory.read_exact_at(&mut after, address + 16).ok()?;
    (u64::from_ne_bytes(after) == header.time).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{Seek as _, Write as _};

    use super::*;
    use proptest::prelude::*;

    /// A process of files.
    #[derive(Default)]
    struct Made {
        files: HashMap<&'static str, Vec<u8>>,
        denied: Option<u64>,
        touched: Vec<u64>,
    }

    impl Files for Made {
        fn open(&mut self, wanted: Wanted<'_>) -> Option<File> {
            let name = match wanted {
                Wanted::Maps => "maps",
                Wanted::Memory => "mem",
                Wanted::Environment => "environ",
                _ => return None,
            };
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(self.files.get(name)?).unwrap();
            file.rewind().unwrap();
            Some(file)
        }

        fn may_touch(&mut self, device: u64) -> bool {
            self.touched.push(device);
            self.denied != Some(device)
        }
    }

    fn memory(time: u64, size: u32, version: u32) -> Vec<u8> {
        let mut m = vec![0; 16];
        m.extend(SIGNATURE);
        m.extend(version.to_ne_bytes());
        m.extend(size.to_ne_bytes());
        m.extend(time.to_ne_bytes());
        m.extend(48u64.to_ne_bytes());
        // resource { attributes { "service.name": "cart" } }
        m.extend(b"\x0a\x18\x0a\x16\x0a\x0cservice.name\x12\x06\x0a\x04cart");
        m
    }

    fn publishing(name: &str, memory: Vec<u8>) -> Made {
        let maps = format!("10-30 rw-p 0 00:00 0    {name}\n30-50 r--p 0 00:2a 7    /mnt/f\n");
        Made { files: HashMap::from([("maps", maps.into_bytes()), ("mem", memory)]), ..Made::default() }
    }

    /// Each of the names, and none that only looks like one.
    #[test]
    fn the_mapping_is_found_by_its_name() {
        for name in ["/memfd:OTEL_CTX (deleted)", "[anon_shmem:OTEL_CTX]", "  [anon:OTEL_CTX]"] {
            let said = published(&mut publishing(name, memory(5, 26, 2))).unwrap();
            assert_eq!(said.name.as_deref(), Some("cart"), "{name}");
        }
        for name in ["/memfd:OTEL_CTX2 (deleted)", "/tmp/[anon:OTEL_CTX]", "", "[heap]"] {
            assert_eq!(published(&mut publishing(name, memory(5, 26, 2))), None, "{name}");
        }
    }

    /// Only a header that is whole and done is believed, and no size beyond the limit.
    #[test]
    fn the_header_is_checked() {
        for bad in
            [memory(0, 26, 2), memory(5, 0, 2), memory(5, 99, 2), memory(5, MAX_PAYLOAD + 1, 2), memory(5, 26, 1)]
        {
            assert_eq!(published(&mut publishing("[anon:OTEL_CTX]", bad)), None);
        }
    }

    /// A payload in pages of a file is read only where its file system may be asked, which is said before.
    #[test]
    fn the_payloads_file_system_is_asked_first() {
        let mut process = publishing("[anon:OTEL_CTX]", memory(5, 26, 2));
        assert!(published(&mut process).is_some());
        assert_eq!(process.touched, [0x2a]);
        process.denied = Some(0x2a);
        assert_eq!(published(&mut process), None);
    }

    /// Only what names the service is taken.
    #[test]
    fn of_an_environment() {
        let variables = b"PASSWORD=x\0OTEL_SERVICE_NAME=a=1\0odd\0B=\xff\0".to_vec();
        let mut process = Made { files: HashMap::from([("environ", variables)]), ..Made::default() };
        let said = environment(&mut process).unwrap();
        assert_eq!((said.name.as_deref(), said.version), (Some("a=1"), None));
    }

    proptest! {
        /// No bytes make it panic.
        #[test]
        fn never_panics(line in "(?s)[0-9a-f]{0,18}-?.{0,40}( [0-9a-f]{0,20}:?){0,3}.{0,20}\\[anon:OTEL_CTX\\]") {
            let _ = area(&line);
        }
    }
}
