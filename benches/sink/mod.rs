// SPDX-License-Identifier: Apache-2.0
//! A back end that takes everything, over OTLP/HTTP, OTLP/gRPC and as bulk requests to Elasticsearch, counts it, and
//! looks whether it is in order.

mod grpc;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use bianque::signal::raw::fields;

#[derive(Default)]
struct Seen {
    /// Records of workloads by signal; documents by `elasticsearch/` and the stream's type.
    counts: HashMap<String, u64>,
    /// The newest time by signal and workload.
    last: HashMap<(String, u64), u64>,
    disorder: u64,
}

/// Runs until it is dropped.
pub struct Sink {
    seen: Arc<Mutex<Seen>>,
    port: u16,
    grpc: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Sink {
    pub fn start() -> Sink {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let app = axum::Router::new()
            .route("/v1/{signal}", axum::routing::post(take))
            .route("/v1development/{signal}", axum::routing::post(take))
            .route("/", axum::routing::get(async || as_elasticsearch(r#"{"version":{"number":"8.19.0"}}"#.to_owned())))
            .route("/_bulk", axum::routing::post(bulk))
            .layer(axum::extract::DefaultBodyLimit::max(16 << 20))
            .with_state(seen.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move { axum::serve(listener, app).await });
        let grpc = runtime.block_on(grpc::serve(seen.clone()));
        Sink { seen, port, grpc, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where OTLP/gRPC is taken.
    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    pub fn count(&self, signal: &str) -> u64 {
        self.counts().get(signal).copied().unwrap_or(0)
    }

    pub fn counts(&self) -> HashMap<String, u64> {
        self.seen.lock().unwrap().counts.clone()
    }

    /// Records that are not newer than the one before of the same workload.
    pub fn disorder(&self) -> u64 {
        self.seen.lock().unwrap().disorder
    }
}

async fn take(State(seen): State<Arc<Mutex<Seen>>>, Path(signal): Path<String>, body: Bytes) {
    seen.lock().unwrap().take(&signal, &body);
}

impl Seen {
    /// One request of OTLP: all signals have the same form.
    fn take(&mut self, signal: &str, request: &[u8]) {
        let time_field = match signal {
            "logs" => 1,
            // A span's end.
            "traces" => 8,
            "profiles" => 3,
            // Points have times of their own.
            _ => return,
        };
        let mut n = 0;
        for of_resource in fields(request, 1) {
            let resource = fields(of_resource, 1).next().unwrap_or_default();
            // What the agent says of itself is not counted.
            if !resource.windows(12).any(|w| w == b"container.id") {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            resource.hash(&mut hasher);
            let workload = hasher.finish();
            for record in fields(of_resource, 2).flat_map(|scope| fields(scope, 2)) {
                n += 1;
                let time = fixed64(record, time_field);
                let last = self.last.entry((signal.to_owned(), workload)).or_default();
                let in_order = time > std::mem::replace(last, time);
                self.disorder += u64::from(!in_order);
            }
        }
        *self.counts.entry(signal.to_owned()).or_default() += n;
    }
}

fn as_elasticsearch(body: String) -> impl axum::response::IntoResponse {
    ([("x-elastic-product", "Elasticsearch"), ("content-type", "application/json")], body)
}

/// Takes every document: each has a line that says where to, and one with its fields.
async fn bulk(
    State(seen): State<Arc<Mutex<Seen>>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl axum::response::IntoResponse {
    let mut text = String::new();
    if headers.contains_key("content-encoding") {
        flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    } else {
        text.push_str(std::str::from_utf8(&body).unwrap());
    }
    let after = |line: &'_ str, key: &str| {
        let at = line.find(key)? + key.len();
        line[at..].split('"').next().map(str::to_owned)
    };
    let mut seen = seen.lock().unwrap();
    let mut lines = text.lines();
    let mut verdicts = String::from(r#"{"errors":false,"items":["#);
    let mut comma = "";
    while let (Some(action), Some(document)) = (lines.next(), lines.next()) {
        verdicts.push_str(comma);
        verdicts.push_str(r#"{"create":{"status":201}}"#);
        comma = ",";
        let Some(container) = after(document, r#""container.id":""#) else { continue };
        let stream = after(action, r#""_index":""#).unwrap();
        let signal = format!("elasticsearch/{}", stream.split('-').next().unwrap());
        let time: jiff::Timestamp = after(document, r#""@timestamp":""#).unwrap().parse().unwrap();
        let time = u64::try_from(time.as_nanosecond()).unwrap();
        *seen.counts.entry(signal.clone()).or_default() += 1;
        let mut hasher = DefaultHasher::new();
        container.hash(&mut hasher);
        let last = seen.last.entry((signal, hasher.finish())).or_default();
        let in_order = time > std::mem::replace(last, time);
        seen.disorder += u64::from(!in_order);
    }
    verdicts.push_str("]}");
    as_elasticsearch(verdicts)
}

fn fixed64(record: &[u8], field: u32) -> u64 {
    fields(record, field).next().and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
