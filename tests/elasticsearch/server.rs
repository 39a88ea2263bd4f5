// SPDX-License-Identifier: Apache-2.0
//! A server that takes bulk requests as Elasticsearch does, and fails as a test demands.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What one bulk request is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Each document is taken, or was there.
    Take,
    /// As [`Answer::Take`], but those with these event names get this status and type of error.
    But(u16, &'static str, &'static [&'static str]),
    /// As [`Answer::Take`], but log records with these names are said to be there though they are not, until
    /// another is: as of a shard that could not write, and has not noticed.
    Pretend(&'static [&'static str]),
    /// All is taken, and nobody learns of it.
    TakeAndHang,
    TakeAndGarble,
    Status(u16),
    /// 429 with the seconds to wait.
    Busy(u64),
    /// More documents at once than so many are too large.
    AtMost(usize),
}

/// One bulk request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub documents: usize,
    pub compressed: bool,
}

type Script = Box<dyn Fn(usize) -> Answer + Send + Sync>;

struct Inner {
    script: Script,
    seen: Mutex<Vec<Seen>>,
    /// By stream and id.
    documents: Mutex<BTreeMap<(String, String), Value>>,
    product: bool,
    /// The only credentials that are let in.
    only: Option<&'static str>,
    /// Answers to all but bulk requests: path to body; what is put is there afterwards.
    other: Mutex<BTreeMap<String, Value>>,
}

/// The server; ends with the test's runtime.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

pub struct Options {
    pub product: bool,
    pub only: Option<&'static str>,
    /// Paths that are there, with their bodies.
    pub other: BTreeMap<String, Value>,
}

impl Default for Options {
    fn default() -> Self {
        Options { product: true, only: None, other: BTreeMap::new() }
    }
}

impl Server {
    /// Listens at once. `script` gets the request's number.
    pub async fn start(
        at: SocketAddr,
        options: Options,
        script: impl Fn(usize) -> Answer + Send + Sync + 'static,
    ) -> (Server, SocketAddr) {
        let server = Server(Arc::new(Inner {
            script: Box::new(script),
            seen: Mutex::default(),
            documents: Mutex::default(),
            product: options.product,
            only: options.only,
            other: Mutex::new(options.other),
        }));
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(handle).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, at)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }

    /// Event names of the log documents, each once a document.
    pub fn names(&self) -> Vec<String> {
        let all = self.0.documents.lock().unwrap();
        let logs = all.iter().filter(|((stream, _), _)| stream.starts_with("logs-"));
        logs.map(|(_, d)| d["event_name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub fn documents(&self) -> usize {
        self.0.documents.lock().unwrap().len()
    }

    /// What was put under this path.
    pub fn put(&self, path: &str) -> Option<Value> {
        self.0.other.lock().unwrap().get(path).cloned()
    }

    /// Accepts the documents that the test wants accepted; a status for each.
    fn take(&self, lines: &[Value], answer: &Answer) -> Vec<Value> {
        let mut all = self.0.documents.lock().unwrap();
        let mut verdict = |action: &Value, document: &Value| {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            if let Answer::But(status, kind, names) = answer
                && names.contains(&document["event_name"].as_str().unwrap_or_default())
            {
                return json!({"create": {"status": status, "error": {"type": kind, "reason": "so it is"}}});
            }
            let key = (text(&action["create"]["_index"]), text(&action["create"]["_id"]));
            let pretends = matches!(answer, Answer::Pretend(names)
                if names.contains(&document["event_name"].as_str().unwrap_or_default())
                    && !all.keys().any(|(stream, _)| stream.starts_with("logs-")));
            if pretends || all.contains_key(&key) {
                let error = json!({"type": "version_conflict_engine_exception", "reason": "it is there"});
                return json!({"create": {"status": 409, "error": error}});
            }
            all.insert(key, document.clone());
            json!({"create": {"status": 201}})
        };
        lines.chunks(2).map(|c| verdict(&c[0], &c[1])).collect()
    }
}

async fn handle(State(server): State<Server>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut answer = answer(&server, &method, &uri, &headers, &body).await;
    // As 8.19 does it, security answers without the header.
    if server.0.product && answer.status() != StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert("x-elastic-product", "Elasticsearch".parse().unwrap());
    }
    answer
}

async fn answer(server: &Server, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    if server.0.only.is_some_and(|only| text("authorization").as_deref() != Some(only)) {
        let error = json!({"error": {"type": "security_exception", "reason": "who are you"}, "status": 401});
        return (StatusCode::UNAUTHORIZED, error.to_string()).into_response();
    }
    match (method, uri.path()) {
        (&Method::POST, "/_bulk") => bulk(server, headers, body).await,
        (&Method::GET, "/") => json!({"version": {"number": "8.19.0"}}).to_string().into_response(),
        (&Method::PUT, path) => {
            server.0.other.lock().unwrap().insert(path.to_owned(), serde_json::from_slice(body).unwrap());
            json!({"acknowledged": true}).to_string().into_response()
        }
        (_, path) => match server.put(path) {
            Some(v) => v.to_string().into_response(),
            None => (StatusCode::NOT_FOUND, json!({"error": {"type": "resource_not_found_exception"}}).to_string())
                .into_response(),
        },
    }
}

async fn bulk(server: &Server, headers: &HeaderMap, body: &Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let compressed = text("content-encoding").is_some();
    let mut plain = String::new();
    if compressed {
        flate2::read::GzDecoder::new(&**body).read_to_string(&mut plain).unwrap();
    } else {
        plain = String::from_utf8(body.to_vec()).unwrap();
    }
    assert!(plain.ends_with('\n'));
    let lines: Vec<Value> = plain.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let answer = {
        let mut seen = server.0.seen.lock().unwrap();
        let documents = lines.len() / 2;
        seen.push(Seen { at: Instant::now(), documents, compressed });
        (server.0.script)(seen.len() - 1)
    };
    match answer {
        Answer::Take | Answer::Pretend(_) | Answer::But(..) => {
            json!({"errors": true, "items": server.take(&lines, &answer)}).to_string().into_response()
        }
        Answer::TakeAndHang => {
            server.take(&lines, &Answer::Take);
            tokio::time::sleep(Duration::from_secs(600)).await;
            StatusCode::OK.into_response()
        }
        Answer::TakeAndGarble => {
            server.take(&lines, &Answer::Take);
            "<html><body>Please sign in".into_response()
        }
        Answer::Status(s) => StatusCode::from_u16(s).unwrap().into_response(),
        Answer::Busy(s) => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", s.to_string())]).into_response(),
        Answer::AtMost(n) if lines.len() / 2 > n => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Answer::AtMost(_) => {
            json!({"errors": false, "items": server.take(&lines, &Answer::Take)}).to_string().into_response()
        }
    }
}
