// SPDX-License-Identifier: Apache-2.0
//! Hooks that more than one collector needs: loaded once, with the union of the features asked for.

pub mod cgroups;
pub mod cpu_sample;
pub mod net;
pub mod sched;
pub mod tasks;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{LoadError, Loader, Object, Skeleton};

pub use cpu_sample::CpuSample;
pub use net::Net;
pub use sched::Sched;
pub use tasks::Tasks;

/// A feature of a shared probe; an unused one costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// `sched`: CPU time of every cgroup.
    SchedCpuTime,
    /// `sched`: run-queue wait of the node and of every cgroup.
    SchedRunQueue,
    /// `cpu_sample`: stacks of chosen cgroups at 99 Hz, while asked for.
    CpuSample,
    /// `tasks`: tasks in uninterruptible sleep, when asked for.
    BlockedTasks,
    /// `net`: dropped packets, counted and told.
    NetDrops,
    /// `net`: retransmitted segments, and whether their loss was seen here.
    NetRetransmits,
    /// `net`: whose a socket or a network namespace is, when asked.
    NetOwners,
}

impl Feature {
    /// The shared object that it is a part of, for `doctor` to try.
    #[must_use]
    pub fn skeleton(self) -> &'static Skeleton {
        match self {
            Feature::SchedCpuTime | Feature::SchedRunQueue => &super::skeletons::sched::SKELETON,
            Feature::CpuSample => &super::skeletons::cpu_sample::SKELETON,
            Feature::BlockedTasks => &super::skeletons::tasks::SKELETON,
            Feature::NetDrops | Feature::NetRetransmits | Feature::NetOwners => &super::skeletons::net::SKELETON,
        }
    }

    /// Slots of that object which kernels may lack.
    #[must_use]
    pub fn optional(self) -> &'static [&'static str] {
        match self {
            Feature::NetDrops | Feature::NetRetransmits | Feature::NetOwners => net::OPTIONAL,
            _ => &[],
        }
    }
}

/// Handles of the shared probes that are loaded.
#[derive(Clone, Default)]
pub struct Shared {
    cgroups: Part<Object>,
    sched: Part<Sched>,
    cpu_sample: Part<CpuSample>,
    tasks: Part<Tasks>,
    net: Part<Net>,
}

/// Takes a record: the ring's index and its bytes.
pub type OnRecord = Arc<dyn Fn(usize, &[u8]) + Send + Sync>;

/// A ring of a shared probe and who takes its records.
#[derive(Clone)]
pub struct SharedRing {
    pub object: Object,
    pub on_record: OnRecord,
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
    /// Loads each shared probe that a feature belongs to, and the one that tells of cgroups. One that
    /// does not load is told to those who ask for it; the others work.
    #[must_use]
    pub fn load(loader: &mut Loader, features: &BTreeSet<Feature>) -> Self {
        let any = |of: &[Feature]| of.iter().any(|f| features.contains(f));
        Shared {
            cgroups: Part::load(true, || cgroups::load(loader)),
            cpu_sample: Part::load(any(&[Feature::CpuSample]), || CpuSample::load(loader)),
            net: Part::load(any(&[Feature::NetDrops, Feature::NetRetransmits, Feature::NetOwners]), || {
                Net::load(loader, features)
            }),
            sched: Part::load(any(&[Feature::SchedCpuTime, Feature::SchedRunQueue]), || Sched::load(loader, features)),
            tasks: Part::load(any(&[Feature::BlockedTasks]), || Tasks::load(loader, features)),
        }
    }

    /// The probe that tells of cgroups: its ring is for [`cgroups::decode`].
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn cgroups(&self) -> Result<&Object, LoadError> {
        self.cgroups.get("cgroups")
    }

    /// Stacks of chosen cgroups.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn cpu_sample(&self) -> Result<&CpuSample, LoadError> {
        self.cpu_sample.get("cpu_sample")
    }

    /// Rings that are to be read for the handles. `on_cgroup` takes what happens to cgroups.
    #[must_use]
    pub fn rings(&self, on_cgroup: impl Fn(cgroups::Change<'_>) + Send + Sync + 'static) -> Vec<SharedRing> {
        let mut rings = Vec::new();
        if let Ok(object) = self.cgroups().cloned() {
            let on_record = move |ring: usize, bytes: &[u8]| {
                if let Ok(Some(change)) = cgroups::decode(ring, bytes) {
                    on_cgroup(change);
                }
            };
            rings.push(SharedRing { object, on_record: Arc::new(on_record) });
        }
        if let Ok(c) = self.cpu_sample().cloned() {
            rings.push(SharedRing { object: c.object().clone(), on_record: Arc::new(move |r, b| c.on_record(r, b)) });
        }
        rings
    }

    /// Objects that are loaded.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let parts = [
            self.cgroups().ok(),
            self.sched().ok().map(Sched::object),
            self.cpu_sample().ok().map(CpuSample::object),
            self.tasks().ok().map(Tasks::object),
            self.net().ok().map(Net::object),
        ];
        parts.into_iter().flatten().cloned().collect()
    }

    /// Figures that the probes lost besides records, so far: the object, why, and how many.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, &'static str, u64)> {
        let sched = self.sched().ok();
        sched.map(|s| (s.object().name(), "map_full", s.lost())).into_iter().collect()
    }

    /// Ends what is being captured; what was sampled by then can still be taken.
    pub fn stop_captures(&self) {
        if let Ok(c) = self.cpu_sample() {
            c.stop_all();
        }
    }

    /// A walk over all tasks.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn tasks(&self) -> Result<&Tasks, LoadError> {
        self.tasks.get("tasks")
    }

    /// Dropped packets, retransmits, and whose sockets and network namespaces are.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn net(&self) -> Result<&Net, LoadError> {
        self.net.get("net")
    }

    /// CPU time and run-queue wait of cgroups.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn sched(&self) -> Result<&Sched, LoadError> {
        self.sched.get("sched")
    }
}
