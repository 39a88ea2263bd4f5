// SPDX-License-Identifier: Apache-2.0
//! One agent per Linux node that finds kernel-level trouble and captures the evidence.
//!
//! The data's way: `probe (BPF) → record → collector → signal → log and store → exporters`, with
//! [`workload`] answering "whose is this?" on the way.
//!
//! An agent of your own is [`agent()`] with your collectors, which are written with the [`prelude`], read the node through
//! [`host`] and [`probe`], and run in unit tests by [`testing`]. All else is the agent's own.

pub mod probe;

pub mod host;

pub mod workload;

pub mod signal;

pub mod collectors;

#[cfg(feature = "internals")]
pub mod agent;
#[cfg(not(feature = "internals"))]
mod agent;

#[cfg(feature = "internals")]
pub mod api;
#[cfg(not(feature = "internals"))]
mod api;

#[cfg(feature = "internals")]
pub mod cli;
#[cfg(not(feature = "internals"))]
mod cli;

#[cfg(feature = "internals")]
pub mod config;
#[cfg(not(feature = "internals"))]
mod config;

#[cfg(feature = "internals")]
pub mod exporters;
#[cfg(not(feature = "internals"))]
mod exporters;

#[cfg(feature = "internals")]
pub mod files;
#[cfg(not(feature = "internals"))]
mod files;

#[cfg(feature = "internals")]
pub mod pipeline;
#[cfg(not(feature = "internals"))]
mod pipeline;

#[cfg(feature = "internals")]
pub mod telemetry;
#[cfg(not(feature = "internals"))]
mod telemetry;

mod helper;

pub use collectors::testing;

mod builder;

mod settings;

/// What a collector's file uses, to be had in one line: `use bianque::prelude::*;`.
pub mod prelude {
    pub use crate::collectors::{
        self, AutoTracer, Collector, Context, EventCollector, Events, Info, Invalid, Limits, MetricCollector,
        NoSettings, Parts, Settings, Unavailable, head_doc,
    };
    pub use crate::host::{Clock, Host, Now};
    pub use crate::signal::{
        Attributes, Capture, Change, Column, Event, EventDef, Evidence, Instrument, Key, Link, Links, MetricDef,
        Metrics, Panel, Profile, ProfileKind, Series, Severity, StackSample, Table, Target, Timestamp, Trigger, Value,
    };
    pub use crate::workload::Workloads;
}

/// The API for instruments of your own: what is made of [`opentelemetry::global::meter`], in a collector or a library that it
/// uses, is on `/metrics` and in OTLP like all else.
pub use opentelemetry;

/// For code that `bianque-build` writes.
#[doc(hidden)]
pub use zerocopy;

extern crate self as bianque;

pub use builder::{Agent, agent};
