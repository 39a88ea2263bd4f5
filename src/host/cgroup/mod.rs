// SPDX-License-Identifier: Apache-2.0
//! The node's cgroup hierarchies: which there are, where they are mounted, and what is in them.
//!
//! cgroups(7); a line of `/proc/PID/cgroup` is `number:controllers:path`, number 0 is the unified tree.

mod files;

pub use files::{CpuLimit, DeviceIo, Memory, MemoryEvents, Throttling, ancestors};

use std::fs::DirEntry;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::mounts::Mount;
use super::{Host, ReadError, Reading};
use crate::signal::text::{escaped, raw_path};

/// How the node mounts its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// Only the unified tree.
    V2,
    /// v1 hierarchies hold the controllers, a unified tree is mounted beside them.
    Hybrid,
    /// No cgroups are mounted where the agent can see them.
    None,
}

impl Mode {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::V1 => "v1",
            Mode::V2 => "v2",
            Mode::Hybrid => "hybrid",
            Mode::None => "none",
        }
    }
}

/// One tree of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// 0: the unified tree; else the v1 hierarchy's number, as in `/proc/PID/cgroup`.
    pub number: u32,
    /// Its controllers; `name=systemd` for a named one.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Path of the cgroup that is mounted there: empty, unless only a part of the tree is.
    pub root: String,
}

/// One cgroup of one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dir {
    pub hierarchy: u32,
    /// The directory's inode number, which is the kernfs id.
    pub id: u64,
    /// Below the hierarchy's root, `/` for the root itself.
    pub path: String,
}

/// The node's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    pub mode: Mode,
    /// In order of their numbers.
    pub hierarchies: Vec<Hierarchy>,
}

/// Deeper trees are cut: nobody nests so deep, and a loop of mounts must not hold up the agent.
const MAX_DEPTH: usize = 64;

impl Cgroups {
    /// Reads which hierarchies there are and where they are mounted.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` or `/proc/self/cgroup` gave no reading.
    pub fn read(host: &Host) -> Reading<Self> {
        let mountinfo = host.read_proc("self/mountinfo")?;
        let mounts = cgroup_mounts(&mountinfo);
        let lines = host.read_proc("self/cgroup")?;
        let mut memberships: Vec<_> = memberships(&lines).collect();
        // Each is there once by rights; mounts are looked up for each that is left.
        memberships.sort_by_key(|m| m.hierarchy);
        memberships.dedup_by_key(|m| m.hierarchy);
        let hierarchies: Vec<Hierarchy> = memberships.iter().filter_map(|m| hierarchy(m, &mounts, &host.sys)).collect();
        let v1 = hierarchies.iter().any(|h| h.number != 0 && h.controllers.iter().any(|c| !c.starts_with("name=")));
        let mode = match (hierarchies.first().is_some_and(|h| h.number == 0), v1) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V2,
            (false, true) => Mode::V1,
            (false, false) => Mode::None,
        };
        Ok(Cgroups { mode, hierarchies })
    }

    /// The hierarchy that has a controller: on v1 the one it is bound to, else the unified tree.
    #[must_use]
    pub fn of_controller(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    #[must_use]
    pub fn hierarchy(&self, number: u32) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.number == number)
    }

    /// The folder of a cgroup, if its hierarchy is mounted and the mounted part holds it.
    #[must_use]
    pub fn dir(&self, hierarchy: u32, path: &str) -> Option<PathBuf> {
        self.hierarchy(hierarchy)?.dir(path)
    }

    /// The kernfs id of a cgroup by its path.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn id_of(&self, hierarchy: u32, path: &str) -> Reading<u64> {
        let dir = self.dir(hierarchy, path).ok_or_else(|| ReadError::Missing { path: path.into() })?;
        std::fs::metadata(&dir).map(|m| m.ino()).map_err(|e| ReadError::io(&dir, e))
    }

    /// Visits every cgroup of every hierarchy, parents before their children. What vanishes
    /// meanwhile is left out.
    pub fn walk(&self, mut visit: impl FnMut(Dir)) {
        for h in &self.hierarchies {
            if let Ok(meta) = std::fs::metadata(&h.mount) {
                let path = if h.root.is_empty() { "/".to_owned() } else { h.root.clone() };
                visit(Dir { hierarchy: h.number, id: meta.ino(), path });
                walk_below(h, &h.mount, &h.root, MAX_DEPTH, &mut visit);
            }
        }
    }

    /// The processes of a cgroup itself, without its children's.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn pids(&self, hierarchy: u32, path: &str) -> Reading<Vec<u32>> {
        let dir = self.dir(hierarchy, path).ok_or_else(|| ReadError::Missing { path: path.into() })?;
        Ok(super::read(&dir.join("cgroup.procs"))?.lines().filter_map(|l| l.parse().ok()).collect())
    }

    /// The processes of a cgroup and of all below it, at most so many; what vanishes meanwhile is left out. Runtimes and
    /// systemd put a limit on a cgroup that holds no process itself.
    ///
    /// # Errors
    /// [`ReadError`] of the cgroup itself.
    pub fn pids_below(&self, hierarchy: u32, path: &str, most: usize) -> Reading<Vec<u32>> {
        let mut all = self.pids(hierarchy, path)?;
        if let Some((h, dir)) = self.hierarchy(hierarchy).and_then(|h| Some((h, h.dir(path)?))) {
            walk_below(h, &dir, path.trim_end_matches('/'), MAX_DEPTH, &mut |child| {
                if all.len() < most {
                    all.extend(self.pids(hierarchy, &child.path).unwrap_or_default());
                }
            });
        }
        all.truncate(most);
        Ok(all)
    }
}

impl Hierarchy {
    fn dir(&self, path: &str) -> Option<PathBuf> {
        let below = path.strip_prefix(self.root.as_str())?;
        let dir =
            (below.is_empty() || below.starts_with('/')).then(|| self.mount.join(below.trim_start_matches('/')))?;
        if below.contains("\\x") && !dir.exists() {
            return Some(self.mount.join(raw_path(below.trim_start_matches('/'))));
        }
        Some(dir)
    }
}

fn walk_below(h: &Hierarchy, dir: &Path, path: &str, depth: usize, visit: &mut impl FnMut(Dir)) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let is_dir = |e: &DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    for entry in entries.flatten().filter(is_dir) {
        let name = entry.file_name();
        let path = format!("{path}/{}", escaped(name.as_bytes()));
        visit(Dir { hierarchy: h.number, id: entry.ino(), path: path.clone() });
        if depth > 0 {
            walk_below(h, &entry.path(), &path, depth - 1, visit);
        }
    }
}

/// One line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership<'a> {
    pub hierarchy: u32,
    /// Comma-separated; empty for the unified tree.
    pub controllers: &'a str,
    pub path: &'a str,
}

/// The lines of a `/proc/PID/cgroup`.
pub fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let hierarchy = parts.next()?.parse().ok()?;
        let controllers = parts.next()?;
        // A cgroup that was removed with zombies in it is still shown, marked so.
        let path = parts.next()?.trim_end_matches(" (deleted)");
        Some(Membership { hierarchy, controllers, path })
    })
}

/// The cgroup lines of a mountinfo.
fn cgroup_mounts(text: &str) -> Vec<Mount> {
    text.lines().filter_map(Mount::parse).filter(|m| ["cgroup", "cgroup2"].contains(&&*m.kind)).collect()
}

fn hierarchy(m: &Membership<'_>, mounts: &[Mount], sys: &Path) -> Option<Hierarchy> {
    let matches = |mount: &&Mount| {
        let options = || mount.options.split(',');
        let v2 = mount.kind == "cgroup2";
        if m.hierarchy == 0 { v2 } else { !v2 && m.controllers.split(',').all(|c| options().any(|o| o == c)) }
    };
    // A container sees its own part of the tree as well as the node's below another root: prefer the latter.
    let best = mounts
        .iter()
        .filter(matches)
        .min_by_key(|mount| (!Path::new(&mount.at).starts_with(sys), real_root(&mount.root).len(), mount.at.len()))?;
    let point = Path::new(&best.at);
    let mount = match point.strip_prefix("/sys") {
        Ok(below) if !point.starts_with(sys) => sys.join(below),
        _ => point.to_owned(),
    };
    let controllers = if m.hierarchy == 0 {
        // On a hybrid node the file is there and lists what v1 left over.
        let file = super::read(&mount.join("cgroup.controllers")).unwrap_or_default();
        file.split_whitespace().map(str::to_owned).collect()
    } else {
        m.controllers.split(',').map(str::to_owned).collect()
    };
    Some(Hierarchy { number: m.hierarchy, controllers, mount, root: real_root(&best.root).to_owned() })
}

/// In a cgroup namespace of one's own, a mount from outside shows as `/..` steps up to the real root.
fn real_root(root: &str) -> &str {
    if root.split('/').all(|part| part.is_empty() || part == "..") { "" } else { root.trim_end_matches('/') }
}

#[cfg(test)]
mod tests;
