// SPDX-License-Identifier: Apache-2.0
//! One request to a back end, over either protocol.
//!
//! Requests are encoded once, by the caller, and go out as they are: a retry copies nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::body::Bytes;

use super::config::{Endpoint, Protocol};
use super::outcome::Outcome;
use super::{grpc, http};
use crate::files::Stamp;

/// A client for one signal's endpoint. It is made anew when its certificates or its file of headers change.
pub struct Transport {
    kind: Kind,
    endpoint: Endpoint,
    /// The address, and the proxy on the way to it.
    target: String,
    stamp: Stamp,
    checked: Instant,
}

/// Between two checks for changed certificates: a request that is refused for the old one is
/// sent again after about as long.
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

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
        let target = match endpoint.route()?.proxy() {
            Some(proxy) => format!("{} (through the proxy {proxy})", endpoint.url),
            None => endpoint.url.clone(),
        };
        Ok(Transport { kind: Kind::new(endpoint)?, endpoint: endpoint.clone(), target, stamp, checked: Instant::now() })
    }

    /// Where requests go, for logs.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
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
        if self.checked.elapsed() < CERTIFICATE_CHECK_INTERVAL {
            return;
        }
        self.checked = Instant::now();
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
