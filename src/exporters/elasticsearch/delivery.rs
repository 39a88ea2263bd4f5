// SPDX-License-Identifier: Apache-2.0
//! Delivery of the log's entries: at least once on the wire, once in the streams, as a document's id
//! stays what it is.
//!
//! A batch is acknowledged to the log when each of its documents is there, or is counted as dropped:
//! because it alone is larger than the server takes, or because it does not fit the mapping. A server
//! that refuses one document after another is taken to be ill itself: then the rest is kept.
//!
//! Where a document could not be stored because the server's disk is full, Elasticsearch has it in memory, and answers the
//! next try that it is there; once its shard notices, it is gone. So after such a failure, "it is there" is no proof until
//! the stream has taken another document, and this one was sent once more after that.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::EXPORTER;
use super::answer::{Outcome, Verdict};
use super::client::Client;
use super::document::{Documents, Kind, Streams};
use crate::exporters::health::{ExporterStatus, Health};
use crate::exporters::log_consumer::{Batch, LogConsumer, Source};
use crate::exporters::node::Node;
use crate::exporters::retry::{Backoff, OnceAMinute, Shutdown, Stop};
use crate::pipeline::metrics::SelfMetrics;
use crate::signal::Stage;

const STAGE: Stage<'static> = Stage::Exporter(EXPORTER);

/// Requests above this are split. Elastic advises a few MiB; nodes take 100 MiB at most by default
/// (`http.max_content_length`), what stands before them often less.
const MAX_REQUEST: usize = 5 << 20;
/// Documents of one request, while the server keeps up.
const MAX_DOCUMENTS: usize = 4096;
/// Documents set aside as refused without a single one taken in between, before the server is taken
/// to be at fault.
const MAX_STRIKES: u32 = 16;
/// After so long, "it is there" is believed without another document: a shard to which nothing is written is
/// flushed within some five minutes (`indices.memory.shard_inactive_time`), and notices by that.
const MAX_DOUBT: Duration = Duration::from_secs(600);

/// Delivers what the log holds. [`Self::run`] is a future for the agent to spawn.
pub struct Delivery<S> {
    consumer: LogConsumer<S>,
    client: Client,
    node: Node,
    streams: Streams,
    own: SelfMetrics,
    backoff: Backoff,
    complaints: OnceAMinute,
    /// Failed since the last success, for the message that it is well again.
    failing: bool,
    strikes: u32,
    /// Since when a stream's "it is there" proves nothing.
    doubt: HashMap<Kind, Instant>,
    /// A document of the batch is only said to be there.
    unsure: bool,
    /// Documents of the next request; fewer where the server asks for it, slowly more again.
    most: usize,
}

/// Why something has to be sent again.
struct Trouble {
    after: Option<Duration>,
    why: String,
    /// In self-metrics.
    reason: &'static str,
}

impl Trouble {
    fn new(reason: &'static str, why: String) -> Self {
        Trouble { after: None, why, reason }
    }
}

impl<S: Source> Delivery<S> {
    /// `seed` differs between agents, so that they do not retry at the same moment.
    pub fn new(source: S, client: Client, namespace: &str, node: Node, own: SelfMetrics, seed: u64) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30), seed);
        let consumer = LogConsumer::new(
            source,
            EXPORTER.to_owned(),
            "entries to Elasticsearch".into(),
            own.clone(),
            backoff.clone(),
        );
        Delivery {
            consumer,
            client,
            node,
            streams: Streams::new(namespace),
            own,
            backoff,
            complaints: OnceAMinute::default(),
            failing: false,
            strikes: 0,
            doubt: HashMap::new(),
            unsure: false,
            most: MAX_DOCUMENTS,
        }
    }

    /// Shorter or longer waits between tries, for tests.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = Backoff::new(first, longest, 1);
        self
    }

    /// Reports its status there.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.consumer = self.consumer.with_health(health);
        self
    }

    /// Delivers until `shutdown` yields, then what is left until the moment that it yields.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut stop = Stop::new(shutdown);
        info!("delivery to Elasticsearch at {} begins", self.client.target());
        while let Some(batch) = self.consumer.next(&mut stop).await {
            if self.deliver(&batch, &mut stop).await {
                self.consumer.ack(&batch);
            }
        }
    }

    /// Whether every document of the batch is there or counted as dropped. If not, it comes again, with what is new.
    async fn deliver(&mut self, batch: &S::Batch, stop: &mut Stop) -> bool {
        let documents = Documents::of(batch.entries(), batch.resources(), &self.node, &self.streams);
        let mut left: Vec<usize> = (0..documents.all.len()).collect();
        let mut failures = 0;
        self.unsure = false;
        self.doubt.retain(|_, since| since.elapsed() < MAX_DOUBT);
        while !left.is_empty() {
            if stop.is_over() {
                return false;
            }
            let n = documents.fitting(&left[..left.len().min(self.most)], MAX_REQUEST);
            let Some(outcome) = stop.within(self.client.bulk(documents.body(&left[..n]), n)).await else {
                return false;
            };
            let sent: Vec<usize> = left.drain(..n).collect();
            let Some(trouble) = self.settle(outcome, sent, &mut left, batch, &documents) else {
                failures = 0;
                continue;
            };
            self.own.exporter_failed(EXPORTER, "entries", trouble.reason);
            failures += 1;
            // Where there are several addresses, each is tried before there is time to wait.
            if trouble.reason == "unreachable" && failures % self.client.addresses() != 0 {
                self.client.renew();
                continue;
            }
            let wait = self.backoff.next(trouble.after);
            self.complain(&trouble, wait);
            stop.pause(wait).await;
            if matches!(trouble.reason, "denied" | "unreachable") {
                self.client.renew();
            }
        }
        if self.unsure {
            if !self.doubt.is_empty() {
                let why = "it failed to store documents, and says now that they are there".to_owned();
                let wait = self.backoff.next(None);
                self.complain(&Trouble::new("unavailable", why), wait);
                stop.pause(wait).await;
            }
            return false;
        }
        self.own.dropped(STAGE, "damaged", documents.damaged);
        true
    }

    /// Does what the outcome asks for: what must be sent again is put back. `None`: it can go on at once.
    fn settle(
        &mut self,
        outcome: Outcome,
        sent: Vec<usize>,
        left: &mut Vec<usize>,
        batch: &S::Batch,
        documents: &Documents,
    ) -> Option<Trouble> {
        let trouble = match outcome {
            Outcome::Answered(verdicts) => return self.judge(verdicts, &sent, left, batch, documents),
            Outcome::TooLarge(why) | Outcome::Refused(why) if sent.len() > 1 => {
                debug!("{} does not take {} documents at once: {why}", self.client.target(), sent.len());
                self.most = (sent.len() / 2).max(1);
                put_back(left, sent);
                self.own.exporter_failed(EXPORTER, "entries", "too_large");
                return None;
            }
            Outcome::TooLarge(why) => {
                self.set_aside(batch, documents, sent[0], "too_large", &why);
                return None;
            }
            Outcome::Refused(why) if self.strikes < MAX_STRIKES => {
                self.strikes += 1;
                self.set_aside(batch, documents, sent[0], "refused", &why);
                return None;
            }
            Outcome::Refused(why) | Outcome::Denied(why) => Trouble::new("denied", why),
            Outcome::Unreachable(why) => Trouble::new("unreachable", why),
            Outcome::Retry { after, why } => Trouble { after, why, reason: "unavailable" },
        };
        // A server that is slow or full is helped by less at once.
        self.most = (sent.len() / 2).max(1);
        put_back(left, sent);
        Some(trouble)
    }

    /// Takes each document for what its verdict says.
    fn judge(
        &mut self,
        verdicts: Vec<Verdict>,
        sent: &[usize],
        left: &mut Vec<usize>,
        batch: &S::Batch,
        documents: &Documents,
    ) -> Option<Trouble> {
        let mut taken = [0; Kind::ALL.len()];
        let (mut again, mut trouble) = (Vec::new(), None);
        let (mut stored, mut failed) = (HashSet::new(), HashSet::new());
        for (&d, verdict) in sent.iter().zip(verdicts) {
            let kind = documents.all[d].kind;
            match verdict {
                Verdict::There if self.doubt.contains_key(&kind) => self.unsure = true,
                Verdict::Taken | Verdict::There => {
                    self.strikes = 0;
                    taken[kind as usize] += 1;
                    stored.extend((verdict == Verdict::Taken).then_some(kind));
                }
                Verdict::Failed(why) => {
                    failed.insert(kind);
                    again.push(d);
                    trouble.get_or_insert_with(|| Trouble::new("unavailable", why));
                }
                Verdict::Refused(why) if self.strikes < MAX_STRIKES => {
                    self.strikes += 1;
                    self.set_aside(batch, documents, d, "refused", &why);
                }
                Verdict::Again(why) => {
                    again.push(d);
                    trouble.get_or_insert_with(|| Trouble::new("unavailable", why));
                }
                Verdict::Refused(why) | Verdict::Denied(why) => {
                    again.push(d);
                    trouble = Some(Trouble::new("denied", why));
                }
            }
        }
        self.doubt.retain(|kind, _| !stored.contains(kind));
        self.doubt.extend(failed.into_iter().map(|kind| (kind, Instant::now())));
        for (kind, n) in Kind::ALL.into_iter().zip(taken) {
            self.own.exporter_sent(EXPORTER, kind.name(), n);
        }
        self.most = if again.is_empty() { (self.most * 2).min(MAX_DOCUMENTS) } else { (sent.len() / 2).max(1) };
        put_back(left, again);
        if trouble.is_none() {
            self.well_again();
        }
        trouble
    }

    fn set_aside(&self, batch: &S::Batch, documents: &Documents, d: usize, reason: &'static str, why: &str) {
        let document = &documents.all[d];
        let (target, kind) = (self.client.target(), document.kind.name());
        let id = batch.entries().get(document.entry).map(|e| e.id().to_string()).unwrap_or_default();
        self.own.dropped(STAGE, reason, 1);
        error!("{target} does not take the {kind} document of entry {id} ({reason}); left out: {why}");
    }

    fn complain(&mut self, trouble: &Trouble, wait: Duration) {
        self.failing = true;
        self.consumer.set_status(ExporterStatus::Failing(trouble.why.clone()));
        let behind = self.consumer.report().events;
        if !self.complaints.may_speak() {
            return;
        }
        let (target, why, wait) = (self.client.target(), &trouble.why, wait.as_secs_f32());
        if trouble.reason == "denied" {
            error!(
                "{target} does not let us deliver: {why}; {behind} entries wait in the store; check \
                 exporters.elasticsearch, or set exporters.elasticsearch.enabled = false"
            );
        } else {
            warn!("cannot deliver to {target}: {why}; {behind} entries wait; next try in {wait:.1} s");
        }
    }

    fn well_again(&mut self) {
        self.backoff.reset();
        self.consumer.set_status(ExporterStatus::Healthy);
        if std::mem::take(&mut self.failing) {
            let version = self.client.version().unwrap_or_default();
            info!("Elasticsearch {version} at {} takes documents again", self.client.target());
            self.complaints = OnceAMinute::default();
        }
    }
}

/// Puts documents before those that are left.
fn put_back(left: &mut Vec<usize>, mut documents: Vec<usize>) {
    documents.append(left);
    *left = documents;
}
