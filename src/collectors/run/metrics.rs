// SPDX-License-Identifier: Apache-2.0
//! Metric collectors: each on its own interval, never on a scrape.

use std::time::{Duration, Instant};

use super::Shared;
use super::inbox::{Inbox, inbox};
use super::slot::Slot;
use super::task::{Task, Work};
use crate::collectors::registry::RunningMetrics;
use crate::signal::Metrics;

/// A collection may take so long, or two intervals.
const LEAST_LIMIT: Duration = Duration::from_secs(5);

struct Collecting {
    slot: Slot<Box<dyn RunningMetrics>>,
    interval: Duration,
    due: Instant,
    out: Metrics,
}

pub(super) fn task(
    name: &'static str,
    collector: Box<dyn RunningMetrics>,
    interval: Duration,
    shared: &Shared,
) -> (Inbox, Task) {
    let slot = Slot::new(name, collector, (interval * 2).max(LEAST_LIMIT), shared);
    let progress = slot.progress.clone();
    let (inbox, outbox) = inbox(name, 1, shared.sink.clone());
    let work = Collecting { slot, interval, due: Instant::now(), out: Metrics::default() };
    (inbox, Task::new(name, progress, work, outbox))
}

impl Work for Collecting {
    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        // From the plan, not from now, so that intervals do not drift; a missed one is skipped.
        self.due = (self.due + self.interval).max(now + self.interval / 2);
        if !self.slot.may_run() {
            return;
        }
        let out = &mut self.out;
        self.slot.run(|c| c.collect(out));
        self.slot.sink.metrics(self.slot.name, &mut self.out);
        self.out.drain();
    }

    fn on_record(&mut self, _ring: usize, _bytes: &[u8], _read: Instant) {
        // A metrics collector takes no records: those of its object are lost.
        self.slot.sink.dropped(self.slot.name, "not_read", 1);
    }

    fn reload(&mut self, settings: &toml::Table) {
        self.slot.reload(|c| c.reload(settings));
    }
}
