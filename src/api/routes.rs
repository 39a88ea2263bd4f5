// SPDX-License-Identifier: Apache-2.0
//! What is asked under which path.

use std::io::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query as Parameters, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::backend::Found;
use super::guard::{self, Guard};
use super::page;
use super::problem::Problem;
use super::readings::MetricQuery;
use super::state::{Api, BEGINNING, read_query};
use super::watch;
use crate::exporters::prometheus::{Format, negotiate};

/// Every path, for help texts and for who asks another.
pub const ENDPOINTS: &[&str] = &[
    "/metrics",
    "/healthz",
    "/readyz",
    "/",
    "/v1/node",
    "/v1/collectors",
    "/v1/costs",
    "/v1/metrics",
    "/v1/events",
    "/v1/events/watch",
    "/v1/events/ID",
    "/v1/incidents",
    "/v1/incidents/ID",
];

const NDJSON: &str = "application/x-ndjson";
/// Events that are read at once; an answer without a limit is made of as many pages as it takes.
const PAGE: usize = 64;
/// The fastest level: what is saved on the wire is nearly the same, and a scrape costs CPU time.
const GZIP: u32 = 1;

/// The paths, as one listener serves them.
pub(super) fn router(api: Arc<Api>, guard: Guard) -> Router {
    let not_allowed =
        async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here").into_response();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/v1/node", get(node))
        .route("/v1/collectors", get(collectors))
        .route("/v1/costs", get(costs))
        .route("/v1/metrics", get(readings))
        .route("/v1/events", get(events))
        .route("/v1/events/watch", get(watch::events))
        .route("/v1/events/{id}", get(event))
        .route("/v1/incidents", get(incidents))
        .route("/v1/incidents/{id}", get(incident))
        .method_not_allowed_fallback(not_allowed)
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "there is nothing under this path").expected(ENDPOINTS.to_vec())
        })
        .with_state(api)
        .merge(page::routes());
    router.layer(middleware::from_fn_with_state(guard, guard::admit)).layer(middleware::map_response(page::harden))
}

async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, Problem> {
    let said = |name: HeaderName| {
        let all: Vec<_> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
        (!all.is_empty()).then(|| all.join(","))
    };
    let format = Format::accepted(said(header::ACCEPT).as_deref());
    let text = api.metrics.scrape(format);
    let vary = (header::VARY, "Accept, Accept-Encoding");
    let kind = (header::CONTENT_TYPE, format.content_type());
    if negotiate::gzip_accepted(said(header::ACCEPT_ENCODING).as_deref()) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP));
        let done = gzip.write_all(text.as_ref()).and_then(|()| gzip.finish());
        let bytes = done.map_err(|e| anyhow::Error::from(e).context("cannot compress the metrics"))?;
        return Ok(([kind, vary, (header::CONTENT_ENCODING, "gzip")], bytes).into_response());
    }
    Ok(([kind, vary], Bytes::from_owner(text)).into_response())
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    let readiness = api.backend.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&readiness) {
        Ok(json) => (status, [(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
        Err(e) => Problem::from(anyhow::Error::from(e)).into_response(),
    }
}

async fn collectors(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let rows = api.backend.readiness().collectors;
    let lines: Result<Vec<_>, _> = rows.iter().map(serde_json::to_string).collect();
    Ok(ndjson(lines.map_err(anyhow::Error::from)?))
}

async fn node(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    Ok(ndjson([api.backend.node().await?]))
}

async fn costs(State(api): State<Arc<Api>>) -> Response {
    ndjson(api.backend.costs())
}

async fn readings(State(api): State<Arc<Api>>, Parameters(given): Raw) -> Result<Response, Problem> {
    Ok(ndjson(api.backend.metrics(&MetricQuery::read(&given)?)))
}

type Raw = Parameters<Vec<(String, String)>>;

async fn events(State(api): State<Arc<Api>>, Parameters(given): Raw) -> Result<Response, Problem> {
    let mut query = read_query(&given, (api.now)())?;
    if query.limit.is_some() {
        let page = api.backend.events(query).await?;
        return Ok(ndjson(page.events.iter().map(|(_, json)| &**json)));
    }
    // What is accepted after the answer has begun belongs to the next question: the answer ends.
    let end = api.backend.last().await?;
    query.limit = Some(PAGE);
    query.after = query.after.or(Some(BEGINNING));
    let pages = futures_util::stream::try_unfold(Some(query), move |next| {
        let api = api.clone();
        async move {
            let Some(mut query) = next else { return anyhow::Ok(None) };
            let page = api.backend.events(query.clone()).await?;
            query.after = page.upto;
            let next = (page.more && page.upto.is_some_and(|id| id < end)).then_some(query);
            let lines = text(page.events.iter().filter(|(id, _)| *id <= end).map(|(_, json)| &**json));
            Ok(Some((lines, next)))
        }
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(pages)).into_response())
}

async fn incidents(State(api): State<Arc<Api>>, Parameters(given): Raw) -> Result<Response, Problem> {
    let query = read_query(&given, (api.now)())?;
    Ok(ndjson(api.backend.incidents(query).await?))
}

async fn event(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Parameters(given): Raw,
) -> Result<Response, Problem> {
    one(&api, &id, &given, "event", EVENT_DIGITS).await
}

async fn incident(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Parameters(given): Raw,
) -> Result<Response, Problem> {
    one(&api, &id, &given, "incident", INCIDENT_DIGITS).await
}

const EVENT_DIGITS: usize = 24;
const INCIDENT_DIGITS: usize = 32;

async fn one(
    api: &Api,
    prefix: &str,
    given: &[(String, String)],
    what: &str,
    digits: usize,
) -> Result<Response, Problem> {
    if let Some((key, _)) = given.first() {
        let refusal = Problem::new(StatusCode::BAD_REQUEST, format!("no such parameter: {key}"));
        return Err(refusal.expected("an id in the path and no parameters"));
    }
    if prefix.is_empty() || prefix.len() > digits || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        let refusal = Problem::new(StatusCode::BAD_REQUEST, format!("{prefix} is no {what}'s id"));
        return Err(refusal.expected(format!("{digits} hex digits, or the unique beginning of them")));
    }
    let mut found = api.backend.find(prefix.to_owned()).await?;
    if let Found::Ambiguous(ids) = &found {
        // An event and an incident may begin alike; which of them is meant is known here.
        let mut of_kind = ids.iter().filter(|id| id.len() == digits);
        if let (Some(id), None) = (of_kind.next(), of_kind.next()) {
            found = api.backend.find(id.clone()).await?;
        }
    }
    match found {
        Found::Event(json) if digits == EVENT_DIGITS => Ok(ndjson([json])),
        Found::Incident(json) if digits == INCIDENT_DIGITS => Ok(ndjson([json])),
        Found::Event(_) | Found::Incident(_) | Found::Nothing => {
            Err(Problem::new(StatusCode::NOT_FOUND, format!("no {what}'s id begins with {prefix}")))
        }
        Found::Ambiguous(ids) => {
            let refusal = Problem::new(StatusCode::CONFLICT, format!("several ids begin with {prefix}"));
            Err(refusal.expected(ids))
        }
    }
}

fn ndjson(lines: impl IntoIterator<Item: AsRef<str>>) -> Response {
    ([(header::CONTENT_TYPE, NDJSON)], text(lines)).into_response()
}

fn text(lines: impl IntoIterator<Item: AsRef<str>>) -> String {
    lines.into_iter().fold(String::new(), |text, line| text + line.as_ref() + "\n")
}
