// SPDX-License-Identifier: Apache-2.0
//! What a subscription covers.

use std::collections::HashSet;

/// The node, some cgroups, some processes.
#[derive(Default)]
pub(super) struct Members {
    pub node: bool,
    pub cgroups: HashSet<u64>,
    pub processes: HashSet<u32>,
}

impl Members {
    pub fn has(&self, cgroup: u64, pid: u32) -> bool {
        self.node || self.cgroups.contains(&cgroup) || self.processes.contains(&pid)
    }
}
