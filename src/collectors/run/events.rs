// SPDX-License-Identifier: Apache-2.0
//! Event collectors: records come from the reader's thread through a bounded queue, so that
//! symbolising and reading evidence never hold up a ring buffer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use super::{Command, Outlet, Slot, reload};
use crate::collectors::Events;
use crate::collectors::registry::RunningEvents;
use crate::host::Clock;

/// Records waiting for their collector.
const QUEUE: usize = 4096;

/// What reaches the events loop.
pub(crate) enum Message {
    /// A record of ring `ring` of the collector's object.
    Record {
        collector: usize,
        ring: usize,
        bytes: Box<[u8]>,
    },
    Command(Command),
}

/// The queue's entrance, held by the reader's thread.
#[derive(Clone)]
pub(crate) struct RecordQueue {
    tx: SyncSender<Message>,
    names: Arc<[&'static str]>,
    outlet: Arc<dyn Outlet>,
}

impl RecordQueue {
    /// `names`: the event collectors in the order of their slots.
    pub fn new(names: Arc<[&'static str]>, outlet: Arc<dyn Outlet>) -> (Self, Receiver<Message>) {
        let (tx, rx) = sync_channel(QUEUE);
        (RecordQueue { tx, names, outlet }, rx)
    }

    /// Never blocks: the ring must be drained. A full queue is a counted loss.
    pub fn record(&self, collector: usize, ring: usize, bytes: &[u8]) {
        let sent = self.tx.try_send(Message::Record { collector, ring, bytes: bytes.into() });
        if matches!(sent, Err(TrySendError::Full(_)))
            && let Some(name) = self.names.get(collector)
        {
            self.outlet.dropped(name, "queue_full", 1);
        }
    }

    /// Blocks until the loop has room; only for commands.
    pub fn command(&self, c: Command) {
        drop(self.tx.send(Message::Command(c)));
    }

    /// Whether there was room for the command.
    pub fn try_command(&self, c: Command) -> bool {
        self.tx.try_send(Message::Command(c)).is_ok()
    }
}

/// Where no collector wants a tick, a record is waited for so long.
const LOOK: Duration = Duration::from_secs(3600);

/// All event collectors, on one thread.
pub(crate) struct EventsLoop {
    slots: Vec<Slot<Box<dyn RunningEvents>>>,
    /// When each wants its tick.
    due: Vec<Option<Instant>>,
    clock: Clock,
    outlet: Arc<dyn Outlet>,
}

impl EventsLoop {
    pub fn new(slots: Vec<Slot<Box<dyn RunningEvents>>>, clock: Clock, outlet: Arc<dyn Outlet>) -> Self {
        let due = slots.iter().map(next_tick).collect();
        EventsLoop { slots, due, clock, outlet }
    }

    pub fn run(mut self, messages: &Receiver<Message>) {
        let mut out = Events::default();
        loop {
            let next = self.due.iter().flatten().min();
            let wait = next.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
            match messages.recv_timeout(wait) {
                Ok(Message::Record { collector, ring, bytes }) => self.on_record(collector, ring, &bytes, &mut out),
                Ok(Message::Command(Command::Reload { collector, section })) => {
                    reload(&mut self.slots, collector, |c| c.reload(&section));
                }
                Ok(Message::Command(Command::Answer(answer))) => answer.store(true, Ordering::Relaxed),
                Ok(Message::Command(Command::Stop)) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // After a record too: a stream of them holds no tick up.
            self.tick(&mut out);
        }
    }

    fn on_record(&mut self, collector: usize, ring: usize, bytes: &[u8], out: &mut Events) {
        let Some(slot) = self.slots.get_mut(collector) else { return };
        if slot.run(&*self.outlet, |c| c.on_record(ring, bytes, out)).is_none() {
            self.outlet.dropped(slot.name, "collector_failed", 1);
        }
        for event in out.drain() {
            self.outlet.event(slot.name, event);
        }
        // It may want a tick now, or an earlier one; what it waits for already is not put off.
        let next = next_tick(slot);
        let due = &mut self.due[collector];
        *due = due.zip(next).map(|(a, b)| a.min(b)).or(next);
    }

    fn tick(&mut self, out: &mut Events) {
        let start = Instant::now();
        for (slot, due) in self.slots.iter_mut().zip(&mut self.due) {
            if due.is_none_or(|at| at > start) {
                continue;
            }
            let now = self.clock.now();
            slot.run(&*self.outlet, |c| c.tick(now, out));
            for event in out.drain() {
                self.outlet.event(slot.name, event);
            }
            if !out.metrics.points().is_empty() {
                self.outlet.metrics(slot.name, &mut out.metrics);
                out.metrics.drain();
            }
            *due = next_tick(slot);
        }
    }
}

fn next_tick(slot: &Slot<Box<dyn RunningEvents>>) -> Option<Instant> {
    Some(Instant::now() + slot.running.as_ref()?.period()?)
}
