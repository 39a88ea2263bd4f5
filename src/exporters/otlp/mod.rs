// SPDX-License-Identifier: Apache-2.0
//! OTLP over gRPC and HTTP: events as logs, incidents as traces, and metrics.

pub mod config;
pub mod env;
pub mod grpc;
pub mod http;
pub mod tls;
pub mod transport;

pub use config::{Compression, Endpoint, Invalid, Protocol, Secret, Settings, Signal};
pub use transport::{Outcome, Transport};

/// How we name ourselves to servers.
const USER_AGENT: &str = concat!("bianque/", env!("CARGO_PKG_VERSION"));
