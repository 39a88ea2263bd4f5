// SPDX-License-Identifier: Apache-2.0

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, Sum, metric, number_data_point};

use super::*;
use crate::signal::Event;
use crate::signal::ids::TraceId;
use crate::signal::semconv::{Key, attr};
use crate::signal::{Attributes, EventDef, MetricDef, Metrics, Panel, Severity, Timestamp, Value, WorkloadKind};

const fn def(name: &'static str, instrument: Instrument, unit: &'static str) -> MetricDef {
    MetricDef { name, instrument, unit, help: "help", attributes: &[], panel: Panel::None }
}
static COUNTER: MetricDef = def("a.counter", Instrument::Counter, "s");
static GAUGE: MetricDef = def("b.gauge", Instrument::Gauge, "By");
static LEVEL: MetricDef = def("c.level", Instrument::UpDownCounter, "1");
static DELAY: MetricDef = def("d.delay", Instrument::Histogram, "s");
const KEY: Key = Key::new("k", "");
static SEEN: EventDef = EventDef {
    name: "e.seen",
    summary: "",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[],
    counter: &COUNTER,
    container_counter: None,
};

fn workload(key: u64) -> Arc<Workload> {
    Arc::new(Workload {
        container_name: Some(format!("c{key}")),
        ..Workload::new(WorkloadKey(key), WorkloadKind::Container, format!("/c{key}"))
    })
}

fn node() -> Node {
    let mut a = Attributes::new();
    a.set(attr::HOST_NAME, "n1");
    Node::new(&a)
}

fn read(state: &MetricState) -> Vec<ResourceMetrics> {
    let all = requests(&state.read(), &node());
    all.into_iter().flat_map(|(b, _)| ExportMetricsServiceRequest::decode(b).unwrap().resource_metrics).collect()
}

fn attribute<'a>(r: &'a ResourceMetrics, key: &str) -> Option<&'a str> {
    otlp::text(&r.resource.as_ref().unwrap().attributes, key)
}

/// What was made through the OpenTelemetry API goes with the agent's resource and its own scope, and a request is
/// closed when it is full.
#[test]
fn metrics_of_the_api_go_as_all_others() {
    let metric = |name: &str, text: usize| Metric {
        name: name.into(),
        description: "x".repeat(text),
        data: Some(Data::Sum(Sum { data_points: vec![NumberDataPoint::default(); 3], ..Sum::default() })),
        ..Metric::default()
    };
    let scope = ScopeMetrics {
        scope: Some(InstrumentationScope { name: "acme".into(), ..InstrumentationScope::default() }),
        metrics: vec![metric("a", FULL), metric("b", 1), metric("c", 1)],
        ..ScopeMetrics::default()
    };
    let all = requests_of(vec![scope], &node());
    assert_eq!(all.iter().map(|(_, points)| *points).collect::<Vec<_>>(), [3, 6]);
    for ((body, _), names) in all.into_iter().zip([&["a"][..], &["b", "c"]]) {
        let r = ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics.remove(0);
        assert_eq!((attribute(&r, "host.name"), r.schema_url.as_str()), (Some("n1"), SCHEMA_URL));
        assert_eq!(r.scope_metrics[0].scope.as_ref().unwrap().name, "acme");
        assert_eq!(r.scope_metrics[0].metrics.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), names);
    }
    assert_eq!(requests_of(Vec::new(), &node()), []);
}

/// Each instrument becomes its OTLP kind, with temporality, start, time and attributes.
#[test]
fn instruments_become_their_kinds() {
    let state = MetricState::new(100, Timestamp(1_000));
    let mut m = Metrics::default();
    m.value(&COUNTER, None, &[(KEY, "x".into())], 1.5);
    m.count(&GAUGE, None, &[], 7);
    m.value(&LEVEL, None, &[], -2.0);
    let h = Histogram { zero_count: 2, offset: -3, counts: vec![1, 0, 5], sum: Some(1.25) };
    m.histogram(&DELAY, None, &[], h);
    state.update("cpu", &mut m, Timestamp(2_000));
    let all = read(&state);
    assert_eq!((all.len(), attribute(&all[0], "host.name")), (1, Some("n1")));
    let scope = &all[0].scope_metrics[0];
    assert_eq!(scope.scope.as_ref().unwrap().name, "cpu");
    let [counter, gauge, level, delay] = scope.metrics.as_slice() else { panic!("{:?}", scope.metrics) };
    let Some(metric::Data::Sum(sum)) = &counter.data else { panic!("{counter:?}") };
    assert_eq!(
        (counter.name.as_str(), counter.unit.as_str(), counter.description.as_str()),
        ("a.counter", "s", "help")
    );
    assert_eq!((sum.is_monotonic, sum.aggregation_temporality), (true, 2));
    let p = &sum.data_points[0];
    assert_eq!((p.start_time_unix_nano, p.time_unix_nano), (1_000, 2_000));
    assert_eq!(p.value, Some(number_data_point::Value::AsDouble(1.5)));
    assert_eq!(p.attributes, vec![otlp::key_value("k", &Value::from("x"))]);
    let Some(metric::Data::Gauge(g)) = &gauge.data else { panic!("{gauge:?}") };
    assert_eq!(g.data_points[0].value, Some(number_data_point::Value::AsInt(7)));
    assert_eq!(g.data_points[0].start_time_unix_nano, 0);
    let Some(metric::Data::Sum(sum)) = &level.data else { panic!("{level:?}") };
    assert_eq!((sum.is_monotonic, sum.aggregation_temporality), (false, 2));
    let p = &sum.data_points[0];
    assert_eq!((p.start_time_unix_nano, p.time_unix_nano), (1_000, 2_000));
    assert_eq!(p.value, Some(number_data_point::Value::AsDouble(-2.0)));
    let Some(metric::Data::ExponentialHistogram(e)) = &delay.data else { panic!("{delay:?}") };
    let p = &e.data_points[0];
    assert_eq!((p.scale, p.count, p.zero_count, p.sum), (0, 8, 2, Some(1.25)));
    let positive = p.positive.as_ref().unwrap();
    assert_eq!((positive.offset, positive.bucket_counts.as_slice()), (-3, &[1, 0, 5][..]));
    assert_eq!(p.zero_threshold, 1.0 / 1_048_576.0);
}

/// What may fall does; a counter whose source began anew goes on from what it had, with the same start.
#[test]
fn only_what_counts_never_falls() {
    let state = MetricState::new(100, Timestamp(1));
    for (value, at) in [(9.0, 2), (4.0, 3)] {
        let mut m = Metrics::default();
        m.value(&COUNTER, None, &[], value);
        m.value(&LEVEL, None, &[], value);
        state.update("cpu", &mut m, Timestamp(at));
    }
    let all = read(&state);
    let starts = all[0].scope_metrics[0].metrics.iter().map(|m| {
        let Some(metric::Data::Sum(sum)) = &m.data else { panic!("{m:?}") };
        (m.name.as_str(), sum.data_points[0].start_time_unix_nano, sum.data_points[0].value)
    });
    let double = |v| Some(number_data_point::Value::AsDouble(v));
    assert_eq!(starts.collect::<Vec<_>>(), [("a.counter", 1, double(13.0)), ("c.level", 1, double(4.0))]);
}

/// Each workload's series are filed under its own resource, those of one metric together.
#[test]
fn workloads_have_their_own_resources() {
    let state = MetricState::new(100, Timestamp(1));
    let mut m = Metrics::default();
    let (a, b) = (workload(1), workload(2));
    for mode in ["user", "system"] {
        for w in [Some(&b), None, Some(&a)] {
            m.value(&COUNTER, w, &[(KEY, mode.into())], 1.0);
        }
    }
    state.update("cpu", &mut m, Timestamp(2));
    let all = read(&state);
    let names: Vec<_> = all.iter().map(|r| attribute(r, "container.name")).collect();
    assert_eq!(names, [None, Some("c1"), Some("c2")]);
    for r in &all {
        assert_eq!(r.scope_metrics[0].metrics.len(), 1);
        let Some(metric::Data::Sum(sum)) = &r.scope_metrics[0].metrics[0].data else { panic!() };
        assert_eq!(sum.data_points.len(), 2);
    }
}

/// An exemplar names the incident's trace and its root span.
#[test]
fn exemplars_lead_to_incidents() {
    let state = MetricState::new(100, Timestamp(1));
    let trace = TraceId([9; 16]);
    state.count_event(&Event::new(&SEEN, Timestamp(2), None, String::new()), Some(trace));
    let all = read(&state);
    let Some(metric::Data::Sum(sum)) = &all[0].scope_metrics[0].metrics[0].data else { panic!() };
    let e = &sum.data_points[0].exemplars[0];
    assert_eq!((e.trace_id.as_slice(), e.time_unix_nano), (&trace.0[..], 2));
    assert_eq!(e.span_id, ids::span_id(trace, &trace.0).0);
}

/// Many series become several requests, each below what servers take, with no point lost or doubled.
#[test]
fn many_series_become_several_requests() {
    let state = MetricState::new(50_000, Timestamp(1));
    let mut m = Metrics::default();
    for w in 0..200 {
        let w = workload(w);
        for i in 0..100u32 {
            m.value(&COUNTER, Some(&w), &[(KEY, format!("{i:0>100}").into())], 1.0);
        }
    }
    state.update("cpu", &mut m, Timestamp(2));
    let all = requests(&state.read(), &node());
    assert!(all.len() > 1 && all.iter().all(|(b, _)| b.len() < 4 << 20));
    assert_eq!(all.iter().map(|(_, n)| n).sum::<u64>(), 20_000);
    assert_eq!(read(&state).len(), 200);
}

/// Without series there is nothing to send.
#[test]
fn nothing_makes_no_request() {
    assert!(requests(&MetricState::new(1, Timestamp(1)).read(), &node()).is_empty());
}
