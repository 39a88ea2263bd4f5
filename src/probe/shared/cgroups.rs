// SPDX-License-Identifier: Apache-2.0
//! Lives of cgroups in every hierarchy, in the order in which they happened. The agent attaches it
//! before it walks what is there already, and feeds the table of workloads with it.

use std::str;

use crate::probe::skeletons::cgroups::{CgroupEvent, Record, Records, SKELETON};
use crate::probe::{CgroupId, DecodeError, LoadError, Loader, Object, RecordSet};

/// What happened to a cgroup. Paths are below the hierarchy's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    Made {
        cgroup: CgroupId,
        path: &'a str,
    },
    /// v1 only.
    Renamed {
        cgroup: CgroupId,
        path: &'a str,
    },
    Removed {
        cgroup: CgroupId,
    },
}

/// Attaches the probe. Without renames it is still of use: those are for v1, and rare.
///
/// # Errors
/// The hook that this kernel refuses, and its word.
pub fn load(loader: &mut Loader) -> Result<Object, LoadError> {
    loader.load(SKELETON.options().optional(&["rename"]))
}

/// Reads a record; `None`: an event of a newer probe, or a path that is no UTF-8.
///
/// # Errors
/// The bytes are no record.
pub fn decode(ring: usize, bytes: &[u8]) -> Result<Option<Change<'_>>, DecodeError> {
    let Record::CgroupChange(r) = Records::decode(ring, bytes)?;
    let cgroup = CgroupId::from(r.cgroup);
    let path = str::from_utf8(r.path.split(|b| *b == 0).next().unwrap_or_default());
    Ok(match (r.event, path) {
        (CgroupEvent::CGROUP_MADE, Ok(path)) => Some(Change::Made { cgroup, path }),
        (CgroupEvent::CGROUP_RENAMED, Ok(path)) => Some(Change::Renamed { cgroup, path }),
        (CgroupEvent::CGROUP_REMOVED, _) => Some(Change::Removed { cgroup }),
        _ => None,
    })
}
