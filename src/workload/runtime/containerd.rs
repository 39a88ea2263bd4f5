// SPDX-License-Identifier: Apache-2.0
//! containerd: the bundles of running containers, `/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID`.
//! Its CRI plugin writes names and image into the annotations (pkg/cri/annotations). Labels are only in
//! its database, which is not for others to read.

use std::collections::BTreeMap;

use super::oci;
use crate::host::{Host, read_bytes};
use crate::workload::image::SANDBOX;
use crate::workload::names::Names;
use crate::workload::path;

const BUNDLES: &str = "run/containerd/io.containerd.runtime.v2.task";

pub(super) fn look_up(host: &Host, id: &str) -> Option<Names> {
    let namespaces = std::fs::read_dir(host.root.join(BUNDLES)).ok()?;
    let (namespace, spec) = namespaces.flatten().find_map(|namespace| {
        let spec = oci::parse(&read_bytes(&namespace.path().join(id).join("config.json")).ok()?)?;
        Some((namespace.file_name(), spec))
    })?;
    // Docker's own containers are in this namespace; Docker knows more of them.
    if namespace == "moby" {
        return None;
    }
    let get = |key: &str| spec.annotations.get(key).cloned();
    let name = get("io.kubernetes.cri.container-name").or_else(|| get("nerdctl/name"));
    let sandbox = get("io.kubernetes.cri.container-type").as_deref() == Some("sandbox");
    Some(Names {
        name: name.or_else(|| sandbox.then(|| SANDBOX.to_owned())),
        image: get("io.kubernetes.cri.image-name"),
        runtime: Some(path::CONTAINERD),
        labels: BTreeMap::new(),
        service: spec.service,
        annotations: spec.annotations,
        complete: true,
        renamed: false,
        kept: None,
    })
}
