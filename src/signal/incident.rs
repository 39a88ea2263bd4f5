// SPDX-License-Identifier: Apache-2.0
//! What an autotracing collector reports: onsets, recoveries and captures. The pipeline joins
//! them, and events, into incidents.

use std::sync::Arc;

use super::{Attributes, EventDef, Severity, Stack, Thread, Timestamp, Workload, WorkloadKey};

/// Whom a trigger is about: one collector's limit on one workload (or the node), and, where that is
/// not enough, one thing of it, such as a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub collector: &'static str,
    pub workload: Option<WorkloadKey>,
    pub detail: Option<Arc<str>>,
}

/// A crossed limit.
#[derive(Debug, Clone)]
pub struct Trigger {
    pub target: Target,
    pub def: &'static EventDef,
    pub severity: Severity,
    /// When the limit was first crossed.
    pub onset: Timestamp,
    /// When the collector decided that it counts.
    pub detected: Timestamp,
    pub workload: Option<Arc<Workload>>,
    pub message: String,
    pub attributes: Attributes,
    /// Whether evidence is to be taken: not again right after the last time.
    pub capture: bool,
}

/// What [`check`](crate::collectors::AutoTracer::check) found changed since the last time.
#[derive(Debug, Clone)]
pub enum Change {
    Onset(Trigger),
    Recovered(Target, Timestamp),
    /// It did not last: so many samples were taken for nothing.
    Discarded(Target, u64),
}

/// One distinct stack of a profile and how often it was seen.
#[derive(Debug, Clone, Default)]
pub struct StackSample {
    /// Innermost first.
    pub kernel: Stack,
    /// Innermost first.
    pub user: Stack,
    pub thread: Thread,
    pub count: u64,
}

/// Costly evidence, taken while the trouble lasts.
#[derive(Debug, Clone)]
pub struct Capture {
    /// What it is: `cpu_profile`, `io_table`, …
    pub name: &'static str,
    pub target: Target,
    pub start: Timestamp,
    pub end: Timestamp,
    pub stacks: Vec<StackSample>,
    /// What one count of a stack is worth, e.g. 10,101,010 ns at 99 Hz.
    pub sample_period_ns: u64,
    /// Tables and figures.
    pub attributes: Attributes,
    /// Samples that the kernel could not hand over.
    pub lost: u64,
}
