// SPDX-License-Identifier: Apache-2.0
//! Opening: waits for the lock, sets a damaged store or a newer format aside, starts anew.

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace};

use super::journal;
use super::segments::{self, Segment, keyspace};
use crate::signal::Timestamp;

/// Version of what we keep in the keyspaces.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";
const CACHE: u64 = 1024 * 1024;
/// The least that fjall takes.
const JOURNALS: u64 = 64 * 1024 * 1024;
const FILES: usize = 32;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    #[error("there is no store at {}", .0.display())]
    Missing(PathBuf),
    #[error("the store {} is damaged ({reason}); the agent sets it aside when it starts", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The disk or its permissions are at fault, not what is on it.
    #[error("cannot open the store {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What opening found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Where a damaged store was put, and why.
    pub set_aside: Option<(PathBuf, String)>,
}

impl Opened {
    /// One line for the log, when something had to be set aside.
    #[must_use]
    pub fn set_aside_message(&self) -> Option<String> {
        let (path, reason) = self.set_aside.as_ref()?;
        Some(format!("the store was damaged ({reason}) and is set aside as {}", path.display()))
    }
}

/// An open database.
pub(super) struct Db {
    pub database: Database,
    pub meta: Keyspace,
    /// Oldest first.
    pub segments: std::sync::RwLock<Vec<std::sync::Arc<Segment>>>,
}

/// Opens for writing; creates what is missing, sets aside what is damaged.
pub(super) fn open(path: &Path, lock_wait: Duration) -> Result<(Db, Opened), OpenError> {
    let deadline = Instant::now() + lock_wait;
    let mut opened = Opened::default();
    loop {
        match attempt(path) {
            Ok(db) => return Ok((db, opened)),
            Err(OpenError::Locked(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            Err(OpenError::Damaged { reason, .. }) if opened.set_aside.is_none() => {
                let aside = set_aside(path)?;
                opened.set_aside = Some((aside, reason));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Opens what is there for a reader: creates nothing, sets nothing aside, does not wait.
pub(super) fn open_existing(path: &Path) -> Result<Db, OpenError> {
    match path.join("version").try_exists() {
        Ok(true) => attempt(path),
        Ok(false) => Err(OpenError::Missing(path.to_owned())),
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

fn attempt(path: &Path) -> Result<Db, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    if path.join("version").try_exists().map_err(io)? {
        if is_locked(path).map_err(io)? {
            return Err(OpenError::Locked(path.to_owned()));
        }
        if !journal::is_whole(path).map_err(io)? {
            return Err(damaged("its journal is broken in the middle".to_owned()));
        }
    }
    // On damaged files parts of fjall and lsm-tree assert.
    let result = catch_unwind(AssertUnwindSafe(|| open_keyspaces(path)));
    match result {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(Refusal::Newer(v))) => Err(damaged(format!("it has the format {v}, this version knows up to {FORMAT}"))),
        Ok(Err(Refusal::Fjall(e))) => Err(classify(path, e)),
        Err(_panic) => Err(damaged("its files contradict each other".to_owned())),
    }
}

enum Refusal {
    Newer(u32),
    Fjall(fjall::Error),
}

impl From<fjall::Error> for Refusal {
    fn from(e: fjall::Error) -> Self {
        Refusal::Fjall(e)
    }
}

fn open_keyspaces(path: &Path) -> Result<Db, Refusal> {
    let database = Database::builder(path)
        .cache_size(CACHE)
        .max_cached_files(Some(FILES))
        .max_journaling_size(JOURNALS)
        .worker_threads(1)
        .open()?;
    let meta = keyspace(&database, "meta")?;
    match meta.get(FORMAT_KEY)? {
        None => meta.insert(FORMAT_KEY, FORMAT.to_be_bytes())?,
        Some(v) => {
            let v = v.as_ref().try_into().map_or(u32::MAX, u32::from_be_bytes);
            if v > FORMAT {
                return Err(Refusal::Newer(v));
            }
        }
    }
    let segments = segments::open_all(&database)?;
    Ok(Db { database, meta, segments: std::sync::RwLock::new(segments) })
}

fn classify(path: &Path, e: fjall::Error) -> OpenError {
    let path = path.to_owned();
    match e {
        fjall::Error::Locked => OpenError::Locked(path),
        // What fjall finds missing or cut short inside its own files is damage; the rest is the disk's.
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => match source.kind() {
            // The last: a start that the disk cut short left files, but not the one that says so.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists => OpenError::Damaged { path, reason: source.to_string() },
            _ => OpenError::Io { path, source },
        },
        other => OpenError::Damaged { path, reason: format!("{other:?}") },
    }
}

/// fjall reads versions and journals before it takes its lock, so we ask first: the store of a
/// running agent must never be taken for a damaged one.
fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).write(true).open(path.join("lock")) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn set_aside(path: &Path) -> Result<PathBuf, OpenError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stamp = Timestamp(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)).rfc3339().replace(':', "");
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{stamp}"));
    let aside = path.with_file_name(name);
    std::fs::rename(path, &aside).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    Ok(aside)
}
