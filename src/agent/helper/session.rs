// SPDX-License-Identifier: Apache-2.0
//! A helper that runs: what it is asked, and what it answers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::known::Known;
use super::start::Running;
use crate::helper::messages::{Answer, Ask, DEPTH, Devices, Query, Subject};
use crate::helper::wire::LARGEST;

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
struct Open {
    id: u64,
    about: Subject,
    since: Instant,
}

/// What came of a wait for an answer.
pub(super) enum Heard {
    Answer(Answer),
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

    pub fn ask(&mut self, query: Query, devices: Devices) -> bool {
        let (id, since) = (self.next, Instant::now());
        (self.next, self.device, self.used) = (id + 1, 0, since);
        self.open = Some(Open { id, about: query.subject(), since });
        self.running.asks.send(&Ask { id, devices, query }.encode()).is_ok()
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
                Some(answer @ (Answer::Frames { id, .. } | Answer::Facts { id, .. }))
                    if self.open.as_ref().is_some_and(|o| o.id == id) =>
                {
                    self.open = None;
                    known.lock().unwrap_or_else(PoisonError::into_inner).works = true;
                    return Heard::Answer(answer);
                }
                _ => return Heard::Failed,
            }
        }
        Heard::Failed
    }
}
