// SPDX-License-Identifier: Apache-2.0
//! One collector and how its methods are run: a panic or an error is that run's alone. The collector
//! keeps its programs, rings and state: nothing is loaded twice, and nothing is left unread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::supervisor::Progress;
use super::{CollectorSink, Shared, State, Statuses};

const FIRST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(600);

/// A collector in its task.
pub(super) struct Slot<T> {
    pub name: &'static str,
    pub collector: T,
    pub progress: Arc<Progress>,
    pub sink: Arc<dyn CollectorSink>,
    statuses: Arc<Statuses>,
    /// Whether the last run failed: an error that stays is logged once.
    failing: bool,
    /// Hooks that are missing, as the builder said: what holds again when a failure is over.
    usual: Option<String>,
    /// After a panic: not before then.
    retry_at: Option<Instant>,
    backoff: Duration,
}

impl<T> Slot<T> {
    /// `limit`: a run that takes longer is stuck.
    pub fn new(name: &'static str, collector: T, limit: Duration, shared: &Shared) -> Self {
        Slot {
            name,
            collector,
            progress: Progress::new(limit),
            sink: shared.sink.clone(),
            statuses: shared.statuses.clone(),
            failing: false,
            usual: shared.statuses.reason(name),
            retry_at: None,
            backoff: FIRST_RETRY,
        }
    }

    /// Whether a timed run may start now: after a panic only when its delay is over.
    pub fn may_run(&self) -> bool {
        self.retry_at.is_none_or(|at| at <= Instant::now())
    }

    /// Runs one method. `None`: it failed or panicked.
    pub fn run<R>(&mut self, f: impl FnOnce(&mut T) -> anyhow::Result<R>) -> Option<R> {
        let start = self.progress.begin();
        let result = catch_unwind(AssertUnwindSafe(|| f(&mut self.collector)));
        self.progress.end();
        self.sink.ran(self.name, start.elapsed(), matches!(result, Ok(Ok(_))));
        match result {
            Ok(Ok(r)) => {
                self.works();
                return Some(r);
            }
            Ok(Err(e)) => self.failed(&format!("{e:#}")),
            Err(panic) => self.panicked(&panic_text(&*panic)),
        }
        None
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(collector = self.name, "works again");
            (self.retry_at, self.backoff) = (None, FIRST_RETRY);
            self.statuses.set(self.name, State::Running, self.usual.clone());
        }
    }

    fn failed(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(collector = self.name, "{why}");
        }
        self.statuses.set(self.name, State::Running, Some(format!("last run: {why}")));
    }

    fn panicked(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(collector = self.name, retry_in = ?self.backoff, "{why}");
        }
        self.statuses.set(self.name, State::Failed, Some(why.to_owned()));
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(LAST_RETRY);
    }

    /// Applies new settings; what cannot be applied is logged, and the old ones stay.
    pub fn reload(&mut self, f: impl FnOnce(&mut T) -> anyhow::Result<()>) {
        let start = self.progress.begin();
        let result = catch_unwind(AssertUnwindSafe(|| f(&mut self.collector)));
        self.progress.end();
        self.sink.ran(self.name, start.elapsed(), matches!(result, Ok(Ok(()))));
        match result {
            Ok(Ok(())) => tracing::info!(collector = self.name, "applied its new settings"),
            Ok(Err(e)) => tracing::error!(collector = self.name, "keeps its old settings: {e:#}"),
            Err(panic) => tracing::error!(collector = self.name, "new settings: {}", panic_text(&*panic)),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no message"))
}
