// SPDX-License-Identifier: Apache-2.0
//! Autotracing collectors: a cheap check at a time; captures run beside them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::inbox::{Inbox, inbox};
use super::slot::Slot;
use super::task::{Task, Work};
use super::{CollectorSink, Shared};
use crate::collectors::registry::RunningTracer;
use crate::collectors::{Limits, Parts};
use crate::host::{Clock, Now};
use crate::signal::{Capture, CaptureProgress, Change, Target, Trigger};

/// Captures at once, of all tracers: each may sample the whole node.
const MAX_CAPTURES: usize = 4;
/// A check may take so long.
const LIMIT: Duration = Duration::from_secs(10);

/// Targets whose capture is under way.
#[derive(Clone, Default)]
pub(crate) struct Captures(Arc<Mutex<HashSet<Target>>>);

impl Captures {
    fn lock(&self) -> MutexGuard<'_, HashSet<Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: there are too many, or one of this target.
    fn begin(&self, target: &Target) -> bool {
        let mut all = self.lock();
        all.len() < MAX_CAPTURES && all.insert(target.clone())
    }

    fn end(&self, target: &Target) {
        self.lock().remove(target);
    }
}

struct Watching {
    slot: Slot<Box<dyn RunningTracer>>,
    due: Instant,
    limits: Limits,
    clock: Clock,
    captures: Captures,
    /// Reported as over their limits, and not as recovered since.
    open: HashSet<Target>,
}

pub(super) fn task(name: &'static str, tracer: Box<dyn RunningTracer>, shared: &Shared) -> (Inbox, Task) {
    let slot = Slot::new(name, tracer, LIMIT, shared);
    let progress = slot.progress.clone();
    let (inbox, outbox) = inbox(name, 1, shared.sink.clone());
    let (clock, captures) = (shared.clock.clone(), shared.captures.clone());
    let work = Watching { slot, due: Instant::now(), limits: shared.limits, clock, captures, open: HashSet::new() };
    (inbox, Task::new(name, progress, work, outbox))
}

impl Watching {
    /// The tracer panicked: nobody would say any more that these have recovered.
    fn end_all(&mut self, at: Now) {
        for target in self.open.drain() {
            self.slot.sink.change(self.slot.name, Change::Recovered(target, at.wall));
        }
    }

    fn capture(&mut self, trigger: &Trigger) {
        let (name, target, limits) = (self.slot.name, trigger.target.clone(), self.limits);
        if !self.captures.begin(&target) {
            self.slot.sink.suppressed(name, "too_many_captures", 1);
            return;
        }
        let to = self.slot.sink.clone();
        let parts = Parts::new(target.clone(), move |part| to.capture(name, CaptureProgress::Part(part)));
        let sink = self.slot.sink.clone();
        let under_way = UnderWay { name, target, sink: sink.clone(), captures: self.captures.clone(), ended: false };
        let Some(future) = self.slot.run(|t| Ok(t.capture(trigger, limits, parts))) else { return };
        sink.capture(name, CaptureProgress::Begun(trigger.target.clone()));
        sink.spawn(Box::pin(async move {
            match future.await {
                Ok(capture) => under_way.end(capture),
                Err(e) => tracing::warn!(collector = name, "capture failed: {e:#}"),
            }
        }));
    }
}

/// A capture until it ends; one that is dropped before, by an error, a panic or the agent's end, has failed.
struct UnderWay {
    name: &'static str,
    target: Target,
    sink: Arc<dyn CollectorSink>,
    captures: Captures,
    ended: bool,
}

impl UnderWay {
    fn end(mut self, capture: Capture) {
        self.ended = true;
        self.sink.capture(self.name, CaptureProgress::Ended(capture));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.captures.end(&self.target);
        if !self.ended {
            self.sink.dropped(self.name, "capture_failed", 1);
            self.sink.capture(self.name, CaptureProgress::Failed(self.target.clone()));
        }
    }
}

impl Work for Watching {
    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn on_time(&mut self) {
        let (now, period) = (Instant::now(), self.slot.collector.period());
        self.due = (self.due + period).max(now + period / 2);
        if !self.slot.may_run() {
            return;
        }
        let at = self.clock.now();
        let changes = self.slot.run(|t| t.check(at)).unwrap_or_default();
        if !self.slot.may_run() {
            self.end_all(at);
        }
        for change in changes {
            match change {
                Change::Onset(trigger) => {
                    let wanted = self.slot.sink.change(self.slot.name, Change::Onset(trigger.clone()));
                    self.open.insert(trigger.target.clone());
                    if wanted && trigger.capture {
                        self.capture(&trigger);
                    }
                }
                Change::Discarded(..) | Change::Recovered(..) => {
                    if let Change::Recovered(target, _) = &change {
                        self.open.remove(target);
                    }
                    self.slot.sink.change(self.slot.name, change);
                }
            }
        }
    }

    fn on_record(&mut self, _ring: usize, _bytes: &[u8], _read: Instant) {
        // Records of a tracer's own object have no taker.
        self.slot.sink.dropped(self.slot.name, "not_read", 1);
    }

    fn reload(&mut self, settings: &toml::Table) {
        self.slot.reload(|t| t.reload(settings));
    }
}

#[cfg(test)]
mod tests;
