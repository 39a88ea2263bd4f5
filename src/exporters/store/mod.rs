// SPDX-License-Identifier: Apache-2.0
//! The store on the node: entries, the workloads that they belong to, incidents and the exporters'
//! cursors, kept in fjall below `store.path` in the folder `store` (so that a damaged one can be
//! renamed even where `store.path` itself is a mount point).
//!
//! One process at a time may have it open; one thread, the log's committer, writes.

mod journal;
mod names;
mod open;
mod read;
mod segments;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use fjall::PersistMode;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use prost::Message;

#[cfg(feature = "internals")]
pub use crate::pipeline::backing::Stored;
pub use open::{OpenError, Opened};
pub use read::{Found, StoredIncident};

use crate::pipeline::backing::{Backing, Commit, Expired, NewEntry};
use crate::signal::WorkloadKey;
use crate::signal::entry::ResourceAttrs;
use crate::signal::ids::{EventId, StackKey};
use open::Db;
use segments::{INCIDENT, STACK, Segment, WORKLOAD};

/// How long an agent waits for another process to let go of the store.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Over this, commits wait: fjall flushes slower than we write.
const WRITE_BUFFER: u64 = 8 * 1024 * 1024;
/// From 4 sealed memtables on, and from 20 tables in its first level, fjall blocks the writer; if
/// its flusher has failed meanwhile, for ever. We stop before.
const SEALED: usize = 2;
const FIRST_LEVEL: usize = 18;

const NODE_KEY: &[u8] = b"node";
const CURSOR: &str = "cursor/";
const OPEN_INCIDENT: &[u8] = b"open/";

/// Where the store is and how much it keeps.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `store.path`.
    pub path: PathBuf,
    /// Entries on disk; fjall's journal (up to 128 MiB) comes on top.
    pub max_size: u64,
    pub max_age: Duration,
}

/// Why the store could not answer or write.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store is not open: {0}")]
    Closed(String),
    /// A write failed; the store has to be opened again.
    #[error("the store {}: {reason}", path.display())]
    Failed { path: PathBuf, reason: String },
    #[error("the store {}: an entry cannot be decoded: {source}", path.display())]
    Decode { path: PathBuf, source: prost::DecodeError },
}

/// The store. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    db: RwLock<Option<Arc<Db>>>,
    /// Why it is not open.
    reason: Mutex<String>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.settings.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens for writing. A damaged store or one of a newer format is set aside, see [`Opened`].
    ///
    /// # Errors
    /// Another process has it for longer than `lock_wait`, or the disk refuses. [`Store::closed`]
    /// is for going on without.
    pub fn open(settings: Settings, lock_wait: Duration) -> Result<(Store, Opened), OpenError> {
        let (db, opened) = open::open(&folder(&settings.path), lock_wait)?;
        let inner = Inner { settings, db: RwLock::new(Some(Arc::new(db))), reason: Mutex::default() };
        Ok((Store { inner: Arc::new(inner) }, opened))
    }

    /// A store that did not open, to be tried again with [`Store::reopen`].
    #[must_use]
    pub fn closed(settings: Settings, reason: String) -> Store {
        Store { inner: Arc::new(Inner { settings, db: RwLock::new(None), reason: Mutex::new(reason) }) }
    }

    /// Opens an existing store for queries while no agent runs: creates, repairs and waits for nothing.
    ///
    /// # Errors
    /// There is none, it is in use, or it is damaged.
    pub fn open_existing(path: &Path) -> Result<Store, OpenError> {
        let db = open::open_existing(&folder(path))?;
        let settings = Settings { path: path.to_owned(), max_size: u64::MAX, max_age: Duration::MAX };
        let inner = Inner { settings, db: RwLock::new(Some(Arc::new(db))), reason: Mutex::default() };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Closes what has failed and opens anew. A reader that is still at it makes this fail as locked.
    ///
    /// # Errors
    /// As [`Store::open`]; the store then stays closed.
    pub fn reopen(&self) -> Result<Opened, OpenError> {
        self.close("being opened again");
        let result = open::open(&folder(&self.inner.settings.path), Duration::ZERO);
        match result {
            Ok((db, opened)) => {
                *self.inner.db.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(db));
                Ok(opened)
            }
            Err(e) => {
                self.close(&e.to_string());
                Err(e)
            }
        }
    }

    /// Lets go of the files; later calls fail with `reason`.
    pub fn close(&self, reason: &str) {
        *self.inner.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        let db = self.inner.db.write().unwrap_or_else(PoisonError::into_inner).take();
        // Closing waits for fjall's threads; not under the lock.
        drop(db);
    }

    fn db(&self) -> Result<Arc<Db>, StoreError> {
        let db = self.inner.db.read().unwrap_or_else(PoisonError::into_inner).clone();
        db.ok_or_else(|| StoreError::Closed(self.inner.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }

    fn failed(&self, e: &fjall::Error) -> StoreError {
        let reason = match e {
            fjall::Error::Poisoned => "an earlier write failed".to_owned(),
            fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => e.to_string(),
            other => format!("{other:?}"),
        };
        StoreError::Failed { path: self.inner.settings.path.clone(), reason }
    }

    /// Whether a commit would be taken without waiting for fjall.
    ///
    /// # Errors
    /// Closed, or fjall's flusher has failed.
    pub fn has_room(&self) -> Result<bool, StoreError> {
        let db = self.db()?;
        let segments = db.segments.read().unwrap_or_else(PoisonError::into_inner);
        let busy = |k: &fjall::Keyspace| k.sealed_memtable_count() >= SEALED || k.l0_table_count() >= FIRST_LEVEL;
        let full = db.database.write_buffer_size() > WRITE_BUFFER
            || busy(&db.meta)
            || segments.last().is_some_and(|s| busy(&s.entries) || busy(&s.records));
        drop(segments);
        if full {
            // Its reference count shows whether anybody still works on it.
            db.database.persist(PersistMode::Buffer).map_err(|e| self.failed(&e))?;
        }
        Ok(!full)
    }

    /// Writes all of it, or nothing. What it returned `Ok` for survives a crash of the process.
    ///
    /// # Errors
    /// The disk's reason; the store then has to be opened again.
    pub fn commit(&self, c: &Commit) -> Result<(), StoreError> {
        if c.is_empty() {
            return Ok(());
        }
        let db = self.db()?;
        self.write(&db, c).map_err(|e| self.failed(&e))
    }

    /// Makes the segment that entries of now go to: the first of them need not wait for it.
    ///
    /// # Errors
    /// The disk's.
    pub fn prepare(&self, now_ns: u64) -> Result<(), StoreError> {
        let db = self.db()?;
        let mut segments = db.segments.write().unwrap_or_else(PoisonError::into_inner);
        self.segment(&db, &mut segments, now_ns).map(drop).map_err(|e| self.failed(&e))
    }

    fn segment(&self, db: &Db, all: &mut Vec<Arc<Segment>>, now_ns: u64) -> fjall::Result<Arc<Segment>> {
        let limit = self.inner.settings.max_size / 8;
        segments::current(&db.database, all, now_ns, limit, db.database.write_buffer_size())
    }

    fn write(&self, db: &Db, c: &Commit) -> fjall::Result<()> {
        let mut segments = db.segments.write().unwrap_or_else(PoisonError::into_inner);
        let mut batch = db.database.batch();
        let closed = c.incidents.iter().any(|i| !i.is_open());
        if let Some(now_ns) = c.entries.first().map(|e| e.id.time_ns()).or(closed.then_some(0)) {
            let segment = self.segment(db, &mut segments, now_ns)?;
            let mut known = segment.known.lock().unwrap_or_else(PoisonError::into_inner);
            for e in &c.entries {
                batch.insert(&segment.entries, e.id.0, &*e.bytes);
                if let Some(w) = e.workload.as_ref().filter(|w| known.insert(w.key())) {
                    put_workload(&mut batch, &segment, w)?;
                }
            }
            drop(known);
            for i in c.incidents.iter().filter(|i| !i.is_open()) {
                batch.insert(&segment.records, record_key(INCIDENT, &i.raw_opening), i.encode_to_vec());
            }
        }
        for w in &c.workloads {
            for s in segments.iter() {
                if s.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&w.key()) {
                    put_workload(&mut batch, s, w)?;
                }
            }
        }
        // In the segment of their entry, or the next: they are there no shorter than it.
        if let Some(newest) = segments.last() {
            for s in &c.stacks {
                batch.insert(&newest.records, stack_key(s.key()), s.encode_to_vec());
            }
        }
        drop(segments);
        for i in &c.incidents {
            let key = [OPEN_INCIDENT, &i.raw_trace].concat();
            if i.is_open() {
                batch.insert(&db.meta, key, i.encode_to_vec());
            } else {
                batch.remove(&db.meta, key);
            }
        }
        for (name, id) in &c.cursors {
            batch.insert(&db.meta, format!("{CURSOR}{name}"), id.0);
        }
        batch.commit()
    }

    /// Drops segments that are over age or size. `lowest_cursor`: what the slowest exporter has sent.
    ///
    /// # Errors
    /// The disk's reason.
    pub fn expire(&self, now_ns: u64, lowest_cursor: Option<EventId>) -> Result<Expired, StoreError> {
        let db = self.db()?;
        let max = (self.inner.settings.max_size, self.inner.settings.max_age);
        let mut segments = db.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments::expire(&db.database, &db.meta, &mut segments, now_ns, max, lowest_cursor).map_err(|e| self.failed(&e))
    }

    /// Bytes on disk, the journal included.
    ///
    /// # Errors
    /// Closed, or the disk's reason.
    pub fn size(&self) -> Result<u64, StoreError> {
        self.db()?.database.disk_space().map_err(|e| self.failed(&e))
    }

    /// Keeps the node's resource attributes, for readers without an agent.
    ///
    /// # Errors
    /// The disk's reason.
    pub fn set_node(&self, attributes: &[KeyValue]) -> Result<(), StoreError> {
        let db = self.db()?;
        let record = ResourceAttrs { attributes: attributes.to_vec(), ..ResourceAttrs::default() };
        db.meta.insert(NODE_KEY, record.encode_to_vec()).map_err(|e| self.failed(&e))
    }
}

impl Backing for Store {
    fn has_room(&self) -> anyhow::Result<bool> {
        Ok(Store::has_room(self)?)
    }

    fn commit(&self, c: &Commit) -> anyhow::Result<()> {
        Ok(Store::commit(self, c)?)
    }

    fn reopen(&self) -> anyhow::Result<Option<String>> {
        Ok(Store::reopen(self)?.set_aside_message())
    }

    fn expire(&self, now_ns: u64, lowest_cursor: Option<EventId>) -> anyhow::Result<Expired> {
        Ok(Store::expire(self, now_ns, lowest_cursor)?)
    }

    fn size(&self) -> anyhow::Result<u64> {
        Ok(Store::size(self)?)
    }

    fn entries_after(&self, id: EventId, max: usize, max_bytes: usize) -> anyhow::Result<Vec<NewEntry>> {
        Ok(self.encoded_after(id, max, max_bytes)?)
    }

    fn count_after(&self, id: EventId) -> anyhow::Result<(u64, u64)> {
        Ok(Store::count_after(self, id)?)
    }

    fn cursor(&self, name: &str) -> anyhow::Result<Option<EventId>> {
        Ok(Store::cursor(self, name)?)
    }
}

/// fjall's folder below `store.path`.
fn folder(path: &Path) -> PathBuf {
    path.join("store")
}

fn record_key(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut k = Vec::with_capacity(1 + key.len());
    k.push(kind);
    k.extend_from_slice(key);
    k
}

fn workload_key(key: WorkloadKey) -> Vec<u8> {
    record_key(WORKLOAD, &key.0.to_be_bytes())
}

fn stack_key(key: StackKey) -> Vec<u8> {
    record_key(STACK, &key.0.to_be_bytes())
}

/// A record that still waits for names never replaces one from before a restart.
fn put_workload(batch: &mut fjall::OwnedWriteBatch, s: &Segment, w: &ResourceAttrs) -> fjall::Result<()> {
    let key = workload_key(w.key());
    if !(w.pending && s.records.contains_key(&key)?) {
        batch.insert(&s.records, key, w.encode_to_vec());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
