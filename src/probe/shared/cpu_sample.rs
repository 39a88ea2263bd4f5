// SPDX-License-Identifier: Apache-2.0
//! `cpu_sample`: stacks of the node, of cgroups or of processes, from the CPU clock of every CPU, while
//! somebody subscribes.

mod history;
mod kernel;
mod members;
mod sampler;
mod stacks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Feature, Loading, OnRecord, SharedProbe, hierarchy_of};
use crate::probe::skeletons::cpu_sample;
use crate::probe::{CgroupId, LoadError, Object, Skeleton};
pub use history::{HistorySettings, HistorySize};
use kernel::Kernel;
pub use sampler::{HistorySubscription, Sampler, Scope, Subscription};
pub use stacks::{RawStack, Taken};

/// Off the usual 100 Hz, so as not to run in step with timers.
pub const HZ: u64 = 99;
/// CPU time that one sample stands for.
pub const SAMPLE_PERIOD_NS: u64 = 1_000_000_000 / HZ;

/// The shared sampler's probe. Cheap to clone.
#[derive(Clone)]
pub struct CpuSample {
    object: Object,
    sampler: Sampler,
    /// Number of the cpu controller's hierarchy.
    hierarchy: u32,
}

impl SharedProbe for CpuSample {
    const SKELETON: &'static Skeleton = &cpu_sample::SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let object = loading.load(cpu_sample::SKELETON.options())?;
        let kernel = Kernel::new(&object)
            .map_err(|e| LoadError::Object { object: cpu_sample::SKELETON.name, reason: format!("{e:#}") })?;
        let hierarchy = hierarchy_of("cpu", &loading.proc().join("cgroups"));
        Ok(CpuSample { object, sampler: Sampler::new(kernel), hierarchy })
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn reader(&self) -> Option<OnRecord> {
        let sampler = self.sampler.clone();
        Some(Arc::new(move |ring, bytes| sampler.on_record(ring, bytes)))
    }

    /// Stops all subscriptions: captures close with what they have.
    fn stop(&self) {
        self.sampler.stop_all();
    }
}

impl CpuSample {
    /// Stacks at 99 Hz, while somebody subscribes.
    pub const STACKS: Feature = Feature::of::<CpuSample>("stacks");

    /// What collectors subscribe to.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// The cgroup of a sample.
    #[must_use]
    pub fn cgroup(&self, id: u64) -> CgroupId {
        CgroupId { hierarchy: self.hierarchy, id }
    }
}
