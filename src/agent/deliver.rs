// SPDX-License-Identifier: Apache-2.0
//! Starts the exporters that are configured.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exporters::elasticsearch;
use crate::exporters::health::{ExporterStatus, Health};
use crate::exporters::node::Node;
use crate::exporters::otlp::{Delivery, MetricDelivery, Signal, Transport};
use crate::exporters::retry::Shutdown;
use crate::pipeline::log::{Log, Reader};
use crate::pipeline::metrics::{MetricState, SelfMetrics};
use crate::signal::Attributes;
use crate::telemetry::Instruments;

/// Between two looks whether a store that could not be opened is back.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// What exporters read.
pub(super) struct Exporting<'a> {
    pub log: &'a Log,
    pub state: &'a Arc<MetricState>,
    pub own: &'a SelfMetrics,
    pub resource: &'a Attributes,
    pub health: &'a Health,
    pub instruments: Instruments,
}

/// Yields the moment by which an exporter must have ended, once the agent stops.
fn shutdown(mut stop: watch::Receiver<bool>, deadline: Arc<OnceLock<Instant>>) -> Shutdown {
    Box::pin(async move {
        // An error means that the agent is gone.
        drop(stop.wait_for(|s| *s).await);
        deadline.get().copied().unwrap_or_else(Instant::now)
    })
}

/// The reader with its saved cursor; waits for a store that cannot be read yet. `None`: the agent stops.
async fn reader(log: &Log, name: &str, health: &Health, stop: &mut watch::Receiver<bool>) -> Option<Reader> {
    loop {
        let (log, wanted) = (log.clone(), name.to_owned());
        // It counts what it is behind; with a million entries that is a second.
        match tokio::task::spawn_blocking(move || log.reader(&wanted)).await.map_err(Into::into).flatten() {
            Ok(reader) => return Some(reader),
            Err(e) => {
                health.set(name, ExporterStatus::Failing(format!("waits for the store: {e:#}")));
                tracing::debug!("delivery by {name} waits for the store: {e:#}");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => {}
            _ = stop.wait_for(|s| *s) => return None,
        }
    }
}

/// Differs between agents, so that they do not retry at the same moment: not the pid, which is 1 in
/// every container.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Exporting<'_> {
    /// One delivery for each back end, and signal, that has an address.
    pub fn start(
        &self,
        config: &Config,
        tasks: &TaskTracker,
        stop: &watch::Receiver<bool>,
        deadline: &Arc<OnceLock<Instant>>,
    ) -> anyhow::Result<()> {
        self.start_otlp(config, tasks, stop, deadline)?;
        self.start_elasticsearch(&config.exporters.elasticsearch, tasks, stop, deadline)
    }

    fn start_elasticsearch(
        &self,
        settings: &elasticsearch::Settings,
        tasks: &TaskTracker,
        stop: &watch::Receiver<bool>,
        deadline: &Arc<OnceLock<Instant>>,
    ) -> anyhow::Result<()> {
        if !settings.is_on() {
            return Ok(());
        }
        let client = elasticsearch::Client::new(settings, seed())?;
        let (log, node, own) = (self.log.clone(), Node::new(self.resource), self.own.clone());
        let (mut stop, end) = (stop.clone(), shutdown(stop.clone(), deadline.clone()));
        let (namespace, health) = (settings.namespace.clone(), self.health.clone());
        tasks.spawn(async move {
            let Some(reader) = reader(&log, elasticsearch::EXPORTER, &health, &mut stop).await else { return };
            let delivery = elasticsearch::Delivery::new(reader, client, &namespace, node, own, seed());
            delivery.with_health(health).run(end).await;
        });
        Ok(())
    }

    fn start_otlp(
        &self,
        config: &Config,
        tasks: &TaskTracker,
        stop: &watch::Receiver<bool>,
        deadline: &Arc<OnceLock<Instant>>,
    ) -> anyhow::Result<()> {
        let otlp = &config.exporters.otlp;
        let node = Node::new(self.resource);
        for signal in [Signal::Logs, Signal::Traces, Signal::Profiles] {
            let Some(endpoint) = otlp.endpoint(signal)? else { continue };
            let transport = Transport::new(&endpoint)?;
            let (log, node, own, health) = (self.log.clone(), node.clone(), self.own.clone(), self.health.clone());
            let (mut stop, end) = (stop.clone(), shutdown(stop.clone(), deadline.clone()));
            tasks.spawn(async move {
                let name = format!("otlp/{}", signal.name());
                let Some(reader) = reader(&log, &name, &health, &mut stop).await else { return };
                Delivery::new(signal, reader, transport, node, own, seed()).with_health(health).run(end).await;
            });
        }
        if let Some(endpoint) = otlp.endpoint(Signal::Metrics)? {
            let interval = config.metrics.interval.get();
            let transport = Transport::new(&endpoint)?;
            let delivery = MetricDelivery::new(self.state.clone(), transport, node, interval, self.own.clone());
            let instruments = self.instruments.clone();
            let delivery = delivery.with_instruments(Box::new(move || instruments.scopes()));
            tasks.spawn(delivery.with_health(self.health.clone()).run(shutdown(stop.clone(), deadline.clone())));
        }
        Ok(())
    }
}
