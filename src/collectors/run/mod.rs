// SPDX-License-Identifier: Apache-2.0
//! The one loop per kind. A collector never sees timing, panics, restarts or self-metrics: they are
//! here. The loops are plain closures; `agent` gives each a thread.

mod autotracing;
mod events;
mod metrics;
mod status;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::registry::{BuildError, Running};
use crate::signal::{CaptureProgress, Change, Event, Metrics};

pub(crate) use autotracing::{AutotracingLoop, AutotracingSlot};
pub(crate) use events::{EventsLoop, RecordQueue};
pub(crate) use metrics::{MetricsLoop, MetricsSlot};
pub use status::{State, Status, Statuses};

/// Where the loops deliver; the agent's side of them.
pub(crate) trait Outlet: Send + Sync {
    fn metrics(&self, collector: &'static str, points: &mut Metrics);
    fn event(&self, collector: &'static str, event: Event);
    /// `false`: nobody wants to hear of it, nor of its capture.
    fn change(&self, collector: &'static str, change: Change) -> bool;
    /// How far a capture is, and what it has.
    fn capture(&self, collector: &'static str, progress: CaptureProgress);
    /// Records or captures that are gone.
    fn dropped(&self, collector: &'static str, reason: &'static str, n: u64);
    /// Captures that were not taken, on purpose.
    fn suppressed(&self, collector: &'static str, reason: &'static str, n: u64);
    /// One run of a collector's method.
    fn ran(&self, collector: &'static str, took: Duration, ok: bool);
    /// Runs a capture beside the loop.
    fn spawn(&self, capture: Pin<Box<dyn Future<Output = ()> + Send>>);
    /// Builds a collector anew after it failed.
    fn rebuild(&self, collector: &'static str) -> Result<Running, BuildError>;
}

/// What the agent tells a loop while it runs.
pub(crate) enum Command {
    /// Changed settings of one collector, without the common keys.
    Reload {
        collector: &'static str,
        section: toml::Table,
    },
    /// Answers that the loop still turns.
    Answer(Arc<AtomicBool>),
    Stop,
}

const FIRST_RESTART: Duration = Duration::from_secs(10);
const LAST_RESTART: Duration = Duration::from_secs(600);

/// One collector in a loop: running, or failed and waiting for its restart.
pub(crate) struct Slot<T> {
    pub name: &'static str,
    running: Option<T>,
    restart_at: Option<Instant>,
    backoff: Duration,
    /// Whether the last run failed: an error that stays is logged once.
    failing: bool,
    /// Whether it goes on after a panic: a record is lost then, but its object need not be loaded again.
    keeps: bool,
    statuses: Arc<Statuses>,
}

impl<T> Slot<T> {
    pub fn new(name: &'static str, running: T, statuses: Arc<Statuses>) -> Self {
        Slot {
            name,
            running: Some(running),
            restart_at: None,
            backoff: FIRST_RESTART,
            failing: false,
            keeps: false,
            statuses,
        }
    }

    /// One that a panic does not take out.
    pub fn keeping(name: &'static str, running: T, statuses: Arc<Statuses>) -> Self {
        Slot { keeps: true, ..Slot::new(name, running, statuses) }
    }

    /// Runs one method of the collector; a panic takes only this collector out, until its restart.
    fn run<R>(&mut self, outlet: &dyn Outlet, f: impl FnOnce(&mut T) -> anyhow::Result<R>) -> Option<R> {
        let running = self.running.as_mut()?;
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| f(running)));
        outlet.ran(self.name, start.elapsed(), matches!(result, Ok(Ok(_))));
        match result {
            Ok(Ok(r)) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(collector = self.name, "works again");
                    self.statuses.set(self.name, State::Running, None);
                }
                Some(r)
            }
            Ok(Err(e)) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(collector = self.name, "{e:#}");
                    self.statuses.set(self.name, State::Running, Some(format!("last run: {e:#}")));
                }
                None
            }
            Err(panic) if self.keeps => {
                let text = panic_text(&panic);
                tracing::error!(collector = self.name, "lost a record: {text}");
                self.failing = true;
                self.statuses.set(self.name, State::Running, Some(format!("last record: {text}")));
                None
            }
            Err(panic) => {
                self.fail(&panic_text(&panic));
                None
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        tracing::error!(collector = self.name, restart_in = ?self.backoff, "failed: {reason}");
        self.statuses.set(self.name, State::Failed, Some(reason.to_owned()));
        self.running = None;
        self.restart_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(LAST_RESTART);
    }

    /// Builds the collector anew when its time has come.
    fn restart_if_due(&mut self, outlet: &dyn Outlet, pick: impl FnOnce(Running) -> Option<T>) {
        if self.restart_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.restart_at = None;
        match outlet.rebuild(self.name).map(pick) {
            Ok(Some(t)) => {
                self.running = Some(t);
                self.statuses.set(self.name, State::Running, None);
                tracing::info!(collector = self.name, "restarted");
            }
            Ok(None) => self.fail("was built as another kind"),
            Err(e) => self.fail(&e.to_string()),
        }
    }
}

fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

/// Applies new settings; what cannot be applied is said and the old ones stay.
fn reload<T>(slots: &mut [Slot<T>], collector: &str, f: impl FnOnce(&mut T) -> anyhow::Result<()>) {
    let Some(slot) = slots.iter_mut().find(|s| s.name == collector) else { return };
    let Some(running) = slot.running.as_mut() else { return };
    match f(running) {
        Ok(()) => tracing::info!(collector, "took its new settings"),
        Err(e) => tracing::error!(collector, "keeps its old settings: {e:#}"),
    }
}
