// SPDX-License-Identifier: Apache-2.0
//! One request to a back end, and what its answer means for the data that was sent.
//!
//! Requests are encoded once, by the caller, and go out as they are over either protocol: a retry
//! copies nothing. The classes of answers are those of the OTLP specification 1.9 ("OTLP/gRPC
//! Response", "OTLP/HTTP Response"), with one difference: an answer that refuses *us* (wrong token,
//! no such service) says nothing against the data, so the data is kept.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;

use super::config::{Endpoint, Protocol};
use super::{grpc, http};
use crate::files::Stamp;

/// What the back end's answer means.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Taken, but for `rejected` records, which must not be sent again.
    Accepted { rejected: u64, message: String },
    /// Not now; send the same again, not before `after`.
    Retry { after: Option<Duration>, why: String },
    /// Something is wrong that may be the data's fault or the server's: worth a few tries.
    Suspect(String),
    /// More than the server takes at once.
    TooLarge(String),
    /// The data is at fault; sending it again is no use.
    Refused(String),
    /// We are at fault, or this is not the right server: somebody must act. The data is kept.
    Denied(String),
    /// The server knows no such service or path: it is the wrong one, or does not take this signal.
    Unserved(String),
}

/// A client for one signal's endpoint. It is made anew when its certificates or its file of headers change.
pub struct Transport {
    kind: Kind,
    endpoint: Endpoint,
    stamp: Stamp,
    looked: Instant,
}

/// Between two looks whether certificates have changed: a request that is refused for the old one is
/// sent again after about as long.
const LOOK: Duration = Duration::from_secs(1);

enum Kind {
    Grpc(Box<grpc::Client>),
    Http(Box<http::Client>),
}

impl Transport {
    /// Makes the client; connects with the first request. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Which file or header cannot be used, and why.
    pub fn new(endpoint: &Endpoint) -> anyhow::Result<Transport> {
        // Before they are read: what is written meanwhile is found by the next look.
        let stamp = stamp(endpoint);
        Ok(Transport { kind: Kind::new(endpoint)?, endpoint: endpoint.clone(), stamp, looked: Instant::now() })
    }

    /// Where requests go, for logs.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.endpoint.url
    }

    /// Sends one encoded export request.
    pub async fn export(&mut self, body: Bytes) -> Outcome {
        self.renew();
        let timeout = self.endpoint.timeout;
        let request = async {
            match &mut self.kind {
                Kind::Grpc(c) => c.export(body).await,
                Kind::Http(c) => c.export(body).await,
            }
        };
        match tokio::time::timeout(timeout, request).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Retry { after: None, why: format!("no answer within {timeout:?}") },
        }
    }

    /// Takes new certificates and headers over; those that cannot be used, mostly as one of two files is written and
    /// the other is not yet, change nothing.
    fn renew(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let stamp = stamp(&self.endpoint);
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match Kind::new(&self.endpoint) {
            Ok(kind) => self.kind = kind,
            Err(e) => tracing::warn!(
                "certificates or headers have changed and cannot be used, so the old ones still hold: {e:#}"
            ),
        }
    }
}

impl Kind {
    fn new(endpoint: &Endpoint) -> anyhow::Result<Kind> {
        Ok(match endpoint.protocol {
            Protocol::Grpc => Kind::Grpc(Box::new(grpc::Client::new(endpoint)?)),
            Protocol::Http => Kind::Http(Box::new(http::Client::new(endpoint)?)),
        })
    }
}

/// Of the files that a client is made of.
fn stamp(endpoint: &Endpoint) -> Stamp {
    let own = endpoint.client.iter().flat_map(|(certificate, key)| [certificate, key]);
    Stamp::of(endpoint.ca_file.iter().chain(own).chain(&endpoint.headers_file).map(PathBuf::as_path))
}

/// Reads an export response. All signals' responses have the same form: field 1 is
/// `partial_success` with a count and a message.
#[must_use]
pub fn read_response(body: &[u8]) -> Option<Outcome> {
    let partial = ExportLogsServiceResponse::decode(body).ok()?.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    Some(Outcome::Accepted { rejected, message: partial.error_message })
}
