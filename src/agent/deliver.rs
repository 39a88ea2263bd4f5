// SPDX-License-Identifier: Apache-2.0
//! Starts the exporters that are configured.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exporters::otlp::{Delivery, MetricDelivery, Node, Shutdown, Signal, Transport};
use crate::pipeline::log::Log;
use crate::pipeline::metrics::MetricState;
use crate::signal::Attributes;
use crate::telemetry::SelfMetrics;

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
        for signal in [Signal::Logs, Signal::Traces] {
            let Some(endpoint) = otlp.endpoint(signal)? else { continue };
            let reader = self.log.reader(&format!("otlp/{}", signal.name()))?;
            let transport = Transport::new(&endpoint)?;
            let delivery = Delivery::new(signal, reader, transport, node.clone(), self.own.clone(), seed);
            tasks.spawn(delivery.run(shutdown(stop.clone(), deadline.clone())));
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
