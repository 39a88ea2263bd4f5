// SPDX-License-Identifier: Apache-2.0
//! OTLP over gRPC and HTTP: events as logs, incidents as traces, and metrics.

pub mod config;
pub mod delivery;
pub mod encode;
pub mod env;
pub mod grpc;
pub mod http;
pub mod metrics;
mod outcome;
pub mod tls;
pub mod transport;

pub use config::{Endpoint, Protocol, Settings, Signal};
pub use delivery::Delivery;
pub use metrics::MetricDelivery;
pub use outcome::Outcome;
pub use transport::Transport;

pub use super::http::Compression;
#[cfg(feature = "internals")]
pub use super::{node::Node, retry::Shutdown, settings::Invalid, settings::Secret};

/// Our name in self-metrics.
const EXPORTER: &str = "otlp";
const STAGE: crate::signal::Stage<'static> = crate::signal::Stage::Exporter(EXPORTER);
