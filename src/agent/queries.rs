// SPDX-License-Identifier: Apache-2.0
//! Answers what the HTTP side asks, from the store.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::api::{Backend, Changes, Found, Page, Readiness, Reply, StoreReadiness};
use crate::collectors::run::{State, Statuses};
use crate::exporters::store::{self, Store};
use crate::pipeline::log::{Live, Log, Watch};
use crate::signal::ids::EventId;
use crate::signal::{Attributes, Query, json, otlp};

/// The agent's answers.
#[derive(Clone)]
pub(super) struct Answers {
    store: Store,
    log: Log,
    statuses: Arc<Statuses>,
    node: Arc<[KeyValue]>,
}

impl Answers {
    pub fn new(store: Store, log: Log, statuses: Arc<Statuses>, resource: &Attributes) -> Self {
        Answers { store, log, statuses, node: otlp::key_values(resource).into() }
    }

    /// Reads the store where waiting for the disk holds up nobody else.
    fn ask<T: Send + 'static>(&self, f: impl FnOnce(&Answers) -> anyhow::Result<T> + Send + 'static) -> Reply<T> {
        let answers = self.clone();
        Box::pin(async move { tokio::task::spawn_blocking(move || f(&answers)).await? })
    }
}

impl Backend for Answers {
    fn events(&self, query: Query) -> Reply<Page> {
        self.ask(move |a| {
            let limit = query.limit.unwrap_or(usize::MAX);
            let found = a.store.events(&query)?;
            let events: Vec<_> = found
                .into_iter()
                .map(|s| (s.entry.id(), json::event(&s.entry, s.workload.as_deref(), &a.node).to_string()))
                .collect();
            let more = events.len() >= limit;
            let upto = if more { events.last().map(|(id, _)| *id) } else { a.store.last_id()? };
            Ok(Page { events, upto, more, gap: false })
        })
    }

    fn incidents(&self, query: Query) -> Reply<Vec<String>> {
        self.ask(move |a| {
            let found = a.store.incidents(&query)?;
            Ok(found
                .into_iter()
                .map(|i| json::incident(&i.record, i.workload.as_deref(), &a.node).to_string())
                .collect())
        })
    }

    fn find(&self, prefix: String) -> Reply<Found> {
        self.ask(move |a| {
            Ok(match a.store.find(&prefix)? {
                store::Found::Nothing => Found::Nothing,
                store::Found::Event(s) => {
                    Found::Event(json::event(&s.entry, s.workload.as_deref(), &a.node).to_string())
                }
                store::Found::Incident(i) => {
                    let entries = a.store.incident_entries(&i.record)?;
                    let entries = entries.iter().map(|s| (&*s.entry, s.workload.as_deref()));
                    Found::Incident(json::incident_tree(&i.record, i.workload.as_deref(), entries, &a.node).to_string())
                }
                store::Found::Ambiguous(ids) => Found::Ambiguous(ids),
            })
        })
    }

    fn last(&self) -> Reply<EventId> {
        self.ask(|a| Ok(a.store.last_id()?.unwrap_or(EventId([0; 12]))))
    }

    fn changes(&self) -> Box<dyn Changes> {
        Box::new(Accepted(self.log.watch()))
    }

    fn readiness(&self) -> Readiness {
        let store = self.log.state();
        let collectors = self.statuses.snapshot();
        let ready = store.degraded.is_none() && collectors.iter().all(|c| c.state != State::Failed);
        Readiness {
            ready,
            store: StoreReadiness {
                state: if store.degraded.is_some() { "degraded" } else { "ok" },
                reason: store.degraded,
                dropped: store.dropped,
            },
            exporters: Vec::new(),
            collectors,
        }
    }
}

struct Accepted(Watch);

impl Changes for Accepted {
    fn beyond(&mut self, id: EventId) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            loop {
                match self.0.next().await {
                    Live::Entry(s) if s.entry.id() <= id => {}
                    Live::Entry(_) | Live::Missed(_) => return true,
                    Live::End => return false,
                }
            }
        })
    }
}
