// SPDX-License-Identifier: Apache-2.0
//! `/proc/diskstats`: Documentation/admin-guide/iostats.rst.

use crate::host::{Host, Reading};

/// A sector of these files, whatever the device's own are.
const SECTOR: u64 = 512;

/// What a device did in one direction, since it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskOps {
    pub operations: u64,
    pub merged: u64,
    pub bytes: u64,
    /// Over all requests together. Printed as 32 bits by the kernel, so that it wraps after 49 days of it.
    pub time_ms: u32,
}

/// A line of `/proc/diskstats`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    pub number: (u32, u32),
    pub name: String,
    pub read: DiskOps,
    pub write: DiskOps,
    pub in_flight: u64,
    /// Time that it had something to do, and that times the requests; both wrap as the others do.
    pub busy_ms: u32,
    pub weighted_ms: u32,
    /// Since Linux 4.18.
    pub discard: Option<DiskOps>,
    /// Requests and milliseconds, since Linux 5.5.
    pub flush: Option<(u64, u32)>,
}

impl Disk {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let number = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let name = words.next()?.to_owned();
        let n: Vec<u64> = words.map_while(|w| w.parse().ok()).collect();
        let ms = |i: usize| n.get(i).map(|n| u32::try_from(n & u64::from(u32::MAX)).unwrap_or(0));
        let ops = |i: usize| {
            let (operations, merged, sectors) = (*n.get(i)?, *n.get(i + 1)?, *n.get(i + 2)?);
            Some(DiskOps { operations, merged, bytes: sectors.saturating_mul(SECTOR), time_ms: ms(i + 3)? })
        };
        Some(Disk {
            number,
            name,
            read: ops(0)?,
            write: ops(4)?,
            in_flight: *n.get(8)?,
            busy_ms: ms(9)?,
            weighted_ms: ms(10)?,
            discard: ops(11),
            flush: n.get(15).copied().zip(ms(16)),
        })
    }
}

/// `nvme0n1` of `nvme0c1n1`, one of the paths to it, which the kernel hides (drivers/nvme/host/core.c).
pub(crate) fn head_of(path: &str) -> Option<String> {
    let number = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let rest = path.strip_prefix("nvme")?;
    let (subsystem, rest) = rest.split_at(number(rest));
    let rest = rest.strip_prefix('c')?;
    let (controller, rest) = rest.split_at(number(rest));
    let namespace = rest.strip_prefix('n')?;
    let is_path = [subsystem, controller, namespace].iter().all(|n| !n.is_empty() && number(n) == n.len());
    is_path.then(|| format!("nvme{subsystem}n{namespace}"))
}

impl Host {
    /// What each block device did, partitions included.
    ///
    /// # Errors
    /// [`ReadError`](crate::host::ReadError)
    pub fn disks(&self) -> Reading<Vec<Disk>> {
        Ok(self.read_proc("diskstats")?.lines().filter_map(Disk::parse).collect())
    }

    /// A block device's file below `/sys/block`; none for a partition.
    #[must_use]
    pub fn block_device(&self, device: &str, file: &str) -> Option<String> {
        // As the kernel does (drivers/base/core.c).
        let device = device.replace('/', "!");
        self.read_sys(&format!("block/{device}/{file}")).ok().map(|text| text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines of three ages; a sector is 512 bytes; what an old kernel does not count is not there.
    #[test]
    fn lines() {
        let old = Disk::parse("   8       0 sda 1 2 3 4 5 6 7 8 9 10 11").unwrap();
        assert_eq!((old.number, old.read.bytes, old.write.time_ms), ((8, 0), 1536, 8));
        assert_eq!((old.in_flight, old.busy_ms, old.weighted_ms, old.discard, old.flush), (9, 10, 11, None, None));
        let since_4_18 = Disk::parse("8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15").unwrap();
        assert_eq!(since_4_18.discard, Some(DiskOps { operations: 12, merged: 13, bytes: 14 * 512, time_ms: 15 }));
        let since_5_5 = Disk::parse("8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 later").unwrap();
        assert_eq!(since_5_5.flush, Some((16, 17)));
        assert_eq!(Disk::parse("8 0 sda 1 2 3"), None);
    }

    /// Only a path has a head.
    #[test]
    fn heads_of_paths() {
        assert_eq!(head_of("nvme10c2n31").as_deref(), Some("nvme10n31"));
        for other in ["nvme0n1", "nvme0c0n1p1", "nvmec0n1", "nvme0c", "cciss/c0d0", "dcssblk0n1", "sda", ""] {
            assert_eq!(head_of(other), None, "{other}");
        }
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn never_panics(text in "(?s)( {1,3}[0-9]{1,3} +[0-9] [a-z]{0,4}( [0-9]{0,22}){0,20})?.{0,60}") {
            let _ = Disk::parse(&text);
        }
    }
}
