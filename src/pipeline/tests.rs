// SPDX-License-Identifier: Apache-2.0
use std::sync::Mutex;

use super::*;
use crate::pipeline::testing::{DEF, Fake, event, workload};
use crate::signal::Timestamp;

#[derive(Default)]
struct Seen {
    events: Mutex<Vec<Option<TraceId>>>,
    dropped: Mutex<u64>,
    suppressed: Mutex<u64>,
}

impl Observer for Seen {
    fn event(&self, _e: &Event, trace: Option<TraceId>) {
        self.events.lock().unwrap().push(trace);
    }

    fn dropped(&self, _who: &str, _reason: &'static str, n: u64) {
        *self.dropped.lock().unwrap() += n;
    }

    fn suppressed(&self, _collector: &str, n: u64) {
        *self.suppressed.lock().unwrap() += n;
    }
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
    assert_eq!(*seen.suppressed.lock().unwrap(), 2);
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

/// A full queue never blocks the sender; each loss is counted.
#[test]
fn a_full_queue_is_counted() {
    let seen = Arc::new(Seen::default());
    let (sender, pipeline, _committer) = setup(seen.clone(), Arc::default(), Vec::new());
    for _ in 0..QUEUE + 7 {
        sender.send(Input::Workload(workload(1)));
    }
    assert_eq!(*seen.dropped.lock().unwrap(), 7);
    drop(pipeline);
}
