// SPDX-License-Identifier: Apache-2.0
//! One agent per Linux node that finds kernel-level trouble and captures the evidence.
//!
//! The data's way: `probe (BPF) → record → collector → signal → log and store → exporters`, with
//! [`workload`] answering "whose is this?" on the way.

pub mod probe;

pub mod host;

pub mod workload;

pub mod signal;

pub mod collectors;

pub mod pipeline;

pub mod exporters;

pub mod api;

pub mod config;

pub mod telemetry;

pub mod agent;

pub mod cli;

/// For code that `bianque-build` writes.
#[doc(hidden)]
pub use zerocopy;

extern crate self as bianque;

pub use agent::{Agent, agent};
