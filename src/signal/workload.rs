// SPDX-License-Identifier: Apache-2.0
//! To whom a signal belongs: the container, unit or cgroup, with its pod and service.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::semconv::attr;
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

/// A pod's identity, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub uid: String,
    pub name: Option<String>,
    pub namespace: Option<String>,
    /// The container's name within the pod.
    pub container: Option<String>,
    /// Owner, as `("deployment", "shop")`.
    pub owner: Option<(String, String)>,
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
    pub image_name: Option<String>,
    pub image_tag: Option<String>,
    /// `podman`, `docker`, `containerd`, `cri-o`.
    pub runtime: Option<&'static str>,
    /// systemd unit, for units.
    pub unit: Option<String>,
    pub pod: Option<Pod>,
    pub service_name: Option<String>,
    pub service_namespace: Option<String>,
    pub service_version: Option<String>,
    pub labels: BTreeMap<String, String>,
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
            labels: BTreeMap::new(),
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

    /// The OTel resource attributes of this workload; those of the node are the exporter's to add.
    #[must_use]
    pub fn resource(&self) -> Attributes {
        let mut a = Attributes::new();
        let text = |v: &Option<String>| v.clone();
        a.set_some(attr::CONTAINER_ID, text(&self.container_id));
        a.set_some(attr::CONTAINER_NAME, text(&self.container_name));
        a.set_some(attr::CONTAINER_RUNTIME, self.runtime);
        a.set_some(attr::CONTAINER_IMAGE_NAME, text(&self.image_name));
        a.set_some(attr::CONTAINER_IMAGE_TAGS, self.image_tag.clone().map(|t| vec![t]));
        if let Some(p) = &self.pod {
            a.set_some(attr::K8S_NAMESPACE_NAME, text(&p.namespace));
            a.set_some(attr::K8S_POD_NAME, text(&p.name));
            a.set(attr::K8S_POD_UID, p.uid.clone());
            a.set_some(attr::K8S_CONTAINER_NAME, text(&p.container));
            if let Some((kind, name)) = &p.owner {
                // k8s.deployment.name, k8s.statefulset.name, …: OTel has one key for each kind.
                a.set_named(Cow::Owned(format!("k8s.{kind}.name")), Value::Str(name.clone().into()));
            }
        }
        a.set_some(attr::LINUX_SYSTEMD_UNIT, text(&self.unit));
        if !self.cgroup.is_empty() {
            a.set(attr::LINUX_CGROUP_PATH, self.cgroup.clone());
        }
        a.set_some(attr::SERVICE_NAME, self.service_name.clone().or_else(|| self.container_name.clone()));
        a.set_some(attr::SERVICE_NAMESPACE, text(&self.service_namespace));
        a.set_some(attr::SERVICE_VERSION, text(&self.service_version));
        a
    }
}
