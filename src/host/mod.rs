// SPDX-License-Identifier: Apache-2.0
//! `/proc`, `/sys` and cgroupfs as typed readings, under roots that tests move. A file that is not
//! there, may not be read or vanished meanwhile is a [`ReadError`], never a panic.

pub mod capabilities;
pub mod cgroup;
pub mod clock;
mod cpus;
pub mod device;
pub mod kmsg;
pub mod mounts;
pub mod node;
pub mod numa;
pub mod proc;
pub mod rtnl;
pub mod socket;
pub mod sys;

pub use cgroup::{Cgroups, Mode};
pub use clock::{Clock, Now};
pub use cpus::Frequency;
pub use kmsg::Kmsg;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the node's files are.
#[derive(Debug, Clone)]
pub struct Host {
    pub proc: PathBuf,
    pub sys: PathBuf,
    /// Everything else: `etc/machine-id`, `dev/kmsg`, what container runtimes keep below `var` and `run`.
    pub root: PathBuf,
    /// Its network devices; `None`: the running kernel's.
    links: Option<Arc<Mutex<Vec<rtnl::Link>>>>,
    /// Who asks file systems; `None`: nobody.
    spaces: Option<mounts::Asker>,
}

impl Default for Host {
    fn default() -> Self {
        Host { proc: "/proc".into(), sys: "/sys".into(), root: "/".into(), links: None, spaces: None }
    }
}

/// Why a file gave no reading.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{} is not there: it went away, or this kernel does not offer it", .path.display())]
    Missing { path: PathBuf },
    #[error("{} may not be read: run as root, or with CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE", .path.display())]
    Denied { path: PathBuf },
    #[error("{} has an unknown form: {what}", .path.display())]
    Malformed { path: PathBuf, what: String },
    #[error("no mounted cgroup hierarchy has the {controller} controller")]
    NoController { controller: &'static str },
    #[error("reading {}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl ReadError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        // A cgroup's file that is read after rmdir gives ENODEV, a process's after its exit ESRCH.
        match (source.kind(), source.raw_os_error()) {
            (ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ESRCH | libc::ENOTDIR)) => {
                ReadError::Missing { path }
            }
            (ErrorKind::PermissionDenied, _) => ReadError::Denied { path },
            _ => ReadError::Io { path, source },
        }
    }

    pub(crate) fn malformed(path: &Path, what: impl Into<String>) -> Self {
        ReadError::Malformed { path: path.to_owned(), what: what.into() }
    }

    /// Whether the thing that was asked for is simply not there (any more).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, ReadError::Missing { .. } | ReadError::NoController { .. })
    }
}

/// What a reading gives.
pub type Reading<T> = Result<T, ReadError>;

/// No file that is read whole is larger than this by rights; a longer one is cut.
const MAX_FILE: u64 = 32 << 20;

/// Reads a small file whole; bytes that are no UTF-8 are replaced, as a process's name may hold any.
///
/// # Errors
/// [`ReadError`]
pub fn read(path: &Path) -> Reading<String> {
    let bytes = read_bytes(path)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

/// Reads a file whole, as it is.
///
/// # Errors
/// [`ReadError`]
pub fn read_bytes(path: &Path) -> Reading<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|e| ReadError::io(path, e))?;
    Ok(bytes)
}

/// Lines `name number`; others are passed over.
fn keyed(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Space, tab, newline and backslash are octal escapes in mountinfo and other files of /proc.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |f, (from, to)| f.replace(from, to))
}

impl Host {
    /// All roots below one folder, as fixtures lay them out.
    #[must_use]
    pub fn under(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Host { proc: root.join("proc"), sys: root.join("sys"), root, links: None, spaces: None }
    }

    /// With these network devices in place of the running kernel's, of which nothing is heard then. Clones
    /// share them.
    #[must_use]
    pub fn with_links(mut self, links: Vec<rtnl::Link>) -> Self {
        self.links = Some(Arc::new(Mutex::new(links)));
        self
    }

    /// Whether its network devices are such.
    #[must_use]
    pub fn is_made_up(&self) -> bool {
        self.links.is_some()
    }

    /// Changes those.
    pub fn set_links(&self, links: Vec<rtnl::Link>) {
        if let Some(made_up) = &self.links {
            *made_up.lock().unwrap_or_else(PoisonError::into_inner) = links;
        }
    }

    /// A file below `/proc`.
    pub(crate) fn read_proc(&self, file: &str) -> Reading<String> {
        read(&self.proc.join(file))
    }

    /// A file below `/sys`.
    pub(crate) fn read_sys(&self, file: &str) -> Reading<String> {
        read(&self.sys.join(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A missing file, a folder in a file's place and odd bytes are different errors, none panics.
    #[test]
    fn unreadable_files_are_typed() {
        let d = tempfile::tempdir().unwrap();
        let host = Host::under(d.path());
        assert!(host.read_proc("nothing").unwrap_err().is_missing());
        std::fs::create_dir_all(d.path().join("proc/dir")).unwrap();
        assert!(matches!(host.read_proc("dir").unwrap_err(), ReadError::Io { .. }));
        std::fs::write(d.path().join("proc/odd"), b"a\xffb").unwrap();
        assert_eq!(host.read_proc("odd").unwrap(), "a\u{fffd}b");
    }
}
