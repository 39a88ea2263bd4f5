// SPDX-License-Identifier: Apache-2.0
//! Pods as the kubelet and the API server report them, `v1.PodList` and `v1.WatchEvent` of Kubernetes'
//! API: the fields that we read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::cri::{CONFIG_SOURCE, is_static};
use super::facts::{ContainerFacts, Facts, PodFacts, Source};
use super::owners;
use crate::signal::{ContainerKind, QosClass};
use crate::workload::image::names_image;
use crate::workload::path;

/// The list, of which one pod is held at a time: hundreds of them, most of which nobody asks for, would
/// leave their holes between what is kept.
struct PodList<'f>(Source, &'f Facts);

/// What a list held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub pods: usize,
    /// From where the API server is asked for what comes after it.
    pub resource_version: String,
}

/// Of a list, and of what a bookmark is about.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    resource_version: String,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    namespace: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    init_containers: Vec<InitContainer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitContainer {
    name: String,
    /// `Always` makes it a sidecar.
    restart_policy: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    qos_class: Option<String>,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    /// `containerd://ID`; none before it is made.
    #[serde(rename = "containerID", default)]
    container_id: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    restart_count: u32,
    #[serde(default)]
    last_state: State,
}

/// What became of a container; of interest is the one before the last restart: it is known by nothing else.
#[derive(Deserialize, Default)]
#[serde(default)]
struct State {
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
struct Terminated {
    #[serde(rename = "containerID", default)]
    container_id: String,
}

/// Applies a list of pods.
///
/// # Errors
/// It is not a list of pods. Pods before the error are applied.
pub(super) fn apply_list(list: &[u8], by: Source, facts: &Facts) -> serde_json::Result<Listed> {
    let mut text = serde_json::Deserializer::from_slice(list);
    let listed = PodList(by, facts).deserialize(&mut text)?;
    text.end()?;
    Ok(listed)
}

/// One line of a watch.
#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Event {
    Added(Pod),
    Modified(Pod),
    /// What was known of it serves until its containers are gone.
    Deleted(Pod),
    Bookmark(Bookmark),
    Error(Refusal),
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: ListMetadata,
}

/// `v1.Status`, as far as it explains why a watch ends.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    code: u16,
    message: String,
}

/// `code` of a status that says: what came since is not kept any more.
const GONE: u16 = 410;

/// What an event of a watch comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchEvent {
    /// Everything up to this resource version was applied.
    UpTo(String),
    /// The version that was asked for is not kept any more.
    TooOld,
}

/// Applies an event of a watch.
///
/// # Errors
/// The line is not an event, or it is the reason why the API server ended the watch.
pub(super) fn apply_event(line: &[u8], facts: &Facts) -> anyhow::Result<WatchEvent> {
    match serde_json::from_slice(line).context("not a watch event")? {
        Event::Added(pod) | Event::Modified(pod) => {
            let version = pod.metadata.resource_version.clone();
            pod.apply(Source::ApiServer, facts);
            Ok(WatchEvent::UpTo(version))
        }
        Event::Deleted(pod) => Ok(WatchEvent::UpTo(pod.metadata.resource_version)),
        Event::Bookmark(at) => Ok(WatchEvent::UpTo(at.metadata.resource_version)),
        Event::Error(why) if why.code == GONE => Ok(WatchEvent::TooOld),
        Event::Error(why) => anyhow::bail!("it ends the watch: {} {}", why.code, why.message),
    }
}

impl<'de> DeserializeSeed<'de> for PodList<'_> {
    type Value = Listed;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Listed, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PodList<'_> {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pods")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut list: A) -> Result<Listed, A::Error> {
        let mut listed = Listed::default();
        while let Some(key) = list.next_key::<Cow<'_, str>>()? {
            match &*key {
                "items" => listed.pods += list.next_value_seed(Items(self.0, self.1))?,
                "metadata" => listed.resource_version = list.next_value::<ListMetadata>()?.resource_version,
                _ => drop(list.next_value::<IgnoredAny>()?),
            }
        }
        Ok(listed)
    }
}

struct Items<'f>(Source, &'f Facts);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<usize, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pods, or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pods: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(pod) = pods.next_element::<Pod>()? {
            pod.apply(self.0, self.1);
            count += 1;
        }
        Ok(count)
    }
}

impl Pod {
    fn apply(self, by: Source, facts: &Facts) {
        let Pod { metadata: m, spec, status } = self;
        let is_sidecar = |name: &str| {
            spec.init_containers.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
        };
        let of_init = |c: &ContainerStatus| {
            if is_sidecar(&c.name) { ContainerKind::Sidecar } else { ContainerKind::Init }
        };
        let plain = status.container_statuses.into_iter().map(|c| (None, c));
        let init = status.init_container_statuses.into_iter().map(|c| (Some(of_init(&c)), c));
        let ephemeral = status.ephemeral_container_statuses.into_iter().map(|c| (Some(ContainerKind::Ephemeral), c));
        let uid = Arc::from(m.uid);
        for (kind, c) in plain.chain(init).chain(ephemeral) {
            c.apply(by, facts, &uid, kind);
        }
        let controller = m.owner_references.iter().find(|o| o.controller);
        let owners = controller.map(|o| owners::by_reference(&o.kind, &o.name, &m.labels)).unwrap_or_default();
        let pod = PodFacts {
            is_static: is_static(m.annotations.get(CONFIG_SOURCE).map(String::as_str)),
            qos: status.qos_class.as_deref().and_then(QosClass::parse),
            name: m.name.into(),
            namespace: m.namespace.into(),
            labels: m.labels,
            annotations: m.annotations,
            owners,
        };
        facts.set_pod(by, &uid, pod);
    }
}

impl ContainerStatus {
    fn apply(self, by: Source, facts: &Facts, uid: &Arc<str>, kind: Option<ContainerKind>) {
        let before = self.last_state.terminated.map(|t| (t.container_id, self.restart_count.saturating_sub(1)));
        let (name, image) = (Arc::from(self.name), Some(self.image).filter(|i| names_image(i)).map(Arc::from));
        for (id, restarts) in before.into_iter().chain([(self.container_id, self.restart_count)]) {
            let Some((runtime, id)) = id.split_once("://") else { continue };
            let container = ContainerFacts {
                pod: Arc::clone(uid),
                name: Some(Arc::clone(&name)),
                image: image.clone(),
                runtime: [path::CONTAINERD, path::CRI_O, path::DOCKER].into_iter().find(|r| *r == runtime),
                labels: BTreeMap::new(),
                kind,
                restarts: Some(restarts),
            };
            facts.set_container(by, id, container);
        }
    }
}
