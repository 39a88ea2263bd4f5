// SPDX-License-Identifier: Apache-2.0
//! What is mounted where, and how much room there is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Host, Reading, read_bytes, unescape};

/// A mount: a line of mountinfo, proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// What of the file system is mounted; `net:[INODE]` of a network namespace.
    pub root: String,
    pub at: String,
    pub kind: String,
    /// The device, or where it comes from: `/dev/vda1`, `server:/export`.
    pub source: String,
    /// Here, or as a whole.
    pub read_only: bool,
    /// Of the file system as a whole.
    pub options: String,
}

impl Mount {
    /// `id parent major:minor root at options [optional fields] - kind source super-options`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(2);
        let (major, minor) = fields.next()?.split_once(':')?;
        let (root, at) = (unescape(fields.next()?), unescape(fields.next()?));
        let mut rest_words = rest.split(' ');
        let (kind, source) = (rest_words.next()?.to_owned(), unescape(rest_words.next()?));
        let (here, options) = (fields.next().unwrap_or_default(), rest_words.next().unwrap_or_default().to_owned());
        let read_only = [here, &*options].into_iter().flat_map(|o| o.split(',')).any(|o| o == "ro");
        Some(Mount { device: (major.parse().ok()?, minor.parse().ok()?), root, at, kind, source, read_only, options })
    }

    /// Below the folders of the kernel's own file systems.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        ["/proc", "/sys", "/dev"].iter().any(|folder| Path::new(&self.at).starts_with(folder))
    }

    /// As `/proc/PID/maps` and the helpers have it.
    #[must_use]
    pub fn device_number(&self) -> u64 {
        u64::from(self.device.0) << 32 | u64::from(self.device.1)
    }
}

/// The mounts of a table, also where names in it are no UTF-8; odd lines are passed over.
pub(crate) fn parse_mounts(table: &[u8]) -> Vec<Mount> {
    String::from_utf8_lossy(table).lines().filter_map(Mount::parse).collect()
}

/// How much room a file system has: statfs(2), in bytes and in numbers of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Space {
    pub size: u64,
    pub free: u64,
    /// Free, and not for root alone.
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
}

/// What came of asking a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Known(Space),
    /// It did not answer in time.
    Hung,
    /// It refused, or nobody could be asked.
    Unknown,
}

/// Asks file systems, which may never answer, elsewhere and within a time.
pub(crate) trait Spaces: Send + Sync {
    fn space(&self, at: &Path, device: u64) -> Room;
}

/// Who asks them.
#[derive(Clone)]
pub(super) struct Asker(Arc<dyn Spaces>);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

impl Host {
    /// The node's mounts, as its first process has them; those of this process where that may not be looked at.
    ///
    /// # Errors
    /// [`ReadError`](super::ReadError)
    pub fn mounts(&self) -> Reading<Vec<Mount>> {
        let table = |pid: &str| read_bytes(&self.proc.join(pid).join("mountinfo"));
        Ok(parse_mounts(&table("1").or_else(|_| table("self"))?))
    }

    /// Where a mount of the node is for this process.
    #[must_use]
    pub fn path_of(&self, mount: &Mount) -> PathBuf {
        self.root.join(mount.at.trim_start_matches('/'))
    }

    /// How much room there is.
    #[must_use]
    pub fn space(&self, mount: &Mount) -> Room {
        let ask = |asker: &Asker| asker.0.space(&self.path_of(mount), mount.device_number());
        self.spaces.as_ref().map_or(Room::Unknown, ask)
    }

    /// With somebody who asks file systems.
    #[must_use]
    pub(crate) fn with_spaces(self, spaces: Arc<dyn Spaces>) -> Self {
        Host { spaces: Some(Asker(spaces)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Optional fields may be none or many, names have blanks, and either side may make it read-only.
    #[test]
    fn lines() {
        let m = Mount::parse(
            "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root ro,errors=continue",
        );
        let m = m.unwrap();
        assert_eq!((m.device, m.root.as_str(), m.at.as_str()), ((98, 0), "/mnt1", "/mnt 2"));
        assert_eq!((m.kind.as_str(), m.source.as_str(), m.read_only), ("ext3", "/dev/root", true));
        assert!(!Mount::parse("25 1 253:1 / / rw - xfs /dev/vda1 rw").unwrap().read_only);
        assert!(Mount::parse("25 1 253:1 / / ro - xfs /dev/vda1 rw").unwrap().read_only);
        assert_eq!(Mount::parse("25 1 253 / / rw - xfs /dev/vda1 rw"), None);
        let table = b"25 1 253:1 / /\xff rw - xfs /dev/vda1 rw\n\nodd\n26 1 0:1 / /b rw - tmpfs tmpfs rw\n";
        assert_eq!(parse_mounts(table).len(), 2);
    }

    proptest! {
        /// No bytes make it panic.
        #[test]
        fn never_panics(line in "[0-9: /a-z\\\\-]{0,60}( - )?[a-z ,]{0,20}") {
            let _ = Mount::parse(&line);
        }
    }
}
