// SPDX-License-Identifier: Apache-2.0
//! The SDK's OTLP exporters, over our own connections: same certificates, same endpoints.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    LogExporter, Protocol as SdkProtocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use tokio::runtime::Handle;

use crate::exporters::otlp::{Compression, Endpoint, Protocol, Settings, Signal, grpc, http};

/// Builds one of the SDK's two exporters: their builders have the same methods but no common type.
macro_rules! exporter {
    ($exporter:ident, $settings:expr, $signal:expr) => {{
        let Some(endpoint) = $settings.endpoint($signal)? else { return Ok(None) };
        let gzip = (endpoint.compression == Compression::Gzip).then_some(opentelemetry_otlp::Compression::Gzip);
        let built = match endpoint.protocol {
            Protocol::Grpc => {
                let mut b = $exporter::builder()
                    .with_tonic()
                    .with_channel(grpc::channel(&endpoint)?)
                    .with_metadata(grpc::metadata(&endpoint)?)
                    .with_timeout(endpoint.timeout);
                if let Some(c) = gzip {
                    b = b.with_compression(c);
                }
                b.build()
            }
            Protocol::Http => {
                let mut b = $exporter::builder()
                    .with_http()
                    .with_http_client(Client::new(&endpoint)?)
                    .with_protocol(SdkProtocol::HttpBinary)
                    .with_endpoint(&endpoint.url)
                    .with_headers(headers(&endpoint)?)
                    .with_timeout(endpoint.timeout);
                if let Some(c) = gzip {
                    b = b.with_compression(c);
                }
                b.build()
            }
        };
        let what = || format!("send the agent's own {} to {}", $signal.name(), endpoint.url);
        Ok(Some(built.with_context(what)?))
    }};
}

pub fn logs(settings: &Settings) -> anyhow::Result<Option<LogExporter>> {
    exporter!(LogExporter, settings, Signal::Logs)
}

pub fn spans(settings: &Settings) -> anyhow::Result<Option<SpanExporter>> {
    exporter!(SpanExporter, settings, Signal::Traces)
}

fn headers(endpoint: &Endpoint) -> anyhow::Result<HashMap<String, String>> {
    Ok(endpoint.all_headers()?.iter().map(|(k, v)| (k.clone(), v.reveal().to_owned())).collect())
}

/// Our connections as the SDK wants them. The SDK calls from threads of its own, on which the
/// connections would find no runtime: it is entered at every step.
#[derive(Debug)]
struct Client {
    pool: http::Pool,
    runtime: Handle,
    timeout: Duration,
}

impl Client {
    fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let runtime = Handle::try_current().context("make a client for OTLP over HTTP")?;
        Ok(Client { pool: http::pool(endpoint)?, runtime, timeout: endpoint.timeout })
    }
}

type Answer = Result<Response<Bytes>, HttpError>;

impl HttpClient for Client {
    // What `#[async_trait]` makes of `async fn send_bytes(&self, request)`.
    fn send_bytes<'a, 'f>(&'a self, request: Request<Bytes>) -> Pin<Box<dyn Future<Output = Answer> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let work = async move {
            let exchange = async {
                let (head, body) = self.pool.request(request.map(Full::new)).await?.into_parts();
                let body = Limited::new(body, 64 << 10).collect().await?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            tokio::time::timeout(self.timeout, exchange).await?
        };
        Box::pin(Within { runtime: self.runtime.clone(), work: Box::pin(work) })
    }
}

/// A future that finds its runtime on whatever thread it is polled.
struct Within<'f> {
    runtime: Handle,
    work: Pin<Box<dyn Future<Output = Answer> + Send + 'f>>,
}

impl Future for Within<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.work.as_mut().poll(cx)
    }
}
