// SPDX-License-Identifier: Apache-2.0
//! Names that come after their event was handed on: answers that were late, and questions that no helper was
//! free for. One thread waits for them; it is never an event that does.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lane::Pair;
use super::session::Open;
use super::{Failure, Helpers, trusted};
use crate::helper::messages::{Answer, Query};
use crate::probe::stacks::LateNames;
use crate::signal::ids::StackKey;

/// Between two looks whether a helper has answered; a question that nobody waits for holds up an event no longer.
const POLL: Duration = Duration::from_millis(20);
/// Questions that wait for a helper; of more stacks than that the names are not asked for again.
const WAITING: usize = 256;

/// A question that no helper was free for.
pub(super) struct Waiting {
    pub key: StackKey,
    pub query: Query,
    /// It is given up then.
    pub until: Instant,
}

/// What has not been named yet, and what was.
#[derive(Default)]
pub(super) struct Late {
    /// Keys are of this agent's run alone.
    run: RandomState,
    keys: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// A helper works on a question whose event did not wait for it.
    open: bool,
    named: Vec<LateNames>,
}

impl Late {
    pub fn key(&self) -> StackKey {
        StackKey(self.run.hash_one(self.keys.fetch_add(1, Ordering::Relaxed)))
    }

    /// Has it asked later; `false`: too many wait.
    pub fn wait_for(&self, question: Waiting) -> bool {
        let mut state = self.state();
        let room = state.waiting.len() < WAITING;
        if room {
            state.waiting.push_back(question);
            self.changed.notify_one();
        }
        room
    }

    /// A helper works on with nobody waiting.
    pub fn is_open(&self) {
        self.state().open = true;
        self.changed.notify_one();
    }

    /// A helper has answered a question.
    pub fn answered(&self, open: Open, answer: Answer) {
        let (Some(key), Query::Frames { pid, addresses }, Answer::Frames { frames, .. }) =
            (open.late, open.query, answer)
        else {
            return;
        };
        if !frames.is_empty() {
            let frames = trusted(frames, &addresses);
            self.state().named.push(LateNames::new(key, pid, &addresses, frames));
            self.changed.notify_one();
        }
    }

    /// Until there is something to do, or it is to stop.
    fn wait(&self, stop: &AtomicBool) {
        let idle =
            |s: &mut State| s.waiting.is_empty() && !s.open && s.named.is_empty() && !stop.load(Ordering::Relaxed);
        drop(self.changed.wait_while(self.state(), idle));
    }

    /// The next question to ask.
    fn next(&self) -> Option<Waiting> {
        let mut state = self.state();
        let now = Instant::now();
        state.waiting.retain(|w| w.until > now);
        state.waiting.pop_front()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Helpers {
    /// Wakes who hands over late names, to see whether to stop.
    pub fn wake(&self) {
        drop(self.late.state());
        self.late.changed.notify_all();
    }

    /// Hands over names that came late, until `stop` and [`Self::wake`]. For a thread of its own.
    pub fn name_late(&self, stop: &AtomicBool, deliver: impl Fn(LateNames)) {
        loop {
            self.late.wait(stop);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let soon = self.look_for_late();
            let named = std::mem::take(&mut self.late.state().named);
            named.into_iter().for_each(&deliver);
            if !soon {
                std::thread::sleep(POLL);
            }
        }
    }

    /// Whether the next question can be asked at once.
    fn look_for_late(&self) -> bool {
        // Who has it looks after late answers, too.
        let Some(mut pair) = self.events.take(Instant::now()) else { return false };
        self.settle(&mut pair);
        // While this is held, nobody asks.
        self.late.state().open = pair.iter().flatten().any(|s| s.is_late());
        // One stays free for events.
        if is_busy(&pair) {
            return false;
        }
        let Some(Waiting { key, query, .. }) = self.late.next() else { return true };
        match self.ask_one(&mut pair, query, Instant::now() + POLL, Some(key)) {
            Ok((mut open, answer)) => {
                open.late = Some(key);
                self.late.answered(open, answer);
            }
            Err(failure) => return failure != Failure::TimedOut,
        }
        true
    }
}

fn is_busy(pair: &Pair) -> bool {
    pair.iter().flatten().any(|s| s.busy_with().is_some())
}
