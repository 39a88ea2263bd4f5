// SPDX-License-Identifier: Apache-2.0
//! `block`: how long requests of block devices took, by device, operation and cgroup.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::counted::{Count, Counted};
use super::{Feature, Loading, SharedProbe};
use crate::probe::skeletons::block::{IoKey, IoLatencies, SKELETON, switch};
use crate::probe::{CgroupId, Latencies, LoadError, Object, Skeleton, Table};
use crate::signal::{Growing, Total};

pub use crate::probe::skeletons::block::IoOperation;

/// Bits of `rq_flags` before 6.11, where they are macros; since then they are an enum's, with other numbers.
const FLUSH_SEQ: u32 = 4;
const IO_STAT: u32 = 13;

/// Requests that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IoGroup {
    /// In the hierarchy of the blkio or io controller; `None`: nobody's.
    pub cgroup: Option<CgroupId>,
    pub operation: IoOperation,
    /// It found no room: whose its requests were is not known.
    pub crowded: bool,
    device: [u8; 32],
}

impl IoGroup {
    fn of(key: &IoKey, crowded: bool) -> Self {
        let cgroup = CgroupId { hierarchy: key.hierarchy, id: key.cgroup };
        let cgroup = (key.cgroup != 0).then_some(cgroup);
        IoGroup { cgroup, operation: key.operation, crowded, device: key.device }
    }

    /// The device, as the kernel names it.
    #[must_use]
    pub fn device(&self) -> String {
        let name = self.device.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

/// How long requests took until they were done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoTimes {
    /// From when they were made.
    pub request: Latencies,
    /// From when the device was given them, the last time.
    pub device: Latencies,
}

impl Growing for IoTimes {
    fn continues(&self, earlier: &Self) -> bool {
        self.request.continues(&earlier.request) && self.device.continues(&earlier.device)
    }
    fn since(&self, earlier: &Self) -> Self {
        IoTimes { request: self.request.since(&earlier.request), device: self.device.since(&earlier.device) }
    }
    fn add(&mut self, growth: &Self) {
        self.request.add(&growth.request);
        self.device.add(&growth.device);
    }
}

impl Count for IoLatencies {
    type Total = IoTimes;

    fn hits(&self) -> u64 {
        self.request.count() + self.device.count()
    }
    fn last_ns(&self) -> u64 {
        self.last_ns
    }
    fn total(&self) -> IoTimes {
        IoTimes { request: self.request, device: self.device }
    }
}

/// The loaded probe. Cheap to clone; every consumer takes differences, nobody resets anything.
#[derive(Clone)]
pub struct Block {
    object: Object,
    tables: Arc<Mutex<Tables>>,
}

struct Tables {
    ios: Counted<IoKey, IoLatencies, IoGroup>,
    crowded: Table<IoKey, IoLatencies>,
    lost: Table<u32, u64>,
}

impl Block {
    /// How long requests took.
    pub const LATENCIES: Feature = Feature::of::<Block>("latencies");

    /// All requests so far, by group.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn latencies(&self) -> Result<Vec<Total<IoGroup, IoTimes>>> {
        let (mut tables, now) = (self.tables(), self.object.monotonic_ns());
        let mut all = tables.ios.read(now, |key| IoGroup::of(&key, false))?;
        tables.crowded.for_each(|key, values| {
            all.extend(values.iter().map(|v| Total::new(IoGroup::of(key, true), 0, v.total())));
        })?;
        Ok(all)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn of(object: &Object) -> Result<Self> {
        Ok(Tables {
            ios: Counted::of(object, "block_ios")?,
            crowded: object.table("crowded_ios")?,
            lost: object.table("lost_ios")?,
        })
    }
}

impl SharedProbe for Block {
    const SKELETON: &'static Skeleton = &SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let [flush_seq, io_stat] = loading.enumerators(["__RQF_FLUSH_SEQ", "__RQF_IO_STAT"]);
        let flag = |bit: Option<u64>, old: u32| 1 << bit.and_then(|b| u32::try_from(b).ok()).unwrap_or(old).min(31);
        let options = SKELETON
            .options()
            .switch(switch::RQF_FLUSH_SEQ, flag(flush_seq, FLUSH_SEQ))
            .switch(switch::RQF_IO_STAT, flag(io_stat, IO_STAT));
        let object = loading.load(options)?;
        let tables =
            Tables::of(&object).map_err(|e| LoadError::Object { object: SKELETON.name, reason: format!("{e:#}") })?;
        Ok(Block { object, tables: Arc::new(Mutex::new(tables)) })
    }

    fn object(&self) -> &Object {
        &self.object
    }

    /// Requests that found no room: they are the node's only, or nobody counted them.
    fn lost(&self) -> u64 {
        let mut tables = self.tables();
        let mut sum = 0;
        // What cannot be read is none so far.
        let _ = tables.crowded.for_each(|_, values| {
            sum += values.iter().map(|v| v.request.count().max(v.device.count())).sum::<u64>();
        });
        sum + tables.lost.get_per_cpu(&0).ok().flatten().unwrap_or_default().iter().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use zerocopy::FromZeros as _;

    use crate::probe::shared::Shared;
    use crate::probe::{Loader, Memory};

    fn block(kernel: &Memory) -> Block {
        Shared::load(&mut Loader::in_memory(kernel), &[Block::LATENCIES]).get().unwrap()
    }

    fn key(cgroup: u64, device: &str) -> IoKey {
        let mut key = IoKey { cgroup, operation: IoOperation::IO_READ, ..IoKey::new_zeroed() };
        key.device[..device.len()].copy_from_slice(device.as_bytes());
        key
    }

    fn reads(n: u64, last_ns: u64) -> IoLatencies {
        let mut value = IoLatencies { last_ns, ..IoLatencies::new_zeroed() };
        (value.request.zero, value.device.zero) = (n, n);
        value
    }

    /// Who, what and where; what found no room is a group of its own beside what is nobody's, and lost.
    #[test]
    fn groups() {
        let kernel = Memory::new("/proc", 2);
        let block = block(&kernel);
        let put = |map, key, value| kernel.put(&SKELETON, map, &key, &[value]).unwrap();
        let now = kernel.monotonic_ns();
        put("block_ios", IoKey { hierarchy: 3, ..key(7, "sda") }, reads(2, now));
        put("block_ios", key(0, "sda"), reads(5, now));
        put("crowded_ios", key(0, "sda"), reads(4, now));
        kernel.put(&SKELETON, "lost_ios", &0_u32, &[1_u64, 2]).unwrap();
        let all = block.latencies().unwrap();
        let mut seen: Vec<_> = all
            .iter()
            .map(|t| (t.key.cgroup.map(|c| (c.hierarchy, c.id)), t.key.crowded, t.total.request.count()))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [(None, false, 5), (None, true, 4), (Some((3, 7)), false, 2)]);
        assert!(all.iter().all(|t| t.key.device() == "sda" && t.key.operation == IoOperation::IO_READ));
        assert_eq!(block.lost(), 7);
    }

    /// A group that is idle for minutes makes room; when it is back, it is another generation.
    #[test]
    fn the_idle_make_room() {
        let kernel = Memory::new("/proc", 1);
        let block = block(&kernel);
        kernel.put(&SKELETON, "block_ios", &key(7, "sda"), &[reads(2, kernel.monotonic_ns())]).unwrap();
        let first = block.latencies().unwrap();
        kernel.advance(Duration::from_secs(299));
        assert_eq!(block.latencies().unwrap(), first);
        kernel.advance(Duration::from_secs(2));
        assert_eq!(block.latencies().unwrap(), first, "reported once more");
        assert_eq!(block.latencies().unwrap(), []);
        kernel.put(&SKELETON, "block_ios", &key(7, "sda"), &[reads(3, kernel.monotonic_ns())]).unwrap();
        let again = block.latencies().unwrap();
        assert_ne!((again[0].generation, again[0].key), (first[0].generation, first[0].key));
    }
}
