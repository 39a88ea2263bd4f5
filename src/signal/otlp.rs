// SPDX-License-Identifier: Apache-2.0
//! Attributes and events in the form of OTLP.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, span};

pub use super::key_value::{any_value, int, key_value, key_values, text};

use super::ids::{SpanId, TraceId};
use super::semconv::{EXCEPTION, attr};
use super::{Event, Key, Severity, Thread, Timestamp, Trigger, Value, wire};

/// Whether an attribute of the node's resource also holds for what runs on it: what tells the node
/// from others, in the style of `host.*`. The rest describes the agent: its service, its own pod.
#[must_use]
pub fn is_of_node(key: &str) -> bool {
    ["host.", "os.", "cloud.", "k8s.node.", "k8s.cluster.", "deployment."].iter().any(|p| key.starts_with(p))
}

/// The trigger as the event that it also is: lasting from its onset to its detection.
#[must_use]
pub fn trigger_event(t: &Trigger) -> Event {
    let mut e = Event::new(t.def, t.detected, t.workload.clone(), t.message.clone());
    e.severity = t.severity;
    e.duration = Some(t.detected.since(t.onset));
    e.attributes = t.attributes.clone();
    e.links = t.links.clone();
    e
}

/// Writes an event's log record as `field`. `span`: the incident's trace and the span that stands for
/// the event, or the root where there are too many. Straight into the wire form: building the messages
/// first was a third of an event's way to the store.
pub fn write_log_record(
    out: &mut Vec<u8>,
    field: u32,
    e: &Event,
    observed: Timestamp,
    span: Option<(TraceId, SpanId)>,
) {
    // Field numbers of `LogRecord`, opentelemetry-proto logs.proto.
    wire::nested(out, field, |out| {
        wire::fixed64(out, 1, e.time.0);
        wire::uint(out, 2, e.severity as u64);
        wire::bytes(out, 3, e.severity.name().as_bytes());
        wire::nested(out, 5, |out| wire::bytes(out, 1, e.message.as_bytes()));
        write_attributes(out, 6, e);
        if let Some((trace, span)) = span {
            wire::bytes(out, 9, &trace.0);
            wire::bytes(out, 10, &span.0);
        }
        wire::fixed64(out, 11, observed.0);
        wire::bytes(out, 12, e.def.name.as_bytes());
    });
}

fn write_attributes(out: &mut Vec<u8>, field: u32, e: &Event) {
    wire::attributes(out, field, &e.attributes);
    for (key, value) in e.thread.iter().flat_map(thread_attributes) {
        // What the collector set itself is more exact than the thread's fields.
        if e.attributes.get(key.name).is_none() {
            wire::attribute(out, field, key.name, &value);
        }
    }
    if let Some(d) = e.duration {
        let ns = Value::from(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        wire::attribute(out, field, attr::LINUX_DURATION.name, &ns);
    }
    let stacks = [
        (attr::LINUX_STACK_KERNEL, attr::LINUX_STACK_KERNEL_ID, &e.kernel_stack),
        (attr::LINUX_STACK_USER, attr::LINUX_STACK_USER_ID, &e.user_stack),
    ];
    for (text, key, stack) in stacks {
        let Some(id) = stack.id() else { continue };
        wire::text_attribute(out, field, text.name, stack.text());
        wire::text_attribute(out, field, key.name, &id.to_string());
    }
    if e.suppressed > 0 {
        wire::attribute(out, field, attr::LINUX_SUPPRESSED.name, &Value::from(e.suppressed));
    }
    if !e.links.is_empty() {
        wire::attribute(out, field, attr::LINUX_SPAN_LINKS.name, &e.links.value());
    }
    if e.links.dropped() > 0 {
        wire::attribute(out, field, attr::LINUX_SPAN_LINKS_DROPPED.name, &Value::from(e.links.dropped()));
    }
}

/// Where a span hangs.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub trace: TraceId,
    pub span: SpanId,
    /// `None`: it is the root.
    pub parent: Option<SpanId>,
}

/// A span from `start` to `end`; never one that ends before it starts.
#[must_use]
pub fn span_at(place: Place, name: &str, start: Timestamp, end: Timestamp, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: place.trace.0.to_vec(),
        span_id: place.span.0.to_vec(),
        parent_span_id: place.parent.map(|p| p.0.to_vec()).unwrap_or_default(),
        name: name.to_owned(),
        kind: span::SpanKind::Internal as i32,
        start_time_unix_nano: start.0,
        end_time_unix_nano: end.0.max(start.0),
        attributes,
        ..Span::default()
    }
}

/// The span of an event, `[time - duration, time]`. The log record holds the details, so the span
/// carries only what helps to read the trace.
#[must_use]
pub fn event_span(e: &Event, collector: &str, place: Place) -> Span {
    let mut attributes = vec![key_value(attr::LINUX_COLLECTOR.name, &Value::Str(collector.to_owned().into()))];
    attributes.extend(e.attributes.iter().filter(|(_, v)| is_scalar(v)).map(|(k, v)| key_value(k, v)));
    if let Some(t) = &e.thread {
        push_thread(&mut attributes, t);
    }
    let start = e.duration.map_or(e.time, |d| e.time.minus(d));
    let mut s = span_at(place, e.def.name, start, e.time, attributes);
    s.status = status(e.severity, &e.message);
    s.events = exception(e).into_iter().collect();
    e.links.put_on(&mut s);
    s
}

/// An error as the exception that it is to whom it happened: back ends list errors by this event of a
/// span (semantic conventions, "Exceptions"), Elastic APM by nothing else.
fn exception(e: &Event) -> Option<span::Event> {
    if e.severity < Severity::Error {
        return None;
    }
    let mut attributes = vec![
        key_value(attr::EXCEPTION_TYPE.name, &Value::Str(e.def.name.into())),
        key_value(attr::EXCEPTION_MESSAGE.name, &Value::Str(e.message.clone().into())),
    ];
    let stacks = [e.kernel_stack.text(), e.user_stack.text()];
    push_stack(&mut attributes, attr::EXCEPTION_STACKTRACE.name, stacks.join("\n").trim_matches('\n'));
    Some(span::Event { time_unix_nano: e.time.0, name: EXCEPTION.to_owned(), attributes, ..span::Event::default() })
}

/// Spans of errors are marked as such; a warning is none.
#[must_use]
pub fn status(severity: Severity, message: &str) -> Option<opentelemetry_proto::tonic::trace::v1::Status> {
    use opentelemetry_proto::tonic::trace::v1::{Status, status::StatusCode};
    (severity >= Severity::Error).then(|| Status { message: message.to_owned(), code: StatusCode::Error as i32 })
}

fn is_scalar(v: &Value) -> bool {
    !matches!(v, Value::Array(_) | Value::Map(_))
}

fn thread_attributes(t: &Thread) -> [(Key, Value); 3] {
    [
        (attr::PROCESS_PID, Value::from(t.pid)),
        (attr::THREAD_ID, Value::from(t.tid)),
        (attr::THREAD_NAME, Value::Str(t.comm.clone().into())),
    ]
}

/// Adds the thread under OTel's names, where the collector did not say it better itself.
pub fn push_thread(attributes: &mut Vec<KeyValue>, t: &Thread) {
    for (key, v) in thread_attributes(t) {
        if !attributes.iter().any(|a| a.key == key.name) {
            attributes.push(key_value(key.name, &v));
        }
    }
}

/// A stack's text, unless it is empty.
pub fn push_stack(attributes: &mut Vec<KeyValue>, name: &str, text: &str) {
    if !text.is_empty() {
        attributes.push(key_value(name, &Value::Str(text.to_owned().into())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
    use prost::Message;

    use opentelemetry_proto::tonic::common::v1::any_value;

    use super::*;
    use crate::signal::Attributes;
    use crate::signal::key_value::find;
    use crate::signal::{EventDef, Frame, MetricDef, Panel};

    /// What was written, as any reader of OTLP sees it.
    fn log_record(e: &Event, span: Option<(TraceId, SpanId)>) -> LogRecord {
        let mut out = Vec::new();
        write_log_record(&mut out, 2, e, Timestamp(9_000), span);
        ScopeLogs::decode(out.as_slice()).unwrap().log_records.remove(0)
    }

    static METRIC: MetricDef = MetricDef::counter("linux.test", "{event}", "").shown_as(Panel::None);
    static DEF: EventDef = EventDef {
        name: "linux.test.event",
        summary: "",
        severity: Severity::Error,
        worst: Severity::Error,
        attributes: &[],
        counter: &METRIC,
        container_counter: Some(&METRIC),
    };

    fn event() -> Event {
        let mut e = Event::new(&DEF, Timestamp(5_000), None, "it hurts".into());
        e.duration = Some(Duration::from_nanos(1_500));
        e.thread = Some(Thread { pid: 7, tid: 8, comm: "worker".into() });
        let frame = |symbol: &str, offset| Frame { symbol: Some(symbol.into()), offset, ..Frame::default() };
        e.kernel_stack = vec![frame("do_thing", 16), Frame { module: Some("mod".into()), ..frame("next", 32) }].into();
        e.suppressed = 3;
        e
    }

    /// Thread, duration, stacks and suppressed count reach the record under their OTel names.
    #[test]
    fn log_record_has_everything() {
        let trace = TraceId([1; 16]);
        let r = log_record(&event(), Some((trace, SpanId([2; 8]))));
        assert_eq!((r.time_unix_nano, r.observed_time_unix_nano), (5_000, 9_000));
        assert_eq!(r.body, Some(any_value(&Value::from("it hurts"))));
        assert_eq!(r.event_name, "linux.test.event");
        assert_eq!((r.severity_number, r.severity_text.as_str()), (17, "ERROR"));
        assert_eq!((r.trace_id, r.span_id), (vec![1; 16], vec![2; 8]));
        assert_eq!(int(&r.attributes, "process.pid"), Some(7));
        assert_eq!(int(&r.attributes, "thread.id"), Some(8));
        assert_eq!(text(&r.attributes, "thread.name"), Some("worker"));
        assert_eq!(int(&r.attributes, "linux.duration"), Some(1_500));
        assert_eq!(int(&r.attributes, "linux.suppressed"), Some(3));
        assert_eq!(text(&r.attributes, "linux.stack.kernel"), Some("do_thing+0x10\nnext+0x20 [mod]"));
        assert_eq!(text(&r.attributes, "linux.stack.kernel_id").map(str::len), Some(16));
        assert!(!r.attributes.iter().any(|a| a.key == "linux.stack.user"), "an empty stack is left out");
    }

    /// Links to spans of applications are links of the span and an attribute of the record, with what
    /// had no room.
    #[test]
    fn links_are_on_span_and_record() {
        let mut e = event();
        for n in 0..40 {
            let attributes = Attributes::new();
            e.links.add(crate::signal::Link { trace: TraceId([n; 16]), span: SpanId([n; 8]), attributes });
        }
        let place = Place { trace: TraceId([1; 16]), span: SpanId([2; 8]), parent: None };
        let s = event_span(&e, "test", place);
        assert_eq!((s.links.len(), s.dropped_links_count, &s.links[7].span_id), (32, 8, &vec![7; 8]));
        let r = log_record(&e, None);
        let Some(any_value::Value::ArrayValue(all)) = find(&r.attributes, "linux.span.links") else { panic!("{r:?}") };
        assert_eq!((all.values.len(), int(&r.attributes, "linux.span.links_dropped")), (32, Some(8)));
    }

    /// Without an incident there is no trace context, so nobody looks for a trace that does not exist.
    #[test]
    fn no_incident_no_trace() {
        let r = log_record(&event(), None);
        assert!(r.trace_id.is_empty() && r.span_id.is_empty());
    }

    /// A thread's attributes do not overwrite what the collector said.
    #[test]
    fn the_collectors_attributes_win() {
        let mut e = event();
        e.attributes.set(attr::PROCESS_PID, 99);
        let r = log_record(&e, None);
        let pids: Vec<_> = r.attributes.iter().filter(|a| a.key == "process.pid").collect();
        assert_eq!(pids.len(), 1);
        assert_eq!(int(&r.attributes, "process.pid"), Some(99));
    }

    /// An event's span covers what it lasted and is marked failed for errors.
    #[test]
    fn event_span_covers_its_duration() {
        let place = Place { trace: TraceId([1; 16]), span: SpanId([2; 8]), parent: Some(SpanId([3; 8])) };
        let s = event_span(&event(), "test", place);
        assert_eq!((s.start_time_unix_nano, s.end_time_unix_nano), (3_500, 5_000));
        assert_eq!(s.status.map(|s| s.code), Some(2));
    }

    /// An error is an exception of its span, with its stacks; a warning is none.
    #[test]
    fn errors_are_exceptions() {
        let place = Place { trace: TraceId([1; 16]), span: SpanId([2; 8]), parent: None };
        let mut e = event();
        e.user_stack = vec![Frame { symbol: Some("main".into()), ..Frame::default() }].into();
        let s = event_span(&e, "test", place);
        let x = &s.events[0];
        assert_eq!((x.name.as_str(), x.time_unix_nano), ("exception", 5_000));
        assert_eq!(text(&x.attributes, "exception.type"), Some("linux.test.event"));
        assert_eq!(text(&x.attributes, "exception.message"), Some("it hurts"));
        let stack = text(&x.attributes, "exception.stacktrace").unwrap();
        assert_eq!(stack.lines().count(), 3, "{stack}");
        e.severity = Severity::Warn;
        assert!(event_span(&e, "test", place).events.is_empty());
    }
}
