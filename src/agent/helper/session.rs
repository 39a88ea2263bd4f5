// SPDX-License-Identifier: Apache-2.0
//! A helper that runs: what it is asked, and what it answers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::known::Known;
use super::start::Running;
use crate::helper::wire::{Answer, Ask, DEPTH, Devices, LARGEST};
use crate::signal::Frame;

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
#[derive(Debug, Clone, Copy)]
struct Open {
    id: u64,
    pid: u32,
    since: Instant,
}

/// What came of a wait for an answer.
pub(super) enum Heard {
    Frames(Vec<Frame>),
    Late,
    /// It has ended, or said nonsense.
    Failed,
}

impl Session {
    pub fn new(running: Running) -> Self {
        Session { running, buffer: vec![0; LARGEST], next: 1, open: None, device: 0, used: Instant::now() }
    }

    /// The process that it has not answered about yet.
    pub fn busy_with(&self) -> Option<u32> {
        self.open.map(|o| o.pid)
    }

    /// Whether it works on one question for so long.
    pub fn hangs(&self, limit: Duration) -> bool {
        self.open.is_some_and(|o| o.since.elapsed() >= limit)
    }

    /// Whether it has worked, and nobody has asked it for so long.
    pub fn is_idle(&self, quiet: Duration) -> bool {
        self.next > 1 && self.open.is_none() && self.used.elapsed() >= quiet
    }

    pub fn ask(&mut self, pid: u32, devices: Devices, addresses: &[u64]) -> bool {
        let (id, since) = (self.next, Instant::now());
        let addresses = addresses.iter().copied().take(DEPTH).collect();
        (self.next, self.device, self.used) = (id + 1, 0, since);
        self.open = Some(Open { id, pid, since });
        self.running.asks.send(&Ask { id, pid, devices, addresses }.encode()).is_ok()
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
                Some(Answer::Frames { id, frames }) if self.open.is_some_and(|o| o.id == id) => {
                    self.open = None;
                    known.lock().unwrap_or_else(PoisonError::into_inner).works = true;
                    return Heard::Frames(frames);
                }
                _ => return Heard::Failed,
            }
        }
        Heard::Failed
    }
}
