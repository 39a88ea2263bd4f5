// SPDX-License-Identifier: Apache-2.0
//! To whom a signal belongs: the container, unit or cgroup, with its pod and service.

use std::collections::BTreeMap;

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
    /// The shortest name a human would use: container name, pod/container, unit, or the cgroup's path.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.container_name
            .as_deref()
            .or(self.unit.as_deref())
            .or(self.container_id.as_deref().map(|id| id.get(..12).unwrap_or(id)))
            .unwrap_or(&self.cgroup)
    }
}
