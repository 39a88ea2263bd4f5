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

use crate::probe::skeletons::cpu_sample;
use crate::probe::{LoadError, Loader, Object};
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
}

impl CpuSample {
    /// # Errors
    /// Why it does not load.
    pub fn load(loader: &mut Loader) -> Result<Self, LoadError> {
        let object = loader.load(cpu_sample::SKELETON.options())?;
        let kernel = Kernel::new(&object)
            .map_err(|e| LoadError::Object { object: cpu_sample::SKELETON.name, reason: format!("{e:#}") })?;
        Ok(CpuSample { object, sampler: Sampler::new(kernel) })
    }

    /// The object whose ring the agent reads for [`on_record`](Self::on_record).
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// What collectors subscribe to.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Takes one record of the ring; called by the reader's thread.
    pub fn on_record(&self, ring: usize, bytes: &[u8]) {
        self.sampler.on_record(ring, bytes);
    }

    /// Stops all subscriptions: the agent is about to end, and captures close with what they have.
    pub fn stop_all(&self) {
        self.sampler.stop_all();
    }
}
