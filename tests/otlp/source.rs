// SPDX-License-Identifier: Apache-2.0
//! A log that holds what a test puts into it, and what of it is acknowledged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bianque::exporters::log_consumer::{Batch, Behind, Source};
use bianque::exporters::node::Resources;
use bianque::signal::entry::{Entry, ResourceAttrs};
use bianque::signal::ids::{EventId, TraceId, span_id};
use bianque::signal::{RawEntry, WorkloadKey, otlp};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// Entries that are not acknowledged yet. Clones share them, as a restarted agent finds its log.
#[derive(Clone, Default)]
pub struct TestLog {
    entries: Arc<Mutex<VecDeque<RawEntry>>>,
    resources: Resources,
}

pub struct TestBatch {
    entries: Vec<RawEntry>,
    resources: Resources,
}

impl Batch for TestBatch {
    fn entries(&self) -> &[RawEntry] {
        &self.entries
    }
    fn resources(&self) -> &Resources {
        &self.resources
    }
}

impl Source for TestLog {
    type Batch = TestBatch;

    async fn next(&mut self, max: usize, wait: Duration) -> anyhow::Result<TestBatch> {
        let entries: Vec<_> = self.entries.lock().unwrap().iter().take(max).cloned().collect();
        if entries.is_empty() {
            tokio::time::sleep(wait.min(Duration::from_millis(10))).await;
        }
        Ok(TestBatch { entries, resources: self.resources.clone() })
    }

    fn ack(&mut self, batch: &TestBatch) {
        self.entries.lock().unwrap().drain(..batch.entries.len());
    }

    fn behind(&self) -> Behind {
        Behind { events: self.len() as u64, ..Behind::default() }
    }
}

impl TestLog {
    /// Entries with these event names, of the container `shop`.
    pub fn of(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let attributes = vec![
            otlp::key_value("container.id", &"c0ffee".into()),
            otlp::key_value("container.name", &"shop".into()),
            otlp::key_value("service.name", &"shop".into()),
        ];
        let known = ResourceAttrs { raw_key: 7, attributes, name: "shop".into(), ..Default::default() };
        let log = TestLog { resources: [(WorkloadKey(7), Arc::new(known))].into(), ..Default::default() };
        for (i, name) in names.into_iter().enumerate() {
            log.push(entry(i as u64, &name.into()));
        }
        log
    }

    pub fn push(&self, e: Entry) {
        let raw = RawEntry::new(e.id(), e.encode_to_vec().into()).unwrap();
        self.entries.lock().unwrap().push_back(raw);
    }

    /// How many are not acknowledged.
    pub fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }
}

/// The trace that all test entries belong to.
pub const TRACE: TraceId = TraceId([0xa7; 16]);

/// An event with its span.
pub fn entry(number: u64, name: &str) -> Entry {
    let mut id = [1; 12];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let id = EventId(id);
    let span = span_id(TRACE, &id.0);
    let now = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap();
    let mut e = Entry::new(id, "oom", Some(WorkloadKey(7)));
    e.log = Some(LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number: 17,
        event_name: name.into(),
        trace_id: TRACE.0.to_vec(),
        span_id: span.0.to_vec(),
        ..Default::default()
    });
    e.spans = vec![Span {
        trace_id: TRACE.0.to_vec(),
        span_id: span.0.to_vec(),
        name: name.into(),
        start_time_unix_nano: now - 1_000_000,
        end_time_unix_nano: now,
        ..Default::default()
    }];
    e
}
