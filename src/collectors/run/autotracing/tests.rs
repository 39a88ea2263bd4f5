// SPDX-License-Identifier: Apache-2.0

use crate::collectors::run::Limited;
use std::future::Future;
use std::pin::Pin;

use super::super::{State, Statuses};
use super::*;
use crate::collectors::registry::CaptureFuture;
use crate::host::Now;
use crate::pipeline::testing::{DEF, event};
use crate::signal::{Attributes, Event, Links, Metrics, Timestamp};

/// A tracer whose capture sends a part, and then does as it is told.
struct Tracer(fn() -> anyhow::Result<()>);

fn target() -> Target {
    Target { collector: "test", workload: None, detail: None }
}

impl RunningTracer for Tracer {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        let e = event(&DEF, now.wall.0, None);
        Ok(vec![Change::Onset(Trigger {
            target: target(),
            def: e.def,
            severity: e.severity,
            onset: now.wall,
            detected: now.wall,
            workload: None,
            message: e.message,
            attributes: Attributes::new(),
            links: Links::default(),
            capture: true,
        })])
    }

    fn capture(&mut self, trigger: &Trigger, _: Limits, parts: Parts) -> CaptureFuture {
        let (end, at) = (self.0, trigger.onset);
        Box::pin(async move {
            parts.send("part", at, at, Vec::new());
            end().map(|()| Capture::new("whole", target(), at, at))
        })
    }

    fn period(&self) -> Duration {
        Duration::ZERO
    }

    fn reload(&mut self, _: &toml::Table) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Notes how captures go; they run where they are spawned.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl CollectorSink for Noted {
    fn metrics(&self, _: &'static str, _: &mut Metrics) {}
    fn event(&self, _: &'static str, _: Event, _: Limited) {}
    fn change(&self, _: &'static str, change: Change) -> bool {
        if let Change::Recovered(..) = change {
            self.0.lock().unwrap().push("recovered".into());
        }
        true
    }
    fn capture(&self, _: &'static str, progress: CaptureProgress) {
        self.0.lock().unwrap().push(match progress {
            CaptureProgress::Begun(_) => "begun".into(),
            CaptureProgress::Part(c) => format!("part {}", c.name),
            CaptureProgress::Ended(c) => format!("ended {}", c.name),
            CaptureProgress::Failed(_) => "failed".into(),
        });
    }
    fn dropped(&self, _: &'static str, reason: &'static str, _: u64) {
        self.0.lock().unwrap().push(reason.into());
    }
    fn suppressed(&self, _: &'static str, _: &'static str, _: u64) {}
    fn ran(&self, _: &'static str, _: Duration, _: bool) {}
    fn spawn(&self, capture: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // A task's panic is the task's end.
        drop(std::thread::spawn(move || runtime.block_on(capture)).join());
    }
    fn state(&self, _: &'static str, _: State) {}
}

/// Finds something at its first check, and panics at the second.
struct Panics(u32);

impl RunningTracer for Panics {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        self.0 += 1;
        assert!(self.0 < 2, "as it was asked to");
        let mut changes = Tracer(|| Ok(())).check(now)?;
        if let Some(Change::Onset(trigger)) = changes.first_mut() {
            trigger.capture = false;
        }
        Ok(changes)
    }
    fn capture(&mut self, _: &Trigger, _: Limits, _: Parts) -> CaptureFuture {
        unreachable!("nothing is captured")
    }
    fn period(&self) -> Duration {
        Duration::ZERO
    }
    fn reload(&mut self, _: &toml::Table) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What a tracer that panics had found is over: it would not say so any more, and the incident would stay open.
#[test]
fn what_a_tracer_found_ends_with_it() {
    let noted = Arc::new(Noted::default());
    let mut watching = watching(Box::new(Panics(0)), &shared(&noted));
    watching.on_time();
    assert!(noted.0.lock().unwrap().is_empty());
    watching.on_time();
    assert_eq!(*noted.0.lock().unwrap(), ["recovered"]);
}

fn shared(noted: &Arc<Noted>) -> Shared {
    Shared {
        sink: noted.clone(),
        statuses: Arc::new(Statuses::default()),
        clock: Clock::fixed(Timestamp(1), 1),
        captures: Captures::default(),
        limits: Limits { duration: Duration::from_secs(1), stacks: 1 },
    }
}

fn watching(tracer: Box<dyn RunningTracer>, shared: &Shared) -> Watching {
    Watching {
        slot: Slot::new("test", tracer, LIMIT, shared),
        due: Instant::now(),
        limits: shared.limits,
        clock: shared.clock.clone(),
        captures: shared.captures.clone(),
        open: HashSet::new(),
    }
}

/// What is noted of a capture that ends so, and whether there may be another.
fn capture(end: fn() -> anyhow::Result<()>) -> (Vec<String>, bool) {
    let noted = Arc::new(Noted::default());
    let shared = shared(&noted);
    let mut watching = watching(Box::new(Tracer(end)), &shared);
    watching.on_time();
    let all = std::mem::take(&mut *noted.0.lock().unwrap());
    (all, shared.captures.lock().is_empty())
}

/// A capture is announced, hands over its parts before it ends, and makes room for the next.
#[test]
fn parts_come_before_the_end() {
    assert_eq!(capture(|| Ok(())), (["begun", "part part", "ended whole"].map(String::from).to_vec(), true));
}

/// One that fails or panics is no longer under way either, and is counted.
#[test]
fn a_failed_capture_is_over() {
    let want = (["begun", "part part", "capture_failed", "failed"].map(String::from).to_vec(), true);
    assert_eq!(capture(|| Err(anyhow::anyhow!("no"))), want);
    assert_eq!(capture(|| panic!("no")), want);
}
