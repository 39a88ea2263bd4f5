// SPDX-License-Identifier: Apache-2.0
//! Answers from the agent's own store and log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context as _;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use tokio::sync::{oneshot, watch};

use super::backend::{Backend, Changes, Found, Gap, Page, Readiness, Reply};
use super::hub::{Hub, Position};
use super::readings::{self, MetricQuery};
use super::state::BEGINNING;
use crate::exporters::store::{self, Store};
use crate::pipeline::metrics::{MetricState, SelfMetrics};
use crate::signal::ids::EventId;
use crate::signal::{Query, Timestamp, json};

/// Runs what may wait for the disk where waiting is allowed; the agent's, as only it starts threads.
pub type Blocking = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// The backend of a running agent.
pub struct Local {
    pub store: Store,
    pub hub: Arc<Hub>,
    /// Resource attributes of the node.
    pub node: Arc<[KeyValue]>,
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    pub metrics: Arc<MetricState>,
    pub own: SelfMetrics,
    /// When the agent started.
    pub started: Timestamp,
    pub blocking: Blocking,
}

impl Local {
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store, &[KeyValue]) -> anyhow::Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (answer, answered) = oneshot::channel();
        let (store, node) = (self.store.clone(), self.node.clone());
        (self.blocking)(Box::new(move || {
            // Who asked may have gone away.
            let _ = answer.send(question(&store, &node));
        }));
        Box::pin(async move { answered.await.context("the agent stops")? })
    }
}

impl Backend for Local {
    fn events(&self, query: Query) -> Reply<Page> {
        let hub = self.hub.clone();
        self.ask(move |store, node| {
            // Read before the events: all up to here is in what follows.
            let last = store.last_id()?;
            let gap = match query.after {
                Some(id) if id > BEGINNING && store.has_forgotten(id)? => {
                    Some(Gap { upto: Some(number_of(store, &hub, id)?) })
                }
                _ => None,
            };
            let (found, looked) = store.events_among(&query)?;
            let more = query.limit.is_some_and(|limit| found.len() >= limit);
            let seen = found.last().map(|s| s.entry.id());
            let text = |s: &crate::pipeline::backing::Stored| {
                (s.entry.id(), json::event(&s.entry, s.workload.as_deref(), node).to_string().into())
            };
            let upto = if more { seen } else { seen.max(last) };
            Ok(Page { events: found.iter().map(text).collect(), upto, more, looked, gap })
        })
    }

    fn recent(&self, query: &Query) -> Option<Page> {
        self.hub.page(query)
    }

    fn number(&self, id: EventId) -> Reply<Option<i64>> {
        let hub = self.hub.clone();
        // Who begins now is where the hub is; no need to count.
        let newest = hub.newest();
        if id == newest.id {
            return Box::pin(async move { Ok(Some(newest.number)) });
        }
        self.ask(move |store, _| match store.has_forgotten(id)? {
            true => Ok(None),
            false => Ok(Some(number_of(store, &hub, id)?)),
        })
    }

    fn incidents(&self, query: Query) -> Reply<Vec<String>> {
        self.ask(move |store, node| {
            let found = store.incidents(&query)?;
            Ok(found.iter().map(|i| json::incident(&i.record, i.workload.as_deref(), node).to_string()).collect())
        })
    }

    fn find(&self, prefix: String) -> Reply<Found> {
        self.ask(move |store, node| {
            Ok(match store.find(&prefix)? {
                store::Found::Nothing => Found::Nothing,
                store::Found::Ambiguous(ids) => Found::Ambiguous(ids),
                store::Found::Event(s) => Found::Event(json::event(&s.entry, s.workload.as_deref(), node).to_string()),
                store::Found::Incident(i) => {
                    let entries = store.incident_entries(&i.record)?;
                    let entries = entries.iter().map(|s| (&*s.entry, s.workload.as_deref()));
                    let tree = json::incident_tree(&i.record, i.workload.as_deref(), entries, node);
                    Found::Incident(tree.to_string())
                }
            })
        })
    }

    fn last(&self) -> Reply<EventId> {
        self.ask(|store, _| Ok(store.last_id()?.unwrap_or(BEGINNING)))
    }

    fn changes(&self) -> Box<dyn Changes> {
        Box::new(Committed(self.hub.subscribe()))
    }

    fn readiness(&self) -> Readiness {
        (self.readiness)()
    }

    fn node(&self) -> Reply<String> {
        let (readiness, started) = ((self.readiness)(), self.started);
        self.ask(move |store, node| {
            // `/readyz` reports a store that cannot be read.
            let open = store.open_incidents().map(|all| all.len()).ok();
            let mut said = serde_json::json!({
                "agent": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "started": started.rfc3339() },
                "resource": json::object(node.iter()),
                "ready": readiness.ready,
                "store": readiness.store,
                "exporters": readiness.exporters,
                "incidents_open": open,
            });
            if let Ok(bytes) = store.size() {
                said["store"]["size_bytes"] = bytes.into();
            }
            Ok(said.to_string())
        })
    }

    fn metrics(&self, query: &MetricQuery) -> Vec<String> {
        readings::lines(&self.metrics.read(), query)
    }

    fn costs(&self) -> Vec<String> {
        let runs = self.own.runs();
        let runs = runs.iter().map(|(name, r)| {
            serde_json::json!({ "collector": name, "runs": r.runs, "failures": r.failures, "seconds": r.seconds })
        });
        let probes = self.own.probe_costs();
        let probes = probes.iter().map(|((probe, hook), (runs, seconds))| {
            serde_json::json!({ "probe": probe, "hook": hook, "runs": runs, "seconds": seconds })
        });
        runs.chain(probes).map(|line| line.to_string()).collect()
    }
}

/// The number of `id`, or of what would be there: the newest one's, less what is stored since, or more what is not let
/// go yet.
fn number_of(store: &Store, hub: &Hub, id: EventId) -> anyhow::Result<i64> {
    let newest = hub.newest();
    let between = |from, to| anyhow::Ok(i64::try_from(store.count_between(from, to)?).unwrap_or(i64::MAX));
    Ok(newest.number - between(id, newest.id)? + between(newest.id, id)?)
}

struct Committed(watch::Receiver<Position>);

impl Changes for Committed {
    fn beyond(&mut self, id: EventId) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { self.0.wait_for(|newest| newest.id > id).await.is_ok() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use opentelemetry_proto::tonic::logs::v1::LogRecord;

    use super::super::{Api, Client, Followed, Listen, Server, StoreReadiness};
    use super::*;
    use crate::exporters::prometheus::Prometheus;
    use crate::exporters::store::Settings;
    use crate::pipeline::NoObserver;
    use crate::pipeline::log::{Append, Log};
    use crate::signal::entry::Entry;
    use crate::signal::{Attributes, Severity};

    const HOUR: u64 = 3_600_000_000_000;

    fn id(n: u64) -> EventId {
        let mut id = EventId([1; 12]);
        id.0[..8].copy_from_slice(&(HOUR + n).to_be_bytes());
        id
    }

    fn entry(n: u64) -> Entry {
        let log = LogRecord {
            time_unix_nano: HOUR + n,
            severity_number: Severity::Warn as i32,
            event_name: if n.is_multiple_of(2) { "linux.even" } else { "linux.odd" }.into(),
            ..LogRecord::default()
        };
        Entry { raw_id: id(n).0.to_vec(), collector: "test".into(), log: Some(log), ..Entry::default() }
    }

    /// Over the real log and store: a follower gets every committed event once, soon, in the one JSON form; and
    /// afterwards the same are found by query and by id.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn real_store_and_log() {
        const EVENTS: u64 = 500;
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { path: dir.path().join("store"), max_size: 1 << 30, max_age: Duration::MAX };
        let (store, _) = Store::open(settings, Duration::ZERO).unwrap();
        let now = || Timestamp(2 * HOUR);
        let (log, committer) = Log::new(Arc::new(store.clone()), Arc::new(NoObserver), now, BEGINNING);
        let hub = Arc::new(Hub::new(BEGINNING, Arc::new([])));
        tokio::spawn(hub.clone().feed(log.watch()));
        let end = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let end = end.clone();
            move || committer.run(&end)
        });
        let readiness = || Readiness {
            ready: true,
            store: StoreReadiness { state: "ok", reason: None, dropped: 0 },
            symbols: None,
            exporters: Vec::new(),
            collectors: Vec::new(),
        };
        let backend = Arc::new(Local {
            store,
            hub: hub.clone(),
            node: Arc::new([]),
            readiness: Box::new(readiness),
            metrics: Arc::new(MetricState::new(1, Timestamp(0))),
            own: SelfMetrics::unread(),
            started: Timestamp(HOUR),
            blocking: Arc::new(|f| drop(tokio::task::spawn_blocking(f))),
        });
        let numbers = backend.clone();
        let state = Arc::new(MetricState::new(1, Timestamp(0)));
        let metrics = Arc::new(Prometheus::new(state, &Attributes::new(), Box::new(Vec::new)));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let socket = dir.path().join("api.sock");
        let server = Server::bind(&Listen { socket: Some(socket.clone()), ..Listen::default() }).await.unwrap();
        let api = Arc::new(Api::new(backend, metrics, Box::new(now), stopped));
        let served = tokio::spawn(server.run(api, Arc::new(|f| drop(tokio::spawn(f)))));

        let client = Client::unix(&socket);
        let mut follower = client.follow(Query { name: Some("even".into()), ..Query::default() });
        let appended = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for n in 1..=EVENTS {
                log.append(Append { entries: vec![entry(n).into()], ..Append::default() });
                if n.is_multiple_of(100) {
                    tokio::time::sleep(Duration::from_millis(70)).await;
                }
            }
            Instant::now()
        };
        let followed = async {
            for n in (2..=EVENTS).step_by(2) {
                match follower.next().await.unwrap() {
                    Followed::Event { id: got, json } => {
                        assert_eq!(got, id(n));
                        assert!(json.contains(r#""name":"linux.even""#) && json.contains(r#""severity""#), "{json}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            Instant::now()
        };
        let (last_append, last_seen) = tokio::join!(appended, followed);
        // The commit gathers for 50 ms; the machine may be busy.
        assert!(last_seen.saturating_duration_since(last_append) < Duration::from_secs(2));
        let mut lines = client.events(&Query::default()).await.unwrap();
        let mut count = 0;
        while lines.next().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, EVENTS);
        let mut one = client.get(&format!("/v1/events/{}", id(77)), &[]).await.unwrap();
        assert!(one.next().await.unwrap().unwrap().contains(&id(77).to_string()));
        for n in [1, 77, EVENTS] {
            let number = numbers.number(id(n)).await.unwrap();
            assert_eq!(number, Some(i64::try_from(n).unwrap()));
        }
        stop.send_replace(true);
        served.await.unwrap();
        end.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}
