// SPDX-License-Identifier: Apache-2.0
//! The one JSON form of events and incidents (CLI, HTTP, server-sent events).

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::profiles::v1development::ProfilesData;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Map, Value as Json};

use super::entry::{Entry, IncidentRecord, ResourceAttrs};
use super::semconv::attr;
use super::{Attributes, Timestamp, otlp, profile};

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
    let own = [attr::LINUX_DURATION.name, attr::LINUX_STACK_KERNEL.name, attr::LINUX_STACK_USER.name];
    let rest = attributes.iter().filter(|a| !own.contains(&a.key.as_str()));
    o.insert("attributes".into(), object(rest));
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
    o.insert("resource".into(), resource(workload, node));
    Json::Object(o)
}

/// An incident with everything that belongs to it, for its tree: what [`incident`] says, and under
/// `entries` each of its entries in the order of ingest, as [`event`] has it, with `start` and
/// `parent_span_id`, its other spans under `related`, and a capture's stacks under `profile`
/// (`frames`, outermost first, of which the last `kernel` are the kernel's, and `count`).
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
        o["parent_span_id"] = hex(&first.parent_span_id).into();
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
        let row =
            |s: profile::Folded<'_>| serde_json::json!({ "frames": s.frames, "kernel": s.kernel, "count": s.count });
        o["profile"] = profile::folded(&data).into_iter().map(row).collect();
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
        o.insert(key.into(), hex(bytes).into());
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        // Writing to a string cannot fail.
        let _ = write!(s, "{b:02x}");
        s
    })
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
        Some(Value::BytesValue(b)) => hex(b).into(),
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
mod tests {
    use opentelemetry_proto::tonic::logs::v1::LogRecord;

    use super::*;
    use crate::signal::Value;
    use crate::signal::ids::EventId;
    use crate::signal::otlp::key_value;

    fn entry() -> Entry {
        let mut e = Entry::new(EventId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), "oom", None);
        e.log = Some(LogRecord {
            time_unix_nano: 1_700_000_000_000_000_001,
            severity_number: 17,
            severity_text: "ERROR".into(),
            event_name: "linux.memory.oom_kill".into(),
            body: Some(otlp::any_value(&Value::from("killed app"))),
            attributes: vec![
                key_value("linux.duration", &Value::Int(1_500)),
                key_value("small", &Value::Int(1 << 53)),
                key_value("big", &Value::Int((1 << 53) + 1)),
                key_value("negative", &Value::Int(i64::MIN)),
                key_value("nan", &Value::Double(f64::NAN)),
                key_value("ratio", &Value::Double(0.5)),
                key_value("table", &Value::Array(vec![Value::Map(vec![("pid".into(), Value::Int(3))])])),
                key_value("linux.stack.kernel", &Value::from("oom_kill_process+0x1\nout_of_memory+0x2")),
            ],
            trace_id: vec![0xab; 16],
            span_id: vec![0xcd; 8],
            ..LogRecord::default()
        });
        e
    }

    fn workload() -> ResourceAttrs {
        ResourceAttrs {
            raw_key: 5,
            attributes: vec![
                key_value("container.name", &Value::from("shop")),
                key_value("service.name", &Value::from("shop")),
            ],
            name: "shop".into(),
            pending: false,
        }
    }

    /// The documented form of an event, field by field.
    #[test]
    fn event_golden() {
        let node = [key_value("host.name", &Value::from("n1")), key_value("service.name", &Value::from("bianque"))];
        insta::assert_snapshot!(serde_json::to_string_pretty(&event(&entry(), Some(&workload()), &node)).unwrap(), @r#"{
  "time": "2023-11-14T22:13:20.000000001Z",
  "id": "0102030405060708090a0b0c",
  "collector": "oom",
  "name": "linux.memory.oom_kill",
  "severity": "ERROR",
  "message": "killed app",
  "duration_ns": 1500,
  "trace_id": "abababababababababababababababab",
  "span_id": "cdcdcdcdcdcdcdcd",
  "resource": {
    "host.name": "n1",
    "container.name": "shop",
    "service.name": "shop"
  },
  "attributes": {
    "small": 9007199254740992,
    "big": "9007199254740993",
    "negative": "-9223372036854775808",
    "nan": "NaN",
    "ratio": 0.5,
    "table": [
      {
        "pid": 3
      }
    ]
  },
  "stacks": {
    "kernel": [
      "oom_kill_process+0x1",
      "out_of_memory+0x2"
    ]
  }
}"#);
    }

    /// An event of the node outside any incident has no ids of a trace that does not exist.
    #[test]
    fn event_without_incident() {
        let mut e = entry();
        if let Some(log) = &mut e.log {
            log.trace_id.clear();
            log.span_id.clear();
            log.attributes.clear();
        }
        insta::assert_snapshot!(event(&e, None, &[]).to_string(), @r#"{"time":"2023-11-14T22:13:20.000000001Z","id":"0102030405060708090a0b0c","collector":"oom","name":"linux.memory.oom_kill","severity":"ERROR","message":"killed app","resource":{},"attributes":{}}"#);
    }

    /// A tree holds the incident, its entries, the spans beside the first and a capture's stacks.
    #[test]
    fn tree() {
        let mut e = entry();
        let span = |id, parent| Span {
            span_id: vec![id; 8],
            parent_span_id: vec![parent; 8],
            name: "cpu_profile".into(),
            start_time_unix_nano: 1_700_000_000_000_000_000,
            end_time_unix_nano: 1_700_000_000_000_000_002,
            ..Span::default()
        };
        e.spans = vec![span(2, 1), span(3, 2)];
        let record = IncidentRecord { raw_trace: vec![0xab; 16], ..IncidentRecord::default() };
        let tree = incident_tree(&record, None, [(&e, Some(&workload()))], &[]);
        let row = &tree["entries"][0];
        assert_eq!(tree["id"], "ab".repeat(16));
        assert_eq!((&row["name"], &row["parent_span_id"]), (&"linux.memory.oom_kill".into(), &"01".repeat(8).into()));
        assert_eq!(
            (&row["related"][0]["span_id"], &row["related"][0]["duration_ns"]),
            (&"03".repeat(8).into(), &2.into())
        );
        assert_eq!(row["start"], "2023-11-14T22:13:20.000000000Z");
        assert_eq!(row["profile"], Json::Null);
    }

    /// The documented form of incidents, open and closed.
    #[test]
    fn incident_golden() {
        let mut i = IncidentRecord {
            raw_trace: vec![0xab; 16],
            collector: "oom".into(),
            name: "linux.memory.oom_kill".into(),
            message: "killed app".into(),
            severity: 17,
            start: 1_700_000_000_000_000_001,
            end: 1_700_000_030_000_000_000,
            events: 2,
            captures: 1,
            ..IncidentRecord::default()
        };
        insta::assert_snapshot!(incident(&i, Some(&workload()), &[]).to_string(), @r#"{"id":"abababababababababababababababab","time":"2023-11-14T22:13:20.000000001Z","state":"open","collector":"oom","name":"linux.memory.oom_kill","severity":"ERROR","message":"killed app","events":2,"captures":1,"resource":{"container.name":"shop","service.name":"shop"}}"#);
        i.end_reason = "quiet".into();
        insta::assert_snapshot!(incident(&i, None, &[]).to_string(), @r#"{"id":"abababababababababababababababab","time":"2023-11-14T22:13:20.000000001Z","end":"2023-11-14T22:13:50.000000000Z","state":"closed","end_reason":"quiet","collector":"oom","name":"linux.memory.oom_kill","severity":"ERROR","message":"killed app","events":2,"captures":1,"resource":{}}"#);
    }
}
