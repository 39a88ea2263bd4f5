// SPDX-License-Identifier: Apache-2.0
//! The one ordered log of entries: bounded memory in front of the store.
//!
//! The pipeline appends, the [`Committer`] writes to the store in batches, exporters read behind
//! it with a [`Reader`] each, live followers get a [`Watch`]. An entry is *accepted* once its
//! commit has returned. When the store fails or hangs, delivery goes on from memory.

mod committer;
mod late;
mod memory;
mod reader;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

pub use committer::Committer;
#[cfg(feature = "internals")]
pub use reader::ReaderError;
pub use reader::{Batch, Behind, Reader};

use super::Observer;
use super::backing::{Backing, Stored};
use crate::signal::entry::{EntryBuf, IncidentRecord};
use crate::signal::ids::EventId;
use crate::signal::{StackNames, Stage, Timestamp, Workload};
use memory::Memory;

/// What the log loses because the store does not take it.
const STORE: Stage<'static> = Stage::Exporter("store");

/// Bytes of encoded entries that memory holds.
pub const MEMORY: usize = 8 * 1024 * 1024;
/// A commit that takes longer says that the disk is ill.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// Committed entries that a slow follower may be behind before it misses some.
const LIVE: usize = 1024;

/// The log. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    backing: Arc<dyn Backing>,
    observer: Arc<dyn Observer>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    memory: Mutex<Memory>,
    /// Wakes the committer.
    appended: Condvar,
    /// Wakes readers: something was committed, or may now be delivered uncommitted.
    changed: watch::Sender<u64>,
    live: broadcast::Sender<Stored>,
    /// Late names of entries that were sent to `live`.
    named: broadcast::Sender<Arc<StackNames>>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_readers(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// What the store beneath the log is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreState {
    /// Why entries are not being saved; `None`: they are.
    pub degraded: Option<String>,
    /// Entries that fell out of memory unsaved.
    pub dropped: u64,
    /// A damaged store that was set aside while running.
    pub set_aside: Option<String>,
}

/// What one input of the pipeline adds to the log.
#[derive(Debug, Default)]
pub struct Append {
    pub entries: Vec<EntryBuf>,
    /// Workloads of the entries, or whose names have changed.
    pub workloads: Vec<Arc<Workload>>,
    /// Incidents that these entries have opened, joined or closed.
    pub incidents: Vec<IncidentRecord>,
}

impl Log {
    /// A log over `backing`. `start`: an id below all that will be appended; where exporters that
    /// have no cursor yet begin.
    #[must_use]
    pub fn new(
        backing: Arc<dyn Backing>,
        observer: Arc<dyn Observer>,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        start: EventId,
    ) -> (Log, Committer) {
        Self::with_memory(backing, observer, now, start, MEMORY)
    }

    fn with_memory(
        backing: Arc<dyn Backing>,
        observer: Arc<dyn Observer>,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        start: EventId,
        limit: usize,
    ) -> (Log, Committer) {
        let shared = Arc::new(Shared {
            backing,
            observer,
            now: Box::new(now),
            memory: Mutex::new(Memory::new(start, limit)),
            appended: Condvar::new(),
            changed: watch::Sender::new(0),
            live: broadcast::Sender::new(LIVE),
            named: broadcast::Sender::new(LIVE),
        });
        (Log { shared: shared.clone() }, Committer::new(shared))
    }

    /// Adds entries. Never blocks on the disk; what no longer fits pushes out the oldest.
    pub fn append(&self, a: Append) {
        let encoded: Vec<Arc<[u8]>> = a.entries.iter().map(|e| e.encoded().into()).collect();
        let (lost, deliverable) = {
            let mut m = self.shared.memory();
            for w in &a.workloads {
                m.know(w);
            }
            for (entry, bytes) in a.entries.iter().zip(encoded) {
                m.push(entry, bytes);
            }
            for i in a.incidents {
                m.incidents.insert(i.raw_trace.clone(), i);
            }
            (m.evict(), m.degraded().is_some() || !a.workloads.is_empty())
        };
        self.shared.observer.dropped(STORE, "store", lost);
        self.shared.appended.notify_one();
        if deliverable {
            self.shared.wake_readers();
        }
    }

    /// Takes a workload's new names, where entries of it are being kept.
    pub fn renamed(&self, w: &Arc<Workload>) {
        if self.shared.memory().rename(w) {
            self.shared.appended.notify_one();
            self.shared.wake_readers();
        }
    }

    /// Takes names of a stack that its event did not wait for.
    pub fn named(&self, names: StackNames) {
        if self.shared.memory().named(Arc::new(names)) {
            self.shared.appended.notify_one();
            self.shared.wake_readers();
        }
    }

    /// A reader whose cursor is kept under `name`. Counts what it is behind, so a reader that was
    /// away for long takes a second to make.
    ///
    /// # Errors
    /// The cursor cannot be read, and to begin elsewhere would lose or repeat entries.
    pub fn reader(&self, name: &str) -> anyhow::Result<Reader> {
        Reader::new(self.shared.clone(), name)
    }

    /// Follows what is committed from now on. To follow on from an id: watch first, then query what
    /// is after that id, then skip what the watch repeats.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { live: self.shared.live.subscribe(), named: self.shared.named.subscribe() }
    }

    /// How far each reader is behind, by name.
    #[must_use]
    pub fn behind(&self) -> Vec<(String, Behind)> {
        let m = self.shared.memory();
        let mut all: Vec<_> =
            m.cursors.keys().map(|name| (name.clone(), reader::behind(&self.shared, &m, name))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Entries in memory that the store has not taken.
    #[must_use]
    pub fn unsaved(&self) -> usize {
        self.shared.memory().unsaved()
    }

    /// What the store is doing.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.shared.memory().state()
    }
}

/// A live follower.
pub struct Watch {
    live: broadcast::Receiver<Stored>,
    named: broadcast::Receiver<Arc<StackNames>>,
}

/// What a live follower gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Live {
    Entry(Stored),
    /// Names of a stack of an entry that came before.
    Named(Arc<StackNames>),
    /// It was too slow for so many entries; the store has them.
    Missed(u64),
    /// The agent stops.
    End,
}

impl Watch {
    /// One that follows what a test sends.
    #[cfg(test)]
    pub(crate) fn fed() -> (broadcast::Sender<Stored>, broadcast::Sender<Arc<StackNames>>, Watch) {
        let (entries, live) = broadcast::channel(LIVE);
        let (names, named) = broadcast::channel(LIVE);
        (entries, names, Watch { live, named })
    }

    /// Waits for the next entry or the next names. May be cancelled without loss.
    pub async fn next(&mut self) -> Live {
        tokio::select! {
            biased;
            entry = self.live.recv() => match entry {
                Ok(stored) => Live::Entry(stored),
                Err(RecvError::Lagged(n)) => Live::Missed(n),
                Err(RecvError::Closed) => Live::End,
            },
            // Of names that were missed the store has all.
            Ok(names) = self.named.recv() => Live::Named(names),
        }
    }
}

#[cfg(test)]
mod tests;
