// SPDX-License-Identifier: Apache-2.0
//! Rootless containers: podman's and Docker's files in the home of whoever runs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::docker;
use super::storage::{self, Folder};
use crate::host::Host;
use crate::workload::names::{Kept, Names};
use crate::workload::strangers::Strangers;

/// More homes than this are not searched.
const MAX_HOMES: usize = 256;

/// Where podman's store lies in a home, and Docker's.
const STORE: &str = ".local/share/containers/storage";
const DOCKER: &str = ".local/share/docker";

/// In each user's home.
pub(super) fn look_up(host: &Host, strangers: &dyn Strangers, id: &str) -> Option<Names> {
    let homes = strangers.homes(&host.root.join("home"));
    homes.into_iter().take(MAX_HOMES).find_map(|home| {
        let (found, file) = strangers.container(&home, id)?;
        let kept = found.renamed.then_some(Kept { file, home: Some(home), names: docker::names });
        Some(Names { kept, ..found })
    })
}

/// What a home has of a container, and the file below it that has the name.
pub(crate) fn look_up_in(home: &mut dyn Folder, id: &str) -> Option<(Names, PathBuf)> {
    storage::look_up_in(home, Path::new(STORE), id).or_else(|| {
        let file = docker::file(Path::new(DOCKER), id);
        Some((docker::described(&home.read(&file)?)?, file))
    })
}

/// Names of all containers that a file below a home has.
pub(crate) fn names(file: &Path, bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    if file.starts_with(DOCKER) { docker::names(bytes) } else { storage::names(bytes) }
}
