// SPDX-License-Identifier: Apache-2.0
//! A log back end that answers as a test demands, over gRPC or HTTP.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bianque::exporters::otlp::Protocol;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// An answer, in both protocols.
#[derive(Debug, Clone)]
pub enum Answer {
    Accept,
    /// So many of the records are rejected.
    Partial(i64),
    /// Overloaded: 503, or RESOURCE_EXHAUSTED; with or without the time to wait.
    Busy(Option<Duration>),
    /// Bad data: 400, or INVALID_ARGUMENT.
    Refuse,
    /// Who are you: 401, or UNAUTHENTICATED.
    Deny,
    /// 413, or RESOURCE_EXHAUSTED as a Go server says it.
    TooLarge,
    /// Never within a test.
    Hang,
    /// A page that is not OTLP.
    Garbage,
}

/// What a server saw of one request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub names: Vec<String>,
    pub authorization: Option<String>,
    pub compressed: bool,
}

type Script = Box<dyn Fn(usize, &[String]) -> Answer + Send + Sync>;

/// A server; ends with the test's runtime.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    script: Script,
    seen: Mutex<Vec<Seen>>,
    accepted: Mutex<Vec<String>>,
}

impl Server {
    /// Listens at once. `script` gets the request's number and its records' names.
    pub async fn start(
        protocol: Protocol,
        at: SocketAddr,
        script: impl Fn(usize, &[String]) -> Answer + Send + Sync + 'static,
    ) -> (Server, SocketAddr) {
        let inner = Inner { script: Box::new(script), seen: Mutex::default(), accepted: Mutex::default() };
        let server = Server { inner: Arc::new(inner) };
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        match protocol {
            Protocol::Http => {
                let limit = axum::extract::DefaultBodyLimit::max(64 << 20);
                let app = axum::Router::new().fallback(over_http).layer(limit).with_state(server.clone());
                tokio::spawn(async move { axum::serve(listener, app).await });
            }
            Protocol::Grpc => {
                let service = LogsServiceServer::new(server.clone())
                    .accept_compressed(CompressionEncoding::Gzip)
                    .max_decoding_message_size(64 << 20);
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
            }
        }
        (server, at)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    /// Names of the records that were accepted, in the order in which they came.
    pub fn accepted(&self) -> Vec<String> {
        self.inner.accepted.lock().unwrap().clone()
    }

    fn answer(&self, request: &ExportLogsServiceRequest, authorization: Option<String>, compressed: bool) -> Answer {
        let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
        let names: Vec<_> = scopes.flat_map(|s| &s.log_records).map(name).collect();
        let mut seen = self.inner.seen.lock().unwrap();
        let answer = (self.inner.script)(seen.len(), &names);
        if let Answer::Accept | Answer::Partial(_) = answer {
            self.inner.accepted.lock().unwrap().extend(names.clone());
        }
        seen.push(Seen { at: Instant::now(), names, authorization, compressed });
        answer
    }
}

/// What identifies a record: its text, if it has one.
fn name(record: &LogRecord) -> String {
    match record.body.as_ref().and_then(|b| b.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => record.event_name.clone(),
    }
}

fn response(rejected: i64) -> ExportLogsServiceResponse {
    let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: "too old".into() };
    ExportLogsServiceResponse { partial_success: (rejected > 0).then_some(partial) }
}

#[tonic::async_trait]
impl LogsService for Server {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let text = |name| request.metadata().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let compressed = text("grpc-encoding").is_some();
        match self.answer(request.get_ref(), text("authorization"), compressed) {
            Answer::Accept => Ok(response(0).into()),
            Answer::Partial(n) => Ok(response(n).into()),
            Answer::Busy(Some(d)) => {
                let details = ErrorDetails::with_retry_info(Some(d));
                Err(Status::with_error_details(Code::ResourceExhausted, "busy", details))
            }
            Answer::Busy(None) => Err(Status::unavailable("busy")),
            Answer::Refuse => Err(Status::invalid_argument("bad record")),
            Answer::Deny => Err(Status::unauthenticated("who are you")),
            Answer::TooLarge => Err(Status::resource_exhausted("grpc: received message larger than max (9 vs. 8)")),
            Answer::Hang => std::future::pending().await,
            Answer::Garbage => Err(Status::unknown("what")),
        }
    }
}

async fn over_http(State(server): State<Server>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    // Traces are taken and not looked at; what else there is, is not known.
    match uri.path() {
        "/v1/logs" => {}
        "/v1/traces" => return StatusCode::OK.into_response(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let compressed = text("content-encoding").is_some();
    let mut plain = Vec::new();
    if compressed {
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).unwrap();
    } else {
        plain = body.to_vec();
    }
    assert_eq!(text("content-type").as_deref(), Some("application/x-protobuf"));
    let request = ExportLogsServiceRequest::decode(plain.as_slice()).unwrap();
    match server.answer(&request, text("authorization"), compressed) {
        Answer::Accept => response(0).encode_to_vec().into_response(),
        Answer::Partial(n) => response(n).encode_to_vec().into_response(),
        Answer::Busy(Some(d)) => {
            (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", d.as_secs().to_string())]).into_response()
        }
        Answer::Busy(None) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Answer::Refuse => (StatusCode::BAD_REQUEST, "bad record").into_response(),
        Answer::Deny => (StatusCode::UNAUTHORIZED, "who are you").into_response(),
        Answer::TooLarge => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Answer::Hang => std::future::pending().await,
        Answer::Garbage => "<html><body>Please sign in".into_response(),
    }
}
