// SPDX-License-Identifier: Apache-2.0
//! Whose network namespace is it, where the kernel numbers it (rtnetlink's nsid)?

use std::collections::HashMap;
use std::sync::Arc;

use crate::host::Host;
use crate::host::rtnl::{Link, Namespaces};
use crate::signal::Workload;
use crate::workload::Workloads;
use crate::workload::netns::common;

use super::Unavailable;

/// Namespaces and the workloads that live in them.
pub struct Owners {
    namespaces: Namespaces,
    workloads: Workloads,
    /// Kept for as long as the number is: its processes may be gone by the time that it is asked for.
    known: HashMap<i32, Arc<Workload>>,
}

impl Owners {
    /// # Errors
    /// This process's own namespace cannot be determined.
    pub fn new(host: &Host, workloads: &Workloads) -> Result<Self, Unavailable> {
        let namespaces = Namespaces::open(host).map_err(|e| Unavailable::because(e.to_string()))?;
        Ok(Owners { namespaces, workloads: workloads.clone(), known: HashMap::new() })
    }

    /// The owner of a device: the namespace's that it is in, else of the node's devices the namespace's
    /// that its peer is in (the node's end of a container's veth).
    pub fn of_link(&mut self, link: &Link) -> Option<Arc<Workload>> {
        self.of(link.ns.or(link.peer_ns)?)
    }

    fn of(&mut self, id: i32) -> Option<Arc<Workload>> {
        if let Some(w) = self.known.get(&id) {
            return Some(w.clone());
        }
        let pids = self.namespaces.get(id)?.pids.clone();
        let owner = common(pids.into_iter().filter_map(|pid| self.workloads.of_pid(pid)), &self.workloads);
        match &owner {
            Some(w) => drop(self.known.insert(id, w.clone())),
            // Those were the first processes; others may follow.
            None => self.namespaces.forget(id),
        }
        owner
    }

    /// Inode number of a link's namespace, where it is known.
    pub fn inode(&mut self, link: &Link) -> Option<u64> {
        match link.ns {
            None => Some(self.namespaces.own_inode()),
            Some(id) => self.namespaces.get(id).map(|n| n.inode),
        }
    }

    /// The number will be another one's.
    pub fn forget(&mut self, id: i32) {
        self.known.remove(&id);
        self.namespaces.forget(id);
    }
}
