// SPDX-License-Identifier: Apache-2.0
//! The HTTP side: `/metrics`, health, and questions about events and incidents, on TCP and on the
//! local socket alike; and the client that the command line asks with.

mod backend;
pub mod client;
mod guard;
mod hub;
mod local;
mod page;
mod problem;
mod readings;
mod routes;
mod server;
pub mod sse;
mod state;
mod tls;
mod token;
mod watch;
mod write_timeout;

pub use backend::{Backend, ExporterState, Readiness, StoreReadiness};
pub use client::{Client, ClientError, Followed, Lines};
pub use hub::Hub;
pub use local::Local;
pub use server::{Limits, Listen, Server, Spawn};

#[cfg(feature = "internals")]
pub use backend::{Changes, Found, Gap, Page, Reply};
pub use state::Api;
pub use tls::TlsFiles;
#[cfg(feature = "internals")]
pub use {client::Follower, hub::Position, local::Blocking, readings::MetricQuery, readings::Scope, routes::ENDPOINTS};

/// Who may follow events at once; the next one is asked to come again.
pub const WATCHERS: usize = 1_000;

#[cfg(test)]
mod tests;
