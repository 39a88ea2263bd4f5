// SPDX-License-Identifier: Apache-2.0
//! OTLP over HTTP with protobuf bodies.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message as _;
use serde_json::Value;

use super::config::Endpoint;
use super::outcome::{Outcome, read_response};
use crate::exporters::http::{Compression, chain, excerpt, gzip, retry_after};
use crate::exporters::proxy::Connector;
use crate::exporters::settings::without_credentials;

/// An answer is a few bytes; more than this is not one.
const MAX_ANSWER: usize = 64 << 10;

/// The connection pool to one endpoint.
pub type Pool = hyper_util::client::legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;

/// An HTTP client that sends requests which are encoded already.
pub struct Client {
    pool: Pool,
    uri: Uri,
    headers: HeaderMap,
    compression: Compression,
}

/// Connections to the endpoint, over TLS where its address says so.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn pool(endpoint: &Endpoint) -> anyhow::Result<Pool> {
    let route = endpoint.route()?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(5).min(endpoint.timeout)));
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    tcp.set_nodelay(true);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(super::tls::client_config(endpoint)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector { tcp, route });
    Ok(hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(1)
        .build(connector))
}

/// The headers of each request.
///
/// # Errors
/// Names the header; never shows its value.
pub fn headers(endpoint: &Endpoint) -> anyhow::Result<HeaderMap> {
    let mut out = HeaderMap::new();
    out.insert(USER_AGENT, HeaderValue::from_static(crate::exporters::USER_AGENT));
    for (name, value) in &endpoint.all_headers()? {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| anyhow::anyhow!("exporters.otlp.headers: {name:?} is no name of a header"))?;
        let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| {
            anyhow::anyhow!("exporters.otlp.headers: the value of {name} has characters that a header cannot hold")
        })?;
        value.set_sensitive(true);
        out.insert(key, value);
    }
    if let Some(value) = endpoint.route()?.authorization() {
        out.insert(PROXY_AUTHORIZATION, value);
    }
    Ok(out)
}

impl Client {
    /// # Errors
    /// Which file or header cannot be used, and why.
    pub fn new(endpoint: &Endpoint) -> anyhow::Result<Client> {
        let mut headers = headers(endpoint)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if endpoint.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let uri = endpoint.uri()?;
        Ok(Client { pool: pool(endpoint)?, uri, headers, compression: endpoint.compression })
    }

    /// Sends one request.
    pub async fn export(&mut self, body: Bytes) -> Outcome {
        let body = match self.compression {
            Compression::None => body,
            Compression::Gzip => match gzip(&body) {
                Ok(b) => b,
                Err(e) => return Outcome::Retry { after: None, why: format!("compress the request: {e}") },
            },
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = match self.pool.request(request).await {
            Ok(a) => a,
            Err(e) => return Outcome::Retry { after: None, why: chain(&e) },
        };
        let (head, body) = answer.into_parts();
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(b) => classify(&Response::from_parts(head, b.to_bytes()), jiff::Timestamp::now()),
            // The status says whether the data was taken; the rest of the answer only matters for counts.
            Err(_) if head.status.is_success() => {
                Outcome::Retry { after: None, why: "the answer broke off or is not an OTLP response".to_owned() }
            }
            Err(_) => classify(&Response::from_parts(head, Bytes::new()), jiff::Timestamp::now()),
        }
    }
}

/// What an answer means, by the OTLP specification's table of HTTP codes.
fn classify(answer: &Response<Bytes>, now: jiff::Timestamp) -> Outcome {
    let status = answer.status();
    if status.is_success() {
        return read_success(answer.headers(), answer.body());
    }
    let mut why = format!("{status}: {}", message(answer.body()));
    if let Some(to) = answer.headers().get(LOCATION).filter(|_| status.is_redirection()) {
        let to = String::from_utf8_lossy(to.as_bytes());
        let to = without_credentials(to.split('?').next().unwrap_or_default());
        why = format!("{status} to {}, which is not followed", excerpt(&to));
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::REQUEST_TIMEOUT => Outcome::Retry { after: retry_after(answer.headers(), now), why },
        StatusCode::PAYLOAD_TOO_LARGE => Outcome::TooLarge(why),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Outcome::Refused(why),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Outcome::Unserved(why),
        s if s.is_server_error() => Outcome::Suspect(why),
        // Redirects, wrong token, wrong media type.
        _ => Outcome::Denied(why),
    }
}

/// A success without a body is common, JSON and text come from servers that do not mind what they were asked in. A page
/// for people comes from something between us and the server, such as a portal to sign in at.
fn read_success(headers: &HeaderMap, body: &[u8]) -> Outcome {
    let accepted = |message: String| Outcome::Accepted { rejected: 0, message };
    let text = body.trim_ascii();
    if text.is_empty() {
        return accepted(String::new());
    }
    if let Some(outcome) = read_json(text).or_else(|| read_response(body)) {
        return outcome;
    }
    let kind = headers.get(CONTENT_TYPE).map_or_else(String::new, |v| String::from_utf8_lossy(v.as_bytes()).into());
    if kind.starts_with("text/html") || text.starts_with(b"<") {
        return Outcome::Retry { after: None, why: "the answer is a page of HTML, not an OTLP response".to_owned() };
    }
    accepted(format!("the answer is not an OTLP response, so that all counts as taken: {}", message(body)))
}

/// The JSON form of an export response, in which 64-bit numbers may be strings.
fn read_json(text: &[u8]) -> Option<Outcome> {
    let answer: serde_json::Map<String, Value> = serde_json::from_slice(text).ok()?;
    let partial = answer.get("partialSuccess").and_then(Value::as_object);
    let count = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok());
    let rejected = partial.and_then(|p| p.iter().find(|(k, _)| k.starts_with("rejected"))).and_then(|(_, v)| count(v));
    let message = partial.and_then(|p| p.get("errorMessage")?.as_str()).map(excerpt).unwrap_or_default();
    Some(Outcome::Accepted { rejected: rejected.unwrap_or(0), message })
}

/// The text of a `google.rpc.Status`, as OTLP servers send with an error, or of whatever else came.
fn message(body: &[u8]) -> String {
    match tonic_types::Status::decode(body) {
        Ok(s) if !s.message.is_empty() => excerpt(&s.message),
        _ => {
            match serde_json::from_slice::<Value>(body).ok().and_then(|v| Some(excerpt(v.get("message")?.as_str()?))) {
                Some(message) => message,
                None => excerpt(&String::from_utf8_lossy(body)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};

    fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Outcome {
        let mut b = Response::builder().status(status);
        for (k, v) in headers {
            b = b.header(*k, *v);
        }
        classify(&b.body(Bytes::copy_from_slice(body)).unwrap(), "2026-01-01T00:00:00Z".parse().unwrap())
    }

    /// Codes fall into the specification's classes; only what accuses the data lets it be dropped.
    #[test]
    fn codes_fall_into_their_classes() {
        for s in [429, 502, 503, 504] {
            assert!(matches!(answer(s, &[], b""), Outcome::Retry { after: None, .. }), "{s}");
        }
        for s in [404, 405, 501] {
            assert!(matches!(answer(s, &[], b""), Outcome::Unserved(_)), "{s}");
        }
        for s in [301, 307, 401, 403, 415] {
            assert!(matches!(answer(s, &[], b""), Outcome::Denied(_)), "{s}");
        }
        assert!(matches!(answer(400, &[], b""), Outcome::Refused(_)));
        assert!(matches!(answer(413, &[], b""), Outcome::TooLarge(_)));
        assert!(matches!(answer(500, &[], b""), Outcome::Suspect(_)));
    }

    /// `Retry-After` is obeyed in both of its forms; one that cannot be read or has passed counts as none.
    #[test]
    fn retry_after_in_both_forms() {
        let after = |v| match answer(503, &[("retry-after", v)], b"") {
            Outcome::Retry { after, .. } => after.map(|d| d.as_secs()),
            o => panic!("{o:?}"),
        };
        assert_eq!(after("30"), Some(30));
        assert_eq!(after("Thu, 01 Jan 2026 00:01:00 GMT"), Some(60));
        assert_eq!(after("Wed, 31 Dec 2025 00:01:00 GMT"), None);
        assert_eq!(after("soon"), None);
    }

    /// A partial success has its count, in JSON, too; a page that is not OTLP is no success.
    #[test]
    fn success_is_read() {
        let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "why".into() };
        let body = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(answer(200, &[], &body), Outcome::Accepted { rejected: 3, message: "why".into() });
        assert!(matches!(answer(200, &[], b""), Outcome::Accepted { rejected: 0, .. }));
        assert!(matches!(answer(202, &[], b"{}"), Outcome::Accepted { rejected: 0, .. }));
        for (field, count) in [("rejectedLogRecords", "\"3\""), ("rejectedSpans", "3"), ("rejectedDataPoints", "\"3\"")]
        {
            let body = format!(" {{\"partialSuccess\":{{\"errorMessage\":\"why\",\"{field}\":{count}}}}}\n");
            assert_eq!(answer(200, &[], body.as_bytes()), Outcome::Accepted { rejected: 3, message: "why".into() });
        }
        for body in ["{\"partialSuccess\":null}", "{\"partialSuccess\":{}}", "{\"status\":\"ok\"}"] {
            assert_eq!(answer(200, &[], body.as_bytes()), Outcome::Accepted { rejected: 0, message: String::new() });
        }
        for page in [&[("content-type", "text/html; charset=utf-8")][..], &[]] {
            assert!(matches!(answer(200, page, b"<html>Sign in"), Outcome::Retry { .. }));
        }
        let text = answer(200, &[("content-type", "text/plain")], b"ok");
        assert!(matches!(&text, Outcome::Accepted { rejected: 0, message } if message.ends_with(": ok")), "{text:?}");
    }

    /// The server's reason is shown, from a status message or from plain text, in one line.
    #[test]
    fn reasons_are_shown() {
        let status = tonic_types::Status { code: 3, message: "bad\nspan".into(), details: vec![] }.encode_to_vec();
        assert_eq!(answer(400, &[], &status), Outcome::Refused("400 Bad Request: bad span".into()));
        assert_eq!(answer(404, &[], b"no such page"), Outcome::Unserved("404 Not Found: no such page".into()));
        let json = br#"{"code":3,"message":"bad span"}"#;
        assert_eq!(answer(400, &[], json), Outcome::Refused("400 Bad Request: bad span".into()));
        let moved = answer(308, &[("location", "https://u:secret@c/v1/logs?key=secret")], b"");
        assert_eq!(
            moved,
            Outcome::Denied("308 Permanent Redirect to https://***@c/v1/logs, which is not followed".into())
        );
    }
}
