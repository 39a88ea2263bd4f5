// SPDX-License-Identifier: Apache-2.0
//! Whose is this? Cgroup, pid or netns → container → pod → service. Never blocks, never fails, may
//! not know.

pub mod path;

use std::sync::Arc;

use crate::probe::CgroupId;
use crate::signal::{Workload, WorkloadKey};

/// The lookup. Cheap to clone.
#[derive(Clone, Default)]
pub struct Workloads {}

impl Workloads {
    /// The workload of a cgroup; `None`: the node itself (a root cgroup), or not known.
    #[must_use]
    pub fn of_cgroup(&self, _cgroup: CgroupId) -> Option<Arc<Workload>> {
        unimplemented!()
    }

    /// The newest that is known under a key.
    #[must_use]
    pub fn by_key(&self, _key: WorkloadKey) -> Option<Arc<Workload>> {
        unimplemented!()
    }
}
