// SPDX-License-Identifier: Apache-2.0
//! Where signals leave the node.

pub mod elasticsearch;
pub mod health;
pub mod http;
pub mod log_consumer;
pub mod node;
pub mod otlp;
pub mod prometheus;
pub mod proxy;
pub mod retry;
pub mod settings;
pub mod store;

/// How we name ourselves to servers.
pub const USER_AGENT: &str = concat!("bianque/", env!("CARGO_PKG_VERSION"));
