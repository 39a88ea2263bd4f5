// SPDX-License-Identifier: Apache-2.0
//! What the HTTP side asks of the agent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;

use super::readings::MetricQuery;
use crate::collectors::run::Status;
use crate::signal::Query;
use crate::signal::ids::EventId;

/// An answer that may wait for the disk.
pub type Reply<T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send>>;

/// Answers what is asked over HTTP; all texts are JSON objects without line ends.
pub trait Backend: Send + Sync + 'static {
    /// Events, in the order of ingest; [`Query::limit`] is always set.
    fn events(&self, query: Query) -> Reply<Page>;

    /// Incidents that match, oldest first.
    fn incidents(&self, query: Query) -> Reply<Vec<String>>;

    /// What an id, or the unique beginning of one, stands for.
    fn find(&self, prefix: String) -> Reply<Found>;

    /// Where the newest accepted event is.
    fn last(&self) -> Reply<EventId>;

    /// Events after [`Query::after`] as [`Self::events`] has them, at once, if all since then is in memory.
    fn recent(&self, _query: &Query) -> Option<Page> {
        None
    }

    /// The running number of the entry `id`, where entries are counted.
    fn number(&self, _id: EventId) -> Reply<Option<i64>> {
        Box::pin(async { Ok(None) })
    }

    /// Subscribes to events that are accepted from now on.
    fn changes(&self) -> Box<dyn Changes>;

    /// What runs and what does not.
    fn readiness(&self) -> Readiness;

    /// The node and the agent on it, now: one object.
    fn node(&self) -> Reply<String>;

    /// The latest values of metrics, a series each.
    fn metrics(&self, query: &MetricQuery) -> Vec<String>;

    /// What collectors and BPF programs have cost since start, each an object.
    fn costs(&self) -> Vec<String>;
}

/// Waits for more.
pub trait Changes: Send {
    /// Returns when an event after `id` may have been accepted; `false`: none will be any more.
    fn beyond(&mut self, id: EventId) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// Some events.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub events: Vec<(EventId, Arc<str>)>,
    /// Up to here all was looked at: where the next page begins after.
    pub upto: Option<EventId>,
    /// Whether it ends because the limit was reached.
    pub more: bool,
    /// Entries that were looked at, events or not, wanted or not.
    pub looked: u64,
    /// Set where what came right after [`Query::after`] is gone by age or size.
    pub gap: Option<Gap>,
}

/// What retention took before it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The number of the last entry that is gone, where the backend counts them: see [`Backend::number`].
    pub upto: Option<i64>,
}

/// What an id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Event(String),
    /// With all that belongs to it.
    Incident(String),
    /// Ids that begin so, the first few.
    Ambiguous(Vec<String>),
}

/// What `/readyz` says.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    /// Whether the agent does what it is configured to do, as far as this node can.
    pub ready: bool,
    pub store: StoreReadiness,
    /// Why functions of some programs have no names now, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbols: Option<String>,
    pub exporters: Vec<ExporterState>,
    pub collectors: Vec<Status>,
}

/// Whether events are being saved.
#[derive(Debug, Clone, Serialize)]
pub struct StoreReadiness {
    /// `ok` or `degraded`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Events that could be neither saved nor kept in memory, since start.
    pub dropped: u64,
}

/// How far an exporter is.
#[derive(Debug, Clone, Serialize)]
pub struct ExporterState {
    pub name: String,
    /// `ok`, `behind` (it catches up), `failing`, or `unsupported` (the back end does not accept this signal).
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Events that it has still to send.
    pub behind: u64,
}
