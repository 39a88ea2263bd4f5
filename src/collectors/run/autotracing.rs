// SPDX-License-Identifier: Apache-2.0
//! Autotracing collectors: cheap checks on one thread; captures run beside them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Command, Outlet, Slot, reload};
use crate::collectors::registry::{Running, RunningTracer};
use crate::collectors::{Limits, Parts};
use crate::host::Clock;
use crate::signal::{Capture, CaptureProgress, Change, Target, Trigger};

/// Captures at once: each may sample the whole node.
const MAX_CAPTURES: usize = 4;

pub(crate) type AutotracingSlot = Slot<Box<dyn RunningTracer>>;

/// All autotracing collectors.
pub(crate) struct AutotracingLoop {
    slots: Vec<AutotracingSlot>,
    due: Vec<Instant>,
    limits: Limits,
    clock: Clock,
    outlet: Arc<dyn Outlet>,
    under_way: Arc<Mutex<HashSet<Target>>>,
}

impl AutotracingLoop {
    pub fn new(slots: Vec<AutotracingSlot>, limits: Limits, clock: Clock, outlet: Arc<dyn Outlet>) -> Self {
        let due = vec![Instant::now(); slots.len()];
        AutotracingLoop { slots, due, limits, clock, outlet, under_way: Arc::default() }
    }

    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let wait = self
                .due
                .iter()
                .min()
                .map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            match commands.recv_timeout(wait) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Command::Reload { collector, section }) => {
                    reload(&mut self.slots, collector, |c| c.reload(&section));
                }
                Ok(Command::Answer(answer)) => answer.store(true, Ordering::Relaxed),
                Err(RecvTimeoutError::Timeout) => self.check_due(),
            }
        }
    }

    fn check_due(&mut self) {
        let now = Instant::now();
        for i in 0..self.slots.len() {
            if self.due[i] > now {
                continue;
            }
            let slot = &mut self.slots[i];
            slot.restart_if_due(&*self.outlet, |r| if let Running::Autotracing(t) = r { Some(t) } else { None });
            let period = slot.running.as_ref().map_or(Duration::from_secs(1), |t| t.period());
            self.due[i] = (self.due[i] + period).max(now + period / 2);
            let at = self.clock.now();
            let changes = slot.run(&*self.outlet, |t| t.check(at)).unwrap_or_default();
            for change in changes {
                match change {
                    Change::Onset(trigger) => {
                        let wanted = self.outlet.change(self.slots[i].name, Change::Onset(trigger.clone()));
                        if wanted && trigger.capture {
                            self.capture(i, &trigger);
                        }
                    }
                    Change::Discarded(..) | Change::Recovered(..) => {
                        self.outlet.change(self.slots[i].name, change);
                    }
                }
            }
        }
    }

    fn capture(&mut self, slot: usize, trigger: &Trigger) {
        let slot = &mut self.slots[slot];
        let (name, target, limits) = (slot.name, trigger.target.clone(), self.limits);
        let busy = {
            let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.len() >= MAX_CAPTURES || under_way.contains(&target)
        };
        if busy {
            self.outlet.suppressed(name, "too_many_captures", 1);
            return;
        }
        let to = self.outlet.clone();
        let parts = Parts::new(target.clone(), move |part| to.capture(name, CaptureProgress::Part(part)));
        let Some(future) = slot.run(&*self.outlet, |t| Ok(t.capture(trigger, limits, parts))) else { return };
        self.outlet.capture(name, CaptureProgress::Begun(target.clone()));
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone());
        let under_way =
            UnderWay { name, target, outlet: self.outlet.clone(), all: self.under_way.clone(), ended: false };
        self.outlet.spawn(Box::pin(async move {
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
    outlet: Arc<dyn Outlet>,
    all: Arc<Mutex<HashSet<Target>>>,
    ended: bool,
}

impl UnderWay {
    fn end(mut self, capture: Capture) {
        self.ended = true;
        self.outlet.capture(self.name, CaptureProgress::Ended(capture));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.target);
        if !self.ended {
            self.outlet.dropped(self.name, "capture_failed", 1);
            self.outlet.capture(self.name, CaptureProgress::Failed(self.target.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
