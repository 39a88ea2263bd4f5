// SPDX-License-Identifier: Apache-2.0
//! Collectors that hang, panic and are reloaded, beside ones that do not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::collectors::Events;
use crate::collectors::registry::{CaptureFuture, RunningEvents, RunningMetrics, RunningTracer};
use crate::host::Now;
use crate::signal::Trigger;

/// Counts what each collector delivered, and remembers their states.
#[derive(Default)]
struct Seen {
    runs: Mutex<std::collections::BTreeMap<&'static str, usize>>,
    dropped: AtomicU64,
    states: Mutex<Vec<(&'static str, State)>>,
}

impl Seen {
    fn runs(&self, name: &str) -> usize {
        self.runs.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl CollectorSink for Seen {
    fn metrics(&self, _: &'static str, _: &mut Metrics) {}
    fn event(&self, _: &'static str, _: Event, _: Limited) {}
    fn change(&self, _: &'static str, _: Change) -> bool {
        true
    }
    fn capture(&self, _: &'static str, _: CaptureProgress) {}
    fn dropped(&self, _: &'static str, _: &'static str, n: u64) {
        self.dropped.fetch_add(n, Ordering::Relaxed);
    }
    fn suppressed(&self, _: &'static str, _: &'static str, _: u64) {}
    fn ran(&self, collector: &'static str, _: Duration, _: bool) {
        *self.runs.lock().unwrap().entry(collector).or_default() += 1;
    }
    fn state(&self, collector: &'static str, state: State) {
        self.states.lock().unwrap().push((collector, state));
    }
    fn spawn(&self, _: Pin<Box<dyn Future<Output = ()> + Send>>) {}
}

/// A collector of any kind; each call takes one `permit`, or waits for one.
struct Fake {
    permits: Option<Receiver<()>>,
    calls: Arc<AtomicUsize>,
    reloads: Arc<AtomicUsize>,
    panics: bool,
}

impl Fake {
    fn call(&self) -> anyhow::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(permits) = &self.permits {
            permits.recv()?;
        }
        assert!(!self.panics, "as it was asked to");
        Ok(())
    }
    fn reloaded(&self) -> anyhow::Result<()> {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct OfMetrics(Fake);
struct OfEvents(Fake);
struct OfTracer(Fake);

impl RunningMetrics for OfMetrics {
    fn collect(&mut self, _: &mut Metrics) -> anyhow::Result<()> {
        self.0.call()
    }
    fn reload(&mut self, _: &toml::Table) -> anyhow::Result<()> {
        self.0.reloaded()
    }
}

impl RunningEvents for OfEvents {
    fn on_record(&mut self, _: usize, _: &[u8], _: &mut Events) -> anyhow::Result<()> {
        self.0.call()
    }
    fn rings(&self) -> &'static [crate::probe::RingDef] {
        &[]
    }
    fn period(&self) -> Option<Duration> {
        Some(Duration::from_millis(5))
    }
    fn tick(&mut self, _: Now, _: &mut Events) -> anyhow::Result<()> {
        self.0.call()
    }
    fn reload(&mut self, _: &toml::Table) -> anyhow::Result<()> {
        self.0.reloaded()
    }
}

impl RunningTracer for OfTracer {
    fn check(&mut self, _: Now) -> anyhow::Result<Vec<Change>> {
        self.0.call().map(|()| Vec::new())
    }
    fn capture(&mut self, _: &Trigger, _: Limits, _: crate::collectors::Parts) -> CaptureFuture {
        unreachable!("nothing is triggered")
    }
    fn period(&self) -> Duration {
        Duration::from_millis(5)
    }
    fn reload(&mut self, _: &toml::Table) -> anyhow::Result<()> {
        self.0.reloaded()
    }
}

/// One running task.
struct Started {
    name: &'static str,
    inbox: Inbox,
    thread: JoinHandle<()>,
    permit: Option<Sender<()>>,
    calls: Arc<AtomicUsize>,
    reloads: Arc<AtomicUsize>,
}

struct Rig {
    seen: Arc<Seen>,
    statuses: Arc<Statuses>,
    supervisor: Supervisor,
    started: Vec<Started>,
}

type Make = fn(Fake) -> Running;
const KINDS: [(&str, Make); 3] = [
    ("metrics", |f| Running::Metrics(Box::new(OfMetrics(f)))),
    ("events", |f| Running::Events(Box::new(OfEvents(f)))),
    ("tracer", |f| Running::Autotracing(Box::new(OfTracer(f)))),
];

impl Rig {
    /// A task for each; `blocked`: its first call does not return until it gets a permit.
    fn start(wanted: &[(&'static str, Make, bool, bool)]) -> Self {
        let seen = Arc::new(Seen::default());
        let statuses = Arc::new(Statuses::of_names(wanted.iter().map(|w| w.0)));
        let shared = Shared {
            sink: seen.clone(),
            statuses: statuses.clone(),
            clock: Clock::default(),
            captures: Captures::default(),
            limits: Limits { duration: Duration::from_secs(1), stacks: 1 },
        };
        let mut tasks = Vec::new();
        let mut parts = Vec::new();
        for (name, make, blocked, panics) in wanted {
            let (tx, rx) = channel();
            let (calls, reloads) = (Arc::default(), Arc::default());
            let fake = Fake {
                permits: blocked.then_some(rx),
                calls: Arc::clone(&calls),
                reloads: Arc::clone(&reloads),
                panics: *panics,
            };
            let (inbox, task) = task(name, make(fake), Duration::from_millis(5), Symbols::new(), &shared);
            tasks.push(task);
            parts.push((*name, inbox, blocked.then_some(tx), calls, reloads));
        }
        let supervisor = Supervisor::new(tasks.iter(), statuses.clone(), seen.clone());
        let started = tasks.into_iter().zip(parts).map(|(task, (name, inbox, permit, calls, reloads))| {
            assert_eq!(inbox.collector(), name);
            Started { name, inbox, thread: std::thread::spawn(move || task.run()), permit, calls, reloads }
        });
        let started = started.collect();
        Rig { seen, statuses, supervisor, started }
    }

    fn state(&self, name: &str) -> State {
        self.statuses.snapshot().into_iter().find(|s| s.name == name).unwrap().state
    }

    /// The supervisor's look as if so much time had passed.
    fn look_after(&mut self, d: Duration) {
        self.supervisor.check(Instant::now() + d);
    }

    fn stop(self) {
        for s in self.started {
            drop(s.permit);
            s.inbox.command(Command::Stop);
            s.thread.join().unwrap();
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// One collector of each kind blocks for good; those beside them go on. The blocked ones are stuck, are not
/// called a second time, and run again once the call returns.
#[test]
fn a_collector_that_hangs_delays_no_other() {
    let names = [["m", "m_hangs"], ["e", "e_hangs"], ["t", "t_hangs"]];
    let wanted: Vec<_> = KINDS
        .iter()
        .zip(names)
        .flat_map(|((_, make), [well, hangs])| [(well, *make, false, false), (hangs, *make, true, false)])
        .collect();
    let mut rig = Rig::start(&wanted);
    for s in rig.started.iter().filter(|s| s.permit.is_some()) {
        s.inbox.record(0, b"12345678");
        until("each is called", || s.calls.load(Ordering::Relaxed) == 1);
    }
    rig.look_after(Duration::ZERO);
    assert_eq!(rig.state("m_hangs"), State::Running, "it has only begun");
    let before: Vec<_> = names.iter().map(|[well, _]| rig.seen.runs(well)).collect();
    rig.look_after(HOUR);
    for [_, hangs] in names {
        assert_eq!(rig.state(hangs), State::Stuck);
    }
    for ([well, _], before) in names.iter().zip(before) {
        until("the others go on", || rig.seen.runs(well) > before + 20);
    }
    for s in rig.started.iter().filter(|s| s.permit.is_some()) {
        assert_eq!(s.calls.load(Ordering::Relaxed), 1, "{} was called a second time", s.name);
        s.permit.as_ref().unwrap().send(()).unwrap();
        until("it is called again", || s.calls.load(Ordering::Relaxed) > 1);
    }
    rig.look_after(Duration::ZERO);
    for [_, hangs] in names {
        assert_eq!(rig.state(hangs), State::Running);
    }
    let states = rig.seen.states.lock().unwrap().clone();
    let of: Vec<_> = states.iter().filter(|(n, _)| *n == "m_hangs").map(|(_, s)| *s).collect();
    assert_eq!(of, [State::Running, State::Stuck, State::Running]);
    rig.stop();
}

/// A reload reaches a collector that is stuck, with a full queue, as soon as it answers.
#[test]
fn a_reload_is_never_dropped() {
    let rig = Rig::start(&[("e", KINDS[1].1, true, false)]);
    let s = &rig.started[0];
    s.inbox.record(0, b"12345678");
    until("it is called", || s.calls.load(Ordering::Relaxed) == 1);
    for _ in 0..events::QUEUE + 9 {
        s.inbox.record(0, b"12345678");
    }
    assert_eq!(rig.seen.dropped.load(Ordering::Relaxed), 9, "a full queue is counted");
    s.inbox.command(Command::Reload(toml::Table::new()));
    assert_eq!(s.reloads.load(Ordering::Relaxed), 0);
    s.permit.as_ref().unwrap().send(()).unwrap();
    until("it is reloaded", || s.reloads.load(Ordering::Relaxed) == 1);
    rig.stop();
}

/// A panic is one run's; the collector stays as it is, is failed meanwhile, and is not called at once again.
#[test]
fn a_panic_is_one_runs() {
    let rig = Rig::start(&[("m", KINDS[0].1, false, true), ("e", KINDS[1].1, false, true)]);
    until("both panicked", || rig.state("m") == State::Failed && rig.state("e") == State::Failed);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.seen.runs("m"), 1, "not before its retry");
    let runs = rig.seen.runs("e");
    rig.started[1].inbox.record(0, b"12345678");
    until("records are read all the same", || rig.seen.runs("e") > runs);
    rig.stop();
}
