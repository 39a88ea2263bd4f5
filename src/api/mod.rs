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

pub use backend::{Backend, Changes, ExporterState, Found, Gap, Page, Readiness, Reply, StoreReadiness};
pub use client::{Client, ClientError, Followed, Follower, Lines};
pub use hub::{Hub, Position};
pub use local::{Blocking, Local};
pub use readings::{MetricQuery, Scope};
pub use routes::ENDPOINTS;
pub use server::{Limits, Listen, Server, Spawn};
pub use state::Api;
pub use tls::TlsFiles;

/// Who may follow events at once; the next one is asked to come again.
pub const WATCHERS: usize = 1_000;

#[cfg(test)]
mod tests;
