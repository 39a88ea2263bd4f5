// SPDX-License-Identifier: Apache-2.0
//! The HTTP side: `/metrics`, health, and questions about events and incidents, on TCP and on the
//! local socket alike; and the client that the command line asks with.

pub mod client;
pub mod sse;

pub use client::{Client, ClientError, Followed, Follower, Lines};
