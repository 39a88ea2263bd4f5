// SPDX-License-Identifier: Apache-2.0
//! The one JSON form of events and incidents (CLI, HTTP, server-sent events).

mod evidence;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::profiles::v1development::ProfilesData;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Map, Value as Json};

use super::entry::{Entry, IncidentRecord, ResourceAttrs};
use super::hex::Hex;
use super::semconv::attr;
use super::{Attributes, Key, Timestamp, otlp, profile};

/// Attributes that have a field of their own.
const OWN: [Key; 5] = [
    attr::LINUX_DURATION,
    attr::LINUX_STACK_KERNEL,
    attr::LINUX_STACK_USER,
    attr::LINUX_SPAN_LINKS,
    attr::LINUX_CAPTURE_EVIDENCE,
];

/// Beyond this, JSON's readers lose digits.
const EXACT: u64 = 1 << 53;

/// An event, or a capture, as one JSON object. `node`: the resource attributes of the node.
#[must_use]
pub fn event(e: &Entry, workload: Option<&ResourceAttrs>, node: &[KeyValue]) -> Json {
    let mut o = Map::new();
    let (time, attributes) = match (&e.log, e.spans.first()) {
        (Some(log), _) => (log.time_unix_nano, log.attributes.as_slice()),
        (None, Some(span)) => (span.end_time_unix_nano, span.attributes.as_slice()),
        (None, None) => (e.id().time_ns(), &[][..]),
    };
    o.insert("time".into(), Timestamp(time).rfc3339().into());
    o.insert("id".into(), e.id().to_string().into());
    o.insert("collector".into(), e.collector.clone().into());
    match (&e.log, e.spans.first()) {
        (Some(log), _) => {
            o.insert("name".into(), log.event_name.clone().into());
            o.insert("severity".into(), log.severity_text.clone().into());
            let message = log.body.as_ref().map_or(Json::Null, any);
            o.insert("message".into(), message);
            if let Some(d) = otlp::int(&log.attributes, attr::LINUX_DURATION.name) {
                o.insert("duration_ns".into(), int(d));
            }
            insert_hex(&mut o, "trace_id", &log.trace_id);
            insert_hex(&mut o, "span_id", &log.span_id);
        }
        (None, Some(span)) => insert_span(&mut o, span),
        (None, None) => {}
    }
    o.insert("resource".into(), resource(workload, node));
    let rest = attributes.iter().filter(|a| !OWN.iter().any(|own| own.name == a.key));
    o.insert("attributes".into(), object(rest));
    let links = evidence::links(attributes, e.spans.first().filter(|_| e.log.is_none()));
    if !links.is_empty() {
        o.insert("links".into(), links.into());
    }
    let pieces = evidence::tables_and_series(attributes);
    if !pieces.is_empty() {
        o.insert("evidence".into(), pieces.into());
    }
    let mut stacks = Map::new();
    for (key, name) in [("kernel", attr::LINUX_STACK_KERNEL.name), ("user", attr::LINUX_STACK_USER.name)] {
        if let Some(lines) = otlp::text(attributes, name) {
            stacks.insert(key.into(), lines.lines().collect());
        }
    }
    if !stacks.is_empty() {
        o.insert("stacks".into(), Json::Object(stacks));
    }
    Json::Object(o)
}

/// An incident as one JSON object.
#[must_use]
pub fn incident(i: &IncidentRecord, workload: Option<&ResourceAttrs>, node: &[KeyValue]) -> Json {
    let mut o = Map::new();
    o.insert("id".into(), i.trace().to_string().into());
    o.insert("time".into(), Timestamp(i.start).rfc3339().into());
    if i.is_open() {
        o.insert("state".into(), "open".into());
    } else {
        o.insert("end".into(), Timestamp(i.end).rfc3339().into());
        o.insert("state".into(), "closed".into());
        o.insert("end_reason".into(), i.end_reason.clone().into());
    }
    o.insert("collector".into(), i.collector.clone().into());
    o.insert("name".into(), i.name.clone().into());
    o.insert("severity".into(), severity_name(i.severity).into());
    o.insert("message".into(), i.message.clone().into());
    o.insert("events".into(), i.events.into());
    o.insert("captures".into(), i.captures.into());
    if i.under_way > 0 {
        o.insert("captures_under_way".into(), i.under_way.into());
    }
    o.insert("resource".into(), resource(workload, node));
    Json::Object(o)
}

/// An incident with everything that belongs to it, for its tree: what [`incident`] says, and under
/// `entries` each of its entries in the order of ingest, as [`event`] has it, with `start` and
/// `parent_span_id`, its other spans under `related`, and its profiles in front of its other `evidence`.
pub fn incident_tree<'a>(
    i: &IncidentRecord,
    workload: Option<&ResourceAttrs>,
    entries: impl IntoIterator<Item = (&'a Entry, Option<&'a ResourceAttrs>)>,
    node: &[KeyValue],
) -> Json {
    let mut tree = incident(i, workload, node);
    let entries: Vec<Json> = entries.into_iter().map(|(e, w)| tree_entry(e, w, node)).collect();
    tree["entries"] = entries.into();
    tree
}

fn tree_entry(e: &Entry, workload: Option<&ResourceAttrs>, node: &[KeyValue]) -> Json {
    let mut o = event(e, workload, node);
    let Some((first, related)) = e.spans.split_first() else { return o };
    o["start"] = Timestamp(first.start_time_unix_nano).rfc3339().into();
    if !first.parent_span_id.is_empty() {
        o["parent_span_id"] = Hex(&first.parent_span_id).to_string().into();
    }
    if !related.is_empty() {
        let row = |s: &Span| {
            let mut row = Map::new();
            insert_span(&mut row, s);
            row.insert("start".into(), Timestamp(s.start_time_unix_nano).rfc3339().into());
            row.insert("attributes".into(), object(s.attributes.iter()));
            Json::Object(row)
        };
        o["related"] = related.iter().map(row).collect();
    }
    // A profile that cannot be read is as good as none: the capture's tables still are.
    if let Some(data) = e.profile.as_deref().and_then(|p| ProfilesData::decode(p).ok()) {
        let mut pieces: Vec<Json> = profile::stored(&data).map(|p| evidence::of_profile(&p)).collect();
        if let Some(Json::Array(others)) = o.get_mut("evidence") {
            pieces.append(others);
        }
        o["evidence"] = pieces.into();
    }
    o
}

fn insert_span(o: &mut Map<String, Json>, span: &Span) {
    o.insert("name".into(), span.name.clone().into());
    let ns = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    o.insert("duration_ns".into(), uint(ns));
    insert_hex(o, "trace_id", &span.trace_id);
    insert_hex(o, "span_id", &span.span_id);
}

fn severity_name(number: i32) -> &'static str {
    match number {
        ..=4 => "TRACE",
        5..=8 => "DEBUG",
        9..=12 => "INFO",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        _ => "FATAL",
    }
}

fn insert_hex(o: &mut Map<String, Json>, key: &str, bytes: &[u8]) {
    if !bytes.is_empty() {
        o.insert(key.into(), Hex(bytes).to_string().into());
    }
}

/// The node's attributes; of a workload, those that hold for it too, overwritten by its own.
fn resource(workload: Option<&ResourceAttrs>, node: &[KeyValue]) -> Json {
    let Some(workload) = workload else { return object(node.iter()) };
    object(node.iter().filter(|a| otlp::is_of_node(&a.key)).chain(&workload.attributes))
}

/// Attributes as one JSON object.
#[must_use]
pub fn attributes(a: &Attributes) -> Json {
    object(otlp::key_values(a).iter())
}

/// OTLP attributes as one JSON object.
pub fn object<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Json {
    let cells = attributes.map(|a| (a.key.clone(), a.value.as_ref().map_or(Json::Null, any)));
    Json::Object(cells.collect())
}

fn any(v: &AnyValue) -> Json {
    use any_value::Value;
    match &v.value {
        None => Json::Null,
        Some(Value::StringValue(s)) => s.clone().into(),
        Some(Value::BoolValue(b)) => (*b).into(),
        Some(Value::IntValue(i)) => int(*i),
        // JSON has no NaN and no infinity.
        Some(Value::DoubleValue(d)) => {
            serde_json::Number::from_f64(*d).map_or_else(|| d.to_string().into(), Json::from)
        }
        Some(Value::ArrayValue(a)) => a.values.iter().map(any).collect(),
        Some(Value::KvlistValue(l)) => object(l.values.iter()),
        Some(Value::BytesValue(b)) => Hex(b).to_string().into(),
        Some(Value::StringValueStrindex(i)) => (*i).into(),
    }
}

/// An integer; beyond 2^53 as text.
#[must_use]
pub fn int(i: i64) -> Json {
    if i.unsigned_abs() > EXACT { i.to_string().into() } else { i.into() }
}

/// As [`int`].
#[must_use]
pub fn uint(i: u64) -> Json {
    if i > EXACT { i.to_string().into() } else { i.into() }
}

#[cfg(test)]
mod tests;
