// SPDX-License-Identifier: Apache-2.0
//! Network namespace → workload, for what has no socket: by the processes that are in it.
//!
//! The node's own namespace is nobody's. One that several containers share is their pod's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Workloads;
use super::image::SANDBOX;
use super::path::pod_path;
use crate::probe::shared::net::{Member, Net};
use crate::signal::{ContainerKind, Pod, Workload};

/// How old a walk over the processes may be: numbers of namespaces are used again.
const FRESH: Duration = Duration::from_secs(2);
/// One that is not known yet, or new and nobody's, is looked for sooner: a container that starts has its
/// namespace before its cgroup.
const NEW: Duration = Duration::from_millis(200);
/// The parent of the kernel's threads.
const KTHREADD: u32 = 2;
/// How long a namespace without processes is remembered: its last packets are on their way.
const KEEP: Duration = Duration::from_secs(60);

/// The lookup. Walks the processes when it is asked, every two seconds at most.
pub struct Namespaces {
    net: Net,
    workloads: Workloads,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    walked: Option<Instant>,
    /// The node's own namespace.
    node: Option<u32>,
    owners: HashMap<u32, Owner>,
}

struct Owner {
    workload: Option<Arc<Workload>>,
    first_seen: Instant,
    seen: Instant,
}

impl Namespaces {
    #[must_use]
    pub fn new(net: &Net, workloads: &Workloads) -> Self {
        Namespaces { net: net.clone(), workloads: workloads.clone(), known: Mutex::default() }
    }

    /// The workload of a namespace; `None`: the node's own, or not known.
    #[must_use]
    pub fn owner(&self, netns: u32) -> Option<Arc<Workload>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let old = if known.knows(netns) { FRESH } else { NEW };
        if known.walked.is_none_or(|at| at.elapsed() > old) {
            match self.net.netns_members() {
                Ok(members) => known.take_in(&members, &self.workloads),
                Err(e) => tracing::debug!("network namespaces: {e:#}"),
            }
            known.walked = Some(Instant::now());
        }
        known.owners.get(&netns)?.workload.clone()
    }
}

impl Known {
    fn knows(&self, netns: u32) -> bool {
        let settled = |o: &Owner| o.workload.is_some() || o.first_seen.elapsed() > FRESH;
        self.node == Some(netns) || self.owners.get(&netns).is_some_and(settled)
    }

    fn take_in(&mut self, members: &[Member], workloads: &Workloads) {
        let now = Instant::now();
        self.owners.retain(|_, o| now.duration_since(o.seen) < KEEP);
        self.node = node_namespace(members, workloads).or(self.node);
        let mut inside: HashMap<u32, Vec<Arc<Workload>>> = HashMap::new();
        for m in members.iter().filter(|m| Some(m.netns) != self.node) {
            let who = inside.entry(m.netns).or_default();
            who.extend(workloads.of_cgroup(m.cgroup));
        }
        for (netns, who) in inside {
            let first_seen = self.owners.get(&netns).map_or(now, |o| o.first_seen);
            self.owners.insert(netns, Owner { workload: common(who, workloads), first_seen, seen: now });
        }
    }
}

/// The node's own: that of process 1, else of the kernel's threads, where the walk does not show it (an agent in a pid
/// namespace of its own, a kernel that hides it), else the agent's.
fn node_namespace(members: &[Member], workloads: &Workloads) -> Option<u32> {
    let of = |pid| members.iter().find(|m| m.pid == pid).map(|m| m.netns);
    of(1).or_else(|| of(KTHREADD)).or_else(|| u32::try_from(workloads.host().network_namespace("self").ok()?).ok())
}

/// The owner of a namespace with these processes in it: a container's before whoever looks into it, and before the
/// sandbox that holds it; several containers of one pod name the pod, strangers name nobody.
pub fn common(all: impl IntoIterator<Item = Arc<Workload>>, workloads: &Workloads) -> Option<Arc<Workload>> {
    let mut who: Vec<Arc<Workload>> = Vec::new();
    for w in all {
        if who.iter().all(|known| known.key != w.key) {
            who.push(w);
        }
    }
    if who.iter().any(|w| w.container_id.is_some()) {
        who.retain(|w| w.container_id.is_some());
    }
    if who.iter().any(|w| !is_sandbox(w)) {
        who.retain(|w| !is_sandbox(w));
    }
    if who.len() < 2 {
        return who.pop();
    }
    let uid = who[0].pod.as_ref().map(|p| p.uid.clone())?;
    who.iter().all(|w| w.pod.as_ref().is_some_and(|p| p.uid == uid)).then(|| of_pod(&who, workloads))?
}

fn is_sandbox(w: &Workload) -> bool {
    let is_sandbox = |p: &Pod| p.kind == Some(ContainerKind::Sandbox);
    w.container_name.as_deref() == Some(SANDBOX) || w.pod.as_ref().is_some_and(is_sandbox)
}

/// The pod as a workload of its own: its cgroup, which the table knows for as long as the pod lives. `None`: it
/// has none. It takes the pod's name from a container that has it.
fn of_pod(containers: &[Arc<Workload>], workloads: &Workloads) -> Option<Arc<Workload>> {
    let of_pod = containers.iter().find_map(|w| workloads.of_path(pod_path(&w.cgroup)?))?;
    let is_named = |w: &Workload| w.pod.as_ref().is_some_and(|p| p.name.is_some());
    let named = containers.iter().find(|w| is_named(w)).filter(|_| !is_named(&of_pod));
    let Some(pod) = named.and_then(|w| w.pod.clone()) else { return Some(of_pod) };
    workloads.update(of_pod.key, |w| {
        w.pod = Some(Pod { container: None, kind: None, restarts: None, ..pod });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Clock, Host};
    use crate::probe::CgroupId;
    use crate::signal::Timestamp;

    fn member(netns: u32, pid: u32, cgroup: u64) -> Member {
        Member { netns, pid, cgroup: CgroupId { hierarchy: 0, id: cgroup } }
    }

    fn workloads(groups: &[(u64, &str)]) -> Workloads {
        let workloads = Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1));
        for (id, path) in groups {
            workloads.on_mkdir(CgroupId { hierarchy: 0, id: *id }, path);
        }
        workloads
    }

    fn owners(groups: &[(u64, &str)], members: &[Member]) -> Known {
        owners_in(&workloads(groups), members)
    }

    fn owners_in(workloads: &Workloads, members: &[Member]) -> Known {
        let mut known = Known::default();
        known.take_in(members, workloads);
        known
    }

    fn path(known: &Known, netns: u32) -> Option<String> {
        Some(known.owners.get(&netns)?.workload.as_ref()?.cgroup.clone())
    }

    /// The node's own namespace is nobody's, one with a container is the container's, whoever else
    /// looks into it.
    #[test]
    fn containers_own_their_namespace() {
        let container = format!("/docker/{}", "a".repeat(64));
        let groups = [(2, "/system.slice/a.service"), (3, container.as_str())];
        let members = [member(10, 1, 1), member(10, 50, 2), member(11, 60, 3), member(11, 61, 2), member(12, 70, 1)];
        let known = owners(&groups, &members);
        assert_eq!(path(&known, 10), None);
        assert_eq!(path(&known, 11), Some(container));
        assert_eq!(path(&known, 12), None);
    }

    /// Where process 1 is not shown, the kernel's threads are in the node's namespace, and the agent, where those are
    /// not shown either: a container of the node's network does not own it.
    #[test]
    fn the_nodes_namespace_is_found_without_process_1() {
        let container = format!("/docker/{}", "a".repeat(64));
        let groups = [(3, container.as_str())];
        let on_node = owners(&groups, &[member(10, 2, 1), member(10, 60, 3), member(11, 61, 3)]);
        assert_eq!((path(&on_node, 10), path(&on_node, 11).as_deref()), (None, Some(container.as_str())));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self/ns")).unwrap();
        std::fs::write(dir.path().join("proc/self/ns/net"), "").unwrap();
        let own = Host::under(dir.path()).network_namespace("self").unwrap();
        let Ok(own) = u32::try_from(own) else { return };
        let workloads = Workloads::new(&Host::under(dir.path()), &Clock::fixed(Timestamp(1), 1));
        workloads.on_mkdir(CgroupId { hierarchy: 0, id: 3 }, &container);
        assert_eq!(path(&owners_in(&workloads, &[member(own, 60, 3)]), own), None);
    }

    /// A namespace that a container is just being started in is looked for again soon; one that stays
    /// nobody's is not.
    #[test]
    fn a_new_namespace_of_nobody_is_not_settled() {
        let members = [member(10, 1, 1), member(11, 60, 1)];
        let mut known = owners(&[(1, "/")], &members);
        assert!(known.knows(10));
        assert!(!known.knows(11));
        known.owners.get_mut(&11).unwrap().first_seen -= FRESH;
        assert!(known.knows(11));
        known.take_in(&members, &Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1)));
        assert!(known.knows(11));
    }

    /// Containers of one pod name the pod and none of them; strangers name nobody.
    #[test]
    fn a_shared_namespace_names_the_pod() {
        let pod = "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555";
        let (one, two) = (format!("{pod}/{}", "a".repeat(64)), format!("{pod}/{}", "b".repeat(64)));
        let groups = [(2, pod), (3, one.as_str()), (4, two.as_str()), (5, "/x"), (6, "/y")];
        let members = [member(10, 1, 1), member(11, 60, 3), member(11, 61, 4), member(12, 70, 5), member(12, 71, 6)];
        let workloads = workloads(&groups);
        let w = owners_in(&workloads, &members).owners[&11].workload.clone().unwrap();
        assert_eq!((w.cgroup.as_str(), w.container_id.as_deref()), (pod, None));
        assert_eq!(w.pod.as_ref().map(|p| &*p.uid), Some("11111111-2222-3333-4444-555555555555"));
        assert_eq!(path(&owners_in(&workloads, &members), 12), None);
        // The table has it, so that what is counted of it is counted for as long as it lives.
        assert!(workloads.is_alive(w.key));
        workloads.on_rmdir(CgroupId { hierarchy: 0, id: 2 });
        assert!(!workloads.is_alive(w.key));
    }

    /// A pod is called what its containers say that it is called, and nothing that is a container's own.
    #[test]
    fn a_pod_has_the_name_that_its_containers_know() {
        let pod = "/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice";
        let paths = ["a", "b"].map(|c| format!("{pod}/cri-containerd-{}.scope", c.repeat(64)));
        let workloads = workloads(&[(2, pod), (3, &paths[0]), (4, &paths[1])]);
        let key = workloads.of_cgroup(CgroupId { hierarchy: 0, id: 4 }).unwrap().key;
        workloads.update(key, |w| {
            let pod = w.pod.get_or_insert_with(Pod::default);
            (pod.name, pod.container) = (Some("web-1".into()), Some("app".into()));
        });
        let members = [member(10, 1, 1), member(11, 60, 3), member(11, 61, 4)];
        let w = owners_in(&workloads, &members).owners[&11].workload.clone().unwrap();
        let of_pod = w.pod.as_ref().map(|p| (p.name.as_deref(), p.container.as_deref()));
        assert_eq!((w.cgroup.as_str(), of_pod), (pod, Some((Some("web-1"), None))));
        assert_eq!(workloads.by_key(w.key).unwrap(), w);
    }

    /// Beside the sandbox one container has the namespace to itself.
    #[test]
    fn a_sandbox_does_not_count() {
        let pod = "/kubepods/pod11111111-2222-3333-4444-555555555555";
        let (one, two) = (format!("{pod}/{}", "a".repeat(64)), format!("{pod}/{}", "b".repeat(64)));
        let workloads = workloads(&[(2, pod), (3, &one), (4, &two)]);
        let sandbox = workloads.of_cgroup(CgroupId { hierarchy: 0, id: 3 }).unwrap().key;
        workloads.update(sandbox, |w| w.container_name = Some(SANDBOX.to_owned()));
        let known = owners_in(&workloads, &[member(10, 1, 1), member(11, 60, 3), member(11, 61, 4), member(12, 62, 3)]);
        assert_eq!((path(&known, 11), path(&known, 12)), (Some(two), Some(one)));
    }
}
