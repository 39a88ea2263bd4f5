// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::signal::ids::EventId;
use crate::signal::semconv::attr;
use crate::signal::{Attributes, otlp};
use opentelemetry_proto::tonic::trace::v1::{Status, span};
use serde_json::{Value as Json, json};

fn node() -> Node {
    let mut a = Attributes::new();
    a.set(attr::HOST_NAME, "n1").set(attr::SERVICE_NAME, "bianque");
    Node::new(&a)
}

fn raw(e: &Entry) -> RawEntry {
    RawEntry::new(e.id(), e.encode_to_vec().into()).unwrap()
}

fn lines(entries: &[Entry]) -> Vec<(Json, Json)> {
    let entries: Vec<_> = entries.iter().map(raw).collect();
    let documents = Documents::of(&entries, &Resources::new(), &node(), &Streams::new("default"));
    let all: Vec<usize> = (0..documents.all.len()).collect();
    let text = String::from_utf8(documents.body(&all)).unwrap();
    let json: Vec<Json> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    json.chunks(2).map(|c| (c[0].clone(), c[1].clone())).collect()
}

fn event(id: u8) -> Entry {
    let mut e = Entry::new(EventId([id; 12]), "oom", None);
    e.log = Some(LogRecord {
        time_unix_nano: 1_700_000_000_123_456_789,
        observed_time_unix_nano: 1_700_000_001_000_000_000,
        severity_number: 17,
        severity_text: "ERROR".into(),
        body: Some(otlp::any_value(&"killed \"x\"".into())),
        attributes: vec![otlp::key_value("process.pid", &7.into())],
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        event_name: "linux.memory.oom_kill".into(),
        ..LogRecord::default()
    });
    e
}

/// An event is a document of the logs' stream under its own id, in the layout of the Collector's
/// `otel` mode.
#[test]
fn event_is_a_log_document() {
    let all = lines(&[event(9)]);
    let (action, document) = &all[0];
    assert_eq!(action["create"], json!({"_index": "logs-bianque.events-default", "_id": "09".repeat(12)}));
    let expected = json!({
        "@timestamp": "2023-11-14T22:13:20.123456789Z",
        "data_stream": {"type": "logs", "dataset": "bianque.events", "namespace": "default"},
        "observed_timestamp": "2023-11-14T22:13:21.000000000Z",
        "severity_text": "ERROR", "severity_number": 17,
        "trace_id": "01".repeat(16), "span_id": "02".repeat(8),
        "event_name": "linux.memory.oom_kill",
        "attributes": {"process.pid": 7},
        "body": {"text": "killed \"x\""},
        "resource": {"attributes": {"host.name": "n1", "service.name": "bianque"}, "schema_url": SCHEMA_URL},
        "scope": {"name": "oom", "version": env!("CARGO_PKG_VERSION")},
    });
    assert_eq!(*document, expected);
}

/// A span keeps its ids, times, status and links; its events are documents of their own.
#[test]
fn span_is_a_trace_document() {
    let mut e = Entry::new(EventId([1; 12]), "oom", None);
    e.spans = vec![Span {
        trace_id: vec![1; 16],
        span_id: vec![3; 8],
        name: "linux.memory.oom_kill".into(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_001_500,
        status: Some(Status { message: "it hurts".into(), code: StatusCode::Error as i32 }),
        links: vec![span::Link { trace_id: vec![4; 16], span_id: vec![5; 8], ..span::Link::default() }],
        events: vec![span::Event { name: "exception".into(), ..span::Event::default() }],
        ..Span::default()
    }];
    let all = lines(&[e]);
    assert_eq!(all.len(), 1);
    let (action, document) = &all[0];
    assert_eq!(action["create"], json!({"_index": "traces-bianque.incidents-default", "_id": "03".repeat(8)}));
    for (field, expected) in [
        ("duration", json!(1500)),
        ("kind", json!("Internal")),
        ("status", json!({"code": "Error", "message": "it hurts"})),
        ("links", json!([{"trace_id": "04".repeat(16), "span_id": "05".repeat(8)}])),
        ("@timestamp", json!("2023-11-14T22:13:20.000000000Z")),
        ("parent_span_id", Json::Null),
    ] {
        assert_eq!(document[field], expected, "{field}");
    }
}

/// A capture is a span with its tables, series and links as they are, and a document for each profile
/// that points at the span, with its kind, unit, stacks and functions.
#[test]
fn a_capture_is_documents() {
    let all = lines(&[crate::signal::testing::entry()]);
    let profiles: Vec<_> =
        all.iter().filter(|(a, _)| a["create"]["_index"] == "profiles-bianque.captures-default").collect();
    let (action, cpu) = &profiles[0];
    assert_eq!(action["create"]["_id"], json!("09".repeat(16)));
    assert_eq!((&cpu["trace_id"], &cpu["span_id"]), (&json!("01".repeat(16)), &json!("02".repeat(8))));
    assert_eq!(cpu["functions"], json!(["leaf", "main", "other"]));
    let stacks = json!([{"count": 5, "stack": "main;leaf"}, {"count": 2, "stack": "main;other"}]);
    assert_eq!((&cpu["stacks"], &cpu["samples"], &cpu["profile_kind"]), (&stacks, &json!(7), &json!("cpu")));
    assert_eq!((&cpu["duration"], &cpu["period_unit"]), (&json!(2_000_000_000), &json!("nanoseconds")));
    let (action, off) = &profiles[1];
    assert_eq!(action["create"]["_id"], json!(format!("{}0a", "09".repeat(15))));
    assert_eq!(off["stacks"], json!([{"value": 1_500_000_000, "stack": "main;futex_wait"}]));
    assert_eq!(
        (&off["total"], &off["unit"], &off["profile_kind"]),
        (&json!(1_500_000_000), &json!("nanoseconds"), &json!("off_cpu"))
    );
    assert_eq!((off.get("samples"), &off["functions"]), (None, &json!(["futex_wait", "main"])));

    let span = &all.iter().find(|(a, _)| a["create"]["_index"] == "traces-bianque.incidents-default").unwrap().1;
    let pieces = &span["attributes"]["linux.capture.evidence"];
    assert_eq!(pieces[0]["columns"][1], json!({"name": "read", "type": "int", "unit": "By"}));
    assert_eq!(pieces[0]["rows"][1], json!({"path": "/data/b", "read": 512, "reads": 1}));
    assert_eq!((&pieces[1]["unit"], &pieces[1]["values"]), (&json!("1"), &json!([0.0, 0.5, 1.0])));
    let link =
        json!([{"trace_id": "03".repeat(16), "span_id": "04".repeat(8), "attributes": {"http.route": "/orders"}}]);
    assert_eq!(span["links"], link);
}

/// A request holds the documents that fit, at least one, each as it is.
#[test]
fn requests_hold_what_fits() {
    let entries: Vec<_> = (0..3).map(|i| raw(&event(i))).collect();
    let d = Documents::of(&entries, &Resources::new(), &node(), &Streams::new("default"));
    let one = d.body(&[0]).len();
    assert_eq!(d.fitting(&[0, 1, 2], 10), 1);
    assert_eq!(d.fitting(&[0, 1, 2], 2 * one), 2);
    assert_eq!(d.fitting(&[0, 1, 2], usize::MAX), 3);
    assert_eq!(d.body(&[2, 0]), [d.body(&[2]), d.body(&[0])].concat());
}
