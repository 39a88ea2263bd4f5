// SPDX-License-Identifier: Apache-2.0
//! Runs collectors. A collector never sees timing, panics, queues or self-metrics: they are here.
//!
//! Each collector has a [`Task`] of its own, for which `agent` starts a thread: one that waits for a
//! disk or a file server holds up no other. A [`Supervisor`] watches them from outside and reports
//! those that are stuck.

mod autotracing;
mod events;
mod inbox;
mod metrics;
mod slot;
mod status;
mod supervisor;
mod task;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::registry::Running;
use super::{Kind, Limits};
use crate::host::Clock;
use crate::probe::LimitKey;
use crate::probe::stacks::Symbols;
use crate::signal::{CaptureProgress, Change, Event, Metrics};

pub(crate) use autotracing::Captures;
pub(crate) use inbox::{Command, Inbox};
pub use status::{State, Status, Statuses};
pub(crate) use supervisor::Supervisor;
pub(crate) use task::Task;

/// Accepts what collectors deliver.
pub(crate) trait CollectorSink: Send + Sync {
    fn metrics(&self, collector: &'static str, points: &mut Metrics);
    fn event(&self, collector: &'static str, event: Event, limited: Limited);
    /// `false`: the workload is filtered out; its capture is not wanted either.
    fn change(&self, collector: &'static str, change: Change) -> bool;
    /// How far a capture is, and what it has.
    fn capture(&self, collector: &'static str, progress: CaptureProgress);
    /// Records or captures that are gone.
    fn dropped(&self, collector: &'static str, reason: &'static str, n: u64);
    /// Captures that were not taken, on purpose.
    fn suppressed(&self, collector: &'static str, reason: &'static str, n: u64);
    /// One run of a collector's method.
    fn ran(&self, collector: &'static str, took: Duration, ok: bool);
    /// The state that a collector is in now.
    fn state(&self, collector: &'static str, state: State);
    /// Runs a capture beside the collectors.
    fn spawn(&self, capture: Pin<Box<dyn Future<Output = ()> + Send>>);
}

/// What a probe's limits left out of the kind of an event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limited {
    /// How many since the last event, which are counted already.
    pub suppressed: u64,
    /// Under which the probe counts them; `None`: the event's counter is not of them.
    pub key: Option<LimitKey>,
}

/// What all tasks share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub sink: Arc<dyn CollectorSink>,
    pub statuses: Arc<Statuses>,
    pub clock: Clock,
    pub captures: Captures,
    pub limits: Limits,
}

/// A collector's task and the entrance to it. `interval`: of a metrics collector; `symbols`: with which it was built.
pub(crate) fn task(
    name: &'static str,
    running: Running,
    interval: Duration,
    symbols: Symbols,
    shared: &Shared,
) -> (Inbox, Task) {
    match running {
        Running::Metrics(c) => metrics::task(name, c, interval, shared),
        Running::Events(c) => events::task(name, c, symbols, shared),
        Running::Autotracing(c) => autotracing::task(name, c, shared),
    }
}

impl Running {
    pub fn kind(&self) -> Kind {
        match self {
            Running::Metrics(_) => Kind::Metrics,
            Running::Events(_) => Kind::Events,
            Running::Autotracing(_) => Kind::Autotracing,
        }
    }
}
