// SPDX-License-Identifier: Apache-2.0
//! Starts the exporters that are configured.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exporters::otlp::{Delivery, MetricDelivery, Node, Shutdown, Signal, Transport};
use crate::pipeline::log::{Log, Reader};
use crate::pipeline::metrics::MetricState;
use crate::signal::Attributes;
use crate::telemetry::SelfMetrics;

/// Between two looks whether a store that could not be opened is back.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// What exporters read.
pub(super) struct Exporting<'a> {
    pub log: &'a Log,
    pub state: &'a Arc<MetricState>,
    pub own: &'a SelfMetrics,
    pub resource: &'a Attributes,
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
async fn reader(log: &Log, signal: Signal, stop: &mut watch::Receiver<bool>) -> Option<Reader> {
    let name = format!("otlp/{}", signal.name());
    loop {
        let (log, wanted) = (log.clone(), name.clone());
        // It counts what it is behind; with a million entries that is a second.
        match tokio::task::spawn_blocking(move || log.reader(&wanted)).await.map_err(Into::into).flatten() {
            Ok(reader) => return Some(reader),
            Err(e) => tracing::debug!("delivery of {} waits for the store: {e:#}", signal.name()),
        }
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => {}
            _ = stop.wait_for(|s| *s) => return None,
        }
    }
}

impl Exporting<'_> {
    /// One delivery for each signal that has an endpoint.
    pub fn start(
        &self,
        config: &Config,
        tasks: &TaskTracker,
        stop: &watch::Receiver<bool>,
        deadline: &Arc<OnceLock<Instant>>,
    ) -> anyhow::Result<()> {
        let otlp = &config.exporters.otlp;
        let node = Node::new(self.resource);
        let seed = u64::from(std::process::id());
        for signal in [Signal::Logs, Signal::Traces, Signal::Profiles] {
            let Some(endpoint) = otlp.endpoint(signal)? else { continue };
            let transport = Transport::new(&endpoint)?;
            let (log, node, own) = (self.log.clone(), node.clone(), self.own.clone());
            let (mut stop, end) = (stop.clone(), shutdown(stop.clone(), deadline.clone()));
            tasks.spawn(async move {
                let Some(reader) = reader(&log, signal, &mut stop).await else { return };
                Delivery::new(signal, reader, transport, node, own, seed).run(end).await;
            });
        }
        if let Some(endpoint) = otlp.endpoint(Signal::Metrics)? {
            let interval = config.metrics.interval.get();
            let transport = Transport::new(&endpoint)?;
            let delivery = MetricDelivery::new(self.state.clone(), transport, node, interval, self.own.clone());
            tasks.spawn(delivery.run(shutdown(stop.clone(), deadline.clone())));
        }
        Ok(())
    }
}
