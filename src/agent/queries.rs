// SPDX-License-Identifier: Apache-2.0
//! What the HTTP side is answered from.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::downstream::Downstream;
use crate::api::{ExporterState, Hub, Local, Readiness, StoreReadiness};
use crate::collectors::run::{State, Statuses};
use crate::exporters::health::{ExporterStatus, Health};
use crate::host::Clock;
use crate::pipeline::log::{Behind, Log};
use crate::probe::stacks::Symbols;
use crate::signal::ids::EventId;
use crate::signal::otlp;

/// Answers from the agent's own store, log and statuses; and the task that serves followers.
pub(super) fn answers(
    downstream: &Downstream,
    statuses: Arc<Statuses>,
    clock: &Clock,
    symbols: Symbols,
    mut stop: watch::Receiver<bool>,
) -> (Local, impl Future<Output = ()> + use<>) {
    let (asked, health, runtime) =
        (downstream.log.clone(), downstream.health.clone(), tokio::runtime::Handle::current());
    let node: Arc<[_]> = otlp::key_values(&downstream.resource).into();
    // In this order: what is accepted between the two is seen twice, and delivered once.
    let live = downstream.log.watch();
    let newest = downstream.store.last_id().ok().flatten().unwrap_or(EventId::before(clock.now().wall.0));
    let hub = Arc::new(Hub::new(newest, node.clone()));
    let feed = hub.clone().feed(live);
    let feeding = async move {
        tokio::select! {
            () = feed => {}
            _ = stop.wait_for(|s| *s) => {}
        }
    };
    let local = Local {
        store: downstream.store.clone(),
        hub,
        node,
        metrics: downstream.state.clone(),
        own: downstream.own.clone(),
        started: clock.now().wall,
        readiness: Box::new(move || readiness(&asked, &health, &statuses, &symbols)),
        blocking: Arc::new(move |question| drop(runtime.spawn_blocking(question))),
    };
    (local, feeding)
}

/// An exporter whose oldest entry has waited so long is behind: a batch and its request take less.
const BEHIND: Duration = Duration::from_secs(10);

/// The status of each exporter: what it reports itself, and how far behind it is.
fn exporters(behind: Vec<(String, Behind)>, health: &Health) -> Vec<ExporterState> {
    let mut behind: BTreeMap<String, Behind> = behind.into_iter().collect();
    let reported = health.now().into_iter().map(|(name, status)| {
        let b = behind.remove(&name).unwrap_or_default();
        let (state, reason) = match status {
            ExporterStatus::Failing(why) => ("failing", Some(why)),
            ExporterStatus::Unsupported(why) => ("unsupported", Some(why)),
            ExporterStatus::Healthy if b.age >= BEHIND => {
                ("behind", Some(format!("the oldest waits for {} s", b.age.as_secs())))
            }
            ExporterStatus::Healthy => ("ok", None),
        };
        ExporterState { name, state, reason, behind: b.events }
    });
    reported.collect()
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

    /// A failing exporter comes with its reason, a late one as behind, and one whose signal the back end lacks as unsupported.
    #[test]
    fn status_of_each_exporter() {
        let health = Health::default();
        let late = |s| Behind { events: s * 10, bytes: 0, age: Duration::from_secs(s) };
        let reported = [
            ("a", ExporterStatus::Healthy, late(1)),
            ("b", ExporterStatus::Healthy, late(30)),
            ("c", ExporterStatus::Failing("connection refused".into()), late(40)),
            ("d", ExporterStatus::Unsupported("404".into()), late(0)),
        ];
        let behind = reported.clone().map(|(name, _, b)| (name.to_owned(), b)).to_vec();
        for (name, status, _) in reported {
            health.set(name, status);
        }
        let seen = |health: &Health| -> Vec<_> {
            let all = exporters(behind.clone(), health).into_iter();
            all.map(|e| (e.name, e.state, e.behind, e.reason)).collect()
        };
        let all = seen(&health);
        let states: Vec<_> = all.iter().map(|(name, state, n, _)| (name.as_str(), *state, *n)).collect();
        assert_eq!(states, [("a", "ok", 10), ("b", "behind", 300), ("c", "failing", 400), ("d", "unsupported", 0)]);
        assert_eq!(all[2].3.as_deref(), Some("connection refused"));
        health.set("c", ExporterStatus::Healthy);
        assert_eq!(seen(&health)[2].1, "behind", "it catches up");
    }
}
