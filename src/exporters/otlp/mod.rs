// SPDX-License-Identifier: Apache-2.0
//! OTLP over gRPC and HTTP: events as logs, incidents as traces, and metrics.

pub mod config;
pub mod delivery;
pub mod encode;
pub mod env;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod retry;
pub mod tls;
pub mod transport;

pub use config::{Compression, Endpoint, Invalid, Protocol, Secret, Settings, Signal};
pub use delivery::Delivery;
pub use encode::Node;
pub use metrics::MetricDelivery;
pub use retry::Shutdown;
pub use transport::{Outcome, Transport};

/// How we name ourselves to servers.
const USER_AGENT: &str = concat!("bianque/", env!("CARGO_PKG_VERSION"));

/// Our name in self-metrics.
const EXPORTER: &str = "otlp";
