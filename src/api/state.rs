// SPDX-License-Identifier: Apache-2.0
//! What all paths share: what they answer from, how a query is read, and when streams end.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{Semaphore, watch};

use super::backend::Backend;
use super::problem::Problem;
use crate::exporters::prometheus::Prometheus;
use crate::signal::ids::EventId;
use crate::signal::{Query, Timestamp};

const MAX_LIMIT: usize = 10_000;
/// Before every id.
pub(super) const BEGINNING: EventId = EventId([0; 12]);

/// All that the paths answer from.
pub struct Api {
    pub backend: Arc<dyn Backend>,
    pub metrics: Arc<Prometheus>,
    /// What spans such as `since=15m` are counted from.
    pub now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Turns true when the agent stops: streams end then.
    pub stop: watch::Receiver<bool>,
    /// Places for those who follow events.
    pub(super) watchers: Arc<Semaphore>,
}

impl Api {
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        metrics: Arc<Prometheus>,
        now: Box<dyn Fn() -> Timestamp + Send + Sync>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Api { backend, metrics, now, stop, watchers: Arc::new(Semaphore::new(super::WATCHERS)) }
    }
}

/// Reads a query; unknown and repeated parameters are refused, as a misspelt filter would show all.
pub(super) fn read_query(given: &[(String, String)], now: Timestamp) -> Result<Query, Problem> {
    let mut query = Query::default();
    for (i, (key, value)) in given.iter().enumerate() {
        query.set(key, value, now)?;
        if given[..i].iter().any(|(k, _)| k == key) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, format!("{key} is given twice")).expected("it once"));
        }
    }
    if let Some(n) = query.limit.filter(|n| *n > MAX_LIMIT) {
        let valid = format!("1 to {MAX_LIMIT}; without a limit all are sent");
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit={n}")).expected(valid));
    }
    Ok(query)
}

/// Waits until the agent stops; the agent gone is the agent stopped.
pub(super) async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}
