// SPDX-License-Identifier: Apache-2.0
//! Starts the helper processes, asks them within a time, and ends them: when nobody asks, when they do not
//! answer, and when they failed. One that cannot be ended, as a file system holds it, is left behind.

mod known;
mod lane;
mod late;
mod session;
mod start;
mod strangers;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::helper::messages::{Answer, DEPTH, Query};
use crate::pipeline::metrics::SelfMetrics;
use crate::probe::stacks::{Named, Urgency, UserSymbols};
use crate::signal::Frame;
use crate::signal::ids::StackKey;
use known::Known;
use lane::{Lane, Pair};
use late::{Late, Waiting};
use session::{Heard, Open, Session};
use start::Running;

/// How long a helper that was started while nobody asked waits for its place.
const PLACE: Duration = Duration::from_secs(1);

/// Both kinds of helper: who names the stack of an event waits for no capture.
pub(super) struct Helpers {
    events: Lane,
    captures: Lane,
    late: Late,
    known: Mutex<Known>,
    own: SelfMetrics,
    start: Start,
    /// A helper that works on one question for so long is ended.
    hangs: Duration,
}

type Start = Box<dyn Fn() -> io::Result<Running> + Send + Sync>;

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// A helper works on it.
    TimedOut,
    /// No helper was free in time.
    Busy,
    /// The helper did, or said nonsense.
    Ended,
    /// What it is about has made a helper fail, and is left alone.
    Refused,
    NotStarted,
}

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Failure::TimedOut => "timed_out",
            Failure::Busy => "busy",
            Failure::Ended => "ended",
            Failure::Refused => "refused",
            Failure::NotStarted => "not_started",
        }
    }
}

impl UserSymbols for Helpers {
    fn frames(&self, pid: u32, addresses: &[u64], urgency: Urgency, until: Instant) -> Named {
        let query = Query::Frames { pid, addresses: addresses.iter().copied().take(DEPTH).collect() };
        let asked = match urgency {
            Urgency::Event => return self.of_event(query, addresses, until),
            Urgency::Capture if until <= Instant::now() => return Named::Unknown,
            Urgency::Capture => self.ask(&self.captures, query, until, None),
        };
        asked.map_or(Named::Unknown, |answer| named(answer, addresses))
    }

    fn trim(&self, quiet: Duration) {
        for lane in [&self.events, &self.captures] {
            // One that is taken is in use.
            let Some(mut pair) = lane.take(Instant::now()) else { continue };
            self.settle(&mut pair);
            for slot in pair.iter_mut() {
                self.retire(slot.take_if(|s| s.is_idle(quiet)));
            }
        }
        self.have_one_for_events();
        self.known().check();
    }

    fn impaired(&self) -> Option<String> {
        let mut known = self.known();
        known.check();
        known.impaired()
    }
}

impl Helpers {
    /// `own`: where it is counted what could not be asked.
    pub fn new(own: SelfMetrics) -> Self {
        Self::starting(Box::new(start::start), own, Duration::from_secs(2), Duration::from_millis(500))
    }

    fn starting(start: Start, own: SelfMetrics, hangs: Duration, dies: Duration) -> Self {
        let (events, captures, late) = (Lane::default(), Lane::default(), Late::default());
        Helpers { events, captures, late, known: Mutex::new(Known::new(dies)), own, start, hangs }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked though its time may be over: names can come later.
    fn of_event(&self, query: Query, addresses: &[u64], until: Instant) -> Named {
        let key = self.late.key();
        match self.ask(&self.events, query.clone(), until, Some(key)) {
            Ok(answer) => named(answer, addresses),
            Err(Failure::TimedOut) => Named::Late(key),
            Err(Failure::Busy) => {
                let waits = self.late.wait_for(Waiting { key, query, until: Instant::now() + self.hangs });
                if waits { Named::Late(key) } else { Named::Unknown }
            }
            Err(_) => Named::Unknown,
        }
    }

    /// `late`: under which the answer is taken when it comes after `until`.
    fn ask(&self, lane: &Lane, query: Query, until: Instant, late: Option<StackKey>) -> Result<Answer, Failure> {
        let answer = lane.take(until).ok_or(Failure::Busy).and_then(|mut pair| {
            self.settle(&mut pair);
            self.ask_one(&mut pair, query, until, late)
        });
        let answer = answer.inspect_err(|why| self.own.helper_failed(why.name()));
        answer.map(|(_, answer)| answer)
    }

    /// Asks one of two that are looked after.
    fn ask_one(
        &self,
        pair: &mut Pair,
        query: Query,
        until: Instant,
        late: Option<StackKey>,
    ) -> Result<(Open, Answer), Failure> {
        let devices = self.known().devices(&query.subject()).ok_or(Failure::Refused)?;
        if query.device().is_some_and(|d| !devices.allow(d)) {
            return Err(Failure::Refused);
        }
        // Two that are late are waited for no longer than is asked.
        let slot = self.free(pair).ok_or(Failure::Busy)?;
        let session = slot.as_mut().ok_or(Failure::NotStarted)?;
        let asked = session.ask(query, devices);
        match if asked { session.hear(until, &self.known) } else { Heard::Failed } {
            Heard::Answer(open, answer) => Ok((open, answer)),
            Heard::Late => {
                session.wait_no_longer(late);
                if late.is_some() {
                    self.late.is_open();
                }
                Err(Failure::TimedOut)
            }
            Heard::Failed => {
                self.failed(slot.take());
                Err(Failure::Ended)
            }
        }
    }

    /// A helper that can be asked; started, if there is none. `None`: both are busy.
    fn free<'p>(&self, pair: &'p mut Pair) -> Option<&'p mut Option<Session>> {
        let idle = |s: &Option<Session>| s.as_ref().is_some_and(|s| s.busy_with().is_none());
        if let Some(at) = pair.iter().position(idle) {
            return pair.get_mut(at);
        }
        let empty = pair.iter_mut().find(|s| s.is_none())?;
        *empty = self.start_one();
        Some(empty)
    }

    /// One waits for the next event: until it were started, a program that is killed is gone. No event waits
    /// for the start.
    fn have_one_for_events(&self) {
        let has_one = |pair: &Pair| pair.iter().flatten().any(|s| s.busy_with().is_none());
        if self.events.take(Instant::now()).is_none_or(|pair| has_one(&pair) || pair.iter().all(Option::is_some)) {
            return;
        }
        let Some(session) = self.start_one() else { return };
        let Some(mut pair) = self.events.take(Instant::now() + PLACE) else { return self.retire(Some(session)) };
        // An event may have started one meanwhile.
        match pair.iter_mut().find(|s| s.is_none()) {
            Some(empty) => *empty = Some(session),
            None => self.retire(Some(session)),
        }
    }

    /// Looks after questions that were not answered in time.
    fn settle(&self, pair: &mut Pair) {
        for slot in pair {
            let Some(session) = slot.as_mut().filter(|s| s.busy_with().is_some()) else { continue };
            match session.hear(Instant::now(), &self.known) {
                Heard::Answer(open, answer) => self.late.answered(open, answer),
                Heard::Late if session.hangs(self.hangs) => self.leave(slot.take()),
                Heard::Late => {}
                Heard::Failed => self.failed(slot.take()),
            }
        }
    }

    fn start_one(&self) -> Option<Session> {
        if !self.known().may_start() {
            return None;
        }
        let started = (self.start)();
        let failed = |e: &io::Error| {
            if self.known().start_failed.replace(Instant::now()).is_none() {
                tracing::warn!("no helper can be started, so functions of programs have no names: {e}");
            }
        };
        started.inspect_err(failed).ok().map(Session::new)
    }

    /// Ends a helper that does not answer.
    fn leave(&self, session: Option<Session>) {
        let Some(session) = session else { return };
        let mut known = self.known();
        if let Some(about) = session.busy_with() {
            tracing::debug!(?about, device = session.device, "a helper did not answer in time and is ended");
            known.avoid(about);
        }
        if session.device != 0 {
            known.devices.insert(session.device, Instant::now());
        }
        known.end(session.running.processes, session.device);
    }

    /// A helper has failed on what it was asked.
    fn failed(&self, session: Option<Session>) {
        let Some(session) = session else { return };
        let mut known = self.known();
        if let Some(about) = session.busy_with() {
            tracing::debug!(?about, "a helper failed");
            known.avoid(about);
        }
        known.warn_if_none_works();
        known.end(session.running.processes, session.device);
    }

    fn retire(&self, session: Option<Session>) {
        if let Some(session) = session {
            self.known().end(session.running.processes, session.device);
        }
    }
}

fn named(answer: Answer, addresses: &[u64]) -> Named {
    match answer {
        Answer::Frames { frames, .. } if !frames.is_empty() => Named::Frames(trusted(frames, addresses)),
        _ => Named::Unknown,
    }
}

/// What a parser that was taken over may say: frames of the stack in question, and no others.
fn trusted(mut frames: Vec<Frame>, addresses: &[u64]) -> Vec<Frame> {
    frames.truncate(addresses.len());
    frames.iter_mut().zip(addresses).for_each(|(f, a)| f.address = *a);
    frames
}
