// SPDX-License-Identifier: Apache-2.0
//! OTLP/gRPC without decoding: a request is a frame around the bytes that OTLP/HTTP sends as they are.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tonic::service::Routes;

use super::Seen;

/// A flag (compressed or not) and the message's length.
const HEAD: usize = 5;

/// Takes exports on a port of its own.
pub(super) async fn serve(seen: Arc<Mutex<Seen>>) -> u16 {
    let app = axum::Router::new()
        .route("/{service}/Export", axum::routing::post(export))
        .layer(axum::extract::DefaultBodyLimit::max(16 << 20))
        .with_state(seen);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // As servers of gRPC do: with Nagle's algorithm an answer waits for the acknowledgement of what went before.
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(tonic::transport::Server::builder().add_routes(Routes::from(app)).serve_with_incoming(incoming));
    port
}

async fn export(State(seen): State<Arc<Mutex<Seen>>>, Path(service): Path<String>, body: Bytes) -> Response<Body> {
    // opentelemetry.proto.collector.SIGNAL.VERSION.SERVICE
    let signal = match service.split('.').nth(3) {
        Some("trace") => "traces",
        Some(other) => other,
        None => "",
    };
    assert_eq!(body[0], 0, "a compressed request");
    let length = u32::from_be_bytes(body[1..HEAD].try_into().unwrap());
    assert_eq!(body.len(), HEAD + length as usize);
    seen.lock().unwrap().take(signal, &body[HEAD..]);
    // An empty message: all was accepted.
    let mut status = HeaderMap::new();
    status.insert("grpc-status", HeaderValue::from_static("0"));
    let frames: [Result<_, Infallible>; 2] =
        [Ok(Frame::data(Bytes::from_static(&[0; HEAD]))), Ok(Frame::trailers(status))];
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}
