// SPDX-License-Identifier: Apache-2.0
//! What happens to signals between collectors and exporters: ids, incidents, limits, the log.

pub mod backing;
pub mod incident;
pub mod limits;
pub mod log;
pub mod metrics;
mod spans;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::signal::entry::IncidentRecord;
use crate::signal::ids::{EventId, EventIds, TraceId};
use crate::signal::{CaptureProgress, Change, Event, StackNames, Stage, Target, Timestamp, Workload, otlp};
use incident::{Identity, Incidents, Moment};
use limits::{Limits, RateLimit};
use log::{Append, Log};

/// Inputs that wait; beyond, they are dropped and counted.
const QUEUE: usize = 2048;
/// Inputs that go to the log together, where so many wait: each append takes the log's lock and wakes
/// its committer.
const TOGETHER: usize = 128;
/// Between two looks whether an incident is over.
const TICK: Duration = Duration::from_secs(1);

/// What collectors and the workload table hand to the pipeline.
#[derive(Debug)]
pub enum Input {
    Event {
        collector: &'static str,
        event: Event,
    },
    Change {
        collector: &'static str,
        change: Change,
    },
    Capture {
        collector: &'static str,
        progress: CaptureProgress,
    },
    /// Something about a workload has changed.
    Workload(Arc<Workload>),
    /// Names of a stack, which its event did not wait for.
    Names(StackNames),
    /// Changed settings.
    Incidents(incident::Settings),
    /// Answers that the pipeline still turns.
    Answer(Arc<AtomicBool>),
}

impl Input {
    /// What it is counted under when there is no room. A new name, which is no collector's, is missing in the store.
    fn stage(&self) -> Stage<'static> {
        match self {
            Input::Event { collector, .. } | Input::Change { collector, .. } | Input::Capture { collector, .. } => {
                Stage::Collector(collector)
            }
            Input::Workload(_) | Input::Names(_) | Input::Incidents(_) | Input::Answer(_) => Stage::Exporter("store"),
        }
    }
}

/// Who wants to know what passes: the metric state, and the agent's own counters.
pub trait Observer: Send + Sync {
    /// An event or onset has happened; each one, also those that are then suppressed.
    fn event(&self, _e: &Event, _trace: Option<TraceId>) {}
    /// `n` events are gone.
    fn dropped(&self, _stage: Stage<'_>, _reason: &'static str, _n: u64) {}
    /// `n` events were left out on purpose.
    fn suppressed(&self, _stage: Stage<'_>, _reason: &'static str, _n: u64) {}
    /// `n` entries are in the store.
    fn accepted(&self, _n: u64) {}
    fn incidents_open(&self, _n: usize) {}
    /// `ok` or `degraded`.
    fn store_state(&self, _state: &'static str) {}
    fn store_size(&self, _bytes: u64) {}
    fn store_committed(&self, _took: Duration) {}
}

/// An observer that looks away.
#[cfg(feature = "internals")]
pub struct NoObserver;
#[cfg(feature = "internals")]
impl Observer for NoObserver {}

/// The pipeline's entrance. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    tx: SyncSender<Input>,
    /// Recoveries that found no room, at most one a target: without them incidents would stay open.
    recovered: Arc<Mutex<Vec<(Target, Timestamp)>>>,
    observer: Arc<dyn Observer>,
}

impl Sender {
    /// Never blocks: the ring buffers' readers must go on. A full queue is a counted loss.
    pub fn send(&self, input: Input) {
        match self.tx.try_send(input) {
            Err(TrySendError::Full(Input::Change { change: Change::Recovered(target, at), .. })) => {
                self.recovered.lock().unwrap_or_else(PoisonError::into_inner).push((target, at));
            }
            Err(TrySendError::Full(input)) => self.observer.dropped(input.stage(), "pipeline_full", 1),
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Has the pipeline set `answer`; `false`: the queue is full and takes no question.
    #[must_use]
    pub fn ask(&self, answer: &Arc<AtomicBool>) -> bool {
        self.tx.try_send(Input::Answer(answer.clone())).is_ok()
    }
}

/// What a pipeline is made of.
pub struct Setup {
    pub identity: Identity,
    pub incidents: incident::Settings,
    pub limit: RateLimit,
    pub log: Log,
    pub observer: Arc<dyn Observer>,
    pub now: Box<dyn Fn() -> Moment + Send>,
    /// The newest id in the store: ids only grow, even when the clock was set back.
    pub last_id: Option<EventId>,
    /// What the last agent left open.
    pub left_open: Vec<IncidentRecord>,
}

/// The thread between collectors and log.
pub struct Pipeline {
    rx: Receiver<Input>,
    recovered: Arc<Mutex<Vec<(Target, Timestamp)>>>,
    incidents: Incidents,
    limits: Limits,
    ids: EventIds,
    log: Log,
    observer: Arc<dyn Observer>,
    now: Box<dyn Fn() -> Moment + Send>,
}

impl Pipeline {
    /// A pipeline and its entrance. Incidents that were left open are closed at once.
    #[must_use]
    pub fn new(s: Setup) -> (Sender, Pipeline) {
        let (tx, rx) = sync_channel(QUEUE);
        let mut ids = EventIds::new(&s.identity.host_id, s.last_id.map_or(0, EventId::time_ns));
        s.log.append(Incidents::close_left_open(s.left_open, &mut ids, (s.now)()));
        let recovered = Arc::<Mutex<_>>::default();
        let sender = Sender { tx, recovered: recovered.clone(), observer: s.observer.clone() };
        let pipeline = Pipeline {
            rx,
            recovered,
            incidents: Incidents::new(s.identity, s.incidents),
            limits: Limits::new(s.limit),
            ids,
            log: s.log,
            observer: s.observer,
            now: s.now,
        };
        (sender, pipeline)
    }

    /// Works until `stop` (then through what is queued) or until every sender is gone. For a thread
    /// of its own.
    pub fn run(mut self, stop: &AtomicBool) {
        let mut tick_at = (self.now)().steady + TICK;
        loop {
            let now = (self.now)();
            if now.steady >= tick_at {
                tick_at = now.steady + TICK;
                self.tick(now);
            }
            if stop.load(Ordering::Relaxed) {
                while let Ok(input) = self.rx.try_recv() {
                    self.take(input);
                }
                return;
            }
            match self.rx.recv_timeout(tick_at.saturating_sub(now.steady).min(TICK)) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tick(&mut self, now: Moment) {
        let recovered = std::mem::take(&mut *self.recovered.lock().unwrap_or_else(PoisonError::into_inner));
        for (target, at) in recovered {
            self.incidents.recovered(&target, at, now);
        }
        let mut out = Append::default();
        self.incidents.tick(&mut self.ids, now, &mut out);
        self.append(out);
        self.observer.incidents_open(self.incidents.open_count());
    }

    fn append(&mut self, mut out: Append) {
        self.incidents.changed(&mut out);
        if !out.entries.is_empty() || !out.incidents.is_empty() {
            self.log.append(out);
        }
    }

    /// Works off an input and what waits behind it.
    fn take(&mut self, first: Input) {
        let mut out = Append::default();
        self.work_off(first, &mut out);
        for _ in 1..TOGETHER {
            let Ok(input) = self.rx.try_recv() else { break };
            self.work_off(input, &mut out);
        }
        self.append(out);
    }

    fn work_off(&mut self, input: Input, out: &mut Append) {
        let now = (self.now)();
        match input {
            Input::Event { collector, event } => self.event(collector, event, now, out),
            Input::Change { collector, change: Change::Onset(t) } => {
                let trace = self.incidents.onset(collector, &t, &mut self.ids, now, out);
                self.observer.event(&otlp::trigger_event(&t), trace);
            }
            Input::Change { change: Change::Recovered(target, at), .. } => self.incidents.recovered(&target, at, now),
            Input::Change { collector, change: Change::Discarded(..) } => {
                self.observer.suppressed(Stage::Collector(collector), "did_not_last", 1);
            }
            Input::Capture { collector, progress } => {
                let holds = matches!(progress, CaptureProgress::Part(_) | CaptureProgress::Ended(_));
                if !self.incidents.capture(collector, &progress, &mut self.ids, now, out) && holds {
                    self.observer.dropped(Stage::Collector(collector), "no_incident", 1);
                }
            }
            Input::Workload(w) => {
                // What came before has the older name, which must not come after it.
                self.append(std::mem::take(out));
                self.log.renamed(&w);
            }
            Input::Names(names) => {
                self.append(std::mem::take(out));
                self.log.named(names);
            }
            Input::Incidents(settings) => self.incidents.set(settings),
            Input::Answer(answer) => answer.store(true, Ordering::Relaxed),
        }
    }

    fn event(&mut self, collector: &'static str, mut event: Event, now: Moment, out: &mut Append) {
        let key = event.workload.as_ref().map(|w| w.key);
        let passed = self.limits.pass(event.def.name, key, event.suppressed, now.steady);
        self.observer.suppressed(Stage::Collector(collector), "limit", u64::from(passed.is_none()));
        let Some(suppressed) = passed else {
            self.observer.event(&event, None);
            return;
        };
        event.suppressed = suppressed;
        let trace = self.incidents.event(collector, &event, &mut self.ids, now, out);
        self.observer.event(&event, trace);
    }
}

#[cfg(test)]
mod tests;
