// SPDX-License-Identifier: Apache-2.0
//! What an autotracing collector reports: onsets, recoveries and captures. The pipeline joins
//! them, and events, into incidents.

use std::sync::Arc;

use super::{Attributes, EventDef, Evidence, Links, Severity, Timestamp, Workload, WorkloadKey, evidence};

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
    /// What applications were doing.
    pub links: Links,
    /// Whether evidence is to be taken: not again right after the last time.
    pub capture: bool,
}

/// What [`check`](crate::collectors::AutoTracer::check) found changed since the last time.
#[derive(Debug, Clone)]
pub enum Change {
    Onset(Trigger),
    Recovered(Target, Timestamp),
    /// It did not last: what was sampled is thrown away, on purpose.
    Discarded(Target),
}

/// Costly evidence, taken while the trouble lasts.
#[derive(Debug, Clone)]
pub struct Capture {
    /// What it is: `cpu_profile`, `io_table`, …
    pub name: &'static str,
    pub target: Target,
    pub start: Timestamp,
    pub end: Timestamp,
    pub attributes: Attributes,
    pub links: Links,
    pub evidence: Vec<Evidence>,
}

impl Capture {
    /// One that holds nothing yet.
    #[must_use]
    pub fn new(name: &'static str, target: Target, start: Timestamp, end: Timestamp) -> Self {
        let (attributes, links) = (Attributes::new(), Links::default());
        Capture { name, target, start, end, attributes, links, evidence: Vec::new() }
    }

    /// Samples of all profiles that the kernel could not hand over, or that had no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        evidence::profiles(&self.evidence).map(|p| p.lost).sum()
    }
}

/// How far a capture is.
#[derive(Debug, Clone)]
pub enum CaptureProgress {
    Begun(Target),
    /// What it has so far, or since the last part: an entry of its own, below the capture's.
    Part(Capture),
    /// It is over, with what no part had.
    Ended(Capture),
    Failed(Target),
}
