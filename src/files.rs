// SPDX-License-Identifier: Apache-2.0
//! Files that others change while the agent runs: certificates, tokens.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

/// Whoever renews a certificate waits longer than this before removing the old one.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What files looked like; another value after one of them was written, replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<[i128; 4]>>);

impl Stamp {
    /// Links are followed, as Kubernetes renews what it mounts by moving a link.
    #[must_use]
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Stamp {
        let stat = |path: &Path| {
            let m = std::fs::metadata(path).ok()?;
            let changed = i128::from(m.ctime()) * 1_000_000_000 + i128::from(m.ctime_nsec());
            Some([i128::from(m.dev()), i128::from(m.ino()), i128::from(m.size()), changed])
        };
        Stamp(paths.into_iter().map(stat).collect())
    }
}

/// Something made from files, and made anew once they have changed; what cannot be used is said once
/// and changes nothing.
pub struct FromFiles<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>,
    current: ArcSwap<T>,
    seen: Mutex<(Instant, Stamp)>,
    check_interval: Duration,
}

impl<T> FromFiles<T> {
    /// # Errors
    /// What `make` says.
    pub fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        // Before they are read: what is written meanwhile is found by the next look.
        let stamp = Stamp::of(paths.iter().map(PathBuf::as_path));
        let current = ArcSwap::from_pointee(make()?);
        Ok(FromFiles {
            paths,
            make: Box::new(make),
            current,
            seen: Mutex::new((Instant::now(), stamp)),
            check_interval: CHECK_INTERVAL,
        })
    }

    /// As it is now. Looks at the files at most once a second; whoever asks meanwhile does not wait.
    pub fn get(&self) -> Arc<T> {
        if let Ok(mut seen) = self.seen.try_lock() {
            self.refresh(&mut seen);
        }
        self.current.load_full()
    }

    /// Looks at the files with the next question, however soon it comes.
    #[cfg(test)]
    pub fn look_again(&self) {
        if let Ok(mut seen) = self.seen.lock() {
            seen.0 = seen.0.checked_sub(self.check_interval).unwrap_or(seen.0);
        }
    }

    fn refresh(&self, seen: &mut (Instant, Stamp)) {
        if seen.0.elapsed() < self.check_interval {
            return;
        }
        seen.0 = Instant::now();
        let stamp = Stamp::of(self.paths.iter().map(PathBuf::as_path));
        if stamp == seen.1 {
            return;
        }
        seen.1 = stamp;
        match (self.make)() {
            Ok(new) => {
                self.current.store(Arc::new(new));
                tracing::info!("read {} again, as they have changed", self.names());
            }
            // Mostly one of two files is written and the other is not yet.
            Err(e) => {
                tracing::warn!("{} have changed and cannot be used, so the old ones still hold: {e:#}", self.names())
            }
        }
    }

    fn names(&self) -> String {
        self.paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed file is read again, one that cannot be used changes nothing, and whatever way it is replaced is seen.
    #[test]
    fn changes_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("link"));
        std::fs::write(&file, "1").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let path = link.clone();
        let number =
            FromFiles::new(vec![link.clone()], move || Ok(std::fs::read_to_string(&path)?.parse::<u32>()?)).unwrap();
        assert_eq!(*number.get(), 1);
        let now = |what: &str| {
            number.look_again();
            assert_eq!(number.get().to_string(), what);
        };
        std::fs::write(&file, "22").unwrap();
        now("22");
        std::fs::write(&file, "no number").unwrap();
        now("22");
        let other = dir.path().join("b");
        std::fs::write(&other, "33").unwrap();
        std::fs::remove_file(&link).unwrap();
        now("22");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        now("33");
    }
}
