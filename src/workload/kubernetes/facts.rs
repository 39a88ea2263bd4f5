// SPDX-License-Identifier: Apache-2.0
//! Metadata of containers and pods from Kubernetes' sources: written outside the path of records, read by
//! the resolver that names workloads. It is kept when the source is gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::owners;
use crate::signal::semconv::attr;
use crate::signal::{ContainerKind, Owners, Pod, QosClass, Workload, WorkloadKey};
use crate::workload::image::{SANDBOX, split_image};
use crate::workload::service;
use crate::workload::settings::{Settings, chooses};
use crate::workload::table::container_key;
use crate::workload::texts::Texts;
use crate::workload::{Workloads, path};

/// What is known of a container or pod whose workload is not there (yet) is kept so long.
const KEEP: Duration = Duration::from_secs(300);
/// More containers than this are not remembered as unknown.
const MAX_UNKNOWN: usize = 4096;

/// Where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The container runtime's socket.
    Cri,
    Kubelet,
    ApiServer,
}

impl Source {
    pub const ALL: [Source; 3] = [Source::Cri, Source::Kubelet, Source::ApiServer];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Source::Cri => "cri",
            Source::Kubelet => "kubelet",
            Source::ApiServer => "api_server",
        }
    }
}

/// How it goes with a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceState {
    /// Not on this node, or not asked.
    #[default]
    Absent,
    Ok,
    /// It answered once and does not now: its metadata is kept.
    Old,
    /// It never answered.
    Down,
}

impl SourceState {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SourceState::Absent => "absent",
            SourceState::Ok => "ok",
            SourceState::Old => "old",
            SourceState::Down => "down",
        }
    }
}

/// A container as a source reports it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct ContainerFacts {
    /// The pod's UID.
    pub pod: Arc<str>,
    /// In the pod; none for the one that holds the pod's namespaces.
    pub name: Option<Arc<str>>,
    pub image: Option<Arc<str>>,
    pub runtime: Option<&'static str>,
    pub labels: BTreeMap<String, String>,
    pub kind: Option<ContainerKind>,
    pub restarts: Option<u32>,
}

/// A pod as a source reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PodFacts {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owners: Owners,
    pub qos: Option<QosClass>,
    pub is_static: bool,
}

/// A pod, and when it was last reported.
struct KnownPod {
    facts: PodFacts,
    /// The kubelet or the API server has reported it, now or before.
    by_cluster: bool,
    at: Instant,
}

/// A container, and when it was last reported. What its workload has is not kept a second time: some nodes
/// have thousands.
struct KnownContainer {
    facts: Option<Box<(ContainerFacts, Source)>>,
    pod: Arc<str>,
    is_sandbox: bool,
    /// Hash of what each source reported last, to know whether it is new: one change in four billion is missed.
    hashes: [Option<NonZeroU32>; Source::ALL.len()],
    at: Instant,
}

/// The facts. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Facts(Arc<Inner>);

struct Inner {
    settings: Settings,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    containers: HashMap<WorkloadKey, KnownContainer>,
    pods: HashMap<Arc<str>, KnownPod>,
    /// Containers that the runtime was asked for and does not know: another's, or of another namespace.
    unknown: HashSet<String>,
    /// What containers of many pods are called, and their images.
    texts: Texts,
    fresh: Fresh,
    states: HashMap<Source, SourceState>,
}

/// What was reported since the last call: keys of containers, UIDs of pods.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    pub containers: HashSet<WorkloadKey>,
    pub pods: HashSet<Arc<str>>,
}

impl Facts {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Facts(Arc::new(Inner { settings: settings.clone(), known: Mutex::default() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Labels and annotations that somebody will ask for; the rest is not kept.
    fn keep(&self, labels: &mut BTreeMap<String, String>, patterns: &[String]) {
        // Not `retain`: a map that was emptied keeps its room.
        let all = std::mem::take(labels).into_iter();
        *labels = all.filter(|(k, _)| chooses(patterns, k) || service::names_service(k)).collect();
    }

    pub(super) fn set_container(&self, by: Source, id: &str, mut new: ContainerFacts) {
        self.keep(&mut new.labels, &self.0.settings.labels);
        let mut hasher = DefaultHasher::new();
        new.hash(&mut hasher);
        let hash = NonZeroU32::new(hasher.finish() as u32 | 1);
        let key = container_key(id);
        let mut known = self.known();
        known.unknown.remove(id);
        for text in [&mut new.name, &mut new.image].into_iter().flatten() {
            known.texts.share_one(text);
        }
        if let Some((uid, _)) = known.pods.get_key_value(&new.pod) {
            new.pod = Arc::clone(uid);
        }
        let entry = known.containers.entry(key).or_insert_with(|| KnownContainer {
            facts: None,
            pod: Arc::clone(&new.pod),
            is_sandbox: false,
            hashes: [None; Source::ALL.len()],
            at: Instant::now(),
        });
        entry.at = Instant::now();
        entry.is_sandbox |= new.kind == Some(ContainerKind::Sandbox);
        let last = &mut entry.hashes[by as usize];
        if *last == hash {
            return;
        }
        *last = hash;
        let new = match entry.facts.take() {
            Some(old) => merged(&old.0, old.1, new, by),
            None => new,
        };
        entry.facts = Some(Box::new((new, by)));
        known.fresh.containers.insert(key);
    }

    /// The cluster's metadata of a pod is newer than what the runtime got when it created the pod.
    pub(super) fn set_pod(&self, by: Source, uid: &Arc<str>, mut new: PodFacts) {
        if new.owners.is_empty() && !new.is_static {
            new.owners = owners::by_labels(&new.name, &new.labels);
        }
        self.keep(&mut new.labels, &self.0.settings.labels);
        self.keep(&mut new.annotations, &self.0.settings.annotations);
        let mut known = self.known();
        match known.pods.get_mut(uid) {
            Some(old) if old.by_cluster && by == Source::Cri || old.facts == new => old.at = Instant::now(),
            _ => {
                known.fresh.pods.insert(Arc::clone(uid));
                let by_cluster = by != Source::Cri;
                known.pods.insert(Arc::clone(uid), KnownPod { facts: new, by_cluster, at: Instant::now() });
            }
        }
    }

    /// The runtime was asked and does not know it.
    pub(super) fn set_unknown(&self, id: &str) {
        let mut known = self.known();
        if known.unknown.len() >= MAX_UNKNOWN {
            known.unknown.clear();
        }
        known.unknown.insert(id.to_owned());
    }

    pub(super) fn knows_container(&self, id: &str) -> bool {
        self.known().containers.contains_key(&container_key(id))
    }

    /// Whether the runtime was asked for it and answered, so or so.
    pub(super) fn is_settled(&self, id: &str) -> bool {
        let known = self.known();
        known.containers.contains_key(&container_key(id)) || known.unknown.contains(id)
    }

    /// Whether the kubelet's list had the container, or never will have, as it is a pod's sandbox.
    pub(super) fn is_in_list(&self, container: WorkloadKey) -> bool {
        self.known()
            .containers
            .get(&container)
            .is_some_and(|c| c.is_sandbox || c.hashes[Source::Kubelet as usize].is_some())
    }

    /// Drops what nobody can ask for any more.
    pub(super) fn forget(&self, workloads: &Workloads) {
        let old = |known: &Known| {
            let all = known.containers.iter().filter(|(_, c)| c.at.elapsed() >= KEEP);
            all.map(|(key, _)| *key).collect::<Vec<_>>()
        };
        // Not while the facts are locked: who names a workload locks the other way round.
        let mut gone = old(&self.known());
        gone.retain(|key| workloads.by_key(*key).is_none());
        let mut known = self.known();
        for key in &gone {
            known.containers.remove(key);
        }
        let Known { containers, pods, .. } = &mut *known;
        let named: HashSet<&str> = containers.values().map(|c| &*c.pod).collect();
        pods.retain(|uid, p| p.at.elapsed() < KEEP || named.contains(&**uid));
    }

    pub(super) fn set_state(&self, source: Source, state: SourceState) {
        self.known().states.insert(source, state);
    }

    /// How it goes with a source.
    #[must_use]
    pub fn state(&self, source: Source) -> SourceState {
        self.known().states.get(&source).copied().unwrap_or_default()
    }

    /// What was reported since the last call.
    pub(crate) fn take_fresh(&self) -> Fresh {
        std::mem::take(&mut self.known().fresh)
    }

    /// Whether a source that answers may still report this workload.
    pub(crate) fn expects(&self, w: &Workload) -> bool {
        let Some(id) = w.container_id.as_deref() else { return false };
        let known = self.known();
        let up = |s: Source| known.states.get(&s) == Some(&SourceState::Ok);
        // Docker speaks for Kubernetes by its labels alone.
        let elsewhere = matches!(w.runtime, Some(path::DOCKER | path::PODMAN));
        let of_runtime = up(Source::Cri) && !known.unknown.contains(id) && !elsewhere;
        let cluster = up(Source::Kubelet) || up(Source::ApiServer);
        let of_cluster = w.pod.as_ref().is_some_and(|p| cluster && !known.pods.contains_key(&p.uid));
        !known.containers.contains_key(&container_key(id)) && (of_runtime || of_cluster)
    }

    /// Puts what is known into the workload. Returns whether a source has reported the container, now or before.
    pub(crate) fn hand_over(&self, w: &mut Workload) -> bool {
        let mut known = self.known();
        let known = &mut *known;
        let container = w.container_id.as_deref().and_then(|id| known.containers.get_mut(&container_key(id)));
        let container = container.map(|c| {
            if let Some(facts) = c.facts.take() {
                facts.0.apply(w);
            }
            &*c
        });
        let uid = container.map(|c| &c.pod).or(w.pod.as_ref().map(|p| &p.uid));
        let pod = uid.and_then(|uid| known.pods.get(uid)).map(|p| &p.facts);
        if let Some(p) = pod {
            p.apply(w, &self.0.settings);
        }
        choose(w, &self.0.settings);
        if let Some(p) = pod {
            service::by_labels(w, &p.labels, &p.annotations);
        } else if container.is_some() {
            service::by_labels(w, &BTreeMap::new(), &BTreeMap::new());
        }
        container.is_some()
    }

    /// Whether a source has reported the container: then its files are not read for its names.
    pub(crate) fn has_reported(&self, id: Option<&str>) -> bool {
        id.is_some_and(|id| self.known().containers.contains_key(&container_key(id)))
    }
}

/// One container reported by both: the runtime knows image, labels and restarts, the cluster its place in the pod.
fn merged(old: &ContainerFacts, old_by: Source, new: ContainerFacts, by: Source) -> ContainerFacts {
    if old_by == by && by == Source::Cri {
        return ContainerFacts { kind: new.kind.or(old.kind), ..new };
    }
    let (runtime, cluster) = if by == Source::Cri { (new, old.clone()) } else { (old.clone(), new) };
    ContainerFacts {
        pod: if runtime.pod.is_empty() { cluster.pod } else { runtime.pod },
        name: runtime.name.or(cluster.name),
        image: cluster.image.or(runtime.image),
        runtime: runtime.runtime.or(cluster.runtime),
        labels: if runtime.labels.is_empty() { cluster.labels } else { runtime.labels },
        kind: cluster.kind.or(runtime.kind),
        restarts: runtime.restarts.max(cluster.restarts),
    }
}

impl ContainerFacts {
    fn apply(&self, w: &mut Workload) {
        let is_sandbox = self.kind == Some(ContainerKind::Sandbox);
        let name = self.name.as_deref().map(str::to_owned).or_else(|| is_sandbox.then(|| SANDBOX.to_owned()));
        w.container_name = name.or(w.container_name.take());
        if let Some(image) = &self.image {
            let (name, tag) = split_image(image);
            // A reference by digest does not take the tag away that others know.
            let known = w.image_tag.take().filter(|_| w.image_name.as_deref() == Some(name));
            (w.image_name, w.image_tag) = (Some(name.into()), tag.map(Into::into).or(known));
        }
        w.runtime = w.runtime.or(self.runtime);
        w.labels.extend(self.labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        let pod = w.pod.get_or_insert_with(Pod::default);
        pod.uid = Arc::clone(&self.pod);
        pod.container = self.name.clone().or(pod.container.take());
        pod.kind = self.kind.or(pod.kind);
        pod.restarts = self.restarts.or(pod.restarts);
    }
}

impl PodFacts {
    fn apply(&self, w: &mut Workload, settings: &Settings) {
        let pod = w.pod.get_or_insert_with(Pod::default);
        pod.name = Some(Arc::clone(&self.name));
        pod.namespace = Some(Arc::clone(&self.namespace));
        pod.owners.clone_from(&self.owners);
        pod.qos = self.qos.or(pod.qos);
        pod.is_static = self.is_static;
        w.chosen.retain(|k, _| !k.starts_with(attr::K8S_POD_LABEL) && !k.starts_with(attr::K8S_POD_ANNOTATION));
        let lists = [
            (attr::K8S_POD_LABEL, &self.labels, &settings.labels),
            (attr::K8S_POD_ANNOTATION, &self.annotations, &settings.annotations),
        ];
        for (prefix, all, patterns) in lists {
            for (k, v) in all.iter().filter(|(k, _)| chooses(patterns, k)) {
                w.chosen.insert(format!("{prefix}{k}"), v.clone());
            }
        }
    }
}

/// Labels of the container itself that the settings choose.
fn choose(w: &mut Workload, settings: &Settings) {
    if settings.labels.is_empty() {
        return;
    }
    let chosen = w.labels.iter().filter(|(k, _)| chooses(&settings.labels, k));
    let chosen: Vec<_> = chosen.map(|(k, v)| (format!("{}{k}", attr::CONTAINER_LABEL), v.clone())).collect();
    w.chosen.extend(chosen);
}
