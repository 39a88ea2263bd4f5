// SPDX-License-Identifier: Apache-2.0
//! Names, images and labels of containers, from what their runtimes keep on the node: files first,
//! Docker's socket last. A job beside the data's way; no record waits for it.
//!
//! A container is looked up at its birth, because with `--rm` its files go with it, and again within
//! two seconds, because the files may be written a moment after the cgroup is made. Later, only whether it
//! was renamed.

mod containerd;
mod docker;
pub(crate) mod homes;
mod oci;
mod renames;
pub(crate) mod storage;

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::image::{SANDBOX, split_image};
use super::kubernetes::Facts;
use super::names::Names;
use super::service::{self, ServiceEnv};
use super::settings::Settings;
use super::strangers::{Nobody, Strangers};
use super::{Changes, Workloads, path};
use crate::host::{Cgroups, Host};
use crate::signal::{Pod, Workload, WorkloadKey, WorkloadKind};
use renames::Renames;

/// When a container is looked up, after its birth; the last one is what exporters wait for at most.
const ATTEMPTS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(70),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(1900),
];

/// When the processes of a new workload are checked: by the first, the runtime's helper has become the
/// program that was asked for; what a process publishes of itself comes once its libraries are up.
const PROCESS_CHECKS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// So many processes of a workload are looked at: a shell may have started what is meant.
const MAX_PROCESSES: usize = 4;

/// How long to wait when there is nothing to look up.
const NOTHING: Duration = Duration::from_secs(3600);

/// Bytes of a name or a value.
const MAX_TEXT: usize = 512;

impl Names {
    /// As far as it is used, and no longer than a name by rights is: users write these files.
    pub fn bounded(self) -> Self {
        let short = |text: Option<String>| text.filter(|t| t.len() <= MAX_TEXT);
        let mut annotations = self.annotations;
        let is_used = |k: &str| service::names_service(k) || k.starts_with("io.kubernetes.");
        annotations.retain(|k, v| is_used(k) && k.len().max(v.len()) <= MAX_TEXT);
        let few = |texts: BTreeMap<String, String>| texts.into_iter().take(MAX_LABELS).collect();
        let mut room = MAX_LABELS_LEN;
        let mut labels: BTreeMap<String, String> = few(self.labels);
        labels.retain(|k, v| room.checked_sub(k.len() + v.len()).map(|left| room = left).is_some());
        let (name, image, service) = (short(self.name), short(self.image), self.service.bounded());
        Names { name, image, service, labels, annotations: few(annotations), ..self }
    }
}

/// Resolves names on a thread of its own.
pub struct NameResolver {
    workloads: Workloads,
    facts: Facts,
    strangers: Arc<dyn Strangers>,
    born: Changes,
    jobs: Vec<Job>,
    renames: Renames,
}

/// A workload of which something is still to be looked up.
struct Job {
    key: WorkloadKey,
    since: Instant,
    attempt: usize,
    /// Whether the runtime is still to be asked.
    naming: bool,
    /// The next of [`PROCESS_CHECKS`]; beyond them: none.
    check: usize,
    /// Looks that are made: one suffices for what was there long before.
    checks: usize,
}

impl NameResolver {
    /// From now on, containers are [`pending`](Workload::pending) until the resolver is done with them.
    #[must_use]
    pub fn new(workloads: &Workloads) -> Self {
        workloads.expect_names();
        let facts = Facts::new(&Settings::default());
        NameResolver {
            workloads: workloads.clone(),
            facts,
            strangers: Arc::new(Nobody),
            born: workloads.changes(),
            jobs: Vec::new(),
            renames: Renames::default(),
        }
    }

    /// Also uses metadata from Kubernetes, which takes precedence over the runtimes' files.
    #[must_use]
    pub fn with_facts(self, facts: Facts) -> Self {
        NameResolver { facts, ..self }
    }

    /// Also uses what processes say of themselves, and what users' own runtimes keep.
    pub(crate) fn with_strangers(self, strangers: Arc<dyn Strangers>) -> Self {
        NameResolver { strangers, ..self }
    }

    /// Works until stopped, which it notices when [woken](Workloads::wake). Blocks: give it a thread.
    pub fn run(mut self, stop: &AtomicBool) {
        for w in self.workloads.all() {
            self.take_on(&w, w.container_id.is_some() && w.container_name.is_none(), 1);
        }
        while !stop.load(Ordering::Relaxed) {
            self.apply_facts();
            self.work();
            self.renames.work(&self.workloads, &*self.strangers, Instant::now());
            let due = self.jobs.iter().map(Job::due).chain(self.renames.due()).min();
            let next = due.map(|due| due.saturating_duration_since(Instant::now()));
            self.jobs.shrink_to(2 * self.jobs.len());
            for w in self.born.wait(next.unwrap_or(NOTHING)) {
                self.take_on(&w, w.pending, PROCESS_CHECKS.len());
            }
        }
    }

    /// What this resolver itself has changed comes by here too: then nothing is left to do.
    fn take_on(&mut self, w: &Workload, naming: bool, checks: usize) {
        if w.kind == WorkloadKind::Cgroup && w.pod.as_ref().is_some_and(|p| p.name.is_none()) {
            // A pod as a whole is known as soon as one of its containers is.
            self.workloads.update(w.key, |w| self.know(w));
        }
        let environment = naming || w.unit.is_some() && w.service_name.is_none();
        if environment && !self.jobs.iter().any(|j| j.key == w.key) {
            self.jobs.push(Job { key: w.key, since: Instant::now(), attempt: 0, naming, check: 0, checks });
        }
    }

    /// Applies what Kubernetes reported since the last call to the workloads.
    fn apply_facts(&self) {
        let fresh = self.facts.take_fresh();
        for key in &fresh.containers {
            self.workloads.update(*key, |w| self.know(w));
        }
        if fresh.pods.is_empty() {
            return;
        }
        for w in self.workloads.all() {
            if w.pod.as_ref().is_some_and(|p| fresh.pods.contains(&p.uid)) {
                self.workloads.update(w.key, |w| self.know(w));
            }
        }
    }

    fn know(&self, w: &mut Workload) {
        let _named = self.facts.hand_over(w);
    }

    fn work(&mut self) {
        let now = Instant::now();
        let mut jobs = std::mem::take(&mut self.jobs);
        let host = self.workloads.host().clone();
        let cgroups = LazyCell::new(|| Cgroups::read(&host).ok());
        jobs.retain_mut(|job| job.due() > now || self.attempt(job, now, &cgroups));
        self.jobs.append(&mut jobs);
    }

    /// Whether something is left to do.
    fn attempt(&mut self, job: &mut Job, now: Instant, cgroups: &impl Deref<Target = Option<Cgroups>>) -> bool {
        let Some(w) = self.workloads.by_key(job.key) else { return false };
        if job.naming {
            let names = look_up(self.workloads.host(), &*self.strangers, &w);
            job.attempt += 1;
            // What Kubernetes names is not renamed.
            if let Some(kept) = names.as_ref().and_then(|n| n.kept.as_ref()).filter(|_| w.pod.is_none()) {
                self.renames.watch(job.key, kept);
            }
            let last = job.attempt >= ATTEMPTS.len();
            let mut done = last;
            self.workloads.update(job.key, |w| {
                match &names {
                    Some(names) if self.facts.has_reported(w.container_id.as_deref()) => {
                        names.service.apply(w);
                        apply_image(names, w);
                    }
                    Some(names) => apply(names, w),
                    None => {}
                }
                let applied = self.facts.hand_over(w);
                let named = names.as_ref().is_some_and(|n| n.complete) || applied && w.container_name.is_some();
                done |= named && !self.facts.expects(w);
                w.pending &= !done;
            });
            job.naming = !done;
            if last && names.is_none() && w.container_name.is_none() {
                tracing::debug!(container.id = ?w.container_id, "no runtime on this node names the container");
            }
        }
        if job.check_after().is_some_and(|after| now >= job.since + after) {
            let found = cgroups
                .as_ref()
                .map(|c| service_env(&self.workloads, &*self.strangers, c, &w, job.check == 0))
                .unwrap_or_default();
            self.workloads.update(job.key, |w| found.apply(w));
            job.check += 1;
        }
        job.naming || job.check_after().is_some()
    }
}

impl Job {
    fn check_after(&self) -> Option<Duration> {
        PROCESS_CHECKS.get(self.check).filter(|_| self.check < self.checks).copied()
    }

    fn due(&self) -> Instant {
        let naming = ATTEMPTS.get(self.attempt).filter(|_| self.naming).copied();
        self.since + naming.into_iter().chain(self.check_after()).min().unwrap_or_default()
    }
}

/// Looks the container up in the runtime that the path names, or, for a bare id, in all of them.
fn look_up(host: &Host, strangers: &dyn Strangers, w: &Workload) -> Option<Names> {
    let id = w.container_id.as_deref()?;
    match w.runtime {
        Some(path::PODMAN | path::CRI_O) => storage::look_up(host, id).or_else(|| homes::look_up(host, strangers, id)),
        Some(path::DOCKER) => {
            docker::stored(host, id).or_else(|| homes::look_up(host, strangers, id)).or_else(|| docker::asked(host, id))
        }
        // Docker's shim for Kubernetes names its cgroups as containerd does.
        Some(path::CONTAINERD) => {
            containerd::look_up(host, id).or_else(|| docker::stored(host, id)).or_else(|| docker::asked(host, id))
        }
        _ => docker::stored(host, id)
            .or_else(|| containerd::look_up(host, id))
            .or_else(|| storage::look_up(host, id))
            .or_else(|| homes::look_up(host, strangers, id))
            .or_else(|| docker::asked(host, id)),
    }
}

/// What the workload's processes say of their service, the oldest first: those in its own cgroup, or in
/// the one that podman makes in it on v2. The environment stays what it was: it is read once.
fn service_env(
    workloads: &Workloads,
    strangers: &dyn Strangers,
    cgroups: &Cgroups,
    w: &Workload,
    first: bool,
) -> ServiceEnv {
    let inner = format!("{}/container", w.cgroup);
    let of = |hierarchy| [w.cgroup.as_str(), &inner].into_iter().filter_map(move |p| cgroups.pids(hierarchy, p).ok());
    let own = workloads.cgroups_of(w.key);
    let mut pids = own.into_iter().flat_map(|id| of(id.hierarchy)).find(|p| !p.is_empty()).unwrap_or_default();
    pids.sort_unstable();
    let env = pids.first().filter(|_| first).and_then(|pid| strangers.environment(*pid));
    let published = pids.iter().take(MAX_PROCESSES).find_map(|pid| strangers.published(*pid));
    env.unwrap_or_default().after(published.unwrap_or_default())
}

/// Labels that are kept of a container, and their length in all: some tools hide whole files in them.
const MAX_LABELS: usize = 64;
const MAX_LABELS_LEN: usize = 8192;

/// Puts what was found into the workload; what is known already and was not found again stays.
fn apply(names: &Names, w: &mut Workload) {
    if let Some(name) = names.name.as_deref().filter(|n| !n.is_empty()) {
        w.container_name = Some(name.to_owned());
    }
    apply_image(names, w);
    w.runtime = names.runtime.or(w.runtime);
    let mut room = MAX_LABELS_LEN;
    for (k, v) in names.labels.iter().take(MAX_LABELS) {
        let Some(left) = room.checked_sub(k.len() + v.len()) else { continue };
        room = left;
        w.labels.insert(k.clone(), v.clone());
    }
    apply_pod(names, w);
    names.service.apply(w);
    service::by_labels(w, &BTreeMap::new(), &names.annotations);
}

fn apply_image(names: &Names, w: &mut Workload) {
    let set = |slot: &mut Option<Arc<str>>, value: Option<&str>| {
        if let Some(v) = value.filter(|v| !v.is_empty()) {
            *slot = Some(v.into());
        }
    };
    if let Some(image) = &names.image {
        let (name, tag) = split_image(image);
        set(&mut w.image_name, Some(name));
        set(&mut w.image_tag, tag);
    }
}

/// Pod, namespace and container as the kubelet hands them to the runtimes: `io.kubernetes.*` labels or
/// annotations (pkg/kubelet/types/labels.go), containerd's under `io.kubernetes.cri.*`.
fn apply_pod(names: &Names, w: &mut Workload) {
    let find = |keys: [&str; 2]| {
        keys.into_iter().find_map(|k| names.annotations.get(k).or_else(|| names.labels.get(k)).cloned())
    };
    let name = find(["io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name"]);
    let uid = find(["io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-uid"]);
    if name.is_none() && uid.is_none() {
        return;
    }
    let pod = w.pod.get_or_insert_with(Pod::default);
    if let Some(uid) = uid {
        pod.uid = uid.into();
    }
    pod.name = name.map(Into::into).or(pod.name.take());
    let namespace = find(["io.kubernetes.pod.namespace", "io.kubernetes.cri.sandbox-namespace"]);
    pod.namespace = namespace.map(Into::into).or(pod.namespace.take());
    let container = find(["io.kubernetes.container.name", "io.kubernetes.cri.container-name"]);
    // The container that only holds the pod's namespaces has no name in the pod.
    pod.container = container.filter(|c| !c.is_empty() && c != SANDBOX).map(Into::into).or(pod.container.take());
}

#[cfg(test)]
mod tests;
