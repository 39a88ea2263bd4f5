// SPDX-License-Identifier: Apache-2.0
//! An exporter's place in the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::memory::{After, Memory, Slot};
use crate::pipeline::backing::NewEntry;
use crate::signal::entry::{Entry, ResourceAttrs};
use crate::signal::ids::EventId;
use crate::signal::{RawEntry, Timestamp, WorkloadKey};

/// A batch's size; one more entry may go over.
const BATCH_BYTES: usize = 1024 * 1024;
/// Between two looks whether uncommitted entries may be delivered.
const DEGRADED: Duration = Duration::from_millis(250);

/// Entries in their order, with what is known of their workloads.
#[derive(Debug, Clone)]
pub struct Batch<E = Arc<Entry>> {
    pub entries: Vec<E>,
    pub workloads: HashMap<WorkloadKey, Arc<ResourceAttrs>>,
    /// Entries that are damaged and left out.
    pub damaged: u64,
    end: Option<End>,
}

/// What a batch acknowledges.
#[derive(Debug, Clone, Copy)]
struct End {
    /// The last entry.
    id: EventId,
    events: u64,
    bytes: u64,
}

impl<E> Default for Batch<E> {
    fn default() -> Self {
        Batch { entries: Vec::new(), workloads: HashMap::new(), damaged: 0, end: None }
    }
}

impl<E> Batch<E> {
    /// Whether there is nothing in it to acknowledge.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.is_none()
    }
}

impl Batch<RawEntry> {
    fn of(encoded: impl Iterator<Item = NewEntry>) -> Self {
        let mut batch = Self::default();
        for NewEntry { id, bytes, workload } in encoded {
            let before = batch.end.map_or((0, 0), |e| (e.events, e.bytes));
            batch.end = Some(End { id, events: before.0 + 1, bytes: before.1 + bytes.len() as u64 });
            if let Some(w) = workload {
                batch.workloads.entry(w.key()).or_insert(w);
            }
            match RawEntry::new(id, bytes) {
                Ok(entry) => batch.entries.push(entry),
                Err(_damaged) => batch.damaged += 1,
            }
        }
        batch
    }

    #[cfg(feature = "internals")]
    fn decode(self) -> Batch {
        let mut out = Batch { workloads: self.workloads, damaged: self.damaged, end: self.end, ..Batch::default() };
        for raw in self.entries {
            match raw.decode() {
                Ok(entry) => out.entries.push(Arc::new(entry)),
                Err(_damaged) => out.damaged += 1,
            }
        }
        out
    }
}

/// How far a reader is behind the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    pub events: u64,
    pub bytes: u64,
    /// Age of the oldest entry that is not acknowledged.
    pub age: Duration,
}

/// The store could not be read; try again later.
#[derive(Debug, thiserror::Error)]
#[error("cannot read what was logged earlier: {0:#}")]
pub struct ReaderError(anyhow::Error);

/// Reads the log in order, from the last acknowledged entry on.
pub struct Reader {
    shared: Arc<Shared>,
    name: String,
    changed: watch::Receiver<u64>,
}

/// What memory has for a reader.
enum Taken {
    Batch(Batch<RawEntry>),
    /// Memory does not reach back to this cursor; where a gap after it would end.
    Store(EventId, EventId),
    /// Nothing now; when to look again without being woken.
    Nothing(Option<Instant>),
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, name: &str) -> anyhow::Result<Reader> {
        let saved = shared.backing.cursor(name).with_context(|| format!("the cursor of {name}"))?;
        let start = shared.memory().start;
        let id = saved.unwrap_or(start);
        // Below the start of this run only the store has entries, and none comes there any more.
        let stored = if id < start { shared.backing.count_after(id)? } else { (0, 0) };
        shared.memory().register(name, id, stored);
        let changed = shared.changed.subscribe();
        Ok(Reader { shared, name: name.to_owned(), changed })
    }

    /// The entries after the last acknowledged one: waits for some up to `max_wait`, then the batch
    /// is empty. Called again without [`Reader::ack`], it gives the same again.
    ///
    /// # Errors
    /// What is no longer in memory cannot be read from the store.
    #[cfg(feature = "internals")]
    pub async fn next(&mut self, max_entries: usize, max_wait: Duration) -> Result<Batch, ReaderError> {
        Ok(self.next_raw(max_entries, max_wait).await?.decode())
    }

    /// As [`Reader::next`], for those who hand the entries on as they are.
    ///
    /// # Errors
    /// What is no longer in memory cannot be read from the store.
    pub async fn next_raw(&mut self, max_entries: usize, max_wait: Duration) -> Result<Batch<RawEntry>, ReaderError> {
        let deadline = Instant::now() + max_wait;
        loop {
            self.changed.mark_unchanged();
            let look_again = match self.take(max_entries) {
                Taken::Batch(b) => return Ok(b),
                Taken::Store(cursor, gap_ends) => {
                    let batch = self.read_store(cursor, max_entries).await?;
                    if !batch.is_empty() {
                        return Ok(batch);
                    }
                    // Retention or a lost store has left a gap.
                    self.shared.memory().skip_to(&self.name, gap_ends);
                    continue;
                }
                Taken::Nothing(when) => when.map_or(deadline, |w| w.min(deadline)),
            };
            let timed_out = tokio::time::timeout_at(look_again, self.changed.changed()).await.is_err();
            if timed_out && Instant::now() >= deadline {
                return Ok(Batch::default());
            }
        }
    }

    fn take(&self, max_entries: usize) -> Taken {
        let m = self.shared.memory();
        let cursor = m.cursors.get(&self.name).map_or(m.start, |c| c.id);
        let slots = match m.after(cursor) {
            After::Here(slots) => slots,
            After::InStore { gap_ends } => return Taken::Store(cursor, gap_ends),
            After::Soon => return Taken::Nothing(Some(Instant::now() + DEGRADED)),
        };
        let mut encoded = Vec::new();
        let mut size = 0;
        let mut held = None;
        for s in slots {
            if encoded.len() >= max_entries || size > BATCH_BYTES {
                break;
            }
            held = m.held_until(s).map(Instant::from_std);
            if held.is_some() {
                break;
            }
            size += s.bytes.len();
            encoded.push(NewEntry { id: s.id, bytes: s.bytes.clone(), workload: attrs_of(&m, s) });
        }
        let waiting = m.has_after(cursor).then(|| Instant::now() + DEGRADED);
        drop(m);
        if encoded.is_empty() {
            return Taken::Nothing(held.or(waiting));
        }
        Taken::Batch(Batch::of(encoded.into_iter()))
    }

    async fn read_store(&self, cursor: EventId, max: usize) -> Result<Batch<RawEntry>, ReaderError> {
        let backing = self.shared.backing.clone();
        // A disk that hangs must not hold up the runtime's threads.
        let read = tokio::task::spawn_blocking(move || backing.entries_after(cursor, max, BATCH_BYTES));
        let stored = read.await.map_err(|e| ReaderError(e.into()))?.map_err(ReaderError)?;
        let mut batch = Batch::of(stored.into_iter());
        // Names may have come since.
        let m = self.shared.memory();
        let keys: HashSet<_> = batch.entries.iter().filter_map(RawEntry::workload).collect();
        batch.workloads.extend(keys.into_iter().filter_map(|k| Some((k, m.attrs(k)?))));
        Ok(batch)
    }

    /// The batch has been delivered: the next one begins after it, also after a restart.
    pub fn ack<E>(&self, batch: &Batch<E>) {
        if let Some(end) = batch.end {
            self.shared.memory().ack(&self.name, end.id, end.events, end.bytes);
        }
    }

    /// How far it is behind.
    #[must_use]
    pub fn behind(&self) -> Behind {
        behind(&self.shared, &self.shared.memory(), &self.name)
    }
}

pub(super) fn behind(shared: &Shared, m: &Memory, name: &str) -> Behind {
    let Some(c) = m.cursors.get(name) else { return Behind::default() };
    if c.events == 0 {
        return Behind::default();
    }
    let oldest = match m.after(c.id) {
        After::Here(mut slots) => slots.next().map(|s| s.id),
        After::InStore { .. } | After::Soon => None,
    };
    let oldest = oldest.unwrap_or(c.id).time_ns();
    let age = (shared.now)().since(Timestamp(oldest));
    Behind { events: c.events, bytes: c.bytes, age }
}

fn attrs_of(m: &Memory, s: &Slot) -> Option<Arc<ResourceAttrs>> {
    s.workload.and_then(|k| m.attrs(k))
}
