// SPDX-License-Identifier: Apache-2.0
//! All stages of a running agent: started in the data's order, stopped in the same order.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use super::downstream::{Downstream, incident_settings};
use super::helper::Helpers;
use super::router::SignalRouter;
use super::service::Answer;
use super::threads::{END_POLL, Loops, Stoppable, Worker};
use super::upstream::Upstream;
use super::{RetainedCaps, deliver, drop_privileges, queries, threads};
use crate::api::{self, Readiness};
use crate::collectors::Registration;
use crate::collectors::run::Statuses;
use crate::config::{self, Config, Loaded, Sources};
use crate::exporters::health::Health;
use crate::exporters::prometheus::Prometheus;
use crate::exporters::store::Store;
use crate::host::{Clock, Host};
use crate::pipeline::Input;
use crate::pipeline::log::Log;
use crate::probe::shared::Shared;
use crate::telemetry::Telemetry;

/// For the last captures to be written down.
const CAPTURE_END: Duration = Duration::from_secs(3);

/// For collectors to work off their records and end; one that is stuck is left behind.
const COLLECTORS_END: Duration = Duration::from_secs(2);

/// For a thread to end, whatever time is left.
const LEAST_END: Duration = Duration::from_millis(500);

/// For exporters to send what is left, once the store has it, or does not take it.
const DELIVERY_END: Duration = Duration::from_secs(3);

/// Who must answer for the agent to be alive; the committer need not, as a disk may hang, nor a collector:
/// the supervisor reports one that is stuck.
pub(super) const LOOPS: &[&str] = &["pipeline", "supervisor", "tasks"];

/// The agent while it runs.
pub(super) struct Stages {
    router: Arc<SignalRouter>,
    log: Log,
    store: Store,
    health: Health,
    statuses: Arc<Statuses>,
    shared: Shared,
    telemetry: Telemetry,
    loops: Loops,
    names: [Stoppable; 3],
    helpers: Arc<Helpers>,
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
        retained_caps: &RetainedCaps,
    ) -> anyhow::Result<Stages> {
        let config = loaded.config.clone();
        let host = Host::default();
        let clock = Clock::default();
        // From the back: a stage's exit is there before anything enters it.
        let downstream = Downstream::start(&loaded, sources, &host, &clock, retained_caps, registrations).await?;
        let statuses = Arc::new(Statuses::new(registrations));
        let upstream = Upstream::build(registrations, (&config, &sources.env), &host, &clock, &statuses, &downstream);
        // The kernel's types were some 20 MiB.
        crate::host::sys::trim_malloc();
        // Before the first record is read; the threads that are started from here on inherit it.
        drop_privileges(retained_caps);

        let (stopping, stop_seen) = watch::channel(false);
        let (tasks, deadline) = (TaskTracker::new(), Arc::new(OnceLock::new()));
        let symbols = upstream.router.symbols.clone();
        let (answers, feeding) = queries::answers(&downstream, statuses.clone(), &clock, symbols, stop_seen.clone());
        tasks.spawn(feeding);
        serve_api(&config, answers, downstream.prometheus(), &clock, &tasks, stop_seen.clone()).await?;
        let exporting = deliver::Exporting {
            log: &downstream.log,
            state: &downstream.state,
            own: &downstream.own,
            resource: &downstream.resource,
            health: &downstream.health,
            instruments: downstream.telemetry.instruments(),
        };
        exporting.start(&config, &tasks, &stop_seen, &deadline)?;
        tasks.spawn(upstream.housekeeping(&config, &downstream, clock.clone()).run(stop_seen.clone()));
        tasks.spawn(until(stop_seen, upstream.kubernetes.run()));
        let helpers = upstream.helpers;
        let names = threads::start_names(upstream.resolver, &upstream.workloads, helpers.clone(), &upstream.router)?;
        let loops = Loops::start(upstream.built, &upstream.shared, &upstream.router, &statuses, clock)?;
        tracing::info!(listen = %config.http.listen, store = %config.store.path.display(), "running");
        Ok(Stages {
            router: upstream.router,
            log: downstream.log,
            store: downstream.store,
            health: downstream.health,
            statuses,
            shared: upstream.shared,
            telemetry: downstream.telemetry,
            loops,
            names,
            helpers,
            pipeline: downstream.pipeline,
            committer: downstream.committer,
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
        let new = loaded.config;
        let old =
            std::mem::replace(&mut *self.router.config.lock().unwrap_or_else(PoisonError::into_inner), new.clone());
        self.router.filters.set(new.filters());
        self.router.kernel_filter.judge();
        self.router.sender.send(Input::Incidents(incident_settings(&new)));
        for r in registrations {
            let (before, after) = (old.collector(r.info.name), new.collector(r.info.name));
            if before.enabled != after.enabled || before.interval != after.interval {
                tracing::warn!(collector = r.info.name, "`enabled` and `interval` take effect at the next start");
            }
            if before.settings == after.settings || !before.enabled {
                continue;
            }
            self.loops.reload(r.info.name, after.settings);
        }
        let fixed =
            |c: &Config| (c.store.clone(), c.http.clone(), c.api.clone(), c.exporters.clone(), c.workload.clone());
        if fixed(&old) != fixed(&new) {
            tracing::warn!("changes of store, http, api, workload and exporters take effect at the next start");
        }
        tracing::info!("read the configuration again");
    }

    /// Whether all does what it should.
    pub fn readiness(&self) -> Readiness {
        queries::readiness(&self.log, &self.health, &self.statuses, &self.router.symbols)
    }

    /// Has one of [`LOOPS`] set `answer`; `false`: it cannot be asked now.
    pub fn ask(&self, who: &'static str, answer: &Answer) -> bool {
        match who {
            "pipeline" => self.router.sender.ask(answer),
            "supervisor" => self.loops.ask(answer),
            _ => {
                let answer = answer.clone();
                tokio::spawn(async move { answer.store(true, Ordering::Relaxed) });
                true
            }
        }
    }

    /// Threads that are no more, though the agent runs.
    pub fn ended(&self) -> Vec<&'static str> {
        let workers = self.names.iter().chain([&self.pipeline, &self.committer]).map(|(_, worker)| worker);
        workers.filter_map(Worker::ended).chain(self.loops.ended()).collect()
    }

    /// Stops stage by stage, each with what is left in it handed on. A disk that is slow, or does not answer, gets a part
    /// of the time: by then the probes are detached, and what is in memory is still delivered.
    pub async fn stop(self, deadline: Instant) {
        let deadline = tokio::time::Instant::from_std(deadline);
        let store_deadline = deadline.checked_sub(DELIVERY_END).unwrap_or(deadline);
        // Only a second stop could find it set.
        let _ = self.deadline.set(deadline);
        // Captures end with what they have, and are written down like any other.
        self.shared.stop_captures();
        self.router.captures.close();
        if tokio::time::timeout(CAPTURE_END, self.router.captures.wait()).await.is_err() {
            tracing::warn!("a capture did not end in time and is lost");
        }
        let loops = self.loops;
        drop(tokio::time::timeout_at(store_deadline, spawn_blocking(move || loops.stop(COLLECTORS_END))).await);
        let (workloads, helpers) = (self.router.workloads.clone(), self.helpers);
        let wake = || {
            workloads.wake();
            helpers.wake();
        };
        // Names may wait for whom they are asked of: nobody waits for them.
        for (stop, _) in &self.names {
            stop.store(true, Ordering::Relaxed);
        }
        wake();
        end(self.pipeline, store_deadline, || {}).await;
        // The last who hold the probes, but for the tasks.
        drop((self.router, self.shared));
        end(self.committer, store_deadline, || {}).await;
        for worker in self.names {
            end(worker, store_deadline, wake).await;
        }
        match self.log.unsaved() {
            0 => {}
            n => tracing::error!(entries = n, "the store did not answer in time: what is in memory is not saved"),
        }
        self.stopping.send_replace(true);
        self.tasks.close();
        drop(tokio::time::timeout_at(deadline, self.tasks.wait()).await);
        let left = deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_millis(500));
        let telemetry = self.telemetry;
        drop(spawn_blocking(move || telemetry.shutdown(left)).await);
        // To close it would wait for fjall's threads, which may have much to write: what was accepted is on the disk.
        std::mem::forget(self.store);
        tracing::info!("stopped");
    }
}

/// Asks a thread to end and waits for it until the deadline, or for a moment where that has passed.
async fn end((stop, worker): Stoppable, deadline: tokio::time::Instant, wake: impl Fn()) {
    let deadline = deadline.max(tokio::time::Instant::now() + LEAST_END);
    stop.store(true, Ordering::Relaxed);
    while worker.ended().is_none() {
        if tokio::time::Instant::now() >= deadline {
            tracing::error!("the thread {} did not end in time", worker.name());
            return;
        }
        wake();
        tokio::time::sleep(END_POLL).await;
    }
    worker.join();
}

/// Runs something that never ends, until the agent stops.
async fn until(mut stop: watch::Receiver<bool>, endless: impl Future<Output = ()>) {
    tokio::select! {
        () = endless => {}
        // An error means that the agent is gone.
        _ = stop.wait_for(|s| *s) => {}
    }
}

async fn serve_api(
    config: &Config,
    answers: api::Local,
    metrics: Arc<Prometheus>,
    clock: &Clock,
    tasks: &TaskTracker,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let http = &config.http;
    let files = http.certificate_file.clone().zip(http.key_file.clone());
    let tls =
        files.map(|(certificate, key)| api::TlsFiles { certificate, key, client_ca: http.client_ca_file.clone() });
    let listen = api::Listen {
        tcp: Some(http.listen),
        token_file: http.token_file.clone(),
        tls,
        socket: Some(config.api.socket.clone()),
        limits: api::Limits::default(),
    };
    let server = api::Server::bind(&listen).await?;
    let backend: Arc<dyn api::Backend> = Arc::new(answers);
    let now = clock.clone();
    let api = Arc::new(api::Api::new(backend, metrics, Box::new(move || now.now().wall), stop));
    let connections = tasks.clone();
    let spawn: api::Spawn = Arc::new(move |connection| drop(connections.spawn(connection)));
    tasks.spawn(server.run(api, spawn));
    Ok(())
}
