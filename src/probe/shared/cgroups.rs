// SPDX-License-Identifier: Apache-2.0
//! Lives of cgroups in every hierarchy, in the order in which they happened. The agent attaches it
//! before it walks what is there already, and feeds the table of workloads with it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use super::{Feature, Loading, OnRecord, SharedProbe};
use crate::probe::skeletons::cgroups::{CgroupEvent, Record, Records, SKELETON};
use crate::probe::{CgroupId, DecodeError, LoadError, Object, Optional, RecordSet, Skeleton};
use crate::signal::text::escaped;

/// What happened to a cgroup. Paths are below the hierarchy's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    Made {
        cgroup: CgroupId,
        path: Cow<'a, str>,
    },
    /// v1 only.
    Renamed {
        cgroup: CgroupId,
        path: Cow<'a, str>,
    },
    Removed {
        cgroup: CgroupId,
    },
}

type OnChange = Box<dyn Fn(Change<'_>) + Send + Sync>;

/// The loaded probe. Cheap to clone.
#[derive(Clone)]
pub struct Cgroups {
    object: Object,
    on_change: Arc<OnceLock<OnChange>>,
}

impl Cgroups {
    /// Births, renames and ends. Renames are for v1, and rare.
    pub const LIVES: Feature =
        Feature::of::<Cgroups>("lives").without(&[Optional { slot: "rename", lost: "new names of cgroups (v1)" }]);

    /// Who takes what happens to cgroups; it has to be set before the ring is read, and once.
    pub fn on_change(&self, f: impl Fn(Change<'_>) + Send + Sync + 'static) {
        if self.on_change.set(Box::new(f)).is_err() {
            tracing::error!("changes of cgroups have a taker already");
        }
    }
}

impl SharedProbe for Cgroups {
    const SKELETON: &'static Skeleton = &SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        Ok(Cgroups { object: loading.load(SKELETON.options())?, on_change: Arc::default() })
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn reader(&self) -> Option<OnRecord> {
        let on_change = self.on_change.clone();
        Some(Arc::new(move |ring, bytes| {
            if let (Some(f), Ok(Some(change))) = (on_change.get(), decode(ring, bytes)) {
                f(change);
            }
        }))
    }
}

/// Reads a record; `None`: an event of a newer probe.
///
/// # Errors
/// The bytes are no record.
pub fn decode(ring: usize, bytes: &[u8]) -> Result<Option<Change<'_>>, DecodeError> {
    let Record::CgroupChange(r) = Records::decode(ring, bytes)?;
    let cgroup = CgroupId::from(r.cgroup);
    let path = escaped(r.path.split(|b| *b == 0).next().unwrap_or_default());
    Ok(match r.event {
        CgroupEvent::CGROUP_MADE => Some(Change::Made { cgroup, path }),
        CgroupEvent::CGROUP_RENAMED => Some(Change::Renamed { cgroup, path }),
        CgroupEvent::CGROUP_REMOVED => Some(Change::Removed { cgroup }),
        _ => None,
    })
}
