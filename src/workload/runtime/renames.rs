// SPDX-License-Identifier: Apache-2.0
//! Containers that are given another name while they live, by `podman rename` or `docker rename`.
//!
//! The kernel reports no such event: the name stands in the file where it was found. Its stamp is looked at every few
//! seconds, on the resolver's thread, and only a file that changed is read: one for all containers of a podman store, one
//! for each of Docker's. A look at a stamp takes about a microsecond. inotify would spare that, but it takes a watch
//! for each of Docker's containers out of what all programs of the user share, a thread that waits on it, and has to be
//! laid anew for stores that come later.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::host::read_bytes;
use crate::signal::WorkloadKey;
use crate::workload::names::Kept;
use crate::workload::strangers::Strangers;
use crate::workload::{Workloads, service, table};

/// How often the files' stamps are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// What distinguishes a file from its rewritten successor: all runtimes write beside it and rename.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    time: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let m = std::fs::metadata(file).ok()?;
        Some(Stamp { inode: m.ino(), size: m.size(), time: (m.mtime(), m.mtime_nsec()) })
    }
}

struct Watched {
    kept: Kept,
    /// When it was last read; `None`: a container came since, and may have been renamed before it was watched.
    stamp: Option<Stamp>,
    containers: HashSet<WorkloadKey>,
}

/// The files that are looked at.
#[derive(Default)]
pub(super) struct Renames {
    /// By the whole path.
    files: HashMap<PathBuf, Watched>,
    last: Option<Instant>,
}

impl Renames {
    /// From now on the container is reported by the name in this file.
    pub fn watch(&mut self, container: WorkloadKey, kept: &Kept) {
        let fresh = || Watched { kept: kept.clone(), stamp: None, containers: HashSet::new() };
        let file = kept.home.as_ref().map_or_else(|| kept.file.clone(), |home| home.join(&kept.file));
        let watched = self.files.entry(file).or_insert_with(fresh);
        if watched.containers.insert(container) {
            watched.stamp = None;
        }
    }

    /// When to look; `None` while there is nothing to look at.
    pub fn due(&self) -> Option<Instant> {
        (!self.files.is_empty()).then(|| self.last.map_or_else(Instant::now, |last| last + EVERY))
    }

    /// Looks, if it is time.
    pub fn work(&mut self, workloads: &Workloads, strangers: &dyn Strangers, now: Instant) {
        if self.files.is_empty() || self.last.is_some_and(|last| last + EVERY > now) {
            return;
        }
        self.last = Some(now);
        self.files.retain(|file, watched| {
            if let Some(home) = &watched.kept.home {
                watched.containers.retain(|key| workloads.is_alive(*key));
                let names = strangers.names(home, &watched.kept.file);
                names.iter().flatten().for_each(|(id, name)| watched.rename(workloads, id, name));
                return !watched.containers.is_empty();
            }
            // Docker's goes with its container; a store's, when it is taken down.
            let Some(stamp) = Stamp::of(file) else { return false };
            if watched.stamp.as_ref() != Some(&stamp) {
                let names = read_bytes(file).ok().and_then(|bytes| (watched.kept.names)(&bytes));
                watched.stamp = names.is_some().then_some(stamp);
                watched.containers.retain(|key| workloads.is_alive(*key));
                names.iter().flatten().for_each(|(id, name)| watched.rename(workloads, id, name));
            }
            !watched.containers.is_empty()
        });
    }
}

impl Watched {
    fn rename(&self, workloads: &Workloads, id: &str, name: &str) {
        let key = table::container_key(id);
        if self.containers.contains(&key)
            && workloads.by_key(key).is_some_and(|w| w.container_name.as_deref() != Some(name))
        {
            tracing::debug!(container.id = id, name, "a container has another name");
            workloads.update(key, |w| service::rename(w, name));
        }
    }
}
