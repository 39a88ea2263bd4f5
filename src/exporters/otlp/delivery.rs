// SPDX-License-Identifier: Apache-2.0
//! Delivery of events as logs, of incidents as traces and of captures as profiles: at least once, in
//! order, until the back end has accepted them.
//!
//! A batch is acknowledged to the log when each of its records is accepted, or is counted as
//! dropped: because the server rejected it (partial success), because it alone is larger than the
//! server takes, or because the server refuses it, found by halving the batch. A server that
//! refuses one record after another is taken to be ill itself: then the rest is kept.
//!
//! Profiles are new in OTLP, and few back ends take them. One that knows no such service is asked
//! again every ten minutes; what comes meanwhile is counted, and stays in the store.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{EXPORTER, Outcome, STAGE, Signal, Transport, encode};
use crate::exporters::health::{ExporterStatus, Health};
use crate::exporters::log_consumer::{Batch as _, LogConsumer, Source, halve};
use crate::exporters::node::Node;
use crate::exporters::retry::{Backoff, OnceAMinute, Shutdown, Stop};
use crate::pipeline::metrics::SelfMetrics;
use crate::signal::RawEntry;

/// Requests above this are split: gRPC servers take 4 MiB at most by default.
const MAX_REQUEST: usize = 3 << 20;
/// Tries of a request whose failure may be the data's fault.
const SUSPECT_TRIES: u32 = 5;
/// Records set aside as refused without a single one accepted in between, before the server is
/// taken to be at fault.
const MAX_STRIKES: u32 = 16;
/// Between two questions to a server that takes no profiles.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// Delivers one signal of the log's entries. [`Self::run`] is a future for the agent to spawn.
pub struct Delivery<S> {
    signal: Signal,
    consumer: LogConsumer<S>,
    transport: Transport,
    node: Node,
    own: SelfMetrics,
    backoff: Backoff,
    complaints: OnceAMinute,
    /// Failed since the last success, for the message that it is well again.
    failing: bool,
    strikes: u32,
    /// The server does not know the signal; when to ask it again.
    unsupported: Option<Instant>,
}

/// What became of one request.
enum Sent {
    /// Accepted but for so many records.
    Accepted(u64),
    TooLarge,
    Refused,
    /// The server does not know the signal.
    Unserved(String),
    /// There was no time left.
    Interrupted,
}

impl<S: Source> Delivery<S> {
    /// `seed` differs between agents, so that they do not retry at the same moment.
    pub fn new(signal: Signal, source: S, transport: Transport, node: Node, own: SelfMetrics, seed: u64) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30), seed);
        let (exporter, what) = (format!("{EXPORTER}/{}", signal.name()), format!("{} over OTLP", signal.name()));
        let consumer = LogConsumer::new(source, exporter, what, own.clone(), backoff.clone());
        let complaints = OnceAMinute::default();
        Delivery {
            signal,
            consumer,
            transport,
            node,
            own,
            backoff,
            complaints,
            failing: false,
            strikes: 0,
            unsupported: None,
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
        let name = self.signal.name();
        info!("delivery of {name} over OTLP to {} begins", self.transport.target());
        while let Some(batch) = self.consumer.next(&mut stop).await {
            if self.deliver(&batch, &mut stop).await {
                self.consumer.ack(&batch);
            }
        }
    }

    /// Whether every record of the batch is accepted or counted as dropped.
    async fn deliver(&mut self, batch: &S::Batch, stop: &mut Stop) -> bool {
        let entries = batch.entries();
        // What is to be sent, next last: a part that fails is replaced by its halves.
        let mut parts = match self.signal {
            // Each has a dictionary of its own.
            Signal::Profiles => (0..entries.len()).rev().map(|i| i..i + 1).collect(),
            _ => Vec::from([Range { start: 0, end: entries.len() }]),
        };
        while let Some(part) = parts.pop() {
            let (body, records) = encode::request(self.signal, &entries[part.clone()], batch.resources(), &self.node);
            if records == 0 {
                continue;
            }
            if body.len() > MAX_REQUEST && part.len() > 1 {
                halve(part, &mut parts);
                continue;
            }
            if self.unsupported.is_some_and(|until| Instant::now() < until) {
                self.own.suppressed(STAGE, "unsupported", records);
                continue;
            }
            let is_one = part.len() == 1;
            match self.send(body, is_one, stop).await {
                Sent::Interrupted => return false,
                Sent::Unserved(why) => self.wait_until_served(&why, records),
                Sent::Accepted(rejected) => {
                    self.strikes = 0;
                    self.unsupported = None;
                    self.own.exporter_sent(EXPORTER, self.signal.name(), records.saturating_sub(rejected));
                    self.own.dropped(STAGE, "rejected", rejected.min(records));
                }
                Sent::TooLarge if is_one => {
                    self.set_aside(&entries[part.start], "too_large", records);
                }
                Sent::Refused if is_one => {
                    self.strikes += 1;
                    self.set_aside(&entries[part.start], "refused", records);
                }
                Sent::TooLarge | Sent::Refused => halve(part, &mut parts),
            }
        }
        true
    }

    /// Nothing is asked of a server that does not know the signal for a while, and it is said once.
    fn wait_until_served(&mut self, why: &str, records: u64) {
        let (name, target) = (self.signal.name(), self.transport.target());
        if self.unsupported.is_none() {
            info!("{target} takes no {name} ({why}): they stay in the store, and it is asked again now and then");
        }
        self.consumer.set_status(ExporterStatus::Unsupported(why.to_owned()));
        self.own.suppressed(STAGE, "unsupported", records);
        self.unsupported = Some(Instant::now() + ASK_AGAIN);
    }

    fn set_aside(&self, entry: &RawEntry, reason: &'static str, records: u64) {
        self.own.dropped(STAGE, reason, records);
        let target = self.transport.target();
        error!("{target} does not take the {} of entry {} ({reason}); left out", self.signal.name(), entry.id());
    }

    /// Sends until the answer decides on the data, or there is no time left.
    async fn send(&mut self, body: hyper::body::Bytes, is_one: bool, stop: &mut Stop) -> Sent {
        let mut tries = 0;
        loop {
            if stop.is_over() {
                return Sent::Interrupted;
            }
            let Some(outcome) = stop.within(self.transport.export(body.clone())).await else {
                return Sent::Interrupted;
            };
            tries += 1;
            let name = self.signal.name();
            let (after, why, reason) = match outcome {
                Outcome::Accepted { rejected, message } => {
                    self.well_again();
                    if (rejected > 0 || !message.is_empty()) && self.complaints.may_speak() {
                        warn!("{} rejected {rejected} {name} records: {message}", self.transport.target());
                    }
                    return Sent::Accepted(rejected);
                }
                Outcome::TooLarge(why) => {
                    debug!("{}: {name} request of {} bytes is too large: {why}", self.transport.target(), body.len());
                    self.own.exporter_failed(EXPORTER, name, "too_large");
                    return Sent::TooLarge;
                }
                Outcome::Refused(why) if !is_one || self.strikes < MAX_STRIKES => {
                    debug!("{} refuses a {name} request: {why}", self.transport.target());
                    self.own.exporter_failed(EXPORTER, name, "refused");
                    return Sent::Refused;
                }
                Outcome::Suspect(why) if tries >= SUSPECT_TRIES && (!is_one || self.strikes < MAX_STRIKES) => {
                    debug!("{} fails on a {name} request {tries} times: {why}", self.transport.target());
                    self.own.exporter_failed(EXPORTER, name, "refused");
                    return Sent::Refused;
                }
                Outcome::Unserved(why) if self.signal == Signal::Profiles => {
                    self.own.exporter_failed(EXPORTER, name, "unsupported");
                    return Sent::Unserved(why);
                }
                Outcome::Refused(why) | Outcome::Denied(why) | Outcome::Unserved(why) => (None, why, "denied"),
                Outcome::Suspect(why) => (None, why, "error"),
                Outcome::Retry { after, why } => (after, why, "unavailable"),
            };
            self.own.exporter_failed(EXPORTER, name, reason);
            let wait = self.backoff.next(after);
            self.complain(&why, reason, wait);
            stop.pause(wait).await;
        }
    }

    fn complain(&mut self, why: &str, reason: &str, wait: Duration) {
        self.failing = true;
        self.consumer.set_status(ExporterStatus::Failing(why.to_owned()));
        let behind = self.consumer.report();
        if !self.complaints.may_speak() {
            return;
        }
        let (name, target) = (self.signal.name(), self.transport.target());
        let wait = wait.as_secs_f32();
        if reason == "denied" {
            error!(
                "{target} does not let us deliver {name}: {why}; {} entries wait in the store; check \
                 exporters.otlp (endpoint, protocol, headers), or set exporters.otlp.{name}.enabled = false",
                behind.events
            );
        } else {
            warn!("cannot deliver {name} to {target}: {why}; {} entries wait; next try in {wait:.1} s", behind.events);
        }
    }

    fn well_again(&mut self) {
        self.backoff.reset();
        self.consumer.set_status(ExporterStatus::Healthy);
        if std::mem::take(&mut self.failing) {
            info!("{} takes {} again", self.transport.target(), self.signal.name());
            self.complaints = OnceAMinute::default();
        }
    }
}
