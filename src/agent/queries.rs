// SPDX-License-Identifier: Apache-2.0
//! What the HTTP side is answered from.

use std::sync::Arc;

use super::rear::Rear;
use crate::api::{ExporterState, Local, Readiness, StoreReadiness};
use crate::collectors::run::{State, Statuses};
use crate::host::Clock;
use crate::pipeline::log::Log;
use crate::signal::otlp;

/// Answers from the agent's own store, log and statuses.
pub(super) fn answers(rear: &Rear, statuses: Arc<Statuses>, clock: &Clock) -> Local {
    let (asked, runtime) = (rear.log.clone(), tokio::runtime::Handle::current());
    Local {
        store: rear.store.clone(),
        log: rear.log.clone(),
        node: otlp::key_values(&rear.resource).into(),
        metrics: rear.state.clone(),
        own: rear.own.clone(),
        started: clock.now().wall,
        readiness: Box::new(move || readiness(&asked, &statuses)),
        blocking: Arc::new(move |question| drop(runtime.spawn_blocking(question))),
    }
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
