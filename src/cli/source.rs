// SPDX-License-Identifier: Apache-2.0
//! Who answers a query: the agent over its socket, or, if nobody listens there, the store itself.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value as Json;

use super::{Context, Failure, block_on};
use crate::api::{Client, ClientError, Lines};
use crate::exporters::store::{Found, Store};
use crate::host::socket::Connection;
use crate::pipeline::backing::Stored;
use crate::signal::ids::EventId;
use crate::signal::{Query, json};

/// An agent that runs accepts within that.
const ANSWERS: Duration = Duration::from_secs(5);

/// Where answers come from.
pub enum Source {
    Agent(Client),
    Store(Store),
}

/// What an id stands for.
pub enum Item {
    /// With its entries: [`json::incident_tree`].
    Incident(Json),
    Event(Json),
}

impl Source {
    /// Finds out who answers, without asking anything yet.
    pub fn find(cx: &Context<'_>) -> Result<Source, Failure> {
        let config = cx.load()?.config;
        match Connection::open(&config.api.socket, ANSWERS) {
            Ok(_) => Ok(Source::Agent(Client::unix(&config.api.socket))),
            Err(e) if is_nobody(e.kind()) => Self::store(&config.store.path, &config.api.socket),
            Err(e) => Err(anyhow::Error::from(e)
                .context(format!("cannot ask the agent on {}", config.api.socket.display()))
                .into()),
        }
    }

    fn store(path: &Path, socket: &Path) -> Result<Source, Failure> {
        let store = Store::open_existing(path);
        Ok(Source::Store(store.with_context(|| format!("no agent listens on {}", socket.display()))?))
    }

    /// Events, oldest first, one JSON text each.
    pub fn events(&self, q: &Query) -> Result<Vec<String>, Failure> {
        match self {
            Source::Agent(client) => lines(client.events(q)),
            Source::Store(store) => {
                let node = store.node()?;
                Ok(store.events(q)?.iter().map(|s| event(s, &node).to_string()).collect())
            }
        }
    }

    /// Incidents, oldest first, one JSON text each.
    pub fn incidents(&self, q: &Query) -> Result<Vec<String>, Failure> {
        match self {
            Source::Agent(client) => lines(client.incidents(q)),
            Source::Store(store) => {
                let node = store.node()?;
                let row = |i: &crate::exporters::store::StoredIncident| {
                    json::incident(&i.record, i.workload.as_deref(), &node).to_string()
                };
                Ok(store.incidents(q)?.iter().map(row).collect())
            }
        }
    }

    /// The incident or event whose id begins with `prefix`.
    pub fn item(&self, prefix: &str) -> Result<Item, Failure> {
        match self {
            Source::Agent(client) => match block_on(client.incident(prefix))? {
                Ok(tree) => Ok(Item::Incident(tree)),
                Err(ClientError::Refused { status, .. }) if status.as_u16() == 404 => self.event_item(prefix),
                Err(e) => Err(e.into()),
            },
            Source::Store(store) => match store.find(prefix)? {
                Found::Nothing => Err(nothing(prefix)),
                Found::Ambiguous(ids) => Err(several(prefix, &ids)),
                Found::Event(e) => Ok(Item::Event(event(&e, &store.node()?))),
                Found::Incident(i) => {
                    let entries = store.incident_entries(&i.record)?;
                    let entries = entries.iter().map(|s| (s.entry.as_ref(), s.workload.as_deref()));
                    Ok(Item::Incident(json::incident_tree(&i.record, i.workload.as_deref(), entries, &store.node()?)))
                }
            },
        }
    }

    /// The agent finds events only by what comes after an id: as ids are ordered, the first two after
    /// the prefix show.
    fn event_item(&self, prefix: &str) -> Result<Item, Failure> {
        let Some(before) = just_before(prefix) else { return Err(nothing(prefix)) };
        let found = self.events(&Query { after: Some(before), limit: Some(2), ..Query::default() })?;
        let found: Vec<Json> = found.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let id = |e: &Json| e["id"].as_str().unwrap_or_default().to_owned();
        let matching: Vec<Json> = found.into_iter().filter(|e| id(e).starts_with(&prefix.to_lowercase())).collect();
        match <[Json; 1]>::try_from(matching) {
            Ok([event]) => Ok(Item::Event(event)),
            Err(none) if none.is_empty() => Err(nothing(prefix)),
            Err(more) => Err(several(prefix, &more.iter().map(id).collect::<Vec<_>>())),
        }
    }
}

fn event(s: &Stored, node: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> Json {
    json::event(&s.entry, s.workload.as_deref(), node)
}

fn nothing(prefix: &str) -> Failure {
    Failure::Failed(anyhow::anyhow!("there is no incident or event whose id begins with {prefix}"))
}

fn several(prefix: &str, ids: &[String]) -> Failure {
    Failure::Failed(anyhow::anyhow!("several ids begin with {prefix}: {}", ids.join(", ")))
}

fn is_nobody(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// All lines of an answer, read on the runtime that its connection was opened on.
fn lines(answer: impl Future<Output = Result<Lines, ClientError>>) -> Result<Vec<String>, Failure> {
    block_on(async {
        let mut lines = answer.await?;
        let mut out = Vec::new();
        while let Some(line) = lines.next().await? {
            out.push(line);
        }
        Ok(out)
    })?
}

/// The greatest id before all that begin with `prefix`.
fn just_before(prefix: &str) -> Option<EventId> {
    if prefix.is_empty() || prefix.len() > 24 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = EventId::parse(&format!("{prefix:0<24}"))?.0;
    for b in bytes.iter_mut().rev() {
        let (less, borrow) = b.overflowing_sub(1);
        *b = less;
        if !borrow {
            return Some(EventId(bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id before a prefix is one less than the smallest that begins with it.
    #[test]
    fn id_before_a_prefix() {
        let text = |p: &str| just_before(p).map(|id| id.to_string());
        assert_eq!(text("18"), Some("17ffffffffffffffffffffff".into()));
        assert_eq!(text("180000000000000000000001"), Some("180000000000000000000000".into()));
        for none in ["", "0", "xy", "1800000000000000000000011"] {
            assert_eq!(text(none), None, "{none:?}");
        }
    }
}
