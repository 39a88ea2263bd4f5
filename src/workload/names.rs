// SPDX-License-Identifier: Apache-2.0
//! What runtimes keep of containers, and where.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::path;
use super::service::ServiceEnv;

/// What a runtime knows of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Names {
    pub name: Option<String>,
    /// The image's whole reference.
    pub image: Option<String>,
    #[serde(deserialize_with = "runtime")]
    pub runtime: Option<Runtime>,
    pub labels: BTreeMap<String, String>,
    /// Kubernetes' and the runtimes' own annotations.
    pub annotations: BTreeMap<String, String>,
    pub service: ServiceEnv,
    /// Nothing more is to be had.
    pub complete: bool,
    /// Its name may change where it is listed.
    pub renamed: bool,
    /// Where the name would change.
    #[serde(skip)]
    pub kept: Option<Kept>,
}

/// One of those in [`path`]. By another name than its type's, serde does not take it for a borrowed text.
type Runtime = &'static str;

fn runtime<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Runtime>, D::Error> {
    let name = Option::<String>::deserialize(from)?;
    let known = [path::PODMAN, path::CRI_O, path::DOCKER, path::CONTAINERD];
    Ok(known.into_iter().find(|known| name.as_deref() == Some(*known)))
}

/// Reads names by the containers' ids; `None` for a file that is half written.
type ReadNames = fn(&[u8]) -> Option<BTreeMap<String, String>>;

/// Where a container's name was found.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub file: PathBuf,
    /// The user's home that the file is below.
    pub home: Option<PathBuf>,
    /// By the format of the runtime that wrote it.
    pub names: ReadNames,
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        // A file has one format; addresses of functions are no identity.
        self.file == other.file && self.home == other.home
    }
}

impl Eq for Kept {}
