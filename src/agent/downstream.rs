// SPDX-License-Identifier: Apache-2.0
//! The downstream half of the data path: telemetry, store, log and pipeline, started before anything enters them.

use std::sync::Arc;
use std::time::Duration;

use super::router::Counting;
use super::threads::{Stoppable, stoppable, with_reduced_privileges};
use super::{RetainedCaps, node};
use crate::collectors::Registration;
use crate::config::{self, Config, Loaded, Sources};
use crate::exporters::health::Health;
use crate::exporters::prometheus::Prometheus;
use crate::exporters::store::{self, OpenError, Store};
use crate::host::{Clock, Host};
use crate::pipeline::incident::Moment;
use crate::pipeline::log::Log;
use crate::pipeline::metrics::{MetricState, SelfMetrics, own};
use crate::pipeline::{self, Pipeline, Sender};
use crate::signal::ids::EventId;
use crate::signal::{Attributes, otlp};
use crate::telemetry::{self, Telemetry};

/// The stages that accept signals.
pub(super) struct Downstream {
    pub telemetry: Telemetry,
    pub own: SelfMetrics,
    /// Of the node and the agent, with what the environment says.
    pub resource: Attributes,
    pub state: Arc<MetricState>,
    pub store: Store,
    pub log: Log,
    pub health: Health,
    pub sender: Sender,
    pub pipeline: Stoppable,
    pub committer: Stoppable,
}

impl Downstream {
    /// # Errors
    /// Telemetry's settings cannot be used, another agent has the store, or a thread cannot be had.
    pub async fn start(
        loaded: &Loaded,
        sources: &Sources,
        host: &Host,
        clock: &Clock,
        retained_caps: &RetainedCaps,
        registrations: &[Registration],
    ) -> anyhow::Result<Downstream> {
        let config = &loaded.config;
        let node = node::resource(host, &sources.env);
        let (resource, warning) = telemetry::resource(&node, &sources.env);
        let telemetry = start_telemetry(config, &resource, registrations)?;
        for text in loaded.warnings.iter().chain(&warning) {
            tracing::warn!("{text}");
        }
        let state = Arc::new(MetricState::new(config.metrics.max_series as usize, clock.now().wall));
        let of_own = clock.clone();
        let own = SelfMetrics::new(state.clone(), move || of_own.now().wall);
        let counting = Arc::new(Counting { state: state.clone(), own: own.clone() });
        let (of_store, of_node) = (config.clone(), resource.clone());
        // On a thread that has few privileges, as fjall's own inherit them.
        let now_ns = clock.now().wall.0;
        let store = tokio::task::spawn_blocking(move || open_store(&of_store, &of_node, now_ns)).await??;
        let last_id = store.last_id().ok().flatten();
        let start_id = last_id.unwrap_or(EventId::before(clock.now().wall.0));
        let (wall, steady) = (clock.clone(), clock.clone());
        let (log, committer) = Log::new(Arc::new(store.clone()), counting.clone(), move || wall.now().wall, start_id);
        let (sender, pipeline) = Pipeline::new(pipeline::Setup {
            identity: node::identity(host),
            incidents: incident_settings(config),
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
        let committer = stoppable("commit", with_reduced_privileges(retained_caps, move |stop| committer.run(stop)))?;
        let pipeline = stoppable("pipeline", with_reduced_privileges(retained_caps, move |stop| pipeline.run(stop)))?;
        let health = Health::default();
        Ok(Downstream { telemetry, own, resource, state, store, log, health, sender, pipeline, committer })
    }

    /// The writer of `/metrics`.
    pub fn prometheus(&self) -> Arc<Prometheus> {
        let instruments = self.telemetry.instruments();
        Arc::new(Prometheus::new(self.state.clone(), &self.resource, Box::new(move || instruments.families())))
    }
}

fn start_telemetry(
    config: &Config,
    resource: &Attributes,
    registrations: &[Registration],
) -> anyhow::Result<Telemetry> {
    let declared = own::ALL.iter().copied().chain(registrations.iter().flat_map(Registration::metrics));
    let telemetry = Telemetry::start(telemetry::Options {
        resource: resource.clone(),
        otlp: &config.exporters.otlp,
        instruments: telemetry::Bounds {
            interval: config.metrics.interval.get(),
            max_series: config.metrics.max_series as usize,
            declared: declared.collect(),
        },
    })?;
    let output = match config.log.format {
        config::LogFormat::Text => telemetry::Output::Text,
        config::LogFormat::Json => telemetry::Output::Json,
    };
    let subscriber = telemetry.subscriber(config.log.level.as_str(), output)?;
    // A second agent in one process, as tests have it, keeps the first one's.
    drop(tracing::subscriber::set_global_default(subscriber));
    // What collectors make through the OpenTelemetry API is made after this.
    opentelemetry::global::set_meter_provider(telemetry.meters());
    Ok(telemetry)
}

/// The store; a closed one, to be tried again, where it cannot be opened now. Two agents cannot share one.
fn open_store(config: &Config, resource: &Attributes, now_ns: u64) -> anyhow::Result<Store> {
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
        Err(e @ OpenError::Locked(_)) => return Err(e.into()),
        Err(e) => {
            tracing::error!("running without a store for now: {e}");
            Store::closed(settings, e.to_string())
        }
    };
    if let Err(e) = store.set_node(&otlp::key_values(resource)).and_then(|()| store.prepare(now_ns)) {
        tracing::debug!("{e}");
    }
    Ok(store)
}

pub(super) fn incident_settings(config: &Config) -> pipeline::incident::Settings {
    pipeline::incident::Settings { quiet: config.incident.quiet.get(), ..Default::default() }
}
