// SPDX-License-Identifier: Apache-2.0
//! Event collectors: records come from the reader's thread through a bounded queue of each collector,
//! so that symbolising and reading evidence never hold up a ring buffer or another collector.

use std::time::{Duration, Instant};

use super::inbox::{Inbox, inbox};
use super::slot::Slot;
use super::task::{Task, Work};
use super::{Limited, Shared};
use crate::collectors::Events;
use crate::collectors::registry::RunningEvents;
use crate::host::Clock;
use crate::probe::stacks::Symbols;
use crate::probe::{Said, head};

/// Records waiting for their collector.
pub(super) const QUEUE: usize = 2048;
/// One record or tick may take so long.
const LIMIT: Duration = Duration::from_secs(10);

struct Listening {
    slot: Slot<Box<dyn RunningEvents>>,
    due: Option<Instant>,
    clock: Clock,
    out: Events,
    symbols: Symbols,
    said: Said,
}

/// `symbols`: what the collector was built with.
pub(super) fn task(
    name: &'static str,
    collector: Box<dyn RunningEvents>,
    symbols: Symbols,
    shared: &Shared,
) -> (Inbox, Task) {
    let slot = Slot::new(name, collector, LIMIT, shared);
    let progress = slot.progress.clone();
    let (inbox, outbox) = inbox(name, QUEUE, shared.sink.clone());
    let due = slot.collector.period().map(|p| Instant::now() + p);
    let (clock, out, said) = (shared.clock.clone(), Events::default(), Said::default());
    let work = Listening { slot, due, clock, out, symbols, said };
    (inbox, Task::new(name, progress, work, outbox))
}

impl Listening {
    fn next_tick(&self) -> Option<Instant> {
        Some(Instant::now() + self.slot.collector.period()?)
    }

    /// `limited`: what was suppressed before the first of them.
    fn hand_on(&mut self, limited: Limited) {
        let limited = std::iter::once(limited).chain(std::iter::repeat(Limited::default()));
        for (event, limited) in self.out.drain().zip(limited) {
            self.slot.sink.event(self.slot.name, event, limited);
        }
    }
}

impl Work for Listening {
    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn on_time(&mut self) {
        if self.slot.may_run() {
            let (now, out) = (self.clock.now(), &mut self.out);
            self.symbols.begin_event(Instant::now());
            self.slot.run(|c| c.tick(now, out));
            self.hand_on(Limited::default());
            if !self.out.metrics.points().is_empty() {
                self.slot.sink.metrics(self.slot.name, &mut self.out.metrics);
                self.out.metrics.drain();
            }
        }
        self.due = self.next_tick();
    }

    fn on_record(&mut self, ring: usize, bytes: &[u8], read: Instant) {
        let out = &mut self.out;
        self.symbols.begin_event(read);
        if self.slot.run(|c| c.on_record(ring, bytes, out)).is_none() {
            self.slot.sink.dropped(self.slot.name, "collector_failed", 1);
        }
        // A record that is no event yet leaves them to the next one.
        let head = head(self.slot.collector.rings(), ring, bytes).filter(|_| !self.out.is_empty());
        let counts = self.slot.collector.counts_limited();
        let limited = head.map(|h| Limited { suppressed: self.said.since_last(&h), key: counts.then_some(h.key) });
        self.hand_on(limited.unwrap_or_default());
        // It may want a tick now, or an earlier one; what it waits for already is not put off.
        let next = self.next_tick();
        self.due = self.due.zip(next).map(|(a, b)| a.min(b)).or(next);
    }

    fn reload(&mut self, settings: &toml::Table) {
        self.slot.reload(|c| c.reload(settings));
    }
}
