// SPDX-License-Identifier: Apache-2.0
//! Writes the log to the store, in batches, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message;

use super::{STORE, Shared};
use crate::pipeline::backing::{Commit, Stored};
use crate::signal::entry::Entry;

/// Entries gather so long after the commit before; the first after a quiet time do not wait.
const GATHER: Duration = Duration::from_millis(50);
/// Between two looks whether to stop, or whether cursors are to be saved.
const IDLE: Duration = Duration::from_millis(500);
/// Between two looks whether fjall has room again.
const FULL: Duration = Duration::from_millis(5);
/// Between two looks at age and size.
const RETENTION: Duration = Duration::from_secs(10);
/// Between two attempts to open a failed store, doubling.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// What a stopping agent gives a disk that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The store's one writer.
pub struct Committer {
    shared: Arc<Shared>,
    /// Since the first failed commit, until one succeeds.
    failing: bool,
    retry: Duration,
    retry_at: Option<Instant>,
    retention_at: Instant,
    /// When the last commit of entries had been tried.
    committed_at: Option<Instant>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Committer {
            shared,
            failing: false,
            retry: FIRST_RETRY,
            retry_at: None,
            retention_at: Instant::now(),
            committed_at: None,
        }
    }

    /// Commits until `stop`; then what is left, and returns. For a thread of its own.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.wait(stop);
            self.step(stop);
        }
        // A commit on a slow disk takes seconds: none is begun too late.
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            self.commit(stop);
            if !self.shared.memory().has_work() || self.retry_at.is_some() || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Until there is something to commit, and then until it has gathered company.
    fn wait(&self, stop: &AtomicBool) {
        let idle = {
            let m = self.shared.memory();
            let wait = self.shared.appended.wait_timeout_while(m, IDLE, |m| !m.has_work());
            wait.is_ok_and(|(_, timeout)| timeout.timed_out())
        };
        if !idle && !stop.load(Ordering::Relaxed) {
            let since = self.committed_at.map_or(GATHER, |at| at.elapsed());
            std::thread::sleep(GATHER.saturating_sub(since));
        }
    }

    fn step(&mut self, stop: &AtomicBool) {
        if let Some(at) = self.retry_at {
            if Instant::now() < at {
                // Spares the lock: the condition variable does not wait while there is work.
                std::thread::sleep(GATHER);
                return;
            }
            if !self.reopen() {
                return;
            }
        }
        self.commit(stop);
        if Instant::now() >= self.retention_at && self.retry_at.is_none() {
            self.retention_at = Instant::now() + RETENTION;
            self.expire();
        }
    }

    fn commit(&mut self, stop: &AtomicBool) {
        let c = self.shared.memory().begin();
        let started = Instant::now();
        let any = !c.is_empty();
        let result = self.until_room(stop).and_then(|()| self.shared.backing.commit(&c));
        match result {
            Ok(()) => {
                let recovered = self.shared.memory().committed(&c);
                if recovered {
                    tracing::info!("the store takes entries again");
                }
                if !c.is_empty() {
                    self.failing = false;
                    self.shared.observer.store_committed(started.elapsed());
                }
                self.publish(&c);
            }
            Err(e) => {
                let why = format!("{e:#}");
                let lost = self.shared.memory().failed(c, &why);
                self.shared.observer.dropped(STORE, "store", lost);
                self.fail(&why);
            }
        }
        if any {
            self.committed_at = Some(Instant::now());
        }
        let degraded = self.shared.memory().degraded().is_some();
        self.shared.observer.store_state(if degraded { "degraded" } else { "ok" });
    }

    fn until_room(&self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut stopping = None;
        while !self.shared.backing.has_room()? {
            if stop.load(Ordering::Relaxed) {
                let since = *stopping.get_or_insert_with(Instant::now);
                anyhow::ensure!(since.elapsed() < LAST_WORDS, "the store had no room when the agent stopped");
            }
            std::thread::sleep(FULL);
        }
        Ok(())
    }

    /// Accepted from here on: counted, shown to followers, given to readers.
    fn publish(&self, c: &Commit) {
        if !c.entries.is_empty() {
            self.shared.wake_readers();
        }
        self.follow(c);
        self.shared.observer.accepted(c.entries.len() as u64);
    }

    /// For those who follow what is committed.
    fn follow(&self, c: &Commit) {
        // They are rare: nothing is decoded for nobody.
        if self.shared.live.receiver_count() == 0 {
            return;
        }
        // Nobody left to listen is no error.
        for e in &c.entries {
            if let Ok(entry) = Entry::decode(&*e.bytes) {
                drop(self.shared.live.send(Stored { entry: Arc::new(entry), workload: e.workload.clone() }));
            }
        }
        for names in &c.stacks {
            drop(self.shared.named.send(names.clone()));
        }
    }

    fn fail(&mut self, why: &str) {
        if std::mem::replace(&mut self.failing, true) {
            self.retry = (self.retry * 2).min(LAST_RETRY);
        } else {
            tracing::error!("entries are not being saved, delivery goes on from memory: {why}");
            self.retry = FIRST_RETRY;
        }
        self.retry_at = Some(Instant::now() + self.retry);
        self.shared.wake_readers();
    }

    fn reopen(&mut self) -> bool {
        match self.shared.backing.reopen() {
            Ok(set_aside) => {
                if let Some(message) = set_aside {
                    tracing::error!("{message}");
                    self.shared.memory().set_aside = Some(message);
                }
                self.retry_at = None;
                true
            }
            Err(e) => {
                self.shared.memory().set_failed(&format!("{e:#}"));
                self.fail(&format!("{e:#}"));
                false
            }
        }
    }

    fn expire(&self) {
        let now = (self.shared.now)();
        let lowest = self.shared.memory().lowest_cursor();
        match self.shared.backing.expire(now.0, lowest) {
            Ok(e) if e.segments > 0 => {
                self.shared.observer.dropped(STORE, "retention", e.undelivered);
                if e.undelivered > 0 {
                    tracing::error!(entries = e.undelivered, "retention has dropped what an exporter had not sent yet");
                }
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("retention: {e:#}"),
        }
        if let Ok(size) = self.shared.backing.size() {
            self.shared.observer.store_size(size);
        }
    }
}
