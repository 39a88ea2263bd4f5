// SPDX-License-Identifier: Apache-2.0
//! Attribution: cgroup or pid → container → pod → service. Never blocks and never fails; the answer may be unknown.
//!
//! The table is fed by the kernel's mkdir and rmdir of cgroups ([`Workloads::on_mkdir`],
//! [`Workloads::on_rmdir`]) and by a walk over what was there before ([`Workloads::scan`], after the
//! probe is attached, so that nothing falls between). Names come later, from [`runtime`], which works
//! beside it and publishes a new [`Workload`] under the same key.

mod changes;
pub mod filter;
mod image;
pub mod kubernetes;
pub(crate) mod names;
pub mod netns;
pub mod path;
pub mod runtime;
pub mod service;
pub mod settings;
pub(crate) mod strangers;
mod table;
mod texts;

pub use changes::Changes;
pub use filter::Filters;
pub use kubernetes::Kubernetes;
pub use runtime::NameResolver;
pub use settings::Settings;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::host::cgroup::{ancestors, memberships};
use crate::host::{Cgroups, Clock, Host, ReadError};
use crate::probe::CgroupId;
use crate::probe::shared::cgroups::Change;
use crate::signal::semconv::AGENT;
use crate::signal::{Thread, Workload, WorkloadKey, WorkloadKind};
use changes::Subscribers;
use table::Table;

/// Inode number of each hierarchy's root (fs/kernfs/mount.c).
const ROOT_ID: u64 = 1;

/// The lookup. Cheap to clone; clones are the same table.
#[derive(Clone)]
pub struct Workloads {
    inner: Arc<Inner>,
}

struct Inner {
    host: Host,
    clock: Clock,
    own: Arc<Workload>,
    own_pid: u32,
    table: RwLock<Table>,
    subscribers: Subscribers,
    /// A [`NameResolver`] is there: containers are `pending` until it is done with them.
    resolving: AtomicBool,
}

impl Default for Workloads {
    fn default() -> Self {
        Self::new(&Host::default(), &Clock::default())
    }
}

impl Workloads {
    /// An empty table; [`Self::scan`] fills it.
    #[must_use]
    pub fn new(host: &Host, clock: &Clock) -> Self {
        // Without a boot id keys are still unique within this life of the agent.
        let boot = host.boot_id().unwrap_or_default();
        let lines = host.read_proc("self/cgroup").unwrap_or_default();
        let paths: Vec<&str> = memberships(&lines).map(|m| m.path).collect();
        Workloads {
            inner: Arc::new(Inner {
                own: Arc::new(own(&boot, &paths)),
                own_pid: std::process::id(),
                table: RwLock::new(Table::new(boot, &paths)),
                subscribers: Subscribers::default(),
                resolving: AtomicBool::new(false),
                host: host.clone(),
                clock: clock.clone(),
            }),
        }
    }

    /// The workload of a cgroup, for some minutes also of one that is gone; `None`: the node itself
    /// (a root cgroup), or not known.
    #[must_use]
    pub fn of_cgroup(&self, cgroup: CgroupId) -> Option<Arc<Workload>> {
        self.read().of_cgroup(cgroup)
    }

    /// The workload of a living process, from its `/proc/PID/cgroup`: tens of microseconds, for rare
    /// use. The agent's own pid gives [`WorkloadKind::Own`].
    #[must_use]
    pub fn of_pid(&self, pid: u32) -> Option<Arc<Workload>> {
        if pid == self.inner.own_pid {
            return Some(self.own());
        }
        let lines = self.inner.host.cgroup_lines(pid).ok()?;
        self.read().of_paths(memberships(&lines).map(|m| m.path))
    }

    /// The workload of a process, of which the kernel named the cgroup of one controller. The agent's own is
    /// its own, whatever cgroup it shares. In a v1 hierarchy systemd makes groups for units only where
    /// it accounts for them: there the process itself says of which it is, if it still lives.
    #[must_use]
    pub fn of_process(&self, pid: u32, cgroup: CgroupId) -> Option<Arc<Workload>> {
        if pid == self.inner.own_pid {
            return Some(self.own());
        }
        let of_cgroup = self.of_cgroup(cgroup);
        let is_named = |w: &Workload| w.container_id.is_some() || w.unit.is_some();
        if cgroup.hierarchy == 0 || of_cgroup.as_deref().is_some_and(is_named) {
            return of_cgroup;
        }
        // A cgroup that somebody made by hand is no part of the unit whose process was moved there; of one that is
        // not known yet, nothing is. (What the process itself says is no help: one that exits is shown in `/`.)
        let above = match &of_cgroup {
            Some(w) => w.cgroup.as_str(),
            None if cgroup.id == ROOT_ID => "/",
            None => return None,
        };
        self.of_pid(pid).filter(|w| ancestors(&w.cgroup).any(|a| a == above)).or(of_cgroup)
    }

    /// Who an event is about: what its thread does is the agent's own doing where that is the agent's.
    #[must_use]
    pub fn subject(&self, workload: Option<Arc<Workload>>, thread: Option<&Thread>) -> Option<Arc<Workload>> {
        if thread.is_some_and(|t| t.pid == self.inner.own_pid) { Some(self.own()) } else { workload }
    }

    /// The newest that is known under a key, for some minutes also after its end.
    #[must_use]
    pub fn by_key(&self, key: WorkloadKey) -> Option<Arc<Workload>> {
        let known = self.read().kept(key, self.inner.clock.boot_ns());
        known.or_else(|| (key == self.inner.own.key).then(|| Arc::clone(&self.inner.own)))
    }

    /// A container by its id, for some minutes also after its end.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn of_container(&self, id: &str) -> Option<Arc<Workload>> {
        self.by_key(table::container_key(id))
    }

    /// The living workload that has a cgroup of this path, unless it is a container.
    #[must_use]
    pub fn of_path(&self, path: &str) -> Option<Arc<Workload>> {
        self.read().of_path(path)
    }

    /// All that live, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Workload>> {
        self.read().live()
    }

    /// Those that live, without plain cgroups that others are below: what such a one has is theirs.
    #[must_use]
    pub fn leaves(&self) -> Vec<Arc<Workload>> {
        let all = self.all();
        let above: HashSet<&str> = all.iter().flat_map(|w| ancestors(&w.cgroup).skip(1)).collect();
        let is_leaf = |w: &&Arc<Workload>| w.kind != WorkloadKind::Cgroup || !above.contains(w.cgroup.as_str());
        all.iter().filter(is_leaf).cloned().collect()
    }

    /// Whether a cgroup of the workload is still there.
    #[must_use]
    pub fn is_alive(&self, key: WorkloadKey) -> bool {
        key == self.inner.own.key || self.read().is_alive(key)
    }

    /// The workload's own cgroups, living or just gone, one a hierarchy.
    #[must_use]
    pub fn cgroups_of(&self, key: WorkloadKey) -> Vec<CgroupId> {
        self.read().cgroups_of(key)
    }

    /// Every cgroup that lives, children of workloads included, with its workload.
    #[must_use]
    pub fn cgroups(&self) -> Vec<(CgroupId, Arc<Workload>)> {
        self.read().cgroups()
    }

    /// The agent itself: its container or service, else its process alone.
    #[must_use]
    pub fn own(&self) -> Arc<Workload> {
        self.read().own().unwrap_or_else(|| Arc::clone(&self.inner.own))
    }

    /// The agent's process id.
    #[must_use]
    pub fn own_pid(&self) -> u32 {
        self.inner.own_pid
    }

    /// What is new or renamed from now on. One that is not read keeps the newest of each workload.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.inner.subscribers.subscribe()
    }

    /// Wakes all who wait for changes on a thread, so that they look whether to end.
    pub fn wake(&self) {
        self.inner.subscribers.wake();
    }

    /// A cgroup was made. `path` is the one below its hierarchy's root.
    pub fn on_mkdir(&self, cgroup: CgroupId, path: &str) {
        let pending = self.inner.resolving.load(Ordering::Relaxed);
        let now_ns = self.inner.clock.boot_ns();
        let born = self.write().made(cgroup, path, pending, now_ns);
        if let Some(w) = born {
            self.inner.subscribers.publish(&w);
        }
    }

    /// A cgroup has another path (v1 only). Its children follow at the next [`Self::scan`].
    pub fn on_rename(&self, cgroup: CgroupId, path: &str) {
        self.on_mkdir(cgroup, path);
    }

    /// A cgroup was removed. It can be looked up for some minutes more.
    pub fn on_rmdir(&self, cgroup: CgroupId) {
        let now_ns = self.inner.clock.boot_ns();
        self.write().removed(cgroup, now_ns);
    }

    /// Takes in what the probe of cgroups says.
    pub fn on_change(&self, change: Change<'_>) {
        match change {
            Change::Made { cgroup, path } => self.on_mkdir(cgroup, &path),
            Change::Renamed { cgroup, path } => self.on_rename(cgroup, &path),
            Change::Removed { cgroup } => self.on_rmdir(cgroup),
        }
    }

    /// Walks the hierarchies: takes in what is there, and ends what is not there any more. At start
    /// after the probe is attached; again when its records were lost, or regularly without it.
    ///
    /// # Errors
    /// The hierarchies could not be read.
    pub fn scan(&self) -> Result<usize, ReadError> {
        let cgroups = Cgroups::read(&self.inner.host)?;
        self.write().begin_scan();
        let mut found = 0;
        cgroups.walk(|dir| {
            found += 1;
            let id = CgroupId { hierarchy: dir.hierarchy, id: dir.id };
            if !self.read().knows_for_scan(id, &dir.path) {
                self.on_mkdir(id, &dir.path);
            }
            self.write().seen(id);
        });
        self.write().end_scan(self.inner.clock.boot_ns());
        Ok(found)
    }

    /// Updates the metadata of a workload and notifies listeners. `None`: there is no such workload any more.
    pub(crate) fn update(&self, key: WorkloadKey, change: impl FnOnce(&mut Workload)) -> Option<Arc<Workload>> {
        let (workload, changed) = self.write().update(key, change)?;
        if changed {
            self.inner.subscribers.publish(&workload);
        }
        Some(workload)
    }

    pub(crate) fn host(&self) -> &Host {
        &self.inner.host
    }

    fn expect_names(&self) {
        self.inner.resolving.store(true, Ordering::Relaxed);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.inner.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First 8 bytes of SHA-256 over the parts, each with its length so that none runs into the next.
fn key_of(parts: &[&[u8]]) -> WorkloadKey {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    WorkloadKey(digest.iter().take(8).fold(0, |key, b| key << 8 | u64::from(*b)))
}

/// The agent's container or service, which has the same key once its cgroup is known; else its process, where the
/// cgroup that it is in is others' too.
fn own(boot: &str, paths: &[&str]) -> Workload {
    if let Some(identity) = table::own_identity(paths) {
        let key = table::key_of_identity(boot, &identity);
        return Workload { kind: WorkloadKind::Own, ..table::describe(key, identity.path, false) };
    }
    let deepest = paths.iter().max_by_key(|p| p.len()).copied().unwrap_or("/");
    // The cgroup's name is another workload's.
    let name = Some(AGENT.to_owned());
    Workload { container_name: name, ..Workload::new(key_of(&[b"own"]), WorkloadKind::Own, deepest) }
}

#[cfg(test)]
mod tests;
