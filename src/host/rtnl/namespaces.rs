// SPDX-License-Identifier: Apache-2.0
//! The network namespaces that have a number, and the processes in them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{NsId, Rtnl};
use crate::host::mounts::{Mount, parse_mounts};
use crate::host::{Host, ReadError, Reading};

/// A walk over the processes is as old as this at most.
const FRESH: Duration = Duration::from_secs(2);
/// As many processes of a namespace are kept.
const PROCESSES: usize = 64;

/// A namespace and who is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number, as in `/proc/PID/ns/net`.
    pub inode: u64,
    /// Some of its processes; those of one that is gone are the last known.
    pub pids: Vec<u32>,
}

/// All of them, by number.
pub struct Namespaces {
    host: Host,
    rtnl: Rtnl,
    own: u64,
    known: HashMap<i32, Namespace>,
    walked: Option<Instant>,
}

impl Namespaces {
    /// # Errors
    /// This process's own namespace cannot be determined.
    pub fn open(host: &Host) -> Reading<Self> {
        let own = host.network_namespace("self")?;
        let rtnl = Rtnl::open(host).map_err(|e| ReadError::io(Path::new("netlink"), e))?;
        Ok(Namespaces { host: host.clone(), rtnl, own, known: HashMap::new(), walked: None })
    }

    /// Of this process's own namespace.
    #[must_use]
    pub fn own_inode(&self) -> u64 {
        self.own
    }

    /// What is known of a namespace. One that is not known yet is looked for among the processes, every
    /// two seconds at most.
    pub fn get(&mut self, id: i32) -> Option<&Namespace> {
        if !self.known.contains_key(&id) && self.walked.is_none_or(|at| at.elapsed() > FRESH) {
            self.walk();
        }
        self.known.get(&id)
    }

    /// The number goes to another one.
    pub fn forget(&mut self, id: i32) {
        self.known.remove(&id);
    }

    fn walk(&mut self) {
        self.walked = Some(Instant::now());
        let mut inside: HashMap<u64, Vec<u32>> = HashMap::new();
        let entries = std::fs::read_dir(&self.host.proc).into_iter().flatten().flatten();
        for pid in entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
            let Ok(ns) = self.host.network_namespace(pid) else { continue };
            let pids = inside.entry(ns).or_default();
            if ns != self.own && pids.len() < PROCESSES {
                pids.push(pid);
            }
        }
        inside.remove(&self.own);
        for (inode, pids) in inside {
            let id = pids.iter().find_map(|pid| self.rtnl.nsid_of_process(*pid).ok().flatten());
            if let Some(id) = id {
                self.known.insert(id, Namespace { inode, pids });
            }
        }
    }
}

/// Namespaces that a mount keeps, found by the mount table of the node's first process.
pub(super) struct Mounts {
    host: Host,
    table: File,
    seen: Vec<String>,
}

impl Mounts {
    pub fn open(host: &Host) -> Reading<Self> {
        let open = |pid: &str| {
            let path = host.proc.join(pid).join("mountinfo");
            File::open(&path).map_err(|e| ReadError::io(&path, e))
        };
        // The node's, where it may be read: an agent in a container has mounts of its own.
        Ok(Mounts { host: host.clone(), table: open("1").or_else(|_| open("self"))?, seen: Vec::new() })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }

    /// Gives those that have no number one. The kernel announces each new one on the socket.
    pub fn number(&mut self, rtnl: &mut Rtnl) {
        let mut table = Vec::new();
        if let Err(e) = self.table.seek(SeekFrom::Start(0)).and_then(|_| self.table.read_to_end(&mut table)) {
            tracing::debug!("mount table: {e}");
            return;
        }
        let mounts = parse_mounts(&table);
        self.seen.retain(|root| mounts.iter().any(|m| m.root == *root));
        for m in mounts.iter().filter(|m| is_network_namespace(m)) {
            if !self.seen.contains(&m.root) {
                self.seen.push(m.root.clone());
                if !is_local(&m.at, &mounts) {
                    tracing::debug!("network namespace at {}: behind a file system that may not answer", m.at);
                } else if let Err(e) = self.number_one(rtnl, m) {
                    tracing::debug!("network namespace at {}: {e}", m.at);
                }
            }
        }
    }

    fn number_one(&self, rtnl: &mut Rtnl, mount: &Mount) -> std::io::Result<()> {
        let file = File::open(self.host.path_of(mount))?;
        match rtnl.nsid_of_file(file.as_fd())? {
            Some(_) => Ok(()),
            None => rtnl.number(file.as_fd()),
        }
    }
}

/// File systems that wait for no process and no other machine.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "nsfs", "overlay", "proc", "ramfs",
    "rootfs", "squashfs", "sysfs", "tmpfs", "vfat", "xfs", "zfs",
];

fn is_network_namespace(mount: &Mount) -> bool {
    mount.root.starts_with("net:[")
}

/// Whether all on the way to a place are such.
fn is_local(at: &str, mounts: &[Mount]) -> bool {
    mounts.iter().filter(|m| Path::new(at).starts_with(&m.at)).all(|m| LOCAL.contains(&&*m.kind))
}

/// The number that a namespace has, as a notice carries it; `None` for `own`, which may have one too.
pub(super) fn foreign(id: NsId, own: NsId) -> NsId {
    id.filter(|_| id != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `ip netns add`, of one with a space in its name, and of one that is behind a file system which may not answer.
    #[test]
    fn mounts_of_namespaces() {
        let table = "25 1 253:0 / / rw - ext4 /dev/vda rw\n\
                     26 25 0:23 / /run rw - tmpfs tmpfs rw\n\
                     612 26 0:4 net:[4026532567] /run/netns/a rw shared:200 - nsfs nsfs rw\n\
                     613 26 0:4 net:[4026532568] /run/netns/b\\040c rw - nsfs nsfs rw\n\
                     700 25 0:50 / /home/u/mnt rw - fuse.sshfs u@h: rw\n\
                     701 700 0:4 net:[4026532569] /home/u/mnt/d rw - nsfs nsfs rw\n\
                     odd\n";
        let mounts = parse_mounts(table.as_bytes());
        let found = mounts.iter().filter(|m| is_network_namespace(m));
        let found: Vec<_> = found.map(|m| (m.root.as_str(), m.at.as_str(), is_local(&m.at, &mounts))).collect();
        let expected = [
            ("net:[4026532567]", "/run/netns/a", true),
            ("net:[4026532568]", "/run/netns/b c", true),
            ("net:[4026532569]", "/home/u/mnt/d", false),
        ];
        assert_eq!(found, expected);
        assert_eq!((foreign(Some(3), Some(3)), foreign(Some(3), None)), (None, Some(3)));
    }

    /// On the real system one's own namespace is known.
    #[test]
    fn own_namespace() {
        let mut all = Namespaces::open(&Host::default()).unwrap();
        assert!(all.own_inode() > 0);
        assert_eq!(all.get(i32::MAX), None);
    }
}
