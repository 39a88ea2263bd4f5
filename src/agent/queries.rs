// SPDX-License-Identifier: Apache-2.0
//! What the HTTP side is answered from.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use super::rear::Rear;
use crate::api::{ExporterState, Hub, Local, Readiness, StoreReadiness};
use crate::collectors::run::{State, Statuses};
use crate::host::Clock;
use crate::pipeline::log::Log;
use crate::signal::ids::EventId;
use crate::signal::otlp;

/// Answers from the agent's own store, log and statuses; and what must run for followers to be told.
pub(super) fn answers(
    rear: &Rear,
    statuses: Arc<Statuses>,
    clock: &Clock,
    mut stop: watch::Receiver<bool>,
) -> (Local, impl Future<Output = ()> + use<>) {
    let (asked, runtime) = (rear.log.clone(), tokio::runtime::Handle::current());
    let node: Arc<[_]> = otlp::key_values(&rear.resource).into();
    // In this order: what is accepted between the two is seen twice, and told once.
    let live = rear.log.watch();
    let newest = rear.store.last_id().ok().flatten().unwrap_or(EventId::before(clock.now().wall.0));
    let hub = Arc::new(Hub::new(newest, node.clone()));
    let feed = hub.clone().feed(live);
    let feeding = async move {
        tokio::select! {
            () = feed => {}
            _ = stop.wait_for(|s| *s) => {}
        }
    };
    let local = Local {
        store: rear.store.clone(),
        hub,
        node,
        metrics: rear.state.clone(),
        own: rear.own.clone(),
        started: clock.now().wall,
        readiness: Box::new(move || readiness(&asked, &statuses)),
        blocking: Arc::new(move |question| drop(runtime.spawn_blocking(question))),
    };
    (local, feeding)
}

/// Whether the agent does what it should.
pub(super) fn readiness(log: &Log, statuses: &Statuses) -> Readiness {
    let store = log.state();
    let collectors = statuses.snapshot();
    let exporters = log
        .behind()
        .into_iter()
        .map(|(name, b)| ExporterState { name, state: "ok", reason: None, behind: b.events })
        .collect();
    Readiness {
        ready: store.degraded.is_none() && collectors.iter().all(|c| c.state != State::Failed),
        store: StoreReadiness {
            state: if store.degraded.is_some() { "degraded" } else { "ok" },
            reason: store.degraded,
            dropped: store.dropped,
        },
        exporters,
        collectors,
    }
}
