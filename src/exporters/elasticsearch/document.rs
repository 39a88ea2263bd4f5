// SPDX-License-Identifier: Apache-2.0
//! Entries of the log as documents, in the layout of the OpenTelemetry Collector's `elasticsearch`
//! exporter in its mapping mode `otel`, each with an id that it has forever.
//!
//! Events of spans are left out: an exception's is the log record, a capture's top stacks are the
//! profile, and both have documents of their own.

use std::collections::HashMap;
use std::ops::Range;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::profiles::v1development::ProfilesData;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;

use super::json::{self, Object};
use crate::exporters::node::{Node, Resources};
use crate::signal::entry::Entry;
use crate::signal::semconv::SCHEMA_URL;
use crate::signal::{ProfileKind, RawEntry, WorkloadKey, profile};

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Logs,
    Traces,
    Profiles,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Logs, Kind::Traces, Kind::Profiles];

    /// The data stream's type, and the signal in self-metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Logs => "logs",
            Kind::Traces => "traces",
            Kind::Profiles => "profiles",
        }
    }

    /// The data stream's data set.
    #[must_use]
    pub fn dataset(self) -> &'static str {
        match self {
            Kind::Logs => "bianque.events",
            Kind::Traces => "bianque.incidents",
            Kind::Profiles => "bianque.captures",
        }
    }
}

/// The data stream of one kind: its name, and what each of its documents says of it.
struct Stream {
    name: String,
    fields: Vec<u8>,
}

/// The data streams of one namespace.
pub struct Streams([Stream; 3]);

impl Streams {
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Streams(Kind::ALL.map(|kind| {
            let mut fields = Vec::new();
            let mut o = Object::begin(&mut fields);
            o.text("type", kind.name());
            o.text("dataset", kind.dataset());
            o.text("namespace", namespace);
            o.end();
            Stream { name: format!("{}-{}-{namespace}", kind.name(), kind.dataset()), fields }
        }))
    }

    fn of(&self, kind: Kind) -> &Stream {
        match kind {
            Kind::Logs => &self.0[0],
            Kind::Traces => &self.0[1],
            Kind::Profiles => &self.0[2],
        }
    }
}

/// One document: its action line and its source line in the buffer.
#[derive(Debug, Clone)]
pub struct Document {
    pub kind: Kind,
    /// Which of the batch's entries it is of.
    pub entry: usize,
    lines: Range<usize>,
}

/// The documents of a batch, as lines of a bulk request.
pub struct Documents {
    buffer: Vec<u8>,
    pub all: Vec<Document>,
    /// Entries that could not be read.
    pub damaged: u64,
}

impl Documents {
    #[must_use]
    pub fn of(entries: &[RawEntry], known: &Resources, node: &Node, streams: &Streams) -> Documents {
        let mut w = Writer { out: Vec::with_capacity(entries.len() * 2048), all: Vec::new(), streams, entry: 0 };
        let (mut resources, mut damaged) = (HashMap::new(), 0);
        for (i, entry) in entries.iter().enumerate() {
            w.entry = i;
            let key = entry.workload();
            let resource = resources.entry(key).or_insert_with(|| resource(key, known, node));
            match entry.decode() {
                Ok(entry) => w.entry(&entry, resource),
                Err(_damaged) => damaged += 1,
            }
        }
        Documents { buffer: w.out, all: w.all, damaged }
    }

    /// How many of these documents, from the first on, are at most `bytes`; at least one.
    #[must_use]
    pub fn fitting(&self, which: &[usize], bytes: usize) -> usize {
        let mut sum = 0;
        let fits = |d: &&usize| {
            sum += self.all[**d].lines.len();
            sum <= bytes
        };
        which.iter().take_while(fits).count().max(1)
    }

    /// The body of a bulk request for these documents.
    #[must_use]
    pub fn body(&self, which: &[usize]) -> Vec<u8> {
        let lines = |d: &usize| &self.buffer[self.all[*d].lines.clone()];
        let mut out = Vec::with_capacity(which.iter().map(|d| lines(d).len()).sum());
        which.iter().for_each(|d| out.extend_from_slice(lines(d)));
        out
    }
}

/// The field `resource`, written once for all entries of a workload.
fn resource(key: Option<WorkloadKey>, known: &Resources, node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    let mut o = Object::begin(&mut out);
    o.attributes("attributes", &node.resource_of(key, known));
    o.text("schema_url", SCHEMA_URL);
    o.end();
    out
}

struct Writer<'a> {
    out: Vec<u8>,
    all: Vec<Document>,
    streams: &'a Streams,
    entry: usize,
}

impl Writer<'_> {
    fn entry(&mut self, entry: &Entry, resource: &[u8]) {
        let scope = &entry.collector;
        if let Some(log) = &entry.log {
            let id = entry.id().0;
            self.document(Kind::Logs, &id, log.time_unix_nano, (resource, scope), |o| log_fields(o, log));
        }
        for s in &entry.spans {
            self.document(Kind::Traces, &s.span_id, s.start_time_unix_nano, (resource, scope), |o| span_fields(o, s));
        }
        // We have encoded it ourselves.
        if let Some(data) = entry.profile.as_ref().and_then(|p| ProfilesData::decode(p.as_slice()).ok()) {
            for p in profile::stored(&data) {
                let (id, time) = (&p.profile.profile_id, p.profile.time_unix_nano);
                self.document(Kind::Profiles, id, time, (resource, scope), |o| profile_fields(o, &p));
            }
        }
    }

    fn document(
        &mut self,
        kind: Kind,
        id: &[u8],
        time: u64,
        (resource, scope): (&[u8], &str),
        fields: impl FnOnce(&mut Object<'_>),
    ) {
        let stream = self.streams.of(kind);
        let start = self.out.len();
        let mut action = Object::begin(&mut self.out);
        let mut create = Object::begin(action.field("create"));
        create.text("_index", &stream.name);
        create.some_hex("_id", id);
        create.end();
        action.end();
        self.out.push(b'\n');
        let mut o = Object::begin(&mut self.out);
        o.time("@timestamp", time);
        o.raw("data_stream", &stream.fields);
        fields(&mut o);
        o.raw("resource", resource);
        let mut s = Object::begin(o.field("scope"));
        s.text("name", scope);
        s.text("version", env!("CARGO_PKG_VERSION"));
        s.end();
        o.end();
        self.out.push(b'\n');
        self.all.push(Document { kind, entry: self.entry, lines: start..self.out.len() });
    }
}

fn log_fields(o: &mut Object<'_>, log: &LogRecord) {
    o.time("observed_timestamp", log.observed_time_unix_nano);
    o.some_text("severity_text", &log.severity_text);
    o.number("severity_number", log.severity_number);
    o.some_hex("trace_id", &log.trace_id);
    o.some_hex("span_id", &log.span_id);
    o.some_text("event_name", &log.event_name);
    o.attributes("attributes", &log.attributes);
    o.some_number("dropped_attributes_count", log.dropped_attributes_count);
    let mut body = Object::begin(o.field("body"));
    json::value(body.field("text"), log.body.as_ref());
    body.end();
}

fn span_fields(o: &mut Object<'_>, s: &Span) {
    o.some_hex("trace_id", &s.trace_id);
    o.some_hex("span_id", &s.span_id);
    o.some_hex("parent_span_id", &s.parent_span_id);
    o.some_text("name", &s.name);
    o.text("kind", kind(s.kind()));
    o.number("duration", s.end_time_unix_nano.saturating_sub(s.start_time_unix_nano));
    o.attributes("attributes", &s.attributes);
    json::array(o.field("links"), &s.links, |out, link| {
        let mut l = Object::begin(out);
        l.some_hex("trace_id", &link.trace_id);
        l.some_hex("span_id", &link.span_id);
        if !link.attributes.is_empty() {
            l.attributes("attributes", &link.attributes);
        }
        l.end();
    });
    o.some_number("dropped_links_count", s.dropped_links_count);
    let mut status = Object::begin(o.field("status"));
    if let Some(st) = &s.status {
        status.some_text("message", &st.message);
        match st.code() {
            StatusCode::Error => status.text("code", "Error"),
            StatusCode::Ok => status.text("code", "Ok"),
            StatusCode::Unset => {}
        }
    }
    status.end();
}

fn kind(k: SpanKind) -> &'static str {
    match k {
        SpanKind::Unspecified => "Unspecified",
        SpanKind::Internal => "Internal",
        SpanKind::Server => "Server",
        SpanKind::Client => "Client",
        SpanKind::Producer => "Producer",
        SpanKind::Consumer => "Consumer",
    }
}

/// A profile has no layout in that mode. Ours can be searched by kind and function, and its stacks,
/// folded, are what flame graphs are drawn from. Samples are counted under the name that is theirs.
fn profile_fields(o: &mut Object<'_>, p: &profile::Stored<'_>) {
    o.some_hex("profile_id", &p.profile.profile_id);
    if let Some((trace, span)) = p.span() {
        o.some_hex("trace_id", trace);
        o.some_hex("span_id", span);
    }
    o.number("duration", p.profile.duration_nano);
    o.text("profile_kind", p.kind());
    o.text("unit", p.sample_type().1);
    o.number("period", p.profile.period);
    o.some_text("period_unit", p.period_type().1);
    let counted = p.sample_type().1 == ProfileKind::CPU.sample.unit;
    let (total, value) = if counted { ("samples", "count") } else { ("total", "value") };
    o.number(total, p.total());
    json::array(o.field("functions"), p.functions(), json::string);
    json::array(o.field("stacks"), &p.folded(), |out, s| {
        let mut one = Object::begin(out);
        one.number(value, s.value);
        one.text("stack", &s.frames.join(";"));
        one.end();
    });
}

#[cfg(test)]
mod tests;
