// SPDX-License-Identifier: Apache-2.0
//! Hooks that more than one collector needs: loaded once, with the union of the features asked for.

/// A feature of a shared probe; an unused one costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// `sched`: CPU time of every cgroup.
    SchedCpuTime,
    /// `sched`: run-queue wait of the node and of every cgroup.
    SchedRunQueue,
    /// `cpu_sample`: stacks of chosen cgroups at 99 Hz, while asked for.
    CpuSample,
}

/// Handles of the shared probes that are loaded.
#[derive(Clone, Default)]
pub struct Shared {}
