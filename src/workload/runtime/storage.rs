// SPDX-License-Identifier: Apache-2.0
//! podman and CRI-O: containers/storage. `DRIVER-containers/containers.json` lists the containers
//! (store.go, container.go of github.com/containers/storage), `ID/userdata/config.json` is the
//! container's specification. podman keeps labels in its own database alone: with the older one
//! (`bolt_state.db`) they can be read, with SQLite they cannot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::oci;
use crate::host::{Host, read, read_bytes};
use crate::workload::image::names_image;
use crate::workload::names::{Kept, Names};
use crate::workload::path;

#[derive(Deserialize)]
struct Container {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// Id of the image.
    #[serde(default)]
    image: String,
    /// JSON again.
    #[serde(default)]
    metadata: String,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(rename = "image-name", default)]
    image_name: String,
    /// podman's name, or the one that CRI-O made of pod and container.
    #[serde(default)]
    name: String,
}

impl Container {
    fn metadata(&self) -> Metadata {
        serde_json::from_str(&self.metadata).unwrap_or_default()
    }

    /// What it was made with stays in the metadata when it is renamed.
    fn name(&self) -> Option<String> {
        self.names.first().cloned().or_else(|| Some(self.metadata().name)).filter(|n| !n.is_empty())
    }
}

#[derive(Deserialize)]
struct Image {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
}

/// A folder that holds stores, by paths below it.
pub(crate) trait Folder {
    fn read(&mut self, path: &Path) -> Option<Vec<u8>>;
    /// Names of the folders in one.
    fn list(&mut self, path: &Path) -> Vec<String>;
}

/// The node's own, which nobody but root writes.
pub(super) struct Own;

impl Folder for Own {
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        read_bytes(path).ok()
    }

    fn list(&mut self, path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }
}

/// In the stores of the node.
pub(super) fn look_up(host: &Host, id: &str) -> Option<Names> {
    let (found, file) = roots(host).iter().find_map(|root| look_up_in(&mut Own, root, id))?;
    let kept = found.renamed.then_some(Kept { file, home: None, names });
    Some(Names { kept, ..found })
}

/// In one store, and the file that lists it.
pub(crate) fn look_up_in(folder: &mut dyn Folder, root: &Path, id: &str) -> Option<(Names, PathBuf)> {
    drivers(folder, root).iter().find_map(|driver| in_driver(folder, root, driver, id))
}

/// The stores of the node: the configured one, root's and its volatile part.
fn roots(host: &Host) -> Vec<PathBuf> {
    let below = |p: &str| host.root.join(p.trim_start_matches('/'));
    let mut roots: Vec<PathBuf> = ["etc/containers/storage.conf", "usr/share/containers/storage.conf"]
        .into_iter()
        .filter_map(|file| configured(&read(&host.root.join(file)).ok()?))
        .map(|p| below(&p))
        .collect();
    roots.extend(["var/lib/containers/storage", "run/containers/storage"].map(below));
    roots
}

/// `graphroot` of a storage.conf.
fn configured(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let graphroot = table.get("storage")?.get("graphroot")?.as_str()?;
    graphroot.starts_with('/').then(|| graphroot.to_owned())
}

/// Folders `overlay-containers`, `vfs-containers`, … by the storage driver.
fn drivers(folder: &mut dyn Folder, root: &Path) -> Vec<String> {
    folder.list(root).iter().filter_map(|name| Some(name.strip_suffix("-containers")?.to_owned())).collect()
}

fn in_driver(folder: &mut dyn Folder, root: &Path, driver: &str, id: &str) -> Option<(Names, PathBuf)> {
    let containers = root.join(format!("{driver}-containers"));
    let (file, listed) = ["containers.json", "volatile-containers.json"].into_iter().find_map(|list| {
        let file = containers.join(list);
        let all: Vec<Container> = serde_json::from_slice(&folder.read(&file)?).ok()?;
        Some((file, all.into_iter().find(|c| c.id == id)?))
    })?;
    let metadata = listed.metadata();
    let spec = folder.read(&containers.join(id).join("userdata/config.json")).and_then(|s| oci::parse(&s));
    let complete = spec.is_some();
    let spec = spec.unwrap_or_default();
    let annotation = |key: &str| spec.annotations.get(key).cloned();
    let podman = annotation("io.container.manager").is_some_and(|m| m == "libpod");
    // CRI-O lists it under a name that it made of those of pod and container, which stays.
    let in_pod = annotation("io.kubernetes.container.name");
    let crio = in_pod.is_some();
    let image = Some(metadata.image_name).filter(|i| names_image(i));
    let names = Names {
        name: in_pod.or_else(|| listed.name()),
        renamed: !crio,
        kept: None,
        image: image
            .or_else(|| annotation("io.kubernetes.cri-o.ImageName"))
            .or_else(|| image_name(folder, root, driver, &listed.image)),
        runtime: if podman { Some(path::PODMAN) } else { crio.then_some(path::CRI_O) },
        labels: labels(folder, root, &spec.annotations, id),
        service: spec.service,
        annotations: spec.annotations,
        complete,
    };
    Some((names, file))
}

/// Every container of a list.
pub(crate) fn names(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let all: Vec<Container> = serde_json::from_slice(bytes).ok()?;
    Some(all.into_iter().filter_map(|c| Some((c.id.clone(), c.name()?))).collect())
}

fn image_name(folder: &mut dyn Folder, root: &Path, driver: &str, image: &str) -> Option<String> {
    let file = root.join(format!("{driver}-images/images.json"));
    let all: Vec<Image> = serde_json::from_slice(&folder.read(&file)?).ok()?;
    all.into_iter().find(|i| i.id == image)?.names?.into_iter().next()
}

/// CRI-O repeats the labels in an annotation; podman has them in its database.
fn labels(
    folder: &mut dyn Folder,
    root: &Path,
    annotations: &BTreeMap<String, String>,
    id: &str,
) -> BTreeMap<String, String> {
    if let Some(json) = annotations.get("io.kubernetes.cri-o.Labels") {
        return serde_json::from_str(json).unwrap_or_default();
    }
    let database = folder.read(&root.join("libpod/bolt_state.db")).unwrap_or_default();
    labels_in(&database, id).unwrap_or_default()
}

/// A container's configuration lies in the database as one piece of JSON, `…"id":ID,…,"labels":{…}…`,
/// written once when the container is made. Locking the database to read it by rights would hold up podman.
fn labels_in(database: &[u8], id: &str) -> Option<BTreeMap<String, String>> {
    const WITHIN: usize = 64 << 10;
    let from = find(database, format!("\"id\":\"{id}\"").as_bytes())?;
    let config = database.get(from..)?;
    let config = config.get(..WITHIN).unwrap_or(config);
    // What follows the next container's beginning is not ours.
    let end = find(config, b"{\"spec\":{").unwrap_or(config.len());
    let config = config.get(..end)?;
    const LABELS: &[u8] = b"\"labels\":";
    let at = find(config, LABELS)? + LABELS.len();
    serde_json::Deserializer::from_slice(config.get(at..)?).into_iter().next()?.ok()
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(skip) = hay.get(at..)?.iter().position(|b| *b == first) {
        at += skip;
        if hay.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "31a8d910a6930107067375b6e7aa4b65c74ae2dce8f4b1682549a4557c8d7ad5";

    /// Labels are those of the container asked for, never of the next one; escaped words in its command
    /// are none.
    #[test]
    fn labels_of_the_right_container() {
        let other = ID.replace('3', "4");
        let db = format!(
            "\0\0{{\"spec\":{{}},\"id\":\"{ID}\",\"CreateCommand\":[\"\\\"labels\\\":{{}}\"],\"labels\":{{\"a\":\"b\"}}}}\0{{\"spec\":{{}},\"id\":\"{other}\",\"name\":\"x\"}}\0{{\"spec\":{{}},\"id\":\"z\",\"labels\":{{\"no\":\"no\"}}}}"
        );
        assert_eq!(labels_in(db.as_bytes(), ID).unwrap().get("a").map(String::as_str), Some("b"));
        assert_eq!(labels_in(db.as_bytes(), &other), None);
        assert_eq!(labels_in(b"", ID), None);
    }

    /// Only a whole path is taken from storage.conf.
    #[test]
    fn graphroot() {
        assert_eq!(configured("[storage]\ndriver='vfs'\ngraphroot='/data/c'\n").as_deref(), Some("/data/c"));
        assert_eq!(configured("[storage]\ngraphroot='$HOME/c'\n"), None);
        assert_eq!(configured("nonsense"), None);
    }

    proptest! {
        /// No bytes of a database make it panic.
        #[test]
        fn never_panics(tail in "(?s).{0,200}") {
            let _ = labels_in(format!("x\"id\":\"{ID}\"{tail}\"labels\":{tail}").as_bytes(), ID);
        }
    }
}
