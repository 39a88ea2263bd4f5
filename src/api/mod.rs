// SPDX-License-Identifier: Apache-2.0
//! The HTTP side: `/metrics`, health, and questions about events and incidents, on TCP and on the
//! local socket alike; and the client that the command line asks with.

mod backend;
pub mod client;
mod local;
mod page;
mod problem;
mod readings;
mod routes;
mod server;
pub mod sse;
mod token;
mod watch;

pub use backend::{Backend, Changes, ExporterState, Found, Page, Readiness, Reply, StoreReadiness};
pub use client::{Client, ClientError, Followed, Follower, Lines};
pub use local::{Blocking, Local};
pub use readings::{MetricQuery, Scope};
pub use routes::{Api, ENDPOINTS};
pub use server::{Listen, Server, Spawn};

#[cfg(test)]
mod tests;
