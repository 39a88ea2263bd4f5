// SPDX-License-Identifier: Apache-2.0
//! `/v1/events/watch`: events as they are accepted, as server-sent events.
//!
//! A follower is a place in the order of ingest and nothing more: it reads on from there and sleeps
//! when it has all. What is new it reads from memory, where it is once for all followers, and what is
//! older from the store. So it can neither lose nor repeat an event, a slow reader costs no memory, and
//! whoever resumes is like one who was slow. Only what retention took in the meantime is missed: that
//! is reported, with how many they were and where it goes on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query as Parameters, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};

use tokio::sync::OwnedSemaphorePermit;

use super::backend::Changes;
use super::problem::Problem;
use super::sse::MISSED;
use super::state::{Api, BEGINNING, read_query, stopping};
use crate::signal::ids::EventId;
use crate::signal::{Query, Timestamp};

const PAGE: usize = 64;
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long to wait before the store is asked again after it could not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Seconds after which one for whom there was no place may ask again.
const AGAIN_LATER: &str = "5";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(super) async fn events(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Parameters(given): Parameters<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let mut query = read_query(&given, (api.now)())?;
    for (key, refused) in [("until", query.until.is_some()), ("limit", query.limit.is_some())] {
        if refused {
            let refusal = Problem::new(StatusCode::BAD_REQUEST, format!("{key} means nothing to who follows"));
            return Err(refusal.expected("since, after, name, collector, container, pod, namespace or severity"));
        }
    }
    if let Some(last) = headers.get(LAST_EVENT_ID) {
        // A browser that connects again sends the parameters of the first time too: this is later.
        let id = last.to_str().ok().and_then(EventId::parse);
        query.after = Some(id.ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST, "Last-Event-ID is no event's id").expected("24 hex digits")
        })?);
    }
    let Ok(place_taken) = api.watchers.clone().try_acquire_owned() else {
        let refusal = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many follow events already");
        let refusal = refusal.expected(format!("at most {} at once", super::WATCHERS));
        return Ok(([(header::RETRY_AFTER, AGAIN_LATER)], refusal).into_response());
    };
    let changes = api.backend.changes();
    let after = match (query.after, query.since) {
        (Some(id), _) => id,
        // From a time on: all that is stored since.
        (None, Some(_)) => BEGINNING,
        (None, None) => api.backend.last().await?,
    };
    query.after = Some(after);
    query.limit = Some(PAGE);
    let first = place(after).retry(AGAIN);
    let number = api.backend.number(after).await?;
    let ready = VecDeque::from([first]);
    let follower = Follower { api, query, changes, number, ready, reported: false, _place: place_taken };
    let stream = futures_util::stream::unfold(follower, |mut f| async {
        let event = f.next().await?;
        Some((Ok::<_, Infallible>(event), f))
    });
    let sse = Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // Proxies of nginx's kind keep what is streamed until they have enough of it.
    Ok(([("x-accel-buffering", "no")], sse).into_response())
}

/// Says where the follower is without an event, so that it can resume before it has seen one.
fn place(id: EventId) -> Event {
    Event::default().id(id.to_string())
}

struct Follower {
    api: Arc<Api>,
    query: Query,
    changes: Box<dyn Changes>,
    /// The running number of its place, where it is known.
    number: Option<i64>,
    ready: VecDeque<Event>,
    /// Whether the store's failure is logged already.
    reported: bool,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        let mut stop = self.api.stop.clone();
        tokio::select! {
            biased;
            () = stopping(&mut stop) => None,
            event = self.event() => event,
        }
    }

    async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let from = self.query.after.unwrap_or(BEGINNING);
            let page = match self.api.backend.recent(&self.query) {
                Some(page) => Ok(page),
                None => self.api.backend.events(self.query.clone()).await,
            };
            let page = match page {
                Ok(page) => page,
                Err(e) => {
                    if !std::mem::replace(&mut self.reported, true) {
                        tracing::warn!("a follower of events waits for the store: {e:#}");
                    }
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            self.reported = false;
            if let Some(gap) = page.gap {
                let count = gap.upto.zip(self.number).map(|(now, before)| now - before).filter(|n| *n > 0);
                self.ready.push_back(missed(from, page.events.first().map(|(id, _)| *id).or(page.upto), count));
                self.number = gap.upto;
            }
            self.number = self.number.map(|n| n + i64::try_from(page.looked).unwrap_or(0));
            self.ready.extend(page.events.iter().map(|(id, json)| place(*id).data(json)));
            let upto = page.upto.unwrap_or(from).max(from);
            self.query.after = Some(upto);
            if self.ready.is_empty() && !page.more && !self.changes.beyond(upto).await {
                return None;
            }
        }
    }
}

/// Reports from when to when events are gone, how many (captures count too), and after which id what is
/// left goes on. With it as its own id, whoever loses the connection right here resumes there.
fn missed(after: EventId, before: Option<EventId>, count: Option<i64>) -> Event {
    let time = |id: EventId| Timestamp(id.time_ns()).rfc3339();
    let resume = before.map_or(after, EventId::previous);
    let data = serde_json::json!({
        "missed": "events of this span are gone by age or size before they were read",
        "since": time(after),
        "until": before.map(time),
        "count": count,
        "resume": resume.to_string(),
    });
    place(resume).event(MISSED).data(data.to_string())
}
