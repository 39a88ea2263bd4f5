// SPDX-License-Identifier: Apache-2.0
//! Whose network namespace is it, where the kernel numbers it (rtnetlink's nsid)?

use std::collections::HashMap;
use std::sync::Arc;

use crate::host::Host;
use crate::host::rtnl::{Link, Namespaces};
use crate::signal::{Workload, WorkloadKind};
use crate::workload::Workloads;

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
    /// This process's own namespace cannot be told.
    pub fn new(host: &Host, workloads: &Workloads) -> Result<Self, Unavailable> {
        let namespaces = Namespaces::open(host).map_err(|e| Unavailable::because(e.to_string()))?;
        Ok(Owners { namespaces, workloads: workloads.clone(), known: HashMap::new() })
    }

    /// Whose a device is: the namespace's that it is in, else of the node's devices the namespace's
    /// that its peer is in (the node's end of a container's veth).
    pub fn of_link(&mut self, link: &Link) -> Option<Arc<Workload>> {
        self.of(link.ns.or(link.peer_ns)?)
    }

    fn of(&mut self, id: i32) -> Option<Arc<Workload>> {
        if let Some(w) = self.known.get(&id) {
            return Some(w.clone());
        }
        let pids = self.namespaces.get(id)?.pids.clone();
        let owner = only(pids.into_iter().filter_map(|pid| self.workloads.of_pid(pid)));
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

/// The one workload of all: containers before whoever looks into their namespace. Several share it:
/// none of them.
fn only(all: impl Iterator<Item = Arc<Workload>>) -> Option<Arc<Workload>> {
    let mut who: Vec<Arc<Workload>> = Vec::new();
    for w in all {
        if who.iter().all(|known| known.key != w.key) {
            who.push(w);
        }
    }
    if who.iter().any(|w| w.kind == WorkloadKind::Container) {
        who.retain(|w| w.kind == WorkloadKind::Container);
    }
    if who.len() == 1 { who.pop() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::WorkloadKey;

    fn one(key: u64, kind: WorkloadKind) -> Arc<Workload> {
        Arc::new(Workload::new(WorkloadKey(key), kind, "/x"))
    }

    /// A container's namespace is the container's, whoever else looks into it; a shared one is nobody's.
    #[test]
    fn a_namespace_has_one_owner_or_none() {
        let (a, b, c) =
            (one(1, WorkloadKind::Container), one(2, WorkloadKind::Cgroup), one(3, WorkloadKind::Container));
        let key = |all: &[&Arc<Workload>]| only(all.iter().map(|w| Arc::clone(w))).map(|w| w.key.0);
        assert_eq!(key(&[&b, &a, &a]), Some(1));
        assert_eq!(key(&[&b]), Some(2));
        assert_eq!(key(&[&a, &c]), None);
        assert_eq!(key(&[]), None);
    }
}
