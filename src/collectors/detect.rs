// SPDX-License-Identifier: Apache-2.0
//! When a figure is too much: of each key its level, its jump against the usual, and how soon it meets a limit;
//! whether that lasts, and when it is over. A state machine without a clock or a kernel of its own: a tracer hands in
//! one reading of each key every second or so, in rounds, and acts on the steps.

mod trend;
mod usual;
mod watch;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::collectors::Invalid;
use crate::host::Now;
use crate::signal::units::{HumanDuration, ns};

pub use watch::Step;
use watch::Watch;

/// When figures are too much. They are what the tracer wants them to be, all in one unit; a rule that is `None`
/// never holds.
#[derive(Debug, Clone)]
pub struct Rules {
    /// At or above this it is too much.
    pub level: Option<f64>,
    /// So much above the usual is too much.
    pub jump: Option<f64>,
    pub approach: Option<Approach>,
    /// It must hold for so long.
    pub window: Duration,
    /// After evidence was taken of a key, none is taken of it for so long.
    pub cool_down: Duration,
    /// So many readings in a row that are not too much are a recovery.
    pub calm: u32,
    /// The usual follows the figure with this time constant.
    pub usual_over: Duration,
    /// A jump that lasts so long is the new usual. A level is too much for as long as it holds.
    pub new_usual: Duration,
    /// A key without a reading for so long is forgotten.
    pub forget: Duration,
    /// Keys that are watched at once; further ones are not.
    pub keys: usize,
}

impl Default for Rules {
    /// No rule that holds, and times that suit a reading a second.
    fn default() -> Self {
        Rules {
            level: None,
            jump: None,
            approach: None,
            window: Duration::from_secs(10),
            cool_down: Duration::from_secs(60),
            calm: 3,
            usual_over: Duration::from_secs(60),
            new_usual: Duration::from_secs(600),
            forget: Duration::from_secs(30),
            keys: 16_384,
        }
    }
}

/// Checks the settings of tracers of a share: `usage_limit` and `jump_limit`, `window`, `capture`.
///
/// # Errors
/// The one that is out of its range.
pub fn check_limits(shares: (f64, f64), window: HumanDuration, capture: HumanDuration) -> Result<(), Invalid> {
    for (key, share) in [("usage_limit", shares.0), ("jump_limit", shares.1)] {
        Invalid::unless((0.1..=1.0).contains(&share), key, share, "from 0.1 to 1")?;
    }
    let (second, most) = (Duration::from_secs(1), Duration::from_secs(300));
    Invalid::unless_within(second * 2..=most, "window", window, "from 2s to 5m")?;
    Invalid::unless_within(second..=most, "capture", capture, "from 1s to 5m")
}

/// The figure grows towards a limit, and meets it soon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Approach {
    pub limit: f64,
    /// At its present rate it is there within this time.
    pub within: Duration,
    /// The rate is that of this last stretch of time.
    pub over: Duration,
}

/// Why a figure is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Level,
    Jump,
    Approach,
}

/// One key's figure now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// One that is no number counts as calm; nothing is learnt from it.
    pub value: f64,
    /// By the tracer's own measure so small that it cannot be too much, whatever the rules say.
    pub negligible: bool,
    /// Evidence of it would be of use to somebody.
    pub wanted: bool,
}

/// What is known of all keys.
#[derive(Debug)]
pub struct Detector<K> {
    keys: HashMap<K, Watch>,
    /// It was said that there are too many keys.
    crowded: bool,
}

impl<K> Default for Detector<K> {
    fn default() -> Self {
        Detector { keys: HashMap::new(), crowded: false }
    }
}

impl<K: Hash + Eq + Copy> Detector<K> {
    /// A key that was there before anybody looked: what is usual for it is not known, and is learnt first. Of one
    /// that is first seen in [`Self::step`] it is known: nothing.
    pub fn was_there(&mut self, rules: &Rules, key: K, now: Now) {
        if self.has_room(rules, key) {
            self.keys.entry(key).or_insert_with(|| Watch::of_unknown(now));
        }
    }

    /// Takes in one key's reading. All readings of a round have the same `now`.
    pub fn step(&mut self, rules: &Rules, key: K, reading: Reading, now: Now) -> Step {
        if !self.has_room(rules, key) {
            return Step::Nothing;
        }
        self.keys.entry(key).or_insert_with(|| Watch::of_new(now)).step(rules, reading, now)
    }

    /// Ends a round: keys without a reading in it did nothing, and are forgotten after a while. What is to be done about
    /// those for which something is.
    pub fn end_round(&mut self, rules: &Rules, now: Now) -> Vec<(K, Step)> {
        let mut steps = Vec::new();
        self.keys.retain(|key, watch| {
            if watch.seen_ns() == now.boot_ns {
                return true;
            }
            let gone = now.boot_ns.saturating_sub(watch.seen_ns()) > ns(rules.forget);
            match if gone { watch.end() } else { watch.absent(rules, now) } {
                Step::Nothing => {}
                step => steps.push((*key, step)),
            }
            !gone
        });
        self.crowded &= self.keys.len() >= rules.keys;
        steps
    }

    /// Whether something is known of the key.
    #[must_use]
    pub fn watches(&self, key: K) -> bool {
        self.keys.contains_key(&key)
    }

    /// What is usual for a key, where that is known.
    #[must_use]
    pub fn usual(&self, key: K) -> Option<f64> {
        self.keys.get(&key)?.usual()
    }

    /// Ends all: every key for which something was begun or is open, with what ends it.
    pub fn end(&mut self) -> Vec<(K, Step)> {
        let ended = self.keys.drain().map(|(key, mut watch)| (key, watch.end()));
        ended.filter(|(_, step)| !matches!(step, Step::Nothing)).collect()
    }

    fn has_room(&mut self, rules: &Rules, key: K) -> bool {
        let room = self.keys.len() < rules.keys || self.keys.contains_key(&key);
        if !room && !std::mem::replace(&mut self.crowded, true) {
            tracing::warn!("more than {} are there to be watched: further ones are not", rules.keys);
        }
        room
    }
}

/// Seconds from one moment on the boot clock to another; 0 where it is not later.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

#[cfg(test)]
mod tests;
