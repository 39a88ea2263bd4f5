// SPDX-License-Identifier: Apache-2.0
//! How an incident reads in Jaeger and in Tempo, behind the gateway of `otel-config/`.

use std::sync::Arc;
use std::time::Duration;

use bianque::exporters::otlp::Protocol;
use bianque::pipeline::{NoObserver, incident};
use serde_json::Value;

use crate::agent::Agent;
use crate::servers::{Backend, Record, eventually};

/// A tag of a span as Jaeger has it.
fn tag(span: &Value, key: &str) -> Value {
    let tags = span["tags"].as_array().unwrap();
    tags.iter().find(|t| t["key"] == key).map_or(Value::Null, |t| t["value"].clone())
}

/// An incident with a kill and a capture: names, kinds, status, attributes, events and links are those
/// a human needs, under the workload's service, in both; and searches by pod, container and collector
/// find it.
#[tokio::test(flavor = "multi_thread")]
async fn incident_reads_well_in_jaeger_and_tempo() {
    let backend = Backend::with_jaeger_and_tempo();
    let folder = tempfile::tempdir().unwrap();
    let short = incident::Settings { quiet: Duration::from_secs(1), max_duration: Duration::from_secs(2) };
    let mut agent = Agent::with(folder.path(), short, Arc::new(NoObserver));
    agent.deliver(&backend.settings(Protocol::Grpc));
    agent.spin("first", true);
    agent.kill("first");
    let is = |name: &'static str| {
        move |r: &Record| r.text("eventName") == name && r.attribute("test.mark").as_deref() == Some("first")
    };
    let kill = backend.record("logs", "the kill", is("linux.memory.oom_kill")).await;
    let trace = kill.text("traceId").to_owned();
    backend.record("traces", "the root", |r| r.text("traceId") == trace && r.text("parentSpanId").is_empty()).await;
    in_tempo(&backend.trace_in_tempo(&trace, 4).await);
    in_jaeger(&backend.whole_trace(&trace, 4).await);
    let queries = [
        ("q", r#"{ resource.k8s.pod.name = "shop-7" }"#),
        ("q", r#"{ resource.container.name = "shop" && span.linux.collector = "oom" }"#),
        ("q", r#"{ instrumentation:name = "cpuidle" && name = "cpu_profile" }"#),
        ("q", r#"{ status = error && rootServiceName = "shop-api" }"#),
        ("tags", "k8s.pod.name=shop-7"),
        ("tags", "container.name=shop linux.collector=cpuidle"),
    ];
    for (parameter, query) in queries {
        let found = eventually(query, || {
            let mut traces = backend.search(parameter, query).into_iter();
            traces.find(|t| t["traceID"].as_str().is_some_and(|id| trace.ends_with(id)))
        })
        .await;
        assert_eq!(found["rootServiceName"], "shop-api");
        assert_eq!(found["rootTraceName"], "linux.autotracing.cpuidle");
    }
    assert!(backend.search("q", r#"{ resource.container.name = "other" }"#).is_empty());
    // It goes on after the first has lasted its time: the next one links to it.
    agent.kill("second");
    let linked =
        backend.record("traces", "a root that links back", |r| r.body["links"][0]["traceId"] == trace.as_str()).await;
    assert_eq!(linked.resource("service.name").as_deref(), Some("shop-api"));
    agent.stop().await;
}

fn in_tempo(spans: &[Record]) {
    let named = |name: &str, root: bool| {
        let is = |r: &&Record| r.text("name") == name && r.text("parentSpanId").is_empty() == root;
        spans.iter().find(is).ok_or_else(|| format!("no {name} in {spans:#?}")).unwrap()
    };
    let root = named("linux.autotracing.cpuidle", true);
    assert_eq!(root.attribute("linux.incident.end_reason").as_deref(), Some("max_duration"));
    assert_eq!(root.attribute("linux.incident.message").as_deref(), Some("uses 0.9 of 1 CPUs first"));
    assert_eq!(root.body["status"]["code"], "STATUS_CODE_ERROR", "a kill was among its events");
    let kill = named("linux.memory.oom_kill", false);
    assert_eq!((&kill.body["status"]["message"], &kill.scope["name"]), (&"killed first".into(), &"oom".into()));
    let capture = named("cpu_profile", false);
    let stack = &capture.body["events"][0];
    assert_eq!(stack["name"], "stack");
    assert!(stack.to_string().contains("churn"), "{stack}");
    for s in spans {
        assert_eq!(s.body["kind"], "SPAN_KIND_INTERNAL");
        assert_eq!(s.resource("service.name").as_deref(), Some("shop-api"));
        assert_eq!(s.resource("k8s.pod.name").as_deref(), Some("shop-7"));
        assert_eq!(s.resource("host.name").as_deref(), Some("node-1"));
        assert!(s.attribute("linux.collector").is_some());
    }
}

fn in_jaeger(trace: &Value) {
    let spans = trace["spans"].as_array().unwrap();
    let named = |name: &str, root: bool| {
        let is = |s: &&Value| s["operationName"] == name && s["references"].as_array().unwrap().is_empty() == root;
        spans.iter().find(is).ok_or_else(|| format!("no {name} in {trace:#}")).unwrap()
    };
    let root = named("linux.autotracing.cpuidle", true);
    assert_eq!((tag(root, "error"), tag(root, "linux.incident.state")), (true.into(), "closed".into()));
    let kill = named("linux.memory.oom_kill", false);
    assert_eq!((tag(kill, "error"), tag(kill, "otel.status_description")), (true.into(), "killed first".into()));
    assert_eq!((tag(kill, "span.kind"), tag(kill, "otel.scope.name")), ("internal".into(), "oom".into()));
    let capture = named("cpu_profile", false);
    assert!(tag(capture, "linux.profile.id").is_string());
    assert!(capture["logs"].to_string().contains("churn"), "{capture:#}");
    let processes: Vec<_> = trace["processes"].as_object().unwrap().values().collect();
    assert!(processes.iter().all(|p| p["serviceName"] == "shop-api"), "{processes:#?}");
}

/// Jaeger is down behind the gateway while incidents happen: nothing waits in the gateway's memory, so
/// all of them arrive once it is back, though the gateway too was started anew.
#[tokio::test(flavor = "multi_thread")]
async fn back_end_that_was_down_gets_everything() {
    let backend = Backend::with_jaeger_behind_gateway();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver(&backend.settings(Protocol::Grpc));
    backend.stop_jaeger();
    let mut traces = Vec::new();
    for mark in ["a", "b", "c"] {
        agent.kill(mark);
        let is = |r: &Record| r.attribute("test.mark").as_deref() == Some(mark);
        traces.push(backend.record("logs", "the kill", is).await.text("traceId").to_owned());
        // The next one opens an incident of its own.
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    backend.stop_collector();
    backend.start_collector();
    backend.start_jaeger();
    for trace in traces {
        let seen = backend.trace(&trace).await;
        assert_eq!(seen["processes"].as_object().unwrap().values().next().unwrap()["serviceName"], "shop-api");
    }
    agent.stop().await;
}
