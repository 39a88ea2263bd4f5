// SPDX-License-Identifier: Apache-2.0
//! To whom a signal belongs: the container, unit or cgroup, with its pod and service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::semconv::{Key, attr};
use super::{Attributes, Value};

/// Identity of a workload that survives restarts of the agent and is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey(pub u64);

/// What kind of thing the workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    Container,
    /// A systemd unit.
    Unit,
    /// A cgroup that nothing else names.
    Cgroup,
    /// The agent itself: its events open no incident.
    Own,
}

/// Names of who made a pod, each under its attribute; shared by the pod's containers.
pub type Owners = Arc<[(Key, String)]>;

/// A pod's identity, as far as it is known. What is the same for all its containers is shared by them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub uid: Arc<str>,
    pub name: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    /// The container's name within the pod.
    pub container: Option<Arc<str>>,
    /// Who made it, the one that people know first: `k8s.deployment.name` and the name, then its ReplicaSet.
    pub owners: Owners,
    pub qos: Option<QosClass>,
    /// What the container is in the pod, where it is not one of its plain containers.
    pub kind: Option<ContainerKind>,
    /// How often the container was started before in this pod.
    pub restarts: Option<u32>,
    /// Made by the kubelet itself from a file on the node.
    pub is_static: bool,
}

/// Kubernetes' class of a pod by what it requests: what the kernel may take from it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// As the API server spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort].into_iter().find(|q| q.as_str() == text)
    }
}

/// A container that is not one of the pod's plain ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// Runs to its end before the others start.
    Init,
    /// An init container that goes on beside the others.
    Sidecar,
    /// Put into the running pod by a human, `kubectl debug`.
    Ephemeral,
    /// Holds the pod's namespaces and does nothing else.
    Sandbox,
}

impl ContainerKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ContainerKind::Init => "init",
            ContainerKind::Sidecar => "sidecar",
            ContainerKind::Ephemeral => "ephemeral",
            ContainerKind::Sandbox => "sandbox",
        }
    }
}

/// What is known of a workload at one moment. Immutable: a name that comes late makes a new value
/// under the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub key: WorkloadKey,
    pub kind: WorkloadKind,
    /// Cgroup path below its hierarchy's root, e.g. `/libpod_parent/libpod-…`.
    pub cgroup: String,
    /// 64 hex digits, for containers.
    pub container_id: Option<String>,
    pub container_name: Option<String>,
    pub image_name: Option<Arc<str>>,
    pub image_tag: Option<Arc<str>>,
    /// `podman`, `docker`, `containerd`, `cri-o`.
    pub runtime: Option<&'static str>,
    /// systemd unit, for units.
    pub unit: Option<String>,
    pub pod: Option<Pod>,
    pub service_name: Option<Arc<str>>,
    pub service_namespace: Option<Arc<str>>,
    pub service_version: Option<Arc<str>>,
    /// The process itself declared the service's name: nothing overrides it.
    pub service_declared: bool,
    /// The container's, as its runtime has them.
    pub labels: BTreeMap<String, String>,
    /// Labels and annotations that the settings choose, under their attributes' names.
    pub chosen: BTreeMap<String, String>,
    /// Names may still come: exporters wait for them for up to 2 s.
    pub pending: bool,
}

impl Workload {
    /// A workload of which no more than this is known.
    #[must_use]
    pub fn new(key: WorkloadKey, kind: WorkloadKind, cgroup: impl Into<String>) -> Self {
        Workload {
            key,
            kind,
            cgroup: cgroup.into(),
            container_id: None,
            container_name: None,
            image_name: None,
            image_tag: None,
            runtime: None,
            unit: None,
            pod: None,
            service_name: None,
            service_namespace: None,
            service_version: None,
            service_declared: false,
            labels: BTreeMap::new(),
            chosen: BTreeMap::new(),
            pending: false,
        }
    }

    /// The shortest name a human would use: container name, pod/container, unit, or the cgroup's path.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.container_name
            .as_deref()
            .or(self.unit.as_deref())
            .or(self.container_id.as_deref().map(|id| id.get(..12).unwrap_or(id)))
            .unwrap_or(&self.cgroup)
    }

    /// For messages: ` of NAME`, or nothing without a workload.
    #[must_use]
    pub fn message_suffix(workload: Option<&Arc<Workload>>) -> String {
        workload.map(|w| format!(" of {}", w.display_name())).unwrap_or_default()
    }

    /// The OTel resource attributes of this workload; those of the node are the exporter's to add.
    #[must_use]
    pub fn resource(&self) -> Attributes {
        let mut a = Attributes::new();
        let text = |v: &Option<String>| v.clone();
        a.set_some(attr::CONTAINER_ID, text(&self.container_id));
        a.set_some(attr::CONTAINER_NAME, text(&self.container_name));
        a.set_some(attr::CONTAINER_RUNTIME, self.runtime);
        a.set_some(attr::CONTAINER_IMAGE_NAME, self.image_name.clone());
        a.set_some(attr::CONTAINER_IMAGE_TAGS, self.image_tag.clone().map(|t| vec![t]));
        if let Some(p) = &self.pod {
            p.describe(&mut a);
        }
        a.set_some(attr::LINUX_SYSTEMD_UNIT, text(&self.unit));
        if !self.cgroup.is_empty() {
            a.set(attr::LINUX_CGROUP_PATH, self.cgroup.clone());
        }
        a.set_some(
            attr::SERVICE_NAME,
            self.service_name.as_deref().or(self.container_name.as_deref()).map(str::to_owned),
        );
        a.set_some(attr::SERVICE_NAMESPACE, self.service_namespace.clone());
        a.set_some(attr::SERVICE_VERSION, self.service_version.clone());
        for (name, value) in &self.chosen {
            a.set_named(name.clone().into(), Value::Str(value.clone().into()));
        }
        a
    }
}

impl Pod {
    fn describe(&self, a: &mut Attributes) {
        a.set_some(attr::K8S_NAMESPACE_NAME, self.namespace.clone());
        a.set_some(attr::K8S_POD_NAME, self.name.clone());
        a.set(attr::K8S_POD_UID, self.uid.clone());
        a.set_some(attr::K8S_CONTAINER_NAME, self.container.clone());
        a.set_some(attr::K8S_CONTAINER_RESTART_COUNT, self.restarts);
        a.set_some(attr::LINUX_K8S_CONTAINER_KIND, self.kind.map(ContainerKind::as_str));
        a.set_some(attr::K8S_POD_QOS_CLASS, self.qos.map(QosClass::as_str));
        for (key, name) in self.owners.iter() {
            a.set(*key, name.clone());
        }
        if self.is_static {
            a.set(attr::LINUX_K8S_POD_STATIC, true);
        }
    }
}
