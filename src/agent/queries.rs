// SPDX-License-Identifier: Apache-2.0
//! What the HTTP side is answered from.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::rear::Rear;
use crate::api::{ExporterState, Hub, Local, Readiness, StoreReadiness};
use crate::collectors::run::{State, Statuses};
use crate::exporters::health::{Fares, Health};
use crate::host::Clock;
use crate::pipeline::log::{Behind, Log};
use crate::probe::stacks::Symbols;
use crate::signal::ids::EventId;
use crate::signal::otlp;

/// Answers from the agent's own store, log and statuses; and what must run for followers to be told.
pub(super) fn answers(
    rear: &Rear,
    statuses: Arc<Statuses>,
    clock: &Clock,
    symbols: Symbols,
    mut stop: watch::Receiver<bool>,
) -> (Local, impl Future<Output = ()> + use<>) {
    let (asked, health, runtime) = (rear.log.clone(), rear.health.clone(), tokio::runtime::Handle::current());
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
        readiness: Box::new(move || readiness(&asked, &health, &statuses, &symbols)),
        blocking: Arc::new(move |question| drop(runtime.spawn_blocking(question))),
    };
    (local, feeding)
}

/// An exporter whose oldest entry has waited so long is behind: a batch and its request take less.
const BEHIND: Duration = Duration::from_secs(10);

/// How it goes with each exporter: what it tells itself, and how far it is.
fn exporters(behind: Vec<(String, Behind)>, health: &Health) -> Vec<ExporterState> {
    let mut behind: BTreeMap<String, Behind> = behind.into_iter().collect();
    let told = health.now().into_iter().map(|(name, fares)| {
        let b = behind.remove(&name).unwrap_or_default();
        let (state, reason) = match fares {
            Fares::Failing(why) => ("failing", Some(why)),
            Fares::Unserved(why) => ("unserved", Some(why)),
            Fares::Well if b.age >= BEHIND => ("behind", Some(format!("the oldest waits for {} s", b.age.as_secs()))),
            Fares::Well => ("ok", None),
        };
        ExporterState { name, state, reason, behind: b.events }
    });
    told.collect()
}

/// Whether the agent does what it should.
pub(super) fn readiness(log: &Log, health: &Health, statuses: &Statuses, symbols: &Symbols) -> Readiness {
    let store = log.state();
    let collectors = statuses.snapshot();
    let exporters = exporters(log.behind(), health);
    Readiness {
        ready: store.degraded.is_none() && collectors.iter().all(|c| !matches!(c.state, State::Failed | State::Stuck)),
        store: StoreReadiness {
            state: if store.degraded.is_some() { "degraded" } else { "ok" },
            reason: store.degraded,
            dropped: store.dropped,
        },
        symbols: symbols.impaired(),
        exporters,
        collectors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each exporter is told of as it is: one that fails with the reason, one that is only late, one that nobody serves.
    #[test]
    fn exporters_tell_the_truth() {
        let health = Health::default();
        let late = |s| Behind { events: s * 10, bytes: 0, age: Duration::from_secs(s) };
        let told = [
            ("a", Fares::Well, late(1)),
            ("b", Fares::Well, late(30)),
            ("c", Fares::Failing("connection refused".into()), late(40)),
            ("d", Fares::Unserved("404".into()), late(0)),
        ];
        let behind = told.clone().map(|(name, _, b)| (name.to_owned(), b)).to_vec();
        for (name, fares, _) in told {
            health.tell(name, fares);
        }
        let seen = |health: &Health| -> Vec<_> {
            let all = exporters(behind.clone(), health).into_iter();
            all.map(|e| (e.name, e.state, e.behind, e.reason)).collect()
        };
        let all = seen(&health);
        let states: Vec<_> = all.iter().map(|(name, state, n, _)| (name.as_str(), *state, *n)).collect();
        assert_eq!(states, [("a", "ok", 10), ("b", "behind", 300), ("c", "failing", 400), ("d", "unserved", 0)]);
        assert_eq!(all[2].3.as_deref(), Some("connection refused"));
        health.tell("c", Fares::Well);
        assert_eq!(seen(&health)[2].1, "behind", "it catches up");
    }
}
