// SPDX-License-Identifier: Apache-2.0
//! Watches the tasks from outside: a collector whose call does not return is reported as stuck, and
//! as running again when it does. It calls no collector, so nothing can hold it up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, atomic::AtomicBool};
use std::time::{Duration, Instant};

use super::{CollectorSink, State, Statuses, Task};
use crate::collectors::Kind;
use crate::signal::Metrics;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// Since when a call of the collector runs.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0: no call runs.
    busy_since: AtomicU64,
    /// A call that runs longer is stuck.
    limit: Duration,
}

impl Progress {
    pub fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Progress { start: Instant::now(), busy_since: AtomicU64::new(0), limit })
    }

    pub(super) fn begin(&self) -> Instant {
        let now = Instant::now();
        let ms = u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX - 1);
        self.busy_since.store(ms + 1, Ordering::Relaxed);
        now
    }

    pub(super) fn end(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// How long the call has been running, if longer than it may.
    pub fn stuck_for(&self, now: Instant) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        let busy = now.checked_duration_since(self.start + Duration::from_millis(since))?;
        (busy > self.limit).then_some(busy)
    }
}

struct Watched {
    name: &'static str,
    progress: Arc<Progress>,
    stuck: bool,
}

/// All collectors that run.
pub(crate) struct Supervisor {
    watched: Vec<Watched>,
    statuses: Arc<Statuses>,
    sink: Arc<dyn CollectorSink>,
    /// States as they were handed to the outlet last.
    published: HashMap<&'static str, State>,
}

impl Supervisor {
    pub fn new<'a>(
        tasks: impl Iterator<Item = &'a Task>,
        statuses: Arc<Statuses>,
        sink: Arc<dyn CollectorSink>,
    ) -> Self {
        let watched = tasks.map(|t| Watched { name: t.name, progress: t.progress.clone(), stuck: false });
        Supervisor { watched: watched.collect(), statuses, sink, published: HashMap::new() }
    }

    /// Looks until the questions' sender is gone; each question is answered at once. For a thread of its own.
    pub fn run(mut self, questions: &Receiver<Arc<AtomicBool>>) {
        let mut next = Instant::now() + PERIOD;
        loop {
            match questions.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(answer) => answer.store(true, Ordering::Relaxed),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    next = Instant::now() + PERIOD;
                    self.check(Instant::now());
                }
            }
        }
    }

    pub(super) fn check(&mut self, now: Instant) {
        for w in &mut self.watched {
            match w.progress.stuck_for(now) {
                Some(busy) => {
                    let reason = format!("one call has not returned for {} s", busy.as_secs());
                    if !std::mem::replace(&mut w.stuck, true) {
                        tracing::error!(collector = w.name, "stuck: {reason}; the others go on");
                    }
                    self.statuses.set_stuck(w.name, Some(reason));
                }
                None if std::mem::take(&mut w.stuck) => {
                    tracing::warn!(collector = w.name, "answers again");
                    self.statuses.set_stuck(w.name, None);
                }
                None => {}
            }
        }
        for row in self.statuses.snapshot() {
            if row.state == State::Stuck && row.kind == Kind::Metrics {
                // Figures that are not read any more end, rather than stand still.
                self.sink.metrics(row.name, &mut Metrics::default());
            }
            if self.published.insert(row.name, row.state) != Some(row.state) {
                self.sink.state(row.name, row.state);
            }
        }
    }
}
