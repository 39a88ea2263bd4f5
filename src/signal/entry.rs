// SPDX-License-Identifier: Apache-2.0
//! The form in which events and incidents are logged, stored and delivered: OTLP messages plus the
//! key of the workload that they belong to.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

#[cfg(test)]
use prost::Message;

use super::ids::{EventId, SpanId, StackKey, TraceId, span_id};
use super::semconv::attr;
use super::workload::{Workload, WorkloadKey};
use super::{Event, Timestamp, otlp, wire};

/// One entry of the log and of the store. The workload's attributes are joined at read, so that a
/// name that comes late reaches entries that were written before it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// 12 bytes: [`EventId`].
    #[prost(bytes = "vec", tag = "1")]
    pub raw_id: Vec<u8>,
    /// The collector that reported; the OTel instrumentation scope's name.
    #[prost(string, tag = "2")]
    pub collector: String,
    /// [`WorkloadKey`]; absent: the node.
    #[prost(fixed64, optional, tag = "3")]
    pub raw_workload: Option<u64>,
    /// Events have one; spans of an incident's close or of a capture may stand alone.
    #[prost(message, optional, tag = "4")]
    pub log: Option<LogRecord>,
    #[prost(message, repeated, tag = "5")]
    pub spans: Vec<Span>,
    /// OTLP `ProfilesData`, encoded, for entries of captures: all profiles of the entry, with one dictionary.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub profile: Option<Vec<u8>>,
    /// [`StackKey`]s under which names of its stacks may still come, joined at read.
    #[prost(fixed64, repeated, packed = "false", tag = "7")]
    pub raw_late: Vec<u64>,
}

/// An entry in the form that is logged and stored, written part by part; it is read as [`Entry`].
#[derive(Debug, Clone)]
pub struct EntryBuf {
    pub id: EventId,
    pub workload: Option<WorkloadKey>,
    /// Under which names of its stacks may still come.
    pub late: Vec<StackKey>,
    bytes: Vec<u8>,
}

impl EntryBuf {
    /// An entry that holds nothing yet.
    #[must_use]
    pub fn new(id: EventId, collector: &str, workload: Option<WorkloadKey>) -> Self {
        // Room for an event with a stack: to grow would cost more than the memory, which is soon freed.
        let mut bytes = Vec::with_capacity(1536);
        wire::bytes(&mut bytes, 1, &id.0);
        wire::bytes(&mut bytes, 2, collector.as_bytes());
        if let Some(k) = workload {
            wire::fixed64(&mut bytes, 3, k.0);
        }
        EntryBuf { id, workload, late: Vec::new(), bytes }
    }

    /// The event's log record, of the incident and span in `span`.
    pub fn log(&mut self, e: &Event, span: Option<(TraceId, SpanId)>) {
        otlp::write_log_record(&mut self.bytes, 4, e, Timestamp(self.id.time_ns()), span);
        for key in e.user_stack.late().into_iter().chain(e.late_stacks.iter().copied()) {
            wire::fixed64(&mut self.bytes, 7, key.0);
            self.late.push(key);
        }
    }

    pub fn span(&mut self, span: &Span) {
        wire::message(&mut self.bytes, 5, span);
    }

    /// OTLP `ProfilesData`, encoded.
    pub fn profile(&mut self, profile: &[u8]) {
        wire::bytes(&mut self.bytes, 6, profile);
    }

    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// As it will be read.
    #[cfg(test)]
    pub(crate) fn entry(&self) -> Entry {
        Entry::decode(self.encoded()).unwrap()
    }
}

#[cfg(test)]
impl From<Entry> for EntryBuf {
    fn from(e: Entry) -> Self {
        let late = e.raw_late.iter().copied().map(StackKey).collect();
        EntryBuf { id: e.id(), workload: e.workload(), late, bytes: e.encode_to_vec() }
    }
}

impl Entry {
    /// An entry that holds nothing yet.
    #[must_use]
    pub fn new(id: EventId, collector: &str, workload: Option<WorkloadKey>) -> Self {
        Entry {
            raw_id: id.0.to_vec(),
            collector: collector.to_owned(),
            raw_workload: workload.map(|k| k.0),
            ..Entry::default()
        }
    }

    #[must_use]
    pub fn id(&self) -> EventId {
        EventId(padded(&self.raw_id))
    }

    #[must_use]
    pub fn workload(&self) -> Option<WorkloadKey> {
        self.raw_workload.map(WorkloadKey)
    }

    /// The incident that it belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        let of_log = self.log.as_ref().map(|l| l.trace_id.as_slice()).filter(|t| !t.is_empty());
        let raw = of_log.or_else(|| self.spans.first().map(|s| s.trace_id.as_slice()))?;
        raw.try_into().ok().map(TraceId)
    }
}

/// What is known of a workload, as exporters and readers join it to its entries: its resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceAttrs {
    /// [`WorkloadKey`]; zero for the node.
    #[prost(fixed64, tag = "1")]
    pub raw_key: u64,
    /// OTel resource attributes.
    #[prost(message, repeated, tag = "2")]
    pub attributes: Vec<KeyValue>,
    /// The shortest name a human would use.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Names may still come.
    #[prost(bool, tag = "4")]
    pub pending: bool,
}

impl ResourceAttrs {
    #[must_use]
    pub fn key(&self) -> WorkloadKey {
        WorkloadKey(self.raw_key)
    }

    /// Whether a human's `--container` means this one: its name, a prefix of its id (from 4
    /// digits), its pod's or unit's name, its cgroup.
    #[must_use]
    pub fn is_called(&self, wanted: &str) -> bool {
        let names = [
            attr::CONTAINER_NAME,
            attr::K8S_POD_NAME,
            attr::K8S_CONTAINER_NAME,
            attr::LINUX_SYSTEMD_UNIT,
            attr::LINUX_CGROUP_PATH,
        ];
        let id = otlp::text(&self.attributes, attr::CONTAINER_ID.name);
        self.name == wanted
            || names.iter().any(|k| otlp::text(&self.attributes, k.name) == Some(wanted))
            || (wanted.len() >= 4 && id.is_some_and(|id| id.starts_with(wanted)))
    }
}

impl From<&Workload> for ResourceAttrs {
    fn from(w: &Workload) -> Self {
        ResourceAttrs {
            raw_key: w.key.0,
            attributes: otlp::key_values(&w.resource()),
            name: w.display_name().to_owned(),
            pending: w.pending,
        }
    }
}

/// An incident as the store lists it: what its root span will say, kept while it is still open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IncidentRecord {
    /// 16 bytes: [`TraceId`], the incident's id.
    #[prost(bytes = "vec", tag = "1")]
    pub raw_trace: Vec<u8>,
    /// Id of the event that opened it.
    #[prost(bytes = "vec", tag = "2")]
    pub raw_opening: Vec<u8>,
    /// Id of its last entry so far.
    #[prost(bytes = "vec", tag = "3")]
    pub raw_last: Vec<u8>,
    /// Collector and event name of the opening event.
    #[prost(string, tag = "4")]
    pub collector: String,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(string, tag = "6")]
    pub message: String,
    /// The highest OTel severity number of its events.
    #[prost(int32, tag = "7")]
    pub severity: i32,
    /// [`WorkloadKey`]; absent: the node.
    #[prost(fixed64, optional, tag = "8")]
    pub raw_workload: Option<u64>,
    /// Onset, in nanoseconds since the epoch.
    #[prost(fixed64, tag = "9")]
    pub start: u64,
    /// End of the last thing that belongs to it.
    #[prost(fixed64, tag = "10")]
    pub end: u64,
    /// Empty while it is open.
    #[prost(string, tag = "11")]
    pub end_reason: String,
    #[prost(uint64, tag = "12")]
    pub events: u64,
    #[prost(uint64, tag = "13")]
    pub captures: u64,
    /// Spans sent, the root not counted, and those of events among them.
    #[prost(uint32, tag = "14")]
    pub spans: u32,
    #[prost(uint32, tag = "15")]
    pub event_spans: u32,
    /// Events, other children and links that were over their limits.
    #[prost(uint64, tag = "16")]
    pub uncounted_events: u64,
    #[prost(uint64, tag = "17")]
    pub uncounted_spans: u64,
    #[prost(uint64, tag = "18")]
    pub uncounted_links: u64,
    #[prost(message, repeated, tag = "19")]
    pub links: Vec<SpanLink>,
    /// Captures that are under way.
    #[prost(uint32, tag = "20")]
    pub under_way: u32,
}

/// A span in another trace.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SpanLink {
    #[prost(bytes = "vec", tag = "1")]
    pub trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span: Vec<u8>,
}

impl IncidentRecord {
    #[must_use]
    pub fn trace(&self) -> TraceId {
        TraceId(padded(&self.raw_trace))
    }

    #[must_use]
    pub fn opening(&self) -> EventId {
        EventId(padded(&self.raw_opening))
    }

    #[must_use]
    pub fn last(&self) -> EventId {
        EventId(padded(&self.raw_last))
    }

    #[must_use]
    pub fn root_span(&self) -> SpanId {
        span_id(self.trace(), &self.raw_trace)
    }

    #[must_use]
    pub fn workload(&self) -> Option<WorkloadKey> {
        self.raw_workload.map(WorkloadKey)
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.end_reason.is_empty()
    }
}

fn padded<const N: usize>(raw: &[u8]) -> [u8; N] {
    let mut b = [0; N];
    let n = raw.len().min(N);
    b[..n].copy_from_slice(&raw[..n]);
    b
}
