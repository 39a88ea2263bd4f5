// SPDX-License-Identifier: Apache-2.0
//! All stages of a running agent: started in the data's order, stopped in the same order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::collectors::{Builder, Built, Owned};
use super::outlet::{Counting, Junction};
use super::{Kept, deliver, drop_privileges, housekeeping, node, queries};
use crate::api;
use crate::collectors::run::{AutotracingLoop, Command, EventsLoop, MetricsLoop, RecordQueue, Statuses};
use crate::collectors::{Kind, Limits, Registration};
use crate::config::{self, Config, Loaded, Sources};
use crate::exporters::prometheus::Prometheus;
use crate::exporters::store::{self, Store};
use crate::host::{Clock, Host};
use crate::pipeline::incident::Moment;
use crate::pipeline::log::Log;
use crate::pipeline::metrics::MetricState;
use crate::pipeline::{self, Input, Pipeline};
use crate::probe::shared::Shared;
use crate::probe::stacks::Symbols;
use crate::probe::{Loader, Object, Reader, Stop};
use crate::signal::Attributes;
use crate::signal::ids::EventId;
use crate::telemetry::{self, Telemetry};
use crate::workload::{NameResolver, Workloads};

/// What one capture may cost.
const CAPTURE: Limits = Limits { duration: Duration::from_secs(300), stacks: 2000 };
/// How long a thread waits before it looks whether to end.
const LOOK: Duration = Duration::from_millis(500);
/// For the last captures to be written down.
const CAPTURE_END: Duration = Duration::from_secs(3);

/// A thread of ours and how it is asked to end.
struct Worker {
    name: &'static str,
    thread: JoinHandle<()>,
}

fn worker(name: &'static str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<Worker> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    Ok(Worker { name, thread: thread.with_context(|| format!("start the thread {name}"))? })
}

impl Worker {
    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread {} panicked", self.name);
        }
    }
}

/// The agent while it runs.
pub(super) struct Stages {
    junction: Arc<Junction>,
    shared: Shared,
    telemetry: Telemetry,
    /// The loops' entrances for commands.
    metrics: SyncSender<Command>,
    autotracing: SyncSender<Command>,
    events: RecordQueue,
    collectors: Vec<Worker>,
    reader: (Stop, Worker),
    names: [Stoppable; 2],
    pipeline: Stoppable,
    committer: Stoppable,
    /// Turns true when the agent stops.
    stopping: watch::Sender<bool>,
    /// Exporters, API and housekeeping.
    tasks: TaskTracker,
    deadline: Arc<OnceLock<tokio::time::Instant>>,
}

impl Stages {
    /// Starts everything. A collector, shared probe or back end that does not work is said and left
    /// out; only what the agent cannot do without is an error.
    pub async fn start(
        loaded: Loaded,
        sources: &Sources,
        registrations: &[Registration],
        kept: &Kept,
    ) -> anyhow::Result<Stages> {
        let config = loaded.config.clone();
        let host = Host::default();
        let clock = Clock::default();
        let own_node = node::resource(&host, &sources.env);
        let (resource, warning) = telemetry::resource(&own_node, &sources.env);
        let telemetry = start_telemetry(&config, &resource)?;
        for text in loaded.warnings.iter().chain(&warning) {
            tracing::warn!("{text}");
        }
        let own = telemetry.own();
        let state = Arc::new(MetricState::new(config.metrics.max_series as usize, clock.now().wall));
        let counting = Arc::new(Counting { state: state.clone(), own: own.clone() });

        // From the back: a stage's exit is there before anything enters it.
        let (of_store, of_node) = (config.clone(), resource.clone());
        // On a thread that has few privileges, as fjall's own inherit them.
        let store = tokio::task::spawn_blocking(move || open_store(&of_store, &of_node)).await?;
        let last_id = store.last_id().ok().flatten();
        let wall = clock.clone();
        let start_id = last_id.unwrap_or(EventId::before(clock.now().wall.0));
        let (log, committer) = Log::new(Arc::new(store.clone()), counting.clone(), move || wall.now().wall, start_id);
        let steady = clock.clone();
        let (sender, pipeline) = Pipeline::new(pipeline::Setup {
            identity: node::identity(&host),
            incidents: incident_settings(&config),
            limit: pipeline::limits::RateLimit::default(),
            log: log.clone(),
            observer: counting,
            now: Box::new(move || {
                let now = steady.now();
                Moment { wall: now.wall, steady: Duration::from_nanos(now.boot_ns) }
            }),
            last_id,
            left_open: store.open_incidents().unwrap_or_default(),
        });
        let committer = stoppable("commit", with_less(kept, move |stop| committer.run(stop)))?;
        let pipeline = stoppable("pipeline", with_less(kept, move |stop| pipeline.run(stop)))?;

        let workloads = Workloads::new(&host, &clock);
        let symbols = Symbols::new();
        let statuses = Arc::new(Statuses::new(registrations));
        let junction = Arc::new(Junction {
            sender: sender.clone(),
            state: state.clone(),
            own: own.clone(),
            clock: clock.clone(),
            runtime: tokio::runtime::Handle::current(),
            captures: TaskTracker::new(),
            builder: OnceLock::new(),
        });
        let mut loader = Loader::new();
        let features = super::collectors::features(registrations, &config);
        let shared = Shared::load(&mut loader, &features);
        // Births are recorded from now on, so the scan cannot miss one.
        if let Err(e) = workloads.scan() {
            tracing::error!("cgroups cannot be read, so nothing will be named: {e}");
        }
        let builder = Builder {
            registrations: registrations.to_vec(),
            host: host.clone(),
            clock: clock.clone(),
            workloads: workloads.clone(),
            symbols,
            shared: shared.clone(),
            statuses: statuses.clone(),
            config: Mutex::new(config.clone()),
        };
        let built = builder.build_all(&mut loader, &state, &own);
        drop(loader);
        drop(junction.builder.set(builder));
        // The kernel's types were some 20 MiB.
        crate::host::sys::trim_malloc();
        // Before the first record is read; the threads that are started from here on inherit it.
        drop_privileges(kept);

        let names = start_names(&workloads, &sender)?;
        let (stopping, stop_seen) = watch::channel(false);
        let tasks = TaskTracker::new();
        let deadline = Arc::new(OnceLock::new());
        let prometheus = Arc::new(Prometheus::new(state.clone(), &own_node, Box::new(telemetry.gatherer())));
        let answers = queries::answers(store.clone(), &log, statuses.clone(), &resource);
        serve_api(&config, answers, prometheus, clock.clone(), &tasks, stop_seen.clone()).await?;
        let exporting = deliver::Exporting { log: &log, state: &state, own: &own, resource: &resource };
        exporting.start(&config, &tasks, &stop_seen, &deadline)?;

        let own_objects = built.objects.iter().map(|o| o.object.clone());
        let keeper = housekeeping::Housekeeping {
            objects: own_objects.chain(shared.objects()).collect(),
            births: shared.cgroups().ok().map(Object::name),
            workloads: workloads.clone(),
            state,
            own,
            interval: config.metrics.interval.get(),
            clock: clock.clone(),
        };
        tasks.spawn(keeper.run(stop_seen));
        let (metrics, autotracing, events, collectors, reader) =
            start_loops(built, &shared, &workloads, &junction, clock)?;
        tracing::info!(listen = %config.http.listen, store = %config.store.path.display(), "running");
        Ok(Stages {
            junction,
            shared,
            telemetry,
            metrics,
            autotracing,
            events,
            collectors,
            reader,
            names,
            pipeline,
            committer,
            stopping,
            tasks,
            deadline,
        })
    }

    /// Reads the configuration again and hands each collector its section. What is wrong is said, and
    /// all stays as it is.
    pub fn reload(&mut self, sources: &Sources, registrations: &[Registration]) {
        let loaded = match config::load(sources, registrations) {
            Ok(loaded) => loaded,
            Err(e) => {
                tracing::error!("the configuration stays as it is: {e}");
                return;
            }
        };
        let Some(builder) = self.junction.builder.get() else { return };
        let new = loaded.config;
        let old = std::mem::replace(&mut *builder.config.lock().unwrap_or_else(PoisonError::into_inner), new.clone());
        self.junction.sender.send(Input::Incidents(incident_settings(&new)));
        for r in registrations {
            let (before, after) = (old.collector(r.info.name), new.collector(r.info.name));
            if before.enabled != after.enabled || before.interval != after.interval {
                tracing::warn!(collector = r.info.name, "`enabled` and `interval` take effect at the next start");
            }
            if before.settings == after.settings || !before.enabled {
                continue;
            }
            let command = Command::Reload { collector: r.info.name, section: after.settings };
            match r.kind {
                Kind::Metrics => drop(self.metrics.try_send(command)),
                Kind::Autotracing => drop(self.autotracing.try_send(command)),
                Kind::Events => self.events.command(command),
            }
        }
        let fixed = |c: &Config| (c.store.clone(), c.http.clone(), c.api.clone(), c.exporters.clone());
        if fixed(&old) != fixed(&new) {
            tracing::warn!("changes of store, http, api and exporters take effect at the next start");
        }
        tracing::info!("read the configuration again");
    }

    /// Stops stage by stage, each with what is left in it handed on.
    pub async fn stop(self, deadline: Instant) {
        let deadline = tokio::time::Instant::from_std(deadline);
        // Only a second stop could find it set.
        let _ = self.deadline.set(deadline);
        // Captures end with what they have, and are written down like any other.
        self.shared.stop_captures();
        self.junction.captures.close();
        if tokio::time::timeout(CAPTURE_END, self.junction.captures.wait()).await.is_err() {
            tracing::warn!("a capture did not end in time and is lost");
        }
        drop(self.metrics.send(Command::Stop));
        drop(self.autotracing.send(Command::Stop));
        self.reader.0.stop();
        let rest = tokio::task::spawn_blocking(move || {
            self.reader.1.join();
            self.events.command(Command::Stop);
            self.collectors.into_iter().for_each(Worker::join);
            for (stop, worker) in self.names.into_iter().chain([self.pipeline, self.committer]) {
                stop.store(true, Ordering::Relaxed);
                worker.join();
            }
        });
        if tokio::time::timeout_at(deadline, rest).await.is_err() {
            tracing::error!("the store did not answer in time: what was not saved by now is lost");
        }
        self.stopping.send_replace(true);
        self.tasks.close();
        drop(tokio::time::timeout_at(deadline, self.tasks.wait()).await);
        let left = deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_millis(500));
        let telemetry = self.telemetry;
        drop(tokio::task::spawn_blocking(move || telemetry.shutdown(left)).await);
    }
}

type Stoppable = (Arc<AtomicBool>, Worker);

fn stoppable(name: &'static str, body: impl FnOnce(&AtomicBool) + Send + 'static) -> anyhow::Result<Stoppable> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    Ok((stop, worker(name, move || body(&seen))?))
}

/// For threads that are started while the others still need their privileges.
fn with_less(
    kept: &Kept,
    body: impl FnOnce(&AtomicBool) + Send + 'static,
) -> impl FnOnce(&AtomicBool) + Send + 'static {
    let kept = kept.clone();
    move |stop| {
        drop_privileges(&kept);
        body(stop);
    }
}

fn start_telemetry(config: &Config, resource: &Attributes) -> anyhow::Result<Telemetry> {
    let telemetry = Telemetry::start(telemetry::Options {
        resource: resource.clone(),
        otlp: &config.exporters.otlp,
        interval: config.metrics.interval.get(),
    })?;
    let output = match config.log.format {
        config::LogFormat::Text => telemetry::Output::Text,
        config::LogFormat::Json => telemetry::Output::Json,
    };
    let subscriber = telemetry.subscriber(config.log.level.as_str(), output)?;
    // A second agent in one process, as tests have it, keeps the first one's.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(telemetry)
}

/// The store; a closed one, to be tried again, where it cannot be opened now.
fn open_store(config: &Config, resource: &Attributes) -> Store {
    let settings = store::Settings {
        path: config.store.path.clone(),
        max_size: config.store.max_size.bytes(),
        max_age: config.store.max_age.get(),
    };
    let store = match Store::open(settings.clone(), store::LOCK_WAIT) {
        Ok((store, opened)) => {
            if let Some(text) = opened.set_aside_message() {
                tracing::error!("{text}");
            }
            store
        }
        Err(e) => {
            tracing::error!("running without a store for now: {e}");
            Store::closed(settings, e.to_string())
        }
    };
    if let Err(e) = store.set_node(&crate::signal::otlp::key_values(resource)) {
        tracing::debug!("{e}");
    }
    store
}

fn incident_settings(config: &Config) -> pipeline::incident::Settings {
    pipeline::incident::Settings { quiet: config.incident.quiet.get(), ..Default::default() }
}

/// Looks names up, and tells the pipeline of every workload that is new or got a name.
fn start_names(workloads: &Workloads, sender: &pipeline::Sender) -> anyhow::Result<[Stoppable; 2]> {
    let (resolver, changes, sender) = (NameResolver::new(workloads), workloads.changes(), sender.clone());
    let telling = move |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            for w in changes.wait(LOOK) {
                sender.send(Input::Workload(w));
            }
        }
    };
    Ok([stoppable("names", |stop| resolver.run(stop))?, stoppable("workloads", telling)?])
}

async fn serve_api(
    config: &Config,
    answers: api::Local,
    metrics: Arc<Prometheus>,
    clock: Clock,
    tasks: &TaskTracker,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listen = api::Listen {
        tcp: Some(config.http.listen),
        token_file: config.http.token_file.clone(),
        socket: Some(config.api.socket.clone()),
    };
    let server = api::Server::bind(&listen).await?;
    let backend: Arc<dyn api::Backend> = Arc::new(answers);
    let api = Arc::new(api::Api { backend, metrics, now: Box::new(move || clock.now().wall), stop });
    let connections = tasks.clone();
    let spawn: api::Spawn = Arc::new(move |connection| drop(connections.spawn(connection)));
    tasks.spawn(server.run(api, spawn));
    Ok(())
}

type Loops = (SyncSender<Command>, SyncSender<Command>, RecordQueue, Vec<Worker>, (Stop, Worker));

fn start_loops(
    built: Built,
    shared: &Shared,
    workloads: &Workloads,
    junction: &Arc<Junction>,
    clock: Clock,
) -> anyhow::Result<Loops> {
    let names: Arc<[&'static str]> = built.events.iter().map(|s| s.name).collect();
    let (queue, messages) = RecordQueue::new(names, junction.clone());
    let (metrics, metrics_commands) = mpsc::sync_channel(16);
    let (autotracing, autotracing_commands) = mpsc::sync_channel(16);
    let metrics_loop = MetricsLoop::new(built.metrics, junction.clone());
    let events_loop = EventsLoop::new(built.events, junction.clone());
    let autotracing_loop = AutotracingLoop::new(built.autotracing, CAPTURE, clock, junction.clone());
    let reader = start_reader(built.objects, shared, workloads, &queue)?;
    let workers = vec![
        worker("metrics", move || metrics_loop.run(&metrics_commands))?,
        worker("events", move || events_loop.run(&messages))?,
        worker("autotracing", move || autotracing_loop.run(&autotracing_commands))?,
    ];
    Ok((metrics, autotracing, queue, workers, reader))
}

/// One thread reads all rings: those of the shared probes for their handles, the others for the
/// events loop.
fn start_reader(
    owned: Vec<Owned>,
    shared: &Shared,
    workloads: &Workloads,
    queue: &RecordQueue,
) -> anyhow::Result<(Stop, Worker)> {
    let workloads = workloads.clone();
    let readers = shared.rings(move |change| workloads.on_change(change));
    let first_owned = readers.len();
    let objects: Vec<_> =
        readers.iter().map(|r| r.object.clone()).chain(owned.iter().map(|o| o.object.clone())).collect();
    let slots: Vec<Option<usize>> = owned.iter().map(|o| o.slot).collect();
    let (stop, queue) = (Stop::new().context("make the readers' stop handle")?, queue.clone());
    let (seen, reader) = (stop.clone(), Reader::new(&objects).context("read the ring buffers")?);
    let body = move || {
        let result = reader.run(&seen, |object, ring, bytes| match readers.get(object) {
            Some(shared) => (shared.on_record)(ring, bytes),
            None => {
                if let Some(slot) = slots.get(object - first_owned).copied().flatten() {
                    queue.record(slot, ring, bytes);
                }
            }
        });
        if let Err(e) = result {
            tracing::error!("records are no longer read: {e}");
        }
    };
    Ok((stop, worker("records", body)?))
}
