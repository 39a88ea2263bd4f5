// SPDX-License-Identifier: Apache-2.0

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::*;
use crate::signal::Value;
use crate::signal::ids::{EventId, SpanId, TraceId};
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
    assert_eq!((&row["related"][0]["span_id"], &row["related"][0]["duration_ns"]), (&"03".repeat(8).into(), &2.into()));
    assert_eq!(row["start"], "2023-11-14T22:13:20.000000000Z");
    assert_eq!(row.get("evidence"), None);
}

/// The documented form of a capture: every kind of evidence by its type, and the spans that it links to.
#[test]
fn evidence_golden() {
    let tree = incident_tree(&IncidentRecord::default(), None, [(&crate::signal::testing::entry(), None)], &[]);
    let row = &tree["entries"][0];
    let pieces = row["evidence"].as_array().unwrap().iter().chain([&row["links"]]);
    let lines: Vec<String> = pieces.map(Json::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
{"type":"profile","name":"cpu","unit":"count","total":7,"period":10101010,"period_unit":"nanoseconds","lost":3,"stacks":[{"frames":["main","leaf"],"kernel":0,"value":5},{"frames":["main","other"],"kernel":0,"value":2}]}
{"type":"profile","name":"off_cpu","unit":"nanoseconds","total":1500000000,"lost":3,"stacks":[{"frames":["main","futex_wait"],"kernel":0,"value":1500000000}]}
{"type":"table","name":"files","columns":[{"name":"path","type":"text","unit":""},{"name":"read","type":"int","unit":"By"},{"name":"wait","type":"double","unit":"s"},{"name":"reads","type":"int","unit":"{read}"}],"rows":[{"path":"/data/a","read":3145728,"wait":0.0015,"reads":1200},{"path":"/data/b","read":512,"reads":1}]}
{"type":"series","name":"pressure","unit":"1","points":[{"time":"2023-11-14T22:13:20.000000000Z","value":0.0},{"time":"2023-11-14T22:13:21.000000000Z","value":0.5},{"time":"2023-11-14T22:13:22.000000000Z","value":1.0}]}
[{"trace_id":"03030303030303030303030303030303","span_id":"0404040404040404","attributes":{"http.route":"/orders"}}]
"#);
    assert_eq!(row["attributes"], serde_json::json!({}));
}

/// Links of an event are a field of it, whether it has a span or not.
#[test]
fn links_of_an_event() {
    let mut e = entry();
    let mut links = crate::signal::Links::default();
    let attributes = Attributes::new();
    links.add(crate::signal::Link { trace: TraceId([3; 16]), span: SpanId([4; 8]), attributes });
    e.log.as_mut().unwrap().attributes.push(key_value("linux.span.links", &links.value()));
    let json = event(&e, None, &[]);
    let want = serde_json::json!([{ "trace_id": "03".repeat(16), "span_id": "04".repeat(8) }]);
    assert_eq!((&json["links"], json["attributes"].get("linux.span.links")), (&want, None));
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
    i.under_way = 2;
    assert_eq!(incident(&i, None, &[])["captures_under_way"], 2);
    i.under_way = 0;
    i.end_reason = "quiet".into();
    insta::assert_snapshot!(incident(&i, None, &[]).to_string(), @r#"{"id":"abababababababababababababababab","time":"2023-11-14T22:13:20.000000001Z","end":"2023-11-14T22:13:50.000000000Z","state":"closed","end_reason":"quiet","collector":"oom","name":"linux.memory.oom_kill","severity":"ERROR","message":"killed app","events":2,"captures":1,"resource":{}}"#);
}
