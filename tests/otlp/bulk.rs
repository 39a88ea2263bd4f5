// SPDX-License-Identifier: Apache-2.0
//! Takes bulk requests as Elasticsearch does, and keeps of the documents only which there are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// By stream and id, how often each document came.
pub type Came = Arc<Mutex<HashMap<String, u32>>>;

/// Listens until the test's runtime ends.
pub async fn start() -> (Came, SocketAddr) {
    let came = Came::default();
    let app = axum::Router::new()
        .route("/", get(async || said(r#"{"version":{"number":"8.19.0"}}"#.to_owned())))
        .route("/_bulk", post(bulk))
        .layer(DefaultBodyLimit::max(16 << 20))
        .with_state(came.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (came, at)
}

fn said(body: String) -> Response {
    ([("x-elastic-product", "Elasticsearch"), ("content-type", "application/json")], body).into_response()
}

async fn bulk(State(came): State<Came>, body: Bytes) -> Response {
    let text = std::str::from_utf8(&body).unwrap();
    let mut came = came.lock().unwrap();
    // Every other line says where the next one goes: it is the document's name here.
    let mut verdict = |action: &str| {
        let n = came.entry(action.to_owned()).or_default();
        *n += 1;
        if *n == 1 { r#"{"create":{"status":201}}"# } else { r#"{"create":{"status":409}}"# }
    };
    let verdicts: Vec<_> = text.lines().step_by(2).map(&mut verdict).collect();
    said(format!(r#"{{"errors":false,"items":[{}]}}"#, verdicts.join(",")))
}
