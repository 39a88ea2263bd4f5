// SPDX-License-Identifier: Apache-2.0
//! Files in users' homes: what rootless podman and Docker keep of their containers. Homes may lie on file systems that do
//! not answer, and their files are what their users make of them.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, RawDir};

use super::messages::Wanted;
use super::processes::{Files, bytes};
use crate::workload::names::Names;
use crate::workload::runtime::homes;
use crate::workload::runtime::storage::Folder;

/// No file that is read is larger by rights: some KiB a container.
const LARGEST: u64 = 8 << 20;
/// Entries of a folder that are looked at.
const ENTRIES: usize = 4096;

/// Folders of one that has homes.
pub fn homes(files: &mut dyn Files) -> Option<Vec<String>> {
    files.may_touch(0).then(|| list(files, "."))
}

/// What the home's store has of a container, and the file that lists it.
pub fn container(files: &mut dyn Files, id: &str) -> Option<(Names, PathBuf)> {
    let (names, file) = homes::look_up_in(&mut Home(files), id)?;
    Some((names.bounded(), file))
}

/// Names of the containers that a file lists.
pub fn names(files: &mut dyn Files, file: &str) -> Option<BTreeMap<String, String>> {
    let file = Path::new(file);
    homes::names(file, &Home(files).read(file)?)
}

/// A home, whose files the opener opens.
struct Home<'a>(&'a mut dyn Files);

impl Folder for Home<'_> {
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        let wanted = Wanted::InHome(path.to_str()?);
        bytes(self.0.may_touch(0).then(|| self.0.open(wanted)).flatten()?, LARGEST)
    }

    fn list(&mut self, path: &Path) -> Vec<String> {
        match path.to_str() {
            Some(path) if self.0.may_touch(0) => list(self.0, path),
            _ => Vec::new(),
        }
    }
}

/// Names of the folders in one.
fn list(files: &mut dyn Files, path: &str) -> Vec<String> {
    let Some(folder) = files.open(Wanted::FolderInHome(path)) else { return Vec::new() };
    let mut space = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(&folder, &mut space);
    let mut found = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_str().ok().filter(|n| !n.starts_with('.'));
        // A file system need not say what it is; a link is followed when it is opened.
        let folder = matches!(entry.file_type(), FileType::Directory | FileType::Unknown | FileType::Symlink);
        found.extend(name.filter(|_| folder).map(str::to_owned));
        if found.len() >= ENTRIES {
            break;
        }
    }
    found
}
