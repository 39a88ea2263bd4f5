// SPDX-License-Identifier: Apache-2.0
//! What the log needs of the store beneath it.

use std::sync::Arc;

use crate::signal::StackNames;
use crate::signal::entry::{Entry, IncidentRecord, ResourceAttrs};
use crate::signal::ids::EventId;

/// What one commit writes, all or nothing.
#[derive(Debug, Default)]
pub struct Commit {
    /// Encoded entries, in the order of their ids.
    pub entries: Vec<NewEntry>,
    /// Records that have changed.
    pub workloads: Vec<Arc<ResourceAttrs>>,
    /// Names of stacks that came after their entries, to be joined to them at read.
    pub stacks: Vec<Arc<StackNames>>,
    /// Incidents that have changed: kept as open until they are closed.
    pub incidents: Vec<IncidentRecord>,
    /// Exporters' cursors that have moved.
    pub cursors: Vec<(String, EventId)>,
}

/// An encoded entry and the record of its workload.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub id: EventId,
    pub bytes: Arc<[u8]>,
    pub workload: Option<Arc<ResourceAttrs>>,
}

impl Commit {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.workloads.is_empty()
            && self.stacks.is_empty()
            && self.incidents.is_empty()
            && self.cursors.is_empty()
    }
}

/// An entry with what is known of its workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub entry: Arc<Entry>,
    pub workload: Option<Arc<ResourceAttrs>>,
}

/// What retention took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub segments: usize,
    /// Entries in them that an exporter had still to deliver.
    pub undelivered: u64,
}

/// A place where entries are kept. Written by one thread; read by any.
pub trait Backing: Send + Sync {
    /// Whether a commit would be taken without waiting.
    ///
    /// # Errors
    /// It has to be opened again.
    fn has_room(&self) -> anyhow::Result<bool>;

    /// Writes all of it, or nothing.
    ///
    /// # Errors
    /// It has to be opened again.
    fn commit(&self, c: &Commit) -> anyhow::Result<()>;

    /// Opens it again after a failure; says what had to be set aside.
    ///
    /// # Errors
    /// Why it cannot be opened now.
    fn reopen(&self) -> anyhow::Result<Option<String>>;

    /// Drops what is over age or size. `lowest_cursor`: what the slowest exporter has sent.
    ///
    /// # Errors
    /// It has to be opened again.
    fn expire(&self, now_ns: u64, lowest_cursor: Option<EventId>) -> anyhow::Result<Expired>;

    /// Bytes on disk.
    ///
    /// # Errors
    /// It is closed.
    fn size(&self) -> anyhow::Result<u64>;

    /// Up to `max` entries after `id`, oldest first; fewer when they come to more than `max_bytes`.
    ///
    /// # Errors
    /// What could not be read.
    fn entries_after(&self, id: EventId, max: usize, max_bytes: usize) -> anyhow::Result<Vec<NewEntry>>;

    /// Number and bytes of the entries after `id`.
    ///
    /// # Errors
    /// What could not be read.
    fn count_after(&self, id: EventId) -> anyhow::Result<(u64, u64)>;

    /// An exporter's cursor.
    ///
    /// # Errors
    /// What could not be read.
    fn cursor(&self, name: &str) -> anyhow::Result<Option<EventId>>;
}
