// SPDX-License-Identifier: Apache-2.0
//! The agent's way from event to back end, with its real parts: pipeline, log, store, delivery.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bianque::exporters::elasticsearch;
use bianque::exporters::otlp::{Delivery, Node, Settings, Shutdown, Signal, Transport};
use bianque::exporters::store::{self, Store};
use bianque::pipeline::incident::{self, Identity, Moment};
use bianque::pipeline::limits::RateLimit;
use bianque::pipeline::log::Log;
use bianque::pipeline::metrics::SelfMetrics;
use bianque::pipeline::{Input, NoObserver, Observer, Pipeline, Sender, Setup};
use bianque::signal::ids::EventId;
use bianque::signal::semconv::attr;
use bianque::signal::{Attributes, Event, EventDef, Frame, Instrument, MetricDef, Panel, Severity, Timestamp};
use bianque::signal::{
    Capture, CaptureProgress, Change, Evidence, Links, Profile, ProfileKind, StackSample, Target, Thread, Trigger,
};
use bianque::signal::{Pod, Workload, WorkloadKey, WorkloadKind};
use tokio::sync::oneshot;
use tokio::time::Instant;

const fn counter(name: &'static str) -> MetricDef {
    MetricDef { name, instrument: Instrument::Counter, unit: "{event}", help: "", attributes: &[], panel: Panel::Rate }
}
static COUNTER: MetricDef = counter("test.events");
static CONTAINER_COUNTER: MetricDef = counter("test.container.events");
static KILL: EventDef = EventDef {
    name: "linux.memory.oom_kill",
    summary: "The kernel killed a process",
    severity: Severity::Error,
    worst: Severity::Error,
    attributes: &[],
    counter: &COUNTER,
    container_counter: Some(&CONTAINER_COUNTER),
};

static SPIN: EventDef = EventDef {
    name: "linux.autotracing.cpuidle",
    summary: "A workload's CPU use jumped",
    severity: Severity::Warn,
    worst: Severity::Warn,
    ..KILL
};

pub fn now() -> Timestamp {
    Timestamp(u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap())
}

/// The container to which everything happens.
pub fn shop() -> Arc<Workload> {
    Arc::new(Workload {
        container_id: Some("c0ffee".repeat(10)),
        container_name: Some("shop".into()),
        image_name: Some("docker.io/library/shop".into()),
        image_tag: Some("1.2".into()),
        runtime: Some("podman"),
        service_name: Some("shop-api".into()),
        pod: Some(Pod {
            uid: "5d4f".into(),
            name: Some("shop-7".into()),
            namespace: Some("sales".into()),
            ..Pod::default()
        }),
        ..Workload::new(WorkloadKey(7), WorkloadKind::Container, "/libpod-1")
    })
}

/// The resource of the node that the tests' agent runs on.
pub fn node() -> Attributes {
    let mut a = Attributes::new();
    a.set(attr::HOST_NAME, "node-1").set(attr::SERVICE_NAME, "bianque").set(attr::SERVICE_VERSION, "9");
    a
}

/// The running parts. Threads and tasks end with [`Self::stop`].
pub struct Agent {
    sender: Sender,
    pub log: Log,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    deliveries: Vec<(oneshot::Sender<Instant>, tokio::task::JoinHandle<()>)>,
}

impl Agent {
    pub fn start(folder: &Path) -> Agent {
        let quiet = Duration::from_secs(1);
        Self::with(folder, incident::Settings { quiet, ..incident::Settings::default() }, Arc::new(NoObserver))
    }

    /// With limits of its own on incidents, and an observer of what passes.
    pub fn with(folder: &Path, incidents: incident::Settings, observer: Arc<dyn Observer>) -> Agent {
        let settings = store::Settings { path: folder.into(), max_size: 1 << 30, max_age: Duration::from_secs(86_400) };
        let (store, _) = Store::open(settings, Duration::from_secs(10)).unwrap();
        let last_id = store.last_id().unwrap();
        let left_open = store.open_incidents().unwrap();
        let start = last_id.unwrap_or(EventId([0; 12]));
        let (log, committer) = Log::new(Arc::new(store), observer.clone(), now, start);
        let begin = std::time::Instant::now();
        let (sender, pipeline) = Pipeline::new(Setup {
            identity: Identity { host_id: "test".into(), boot_id: "boot".into() },
            incidents,
            limit: RateLimit { burst: 10_000, per_second: 10_000.0 },
            log: log.clone(),
            observer,
            now: Box::new(move || Moment { wall: now(), steady: begin.elapsed() }),
            last_id,
            left_open,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b) = (stop.clone(), stop.clone());
        let threads = vec![std::thread::spawn(move || pipeline.run(&a)), std::thread::spawn(move || committer.run(&b))];
        Agent { sender, log, stop, threads, deliveries: Vec::new() }
    }

    /// Delivers logs, traces and profiles from here on.
    pub fn deliver(&mut self, settings: &Settings) {
        self.deliver_counted(settings, &SelfMetrics::unread());
    }

    /// The same, and `own` counts.
    pub fn deliver_counted(&mut self, settings: &Settings, own: &SelfMetrics) {
        for signal in [Signal::Logs, Signal::Traces, Signal::Profiles] {
            let reader = self.log.reader(&format!("otlp/{}", signal.name())).unwrap();
            let transport = Transport::new(&settings.endpoint(signal).unwrap().unwrap()).unwrap();
            let delivery = Delivery::new(signal, reader, transport, Node::new(&node()), own.clone(), 1)
                .with_backoff(Duration::from_millis(50), Duration::from_millis(500));
            self.spawn(|shutdown| delivery.run(shutdown));
        }
    }

    /// Delivers everything to Elasticsearch from here on.
    pub fn deliver_to_elasticsearch(&mut self, settings: &elasticsearch::Settings) {
        let reader = self.log.reader(elasticsearch::EXPORTER).unwrap();
        let client = elasticsearch::Client::new(settings, 0).unwrap();
        let own = SelfMetrics::unread();
        let delivery = elasticsearch::Delivery::new(reader, client, &settings.namespace, Node::new(&node()), own, 1)
            .with_backoff(Duration::from_millis(50), Duration::from_millis(500));
        self.spawn(|shutdown| delivery.run(shutdown));
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, delivery: impl FnOnce(Shutdown) -> F) {
        let (stop, stopped) = oneshot::channel();
        let shutdown: Shutdown = Box::pin(async move { stopped.await.unwrap_or_else(|_| Instant::now()) });
        self.deliveries.push((stop, tokio::spawn(delivery(shutdown))));
    }

    /// The kernel kills a process of the container; `mark` identifies this kill.
    pub fn kill(&self, mark: &str) {
        let mut e = Event::new(&KILL, now(), Some(shop()), format!("killed {mark}"));
        e.attributes.set_named("test.mark".into(), mark.to_owned().into());
        e.duration = Some(Duration::from_millis(3));
        e.kernel_stack = vec![Frame { symbol: Some("oom_kill_process".into()), ..Frame::default() }].into();
        self.sender.send(Input::Event { collector: "oom", event: e });
    }

    /// The container spins for a while: its CPU use is over its limit, stacks are captured, and it
    /// recovers unless it `goes_on`.
    pub fn spin(&self, mark: &str, goes_on: bool) {
        let target = Target { collector: "cpuidle", workload: Some(shop().key), detail: None };
        let onset = now().minus(Duration::from_secs(3));
        let mut attributes = Attributes::new();
        attributes.set_named("test.mark".into(), mark.to_owned().into());
        let trigger = Trigger {
            target: target.clone(),
            def: &SPIN,
            severity: Severity::Warn,
            onset,
            detected: now(),
            workload: Some(shop()),
            message: format!("uses 0.9 of 1 CPUs {mark}"),
            attributes,
            links: Links::default(),
            capture: true,
        };
        let frame =
            |name: &str| Frame { symbol: Some(name.into()), module: Some("/bin/shop".into()), ..Frame::default() };
        let stacks = vec![StackSample {
            user: vec![frame("churn"), frame("main")].into(),
            thread: Thread { pid: 7, tid: 7, comm: "shop".into() },
            value: 42,
            ..StackSample::default()
        }];
        let profile = Profile { kind: ProfileKind::CPU, stacks, period: 10_101_010, lost: 0 };
        let capture = Capture {
            evidence: vec![Evidence::Profile(profile)],
            ..Capture::new("cpu_profile", target.clone(), onset, now())
        };
        self.sender.send(Input::Change { collector: "cpuidle", change: Change::Onset(trigger) });
        self.sender.send(Input::Capture { collector: "cpuidle", progress: CaptureProgress::Ended(capture) });
        if !goes_on {
            self.sender.send(Input::Change { collector: "cpuidle", change: Change::Recovered(target, now()) });
        }
    }

    pub async fn stop(self) {
        for (stop, task) in self.deliveries {
            // It may have ended by itself only by a panic, which the join shows.
            let _ended = stop.send(Instant::now() + Duration::from_secs(5));
            task.await.unwrap();
        }
        self.stop.store(true, Ordering::Relaxed);
        drop(self.sender);
        for t in self.threads {
            t.join().unwrap();
        }
    }
}
