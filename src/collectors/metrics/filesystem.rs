// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How full the node's file systems are, in bytes and in files, which of them are read-only, and which do not
//! answer.
//!
//! # How
//! `/proc/1/mountinfo` says what is mounted. Each file system is asked once, at one of the places where it is mounted
//! (statfs(2)), by a helper process and within two seconds: one that does not answer holds up nobody. Once an interval.
//!
//! # Signals
//! `system.filesystem.usage`, `.limit`, `.utilization`; `linux.filesystem.inode.usage`, `.limit`;
//! `linux.filesystem.read_only`, `linux.filesystem.hung`.
//!
//! # Limits
//! Those that hold data: not `overlay`, `proc` and their like (`types`), and none below the folders where runtimes
//! mount for containers (`ignore`). `reserved` is free for root alone. `used` of btrfs and ZFS counts what snapshots
//! and replicas share. File systems without a number of files have no inodes.
//!
//! # What to do next
//! `linux.filesystem.hung`: its server or program does not answer, and whoever touches it hangs, too: see `hungtask`.
//! `read_only` that was not so: the kernel found an error: `dmesg`. Inodes used up: many small files.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc};
use crate::host::Host;
use crate::host::mounts::{Mount, Room, Space};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value};
use crate::workload::filter::Glob;

const MOUNT_POINT: Key = Key::new("system.filesystem.mountpoint", "Where it is mounted");
const TYPE: Key = Key::new("system.filesystem.type", "ext4, xfs, nfs4, …");
const MODE: Key = Key::new("system.filesystem.mode", "rw, ro");
const STATE: Key = Key::new("system.filesystem.state", "used, free, reserved");
const INODE_STATE: Key = Key::new("linux.filesystem.inode.state", "used, free");

/// Which one; its device, where it is and what it is.
const ONE: &[Key] = &[attr::SYSTEM_DEVICE, MOUNT_POINT, TYPE];
const ONE_AND_MODE: &[Key] = &[attr::SYSTEM_DEVICE, MOUNT_POINT, TYPE, MODE];

static USAGE: MetricDef = MetricDef::up_down_counter(
    "system.filesystem.usage",
    "By",
    "Room of the file system, by state; they add up to its size",
)
.by(&[attr::SYSTEM_DEVICE, MOUNT_POINT, TYPE, MODE, STATE]);
static LIMIT: MetricDef =
    MetricDef::up_down_counter("system.filesystem.limit", "By", "Size of the file system").by(ONE_AND_MODE);
static UTILIZATION: MetricDef =
    MetricDef::gauge("system.filesystem.utilization", "1", "Share in use of what others than root may use")
        .by(ONE_AND_MODE);
static INODES: MetricDef = MetricDef::up_down_counter(
    "linux.filesystem.inode.usage",
    "{inode}",
    "Files that the file system has, or has room for",
)
.by(&[attr::SYSTEM_DEVICE, MOUNT_POINT, TYPE, INODE_STATE]);
static INODE_LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.filesystem.inode.limit", "{inode}", "Files that the file system may have")
        .by(ONE);
static READ_ONLY: MetricDef =
    MetricDef::up_down_counter("linux.filesystem.read_only", "1", "1: the file system is mounted read-only").by(ONE);
static HUNG: MetricDef =
    MetricDef::up_down_counter("linux.filesystem.hung", "1", "1: the file system did not answer in time").by(ONE);

/// Settings of `filesystem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Types that are reported, with `*` for any text.
    pub types: Vec<String>,
    /// Mount points that are not, with `*` for any text.
    pub ignore: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let types = [
            "ext*", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "vfat", "exfat", "ntfs*", "fuse*", "nfs*", "cifs",
            "smb3", "ceph", "9p", "virtiofs", "gfs2", "ocfs2", "lustre", "tmpfs",
        ];
        let ignore = [
            "/run/credentials/*",
            "/run/user/*",
            "/run/containerd/*",
            "/run/netns/*",
            "/var/lib/containers/*",
            "/var/lib/containerd/*",
            "/var/lib/docker/*",
            "/var/lib/kubelet/*",
            "/run/k3s/*",
        ];
        let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Config { types: owned(&types), ignore: owned(&ignore) }
    }
}

impl Settings for Config {}

/// File systems.
pub struct FileSystems {
    host: Host,
    types: Vec<Glob>,
    ignore: Vec<Glob>,
}

impl Collector for FileSystems {
    const INFO: Info = Info {
        name: "filesystem",
        summary: "how full file systems are, which are read-only, and which hang",
        doc: head_doc(include_str!("filesystem.rs")),
        metrics: &[&USAGE, &LIMIT, &UTILIZATION, &INODES, &INODE_LIMIT, &READ_ONLY, &HUNG],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(FileSystems { host: cx.host.clone(), types: globs(&config.types), ignore: globs(&config.ignore) })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        (self.types, self.ignore) = (globs(&config.types), globs(&config.ignore));
        Ok(())
    }
}

fn globs(texts: &[String]) -> Vec<Glob> {
    texts.iter().map(|text| Glob::new(text.clone())).collect()
}

impl MetricCollector for FileSystems {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        for mount in self.wanted(self.host.mounts()?) {
            let one = attributes(&mount);
            out.count(&READ_ONLY, None, &one, u64::from(mount.read_only));
            let hung = match self.host.space(&mount) {
                Room::Known(space) => {
                    // One without any blocks holds nothing.
                    if space.size > 0 {
                        write(&mount, &space, &one, out);
                    }
                    0
                }
                Room::Hung => 1,
                Room::Unknown => continue,
            };
            out.count(&HUNG, None, &one, hung);
        }
        Ok(())
    }
}

impl FileSystems {
    /// One mount of each file system: a whole one before a part, then the shortest path.
    fn wanted(&self, mounts: Vec<Mount>) -> Vec<Mount> {
        let any = |globs: &[Glob], text: &str| globs.iter().any(|g| g.fits(Some(text)));
        let is_wanted = |m: &Mount| any(&self.types, &m.kind) && !m.is_kernels() && !any(&self.ignore, &m.at);
        let mut found: Vec<Mount> = mounts.into_iter().filter(is_wanted).collect();
        found.sort_by_key(|m| (m.root != "/", m.at.len()));
        let mut seen = HashSet::new();
        found.retain(|m| seen.insert(m.device));
        found
    }
}

fn attributes(mount: &Mount) -> Vec<(Key, Value)> {
    vec![
        (attr::SYSTEM_DEVICE, mount.source.clone().into()),
        (MOUNT_POINT, mount.at.clone().into()),
        (TYPE, mount.kind.clone().into()),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn write(mount: &Mount, space: &Space, one: &[(Key, Value)], out: &mut Metrics) {
    let and_mode = [one, &[(MODE, if mount.read_only { "ro" } else { "rw" }.into())]].concat();
    let used = space.size.saturating_sub(space.free);
    let reserved = space.free.saturating_sub(space.available);
    for (state, bytes) in [("used", used), ("free", space.available.min(space.free)), ("reserved", reserved)] {
        out.count(&USAGE, None, &[&and_mode[..], &[(STATE, state.into())]].concat(), bytes);
    }
    out.count(&LIMIT, None, &and_mode, space.size);
    // As df(1): what is reserved for root is neither used nor to be had.
    let to_be_had = used.saturating_add(space.available);
    if to_be_had > 0 {
        out.value(&UTILIZATION, None, &and_mode, used as f64 / to_be_had as f64);
    }
    if space.files > 0 {
        let free = space.files_free.min(space.files);
        for (state, n) in [("used", space.files - free), ("free", free)] {
            out.count(&INODES, None, &[one, &[(INODE_STATE, state.into())]].concat(), n);
        }
        out.count(&INODE_LIMIT, None, one, space.files);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::collectors::testing::Rig;
    use crate::host::mounts::Spaces;

    const TABLE: &str = "25 1 253:1 / / rw - ext4 /dev/vda1 rw\n\
                         26 25 253:1 /var/lib/x /mnt/bind rw - ext4 /dev/vda1 rw\n\
                         27 25 0:5 / /proc rw - proc proc rw\n\
                         28 25 0:40 / /data ro - nfs4 server:/export rw\n\
                         29 25 253:2 / /var/lib/docker/volumes rw - xfs /dev/vdb rw\n\
                         30 25 0:41 / /mnt/hung\\040one rw - fuse.sshfs u@h: rw\n\
                         31 25 0:42 / /mnt/none rw - tmpfs none rw\n";

    /// Says of each what it has been given; nothing of others.
    #[derive(Default)]
    struct Fake {
        asked: Mutex<Vec<(PathBuf, u64)>>,
    }

    impl Spaces for Fake {
        fn space(&self, at: &Path, device: u64) -> Room {
            self.asked.lock().unwrap().push((at.to_owned(), device));
            match device & 0xffff_ffff {
                1 => Room::Known(Space { size: 1000, free: 400, available: 300, files: 50, files_free: 20 }),
                40 => Room::Known(Space { size: 100, free: 50, available: 50, files: 0, files_free: 0 }),
                42 => Room::Known(Space::default()),
                _ => Room::Hung,
            }
        }
    }

    fn one<'a>(device: &'a str, at: &'a str, kind: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![("system.device", device), ("system.filesystem.mountpoint", at), ("system.filesystem.type", kind)]
    }

    /// Each file system once, at its best place; bytes and files by state; one that does not answer is named, and holds up
    /// none.
    #[test]
    fn figures() {
        let rig = Rig::new().unwrap();
        rig.write("proc/1/mountinfo", TABLE).unwrap();
        let fake = Arc::new(Fake::default());
        let mut c = FileSystems {
            host: rig.host().clone().with_spaces(fake.clone()),
            types: globs(&Config::default().types),
            ignore: globs(&Config::default().ignore),
        };
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        let root = one("/dev/vda1", "/", "ext4");
        let mode = |mode| [&root[..], &[("system.filesystem.mode", mode)]].concat();
        let usage = |state| {
            let all = [&mode("rw")[..], &[("system.filesystem.state", state)]].concat();
            out.figure("system.filesystem.usage", None, &all)
        };
        assert_eq!(["used", "free", "reserved"].map(usage), [Some(600.0), Some(300.0), Some(100.0)]);
        assert_eq!(out.figure("system.filesystem.limit", None, &mode("rw")), Some(1000.0));
        assert_eq!(out.figure("system.filesystem.utilization", None, &mode("rw")), Some(600.0 / 900.0));
        let inodes = [&root[..], &[("linux.filesystem.inode.state", "used")]].concat();
        assert_eq!(out.figure("linux.filesystem.inode.usage", None, &inodes), Some(30.0));
        let of = |name, one: &[(&str, &str)]| out.figure(name, None, one);
        let (nfs, hung) = (one("server:/export", "/data", "nfs4"), one("u@h:", "/mnt/hung one", "fuse.sshfs"));
        assert_eq!(
            (of("linux.filesystem.read_only", &nfs), of("linux.filesystem.read_only", &root)),
            (Some(1.0), Some(0.0))
        );
        assert_eq!((of("linux.filesystem.hung", &hung), of("linux.filesystem.hung", &nfs)), (Some(1.0), Some(0.0)));
        assert_eq!(of("linux.filesystem.inode.limit", &nfs), None);
        let none = [&one("none", "/mnt/none", "tmpfs")[..], &[("system.filesystem.mode", "rw")]].concat();
        assert_eq!(of("system.filesystem.limit", &none), None);
        let mut asked: Vec<_> = fake.asked.lock().unwrap().iter().map(|(_, device)| *device & 0xffff_ffff).collect();
        asked.sort_unstable();
        assert_eq!(asked, [1, 40, 41, 42]);
    }
}
