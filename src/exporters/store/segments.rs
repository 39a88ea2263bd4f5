// SPDX-License-Identifier: Apache-2.0
//! Segments: one keyspace for entries, and one beside it for the records that they point to, so
//! that the entries' keys only ever grow and compaction has nothing to merge.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fjall::config::{CompressionPolicy, FilterPolicy, PartitioningPolicy, PinningPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};

use crate::pipeline::backing::Expired;
use crate::signal::WorkloadKey;
use crate::signal::ids::EventId;

const PREFIX: &str = "seg-";
const RECORDS: &str = "-records";
const DAY_NS: u64 = 86_400_000_000_000;
/// fjall rotates nothing before its memtable is full; with the default of 64 MiB it grows to
/// hundreds of MiB.
const MEMTABLE: u64 = 2 * 1024 * 1024;

/// Prefixes of keys in [`Segment::records`].
pub(super) const WORKLOAD: u8 = b'w';
pub(super) const INCIDENT: u8 = b'i';
pub(super) const STACK: u8 = b's';

/// Key of the id of the newest entry that age or size took.
pub(super) const FORGOTTEN: &[u8] = b"forgotten";

/// Opens or creates a keyspace with our small buffers.
///
/// By default fjall keeps the index and filter of each table that it flushes in memory for as long as the table is
/// open, also once it has moved to a lower level: 6 bytes an event, and so over 100 MiB of a full store. Ours are read
/// through the cache; of an index in parts only the few places of its parts stay.
///
/// A keyspace keeps the options that it was created with.
pub(super) fn keyspace(db: &Database, name: &str) -> fjall::Result<Keyspace> {
    db.keyspace(name, options)
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE)
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_pinning_policy(PinningPolicy::disabled())
        .filter_block_pinning_policy(PinningPolicy::disabled())
}

/// The same for entries. Their keys only grow, so that no two tables overlap and the one that may have an id is known
/// without a filter.
fn entries(db: &Database, name: &str) -> fjall::Result<Keyspace> {
    db.keyspace(name, || options().filter_policy(FilterPolicy::disabled()))
}

/// Entries of one stretch of time; dropped as a whole.
pub(super) struct Segment {
    /// Ingest time of its first entry.
    pub start_ns: u64,
    /// Event id → [`Entry`](crate::signal::entry::Entry).
    pub entries: Keyspace,
    /// `w` and workload key → `ResourceAttrs`; `i` and opening id → `IncidentRecord`, once closed; `s` and stack
    /// key → `StackNames` that came late.
    pub records: Keyspace,
    /// Workloads whose record this process has put here.
    pub known: Mutex<HashSet<WorkloadKey>>,
}

impl Segment {
    fn open(db: &Database, start_ns: u64) -> fjall::Result<Self> {
        let name = format!("{PREFIX}{start_ns:020}");
        let records = keyspace(db, &format!("{name}{RECORDS}"))?;
        let entries = entries(db, &name)?;
        Ok(Segment { start_ns, entries, records, known: Mutex::default() })
    }

    pub fn disk_space(&self) -> u64 {
        self.entries.disk_space() + self.records.disk_space()
    }
}

/// Opens every segment, oldest first. Records without entries, left by a crash between the two, go.
pub(super) fn open_all(db: &Database) -> fjall::Result<Vec<Arc<Segment>>> {
    let names: Vec<String> = db.list_keyspace_names().iter().map(|n| n.as_ref().to_owned()).collect();
    let mut segments = Vec::new();
    for name in &names {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        match rest.strip_suffix(RECORDS) {
            Some(of) if !names.iter().any(|n| n.strip_prefix(PREFIX) == Some(of)) => {
                db.delete_keyspace(keyspace(db, name)?)?;
            }
            Some(_) => {}
            None => {
                if let Ok(start) = rest.parse() {
                    segments.push(Arc::new(Segment::open(db, start)?));
                }
            }
        }
    }
    segments.sort_by_key(|s| s.start_ns);
    Ok(segments)
}

/// The segment for an entry that is ingested at `now_ns`, a new one when the last is full or of
/// another day (UTC). `buffered`: bytes that are not on disk yet.
pub(super) fn current(
    db: &Database,
    segments: &mut Vec<Arc<Segment>>,
    now_ns: u64,
    limit: u64,
    buffered: u64,
) -> fjall::Result<Arc<Segment>> {
    if let Some(last) = segments.last() {
        let same_day = last.start_ns / DAY_NS == now_ns / DAY_NS;
        if (same_day && last.disk_space() + buffered < limit) || now_ns <= last.start_ns {
            return Ok(last.clone());
        }
        // Its memtables will get no more writes, and would keep memory and the journal.
        last.entries.rotate_memtable()?;
        last.records.rotate_memtable()?;
    }
    let new = Arc::new(Segment::open(db, now_ns)?);
    segments.push(new.clone());
    Ok(new)
}

/// Drops whole segments, oldest first, until age and size are kept. The last one stays.
pub(super) fn expire(
    db: &Database,
    meta: &Keyspace,
    segments: &mut Vec<Arc<Segment>>,
    now_ns: u64,
    max: (u64, Duration),
    lowest_cursor: Option<EventId>,
) -> fjall::Result<Expired> {
    let (max_size, max_age) = max;
    let oldest_ns = now_ns.saturating_sub(u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX));
    let mut expired = Expired::default();
    while let [oldest, next, ..] = segments.as_slice() {
        let size: u64 = segments.iter().map(|s| s.disk_space()).sum();
        if size <= max_size && next.start_ns > oldest_ns {
            break;
        }
        if let Some(cursor) = lowest_cursor.filter(|c| c.time_ns() < next.start_ns) {
            let after = (std::ops::Bound::Excluded(cursor.0), std::ops::Bound::Unbounded);
            expired.undelivered += oldest.entries.range(after).count() as u64;
        }
        expired.segments += 1;
        if let Some(last) = oldest.entries.last_key_value() {
            meta.insert(FORGOTTEN, last.key()?)?;
        }
        let gone = segments.remove(0);
        db.delete_keyspace(gone.entries.clone())?;
        db.delete_keyspace(gone.records.clone())?;
    }
    Ok(expired)
}
