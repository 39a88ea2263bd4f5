// SPDX-License-Identifier: Apache-2.0
//! Hooks that more than one collector needs: loaded once, with the union of the features asked for.

pub mod cgroups;
pub mod sched;

use std::collections::BTreeSet;

use super::{LoadError, Loader};

pub use sched::Sched;

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
pub struct Shared {
    sched: Part<Sched>,
}

/// What became of one shared probe.
#[derive(Clone, Default)]
enum Part<T> {
    /// No enabled collector needs it.
    #[default]
    Unwanted,
    Loaded(T),
    Failed(LoadError),
}

impl<T> Part<T> {
    fn load(wanted: bool, load: impl FnOnce() -> Result<T, LoadError>) -> Self {
        if !wanted {
            return Part::Unwanted;
        }
        load().map_or_else(Part::Failed, Part::Loaded)
    }

    fn get(&self, object: &'static str) -> Result<&T, LoadError> {
        match self {
            Part::Loaded(t) => Ok(t),
            Part::Failed(e) => Err(e.clone()),
            Part::Unwanted => Err(LoadError::Object { object, reason: "no collector's INFO.needs names it".into() }),
        }
    }
}

impl Shared {
    /// Loads each shared probe that a feature belongs to. One that does not load is told to those
    /// who ask for it; the others work.
    #[must_use]
    pub fn load(loader: &mut Loader, features: &BTreeSet<Feature>) -> Self {
        let any = |of: &[Feature]| of.iter().any(|f| features.contains(f));
        Shared {
            sched: Part::load(any(&[Feature::SchedCpuTime, Feature::SchedRunQueue]), || Sched::load(loader, features)),
        }
    }

    /// CPU time and run-queue wait of cgroups.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn sched(&self) -> Result<&Sched, LoadError> {
        self.sched.get("sched")
    }
}
