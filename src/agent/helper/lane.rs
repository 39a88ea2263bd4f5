// SPDX-License-Identifier: Apache-2.0
//! Helpers that are asked for the same purpose, by one at a time.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::session::Session;

/// Two helpers, so that while one is late with an answer the other is asked.
pub(super) type Pair = [Option<Session>; 2];

/// One question is asked at a time.
pub(super) struct Lane {
    /// `None` while somebody asks.
    pair: Mutex<Option<Pair>>,
    free: Condvar,
}

impl Default for Lane {
    fn default() -> Self {
        Lane { pair: Mutex::new(Some(Pair::default())), free: Condvar::new() }
    }
}

impl Lane {
    /// The helpers, and the right to ask; `None` when another has it until then.
    pub fn take(&self, until: Instant) -> Option<Taken<'_>> {
        let mut pair = self.pair();
        loop {
            if let Some(pair) = pair.take() {
                return Some(Taken { lane: self, pair });
            }
            let left = until.checked_duration_since(Instant::now())?;
            (pair, _) = self.free.wait_timeout(pair, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pair(&self) -> MutexGuard<'_, Option<Pair>> {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to ask, given back when this is dropped, also by who panics.
pub(super) struct Taken<'l> {
    lane: &'l Lane,
    pair: Pair,
}

impl Deref for Taken<'_> {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.lane.pair() = Some(std::mem::take(&mut self.pair));
        self.lane.free.notify_one();
    }
}
