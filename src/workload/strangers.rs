// SPDX-License-Identifier: Apache-2.0
//! What is strangers' and may make its reader wait or break: memory of processes, files in users' homes.
//! Whoever is given for it reads it elsewhere, within a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::names::Names;
use super::service::ServiceEnv;

/// Reads what is strangers'. What is not there, and what does not answer in time, is `None`.
pub(crate) trait Strangers: Send + Sync {
    /// What the environment of a process says of its service.
    fn environment(&self, pid: u32) -> Option<ServiceEnv>;

    /// What a process has published of its service.
    fn published(&self, pid: u32) -> Option<ServiceEnv>;

    /// The homes in a folder.
    fn homes(&self, folder: &Path) -> Vec<PathBuf>;

    /// What the store in a home has of a container, and the file below the home that lists it.
    fn container(&self, home: &Path, id: &str) -> Option<(Names, PathBuf)>;

    /// Names of all containers that a file below a home lists.
    fn names(&self, home: &Path, file: &Path) -> Option<BTreeMap<String, String>>;
}

/// Nobody reads them: there are none.
pub(super) struct Nobody;

impl Strangers for Nobody {
    fn environment(&self, _: u32) -> Option<ServiceEnv> {
        None
    }

    fn published(&self, _: u32) -> Option<ServiceEnv> {
        None
    }

    fn homes(&self, _: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn container(&self, _: &Path, _: &str) -> Option<(Names, PathBuf)> {
        None
    }

    fn names(&self, _: &Path, _: &Path) -> Option<BTreeMap<String, String>> {
        None
    }
}
