// SPDX-License-Identifier: Apache-2.0
//! A back end that takes everything over OTLP/HTTP, counts it, and looks whether it is in order.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, State};
use bianque::signal::raw::fields;

#[derive(Default)]
struct Seen {
    /// Records of workloads by signal.
    counts: HashMap<String, u64>,
    /// The newest time by signal and workload.
    last: HashMap<(String, u64), u64>,
    disorder: u64,
}

/// Runs until it is dropped.
pub struct Sink {
    seen: Arc<Mutex<Seen>>,
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Sink {
    pub fn start() -> Sink {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        // What is not a signal of OTLP 1 (profiles) is not served.
        let app = axum::Router::new()
            .route("/v1/{signal}", axum::routing::post(take))
            .layer(axum::extract::DefaultBodyLimit::max(16 << 20))
            .with_state(seen.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Sink { seen, port, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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
    let mut seen = seen.lock().unwrap();
    // A log record's time, or a span's end.
    let time_field = if signal == "logs" { 1 } else { 8 };
    let mut n = 0;
    for of_resource in fields(&body, 1) {
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
            let last = seen.last.entry((signal.clone(), workload)).or_default();
            let in_order = time > std::mem::replace(last, time);
            seen.disorder += u64::from(!in_order);
        }
    }
    *seen.counts.entry(signal).or_default() += n;
}

fn fixed64(record: &[u8], field: u32) -> u64 {
    fields(record, field).next().and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
