// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::pipeline::testing::{DEF, Fake, event, workload};
use crate::signal::{Stage, Timestamp};

#[derive(Default)]
struct Seen {
    events: Mutex<Vec<Option<TraceId>>>,
    dropped: Mutex<BTreeMap<String, u64>>,
    suppressed: Mutex<BTreeMap<String, u64>>,
}

impl Observer for Seen {
    fn event(&self, _e: &Event, trace: Option<TraceId>) {
        self.events.lock().unwrap().push(trace);
    }

    fn dropped(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        *self.dropped.lock().unwrap().entry(key(stage, reason)).or_default() += n;
    }

    fn suppressed(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        *self.suppressed.lock().unwrap().entry(key(stage, reason)).or_default() += n;
    }
}

fn key(stage: Stage<'_>, reason: &str) -> String {
    let (label, name) = match stage {
        Stage::Collector(name) => ("collector", name),
        Stage::Exporter(name) => ("exporter", name),
    };
    format!("{label}={name} {reason}")
}

fn setup(
    observer: Arc<dyn Observer>,
    fake: Arc<Fake>,
    left_open: Vec<IncidentRecord>,
) -> (Sender, Pipeline, log::Committer) {
    let now = || Moment { wall: Timestamp(1_800_000_000_000_000_000), steady: Duration::from_secs(1) };
    let (log, committer) = Log::new(fake, observer.clone(), move || now().wall, EventId([0; 12]));
    let (sender, pipeline) = Pipeline::new(Setup {
        identity: Identity { host_id: "h".into(), boot_id: "b".into() },
        incidents: incident::Settings::default(),
        limit: RateLimit { burst: 3, per_second: 0.0 },
        log,
        observer,
        now: Box::new(now),
        last_id: None,
        left_open,
    });
    (sender, pipeline, committer)
}

/// From an event to the store: with its incident, counted each time, and limited, which the counter does not hide.
#[test]
fn events_are_counted_limited_and_stored() {
    let seen = Arc::new(Seen::default());
    let fake = Arc::new(Fake::default());
    let (sender, pipeline, committer) = setup(seen.clone(), fake.clone(), Vec::new());
    for _ in 0..5 {
        sender.send(Input::Event { collector: "test", event: event(&DEF, 1, Some(&workload(1))) });
    }
    let stop = AtomicBool::new(true);
    pipeline.run(&stop);
    committer.run(&stop);
    assert_eq!(seen.events.lock().unwrap().len(), 5);
    assert_eq!(seen.events.lock().unwrap().iter().flatten().count(), 3);
    assert_eq!(seen.suppressed.lock().unwrap()["collector=test limit"], 2);
    assert_eq!(fake.ids().len(), 3);
    let incidents = fake.incidents.lock().unwrap();
    assert_eq!(incidents.values().map(|i| (i.events, i.is_open())).collect::<Vec<_>>(), [(3, true)]);
}

/// What the last agent left open is closed in the store before anything else is logged.
#[test]
fn left_open_incidents_are_closed_at_start() {
    let fake = Arc::new(Fake::default());
    let left = IncidentRecord { raw_trace: vec![1; 16], start: 5, end: 9, ..IncidentRecord::default() };
    let (_sender, pipeline, committer) = setup(Arc::new(NoObserver), fake.clone(), vec![left]);
    let stop = AtomicBool::new(true);
    pipeline.run(&stop);
    committer.run(&stop);
    assert_eq!(fake.incidents.lock().unwrap()[&vec![1; 16]].end_reason, "agent_restart");
    assert_eq!(fake.ids().len(), 1, "its root");
}

/// A peak that did not last is left out on purpose: nothing is lost.
#[test]
fn a_peak_that_did_not_last_is_no_loss() {
    let seen = Arc::new(Seen::default());
    let (sender, pipeline, _committer) = setup(seen.clone(), Arc::default(), Vec::new());
    let target = crate::signal::Target { collector: "test", workload: Some(workload(1).key), detail: None };
    sender.send(Input::Change { collector: "test", change: Change::Discarded(target) });
    pipeline.run(&AtomicBool::new(true));
    assert!(seen.dropped.lock().unwrap().values().all(|n| *n == 0));
    assert_eq!(*seen.suppressed.lock().unwrap(), [("collector=test did_not_last".to_owned(), 1)].into());
}

/// A recovery that finds the queue full is not lost: its incident, and the next, would stay open.
#[test]
fn a_recovery_is_not_lost() {
    let (sender, mut pipeline, _committer) = setup(Arc::new(NoObserver), Arc::default(), Vec::new());
    let target = crate::signal::Target { collector: "test", workload: Some(workload(1).key), detail: None };
    for _ in 0..QUEUE {
        sender.send(Input::Workload(workload(1)));
    }
    sender.send(Input::Change { collector: "test", change: Change::Recovered(target.clone(), Timestamp(5)) });
    let trigger = crate::signal::Trigger {
        target,
        def: &DEF,
        severity: DEF.severity,
        onset: Timestamp(1),
        detected: Timestamp(2),
        workload: Some(workload(1)),
        message: "too much".into(),
        attributes: crate::signal::Attributes::new(),
        links: crate::signal::Links::default(),
        capture: false,
    };
    // It was open before.
    let now = |seconds| Moment { wall: Timestamp(10), steady: Duration::from_secs(seconds) };
    let mut out = Append::default();
    pipeline.incidents.onset("test", &trigger, &mut pipeline.ids, now(1), &mut out);
    pipeline.tick(now(2));
    pipeline.tick(now(60));
    assert_eq!(pipeline.incidents.open_count(), 0, "quiet since then, and not over its limit");
}

/// A full queue never blocks the sender; each loss is counted where it happened.
#[test]
fn a_full_queue_is_counted() {
    let seen = Arc::new(Seen::default());
    let (sender, pipeline, _committer) = setup(seen.clone(), Arc::default(), Vec::new());
    for _ in 0..QUEUE + 7 {
        sender.send(Input::Workload(workload(1)));
    }
    sender.send(Input::Event { collector: "test", event: event(&DEF, 1, None) });
    let dropped = seen.dropped.lock().unwrap();
    assert_eq!((dropped["exporter=store pipeline_full"], dropped["collector=test pipeline_full"]), (7, 1));
    drop(pipeline);
}
