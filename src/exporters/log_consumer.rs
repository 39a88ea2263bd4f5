// SPDX-License-Identifier: Apache-2.0
//! Consumes the log for an exporter, batch by batch, from a durable cursor.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use tracing::{error, info};

use super::health::{ExporterStatus, Health};
use super::node::Resources;
use super::retry::{Backoff, OnceAMinute, Stop};
use crate::pipeline::log;
use crate::pipeline::metrics::SelfMetrics;
use crate::signal::{RawEntry, Stage};

/// Entries taken from the log at once.
const MAX_ENTRIES: usize = 1024;
/// How long the log may collect entries before it hands over fewer than that.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Entries that are to be delivered next, with what is known of their workloads.
pub trait Batch: Send + Sync {
    fn entries(&self) -> &[RawEntry];
    fn resources(&self) -> &Resources;
    /// Entries that cannot be read any more.
    fn damaged(&self) -> u64 {
        0
    }
    /// Whether there is nothing to acknowledge.
    fn is_empty(&self) -> bool {
        self.entries().is_empty() && self.damaged() == 0
    }
}

/// How far a reader of the log is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    pub events: u64,
    pub bytes: u64,
    pub oldest: Duration,
}

/// A reader of the log with a durable cursor.
pub trait Source: Send + 'static {
    type Batch: Batch;

    /// The next entries, at most `max`; none if there were none for `wait`. Without an [`Self::ack`]
    /// in between, the same again.
    fn next(&mut self, max: usize, wait: Duration) -> impl Future<Output = anyhow::Result<Self::Batch>> + Send;

    /// They need not be delivered again.
    fn ack(&mut self, batch: &Self::Batch);

    fn behind(&self) -> Behind;
}

impl Batch for log::Batch<RawEntry> {
    fn entries(&self) -> &[RawEntry] {
        &self.entries
    }

    fn resources(&self) -> &Resources {
        &self.workloads
    }

    fn damaged(&self) -> u64 {
        self.damaged
    }
}

impl Source for log::Reader {
    type Batch = log::Batch<RawEntry>;

    async fn next(&mut self, max: usize, wait: Duration) -> anyhow::Result<Self::Batch> {
        Ok(log::Reader::next_raw(self, max, wait).await?)
    }

    fn ack(&mut self, batch: &Self::Batch) {
        log::Reader::ack(self, batch);
    }

    fn behind(&self) -> Behind {
        let b = log::Reader::behind(self);
        Behind { events: b.events, bytes: b.bytes, oldest: b.age }
    }
}

/// Reads a source until the agent ends.
pub struct LogConsumer<S> {
    source: S,
    /// In self-metrics.
    exporter: String,
    /// In messages: `logs over OTLP`.
    what: String,
    own: SelfMetrics,
    backoff: Backoff,
    complaints: OnceAMinute,
    health: Health,
}

impl<S: Source> LogConsumer<S> {
    pub fn new(source: S, exporter: String, what: String, own: SelfMetrics, backoff: Backoff) -> Self {
        LogConsumer {
            source,
            exporter,
            what,
            own,
            backoff,
            complaints: OnceAMinute::default(),
            health: Health::default(),
        }
    }

    /// Reports its status there.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self.set_status(ExporterStatus::Healthy);
        self
    }

    /// Reports the status of the exporter.
    pub fn set_status(&self, status: ExporterStatus) {
        self.health.set(&self.exporter, status);
    }

    /// The next entries, never none of them: the same again unless they were acknowledged. `None`: the
    /// agent ends, and there is nothing left or no time.
    pub async fn next(&mut self, stop: &mut Stop) -> Option<S::Batch> {
        let mut unread = false;
        while !stop.is_over() {
            let wait = if stop.is_ending() { Duration::ZERO } else { MAX_WAIT };
            let batch = tokio::select! {
                biased;
                batch = self.source.next(MAX_ENTRIES, wait) => batch,
                () = stop.begun(), if !stop.is_ending() => continue,
            };
            self.report();
            if std::mem::replace(&mut unread, batch.is_err()) && !unread {
                self.set_status(ExporterStatus::Healthy);
            }
            match batch {
                Ok(batch) if !batch.is_empty() => {
                    self.backoff.reset();
                    return Some(batch);
                }
                Ok(_) if stop.is_ending() => break,
                Ok(_) => {}
                Err(e) => {
                    self.set_status(ExporterStatus::Failing(format!("cannot read the store: {e:#}")));
                    if self.complaints.may_speak() {
                        error!("cannot read entries for the delivery of {}; trying again: {e:#}", self.what);
                    }
                    stop.pause(self.backoff.next(None)).await;
                }
            }
        }
        let left = self.source.behind().events;
        info!("delivery of {} ends; {left} entries stay in the store for the next start", self.what);
        None
    }

    /// They need not be delivered again.
    pub fn ack(&mut self, batch: &S::Batch) {
        if batch.damaged() > 0 {
            self.own.dropped(Stage::Exporter(&self.exporter), "damaged", batch.damaged());
            error!("{} entries of the store are damaged; left out of the delivery of {}", batch.damaged(), self.what);
        }
        self.source.ack(batch);
        self.report();
    }

    /// Updates the metrics of how far behind it is, and returns that.
    pub fn report(&self) -> Behind {
        let behind = self.source.behind();
        self.own.exporter_behind(&self.exporter, behind.events, behind.bytes, behind.oldest);
        behind
    }
}

/// Puts the halves of a part on the pile, the first on top.
pub fn halve(part: Range<usize>, parts: &mut Vec<Range<usize>>) {
    let middle = part.start + part.len() / 2;
    parts.push(middle..part.end);
    parts.push(part.start..middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing(Resources);

    impl Batch for Nothing {
        fn entries(&self) -> &[RawEntry] {
            &[]
        }

        fn resources(&self) -> &Resources {
            &self.0
        }
    }

    /// Cannot be read once, then has nothing.
    struct Ill(u32, Health);

    impl Source for Ill {
        type Batch = Nothing;

        async fn next(&mut self, _: usize, wait: Duration) -> anyhow::Result<Nothing> {
            self.0 += 1;
            anyhow::ensure!(self.0 > 1, "the disk is gone");
            if self.0 == 2 {
                let status = self.1.now().remove("x");
                assert!(matches!(status, Some(ExporterStatus::Failing(why)) if why.contains("the disk is gone")));
            }
            tokio::time::sleep(wait).await;
            Ok(Nothing(Resources::default()))
        }

        fn ack(&mut self, _: &Nothing) {}

        fn behind(&self) -> Behind {
            Behind::default()
        }
    }

    /// A store that cannot be read makes the exporter failing, and healthy once it can be read again, though nothing is new.
    #[tokio::test(start_paused = true)]
    async fn a_failing_store_is_reported() {
        let health = Health::default();
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 1);
        let source = Ill(0, health.clone());
        let consumer = LogConsumer::new(source, "x".into(), "x".into(), SelfMetrics::unread(), backoff);
        let mut consumer = consumer.with_health(health.clone());
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        let mut stop = Stop::new(async move {
            tokio::time::sleep_until(end).await;
            end
        });
        assert!(consumer.next(&mut stop).await.is_none());
        assert!(consumer.source.0 > 2);
        assert_eq!(health.now().remove("x"), Some(ExporterStatus::Healthy));
    }
}
