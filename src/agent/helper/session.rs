// SPDX-License-Identifier: Apache-2.0
//! A helper that runs: what it is asked, and what it answers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::known::Known;
use super::start::Running;
use crate::helper::messages::{Answer, Ask, DEPTH, Devices, Query, Subject};
use crate::helper::wire::LARGEST;
use crate::signal::ids::StackKey;

/// A helper that runs.
pub(super) struct Session {
    pub running: Running,
    buffer: Vec<u8>,
    next: u64,
    /// Asked, and not answered yet.
    open: Option<Open>,
    /// What it said last that it touches.
    pub device: u64,
    used: Instant,
}

/// A question that is not answered yet.
#[derive(Debug)]
pub(super) struct Open {
    id: u64,
    pub query: Query,
    about: Subject,
    since: Instant,
    /// Of a stack whose event waits no longer.
    pub late: Option<StackKey>,
}

/// What came of a wait for an answer.
pub(super) enum Heard {
    Answer(Open, Answer),
    Late,
    /// It has ended, or said nonsense.
    Failed,
}

impl Session {
    pub fn new(running: Running) -> Self {
        Session { running, buffer: vec![0; LARGEST], next: 1, open: None, device: 0, used: Instant::now() }
    }

    /// What it has not answered about yet.
    pub fn busy_with(&self) -> Option<&Subject> {
        self.open.as_ref().map(|o| &o.about)
    }

    /// Whether it works on one question for so long.
    pub fn hangs(&self, limit: Duration) -> bool {
        self.open.as_ref().is_some_and(|o| o.since.elapsed() >= limit)
    }

    /// Whether it has worked, and nobody has asked it for so long.
    pub fn is_idle(&self, quiet: Duration) -> bool {
        self.next > 1 && self.open.is_none() && self.used.elapsed() >= quiet
    }

    /// Whether its question is of a stack whose event waits no longer.
    pub fn is_late(&self) -> bool {
        self.open.as_ref().is_some_and(|o| o.late.is_some())
    }

    /// The event of the question waits no longer.
    pub fn wait_no_longer(&mut self, key: Option<StackKey>) {
        if let Some(open) = &mut self.open {
            open.late = key;
        }
    }

    pub fn ask(&mut self, query: Query, devices: Devices) -> bool {
        let (id, since) = (self.next, Instant::now());
        (self.next, self.device, self.used) = (id + 1, query.device().unwrap_or(0), since);
        let ask = Ask { id, devices, query };
        let sent = self.running.asks.send(&ask.encode()).is_ok();
        self.open = Some(Open { id, about: ask.query.subject(), query: ask.query, since, late: None });
        sent
    }

    pub fn hear(&mut self, until: Instant, known: &Mutex<Known>) -> Heard {
        // Of one question a device is said at most as often as there are frames, and once for the perf map.
        for _ in 0..=2 * DEPTH {
            if !self.running.answers.is_readable_by(until) {
                return Heard::Late;
            }
            let Ok(Some(message)) = self.running.answers.receive(&mut self.buffer) else { return Heard::Failed };
            let (answer, before) = (Answer::decode(message), self.device);
            if before != 0 && answer.is_some() {
                known.lock().unwrap_or_else(PoisonError::into_inner).answered(before);
            }
            match answer {
                Some(Answer::Touches(device)) => self.device = device,
                Some(answer @ (Answer::Frames { id, .. } | Answer::Facts { id, .. })) => {
                    let Some(open) = self.open.take_if(|o| o.id == id) else { return Heard::Failed };
                    known.lock().unwrap_or_else(PoisonError::into_inner).works = true;
                    return Heard::Answer(open, answer);
                }
                None => return Heard::Failed,
            }
        }
        Heard::Failed
    }
}
