// SPDX-License-Identifier: Apache-2.0
//! What a figure usually is.

use std::time::Duration;

use super::seconds_between;

/// Of what was there before anybody looked, a mean over so long is good enough to be compared with.
const KNOWN_AFTER_SECONDS: f64 = 5.0;

/// Learnt from readings that are not too much; follows them slowly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usual {
    /// A mean over the time that was seen, as long as that is shorter than the time constant; then one that forgets.
    mean: f64,
    seen_seconds: f64,
    /// It is good enough to be compared with.
    known: bool,
    last_ns: Option<u64>,
}

impl Usual {
    /// Of what did not exist before.
    pub fn nothing() -> Self {
        Usual { mean: 0.0, seen_seconds: f64::INFINITY, known: true, last_ns: None }
    }

    /// Of what has been there for who knows how long.
    pub fn unknown() -> Self {
        Usual { mean: 0.0, seen_seconds: 0.0, known: false, last_ns: None }
    }

    pub fn get(&self) -> Option<f64> {
        self.known.then_some(self.mean)
    }

    /// Takes in a reading of the time since the last one. The first after a pause stands for a second.
    pub fn learn(&mut self, value: f64, over: Duration, now_ns: u64) {
        let over = over.as_secs_f64().max(1.0);
        let elapsed = self.last_ns.map_or(1.0, |last| seconds_between(last, now_ns)).min(over);
        self.last_ns = Some(now_ns);
        self.seen_seconds = (self.seen_seconds + elapsed).min(over);
        if self.seen_seconds > 0.0 {
            self.mean += (value - self.mean) * (elapsed / self.seen_seconds);
        }
        self.known |= self.seen_seconds >= over.min(KNOWN_AFTER_SECONDS);
    }

    /// The time until the next reading is not to be learnt from.
    pub fn pause(&mut self) {
        self.last_ns = None;
    }

    /// From now on this is usual.
    pub fn set(&mut self, value: f64) {
        *self = Usual { mean: value, ..Usual::nothing() };
    }
}
