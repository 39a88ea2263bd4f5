// SPDX-License-Identifier: Apache-2.0
//! OTLP over gRPC.

use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Bytes;
use hyper::http::uri::PathAndQuery;
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::config::{Endpoint, Signal};
use super::outcome::{Outcome, read_response};
use crate::exporters::http::{Compression, chain, excerpt};
use crate::exporters::proxy::{Connector, Route};

/// Time to make a connection, of the time that a request may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC client that sends requests which are encoded already.
pub struct Client {
    grpc: Grpc<Channel>,
    path: PathAndQuery,
    metadata: MetadataMap,
}

/// A connection that is made when it is first used, and made again when it breaks.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn channel(endpoint: &Endpoint) -> anyhow::Result<Channel> {
    let route = endpoint.route()?;
    let builder = Channel::from_shared(endpoint.url.clone())
        .with_context(|| format!("exporters.otlp: {} is no address", endpoint.url))?
        .user_agent(crate::exporters::USER_AGENT)?
        .connect_timeout(CONNECT_TIMEOUT.min(endpoint.timeout))
        .timeout(endpoint.timeout)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    if !endpoint.url.starts_with("https:") {
        return Ok(connect(&builder, route));
    }
    let mut tls = match &endpoint.ca_file {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(super::tls::read(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some((certificate, key)) = &endpoint.client {
        tls = tls.identity(Identity::from_pem(super::tls::read(certificate)?, super::tls::read(key)?));
    }
    let builder = builder.tls_config(tls).with_context(|| format!("exporters.otlp: set up TLS to {}", endpoint.url))?;
    Ok(connect(&builder, route))
}

fn connect(builder: &tonic::transport::Endpoint, route: Route) -> Channel {
    if matches!(route, Route::Direct) {
        return builder.connect_lazy();
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    builder.connect_with_connector_lazy(Connector { tcp, route })
}

/// The endpoint's headers as gRPC metadata.
///
/// # Errors
/// Names the header; never shows its value.
pub fn metadata(endpoint: &Endpoint) -> anyhow::Result<MetadataMap> {
    let mut out = MetadataMap::new();
    for (name, value) in &endpoint.all_headers()? {
        let key: AsciiMetadataKey = name
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| anyhow::anyhow!("exporters.otlp.headers: {name:?} is no name of a header"))?;
        let mut value: AsciiMetadataValue = value.reveal().parse().map_err(|_| {
            anyhow::anyhow!("exporters.otlp.headers: the value of {name} has characters that a header cannot hold")
        })?;
        value.set_sensitive(true);
        out.insert(key, value);
    }
    Ok(out)
}

impl Client {
    /// # Errors
    /// Which file or header cannot be used, and why.
    pub fn new(endpoint: &Endpoint) -> anyhow::Result<Client> {
        let mut grpc = Grpc::new(channel(endpoint)?);
        if endpoint.compression == Compression::Gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
        }
        let path = PathAndQuery::from_static(match endpoint.signal {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Profiles => "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
        });
        Ok(Client { grpc, path, metadata: metadata(endpoint)? })
    }

    /// Sends one request.
    pub async fn export(&mut self, body: Bytes) -> Outcome {
        if let Err(e) = self.grpc.ready().await {
            return Outcome::Retry { after: None, why: chain(&e) };
        }
        let mut request = Request::new(body);
        *request.metadata_mut() = self.metadata.clone();
        match self.grpc.unary(request, self.path.clone(), Raw).await {
            Ok(answer) => read_response(answer.get_ref()).unwrap_or_else(|| Outcome::Retry {
                after: None,
                why: "the answer is not an OTLP response".to_owned(),
            }),
            Err(status) => classify(&status),
        }
    }
}

/// What a status means, by the OTLP specification's table of gRPC codes.
fn classify(status: &Status) -> Outcome {
    // Made by our own client: the connection broke, or the other side speaks no gRPC.
    if let Some(e) = std::error::Error::source(status) {
        return Outcome::Retry { after: None, why: chain(e) };
    }
    let why = format!("{:?}: {}", status.code(), excerpt(status.message()));
    let after = status.get_details_retry_info().and_then(|i| i.retry_delay);
    let is_size = || {
        let text = status.message().to_ascii_lowercase();
        text.contains("larger than max") || text.contains("too large") || text.contains("message size")
    };
    match status.code() {
        Code::ResourceExhausted | Code::OutOfRange | Code::InvalidArgument if after.is_none() && is_size() => {
            Outcome::TooLarge(why)
        }
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Outcome::Retry { after, why },
        Code::ResourceExhausted if after.is_some() => Outcome::Retry { after, why },
        Code::Unimplemented => Outcome::Unserved(why),
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => Outcome::Denied(why),
        // Also what a client makes of an answer that is not gRPC's, and many servers of any error.
        Code::Unknown | Code::Internal | Code::ResourceExhausted => Outcome::Suspect(why),
        _ => Outcome::Refused(why),
    }
}

/// Passes messages through as bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        use prost::bytes::Buf as _;
        let n = src.remaining();
        Ok(Some(src.copy_to_bytes(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    /// Codes fall into the specification's classes; only what accuses the data lets it be dropped.
    #[test]
    fn codes_fall_into_their_classes() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::Cancelled, Code::DataLoss] {
            assert!(matches!(classify(&Status::new(code, "x")), Outcome::Retry { after: None, .. }), "{code:?}");
        }
        assert!(matches!(classify(&Status::unimplemented("x")), Outcome::Unserved(_)));
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            assert!(matches!(classify(&Status::new(code, "x")), Outcome::Denied(_)), "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::AlreadyExists] {
            assert!(matches!(classify(&Status::new(code, "x")), Outcome::Refused(_)), "{code:?}");
        }
        assert!(matches!(classify(&Status::internal("x")), Outcome::Suspect(_)));
    }

    /// `RESOURCE_EXHAUSTED` is retried only with the server's delay; about a message's size it splits.
    #[test]
    fn exhausted_is_distinguished() {
        let delay = Duration::from_secs(7);
        let details = ErrorDetails::with_retry_info(Some(delay));
        let status = Status::with_error_details(Code::ResourceExhausted, "quota", details);
        assert!(matches!(classify(&status), Outcome::Retry { after: Some(d), .. } if d == delay));
        assert!(matches!(classify(&Status::resource_exhausted("quota")), Outcome::Suspect(_)));
        let go = Status::resource_exhausted("grpc: received message larger than max (5000000 vs. 4194304)");
        assert!(matches!(classify(&go), Outcome::TooLarge(_)));
        let tonic =
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes");
        assert!(matches!(classify(&tonic), Outcome::TooLarge(_)));
    }
}
