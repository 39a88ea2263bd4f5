// SPDX-License-Identifier: Apache-2.0
//! The whole way: what happens in a container, read back from the real servers.
//!
//! The same on every kernel.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::elastic::{Elasticsearch, apm};
use crate::servers::{Backend, eventually};
use crate::support::{Agent, Container, Need, bianque, busy_program, is_about, place, timeout, wait_for};
use bianque::exporters::otlp::Protocol;

const GREEDY: &[&str] = &["sh", "-c", "sleep 2; head -c 200m /dev/zero | tail -c 200m >/dev/null"];

/// An OOM kill and a busy container: each is one trace with the same ids in the store, in the
/// Collector's output and in Jaeger, under the container's name; of a quiet container nothing came.
#[tokio::test(flavor = "multi_thread")]
async fn incidents_reach_collector_and_jaeger() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler, Need::Servers);
    let backend = Backend::with_jaeger();
    let endpoint = backend.settings(Protocol::Grpc).endpoint.unwrap();
    let mut agent =
        Agent::prepare("[incident]\nquiet = \"3s\"\n[collectors.cpuidle]\nwindow = \"3s\"\ncapture = \"2s\"\n");
    agent.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    agent.run();
    agent.wait_ready();

    let (_program, dir) = busy_program("churn_the_numbers");
    let volume = format!("{}:/work:ro", dir.path().display());
    let quiet = Container::start("quiet", &["--memory", "64m"], &["sleep", "3600"]);
    let busy = Container::start("busy", &["--cpus", "0.3", "--volume", &volume], &["/work/busy"]);
    let greedy = Container::start("greedy", &["--memory", "48m"], GREEDY);

    for (container, name) in [(&greedy, "linux.memory.oom_kill"), (&busy, "linux.autotracing.cpuidle")] {
        let event = agent.wait_event(name, timeout(40), |e| is_about(e, "container.name", &container.name));
        let (trace, span) = (event["trace_id"].as_str().unwrap(), event["span_id"].as_str().unwrap());
        let log = backend.record("logs", "the log record", |r| r.text("spanId") == span).await;
        assert_eq!(log.text("traceId"), trace);
        assert_eq!(log.text("eventName"), name);
        assert_eq!(log.resource("container.name").as_deref(), Some(container.name.as_str()));
        assert_eq!(log.resource("container.id").as_deref(), Some(container.id.as_str()));
        backend.record("traces", "the event's span", |r| r.text("spanId") == span).await;
        let seen = backend.trace(trace).await;
        let spans: BTreeSet<_> = seen["spans"].as_array().unwrap().iter().map(|s| s["spanID"].as_str()).collect();
        assert!(spans.contains(&Some(span)), "{seen}");
        let services: Vec<_> = seen["processes"].as_object().unwrap().values().map(|p| &p["serviceName"]).collect();
        assert_eq!(services, [&json!(container.name)]);
    }
    // Both come over OTLP and by scrape, the node's and the container's.
    let of_container = |name: &str| {
        let fits = |r: &crate::servers::Record| {
            r.text("name") == name && r.resource("container.name").as_deref() == Some(greedy.name.as_str())
        };
        backend.received("metrics").iter().any(fits).then_some(())
    };
    wait_for("the kills of the container over OTLP", timeout(20), || of_container("linux.container.memory.oom_kills"));
    for signal in ["logs", "traces"] {
        let of_quiet = |r: &crate::servers::Record| r.resource("container.name").as_deref() == Some(&quiet.name);
        assert!(!backend.received(signal).iter().any(of_quiet), "{signal} of a container that did nothing");
    }
    assert!(fs::metadata(agent.store()).is_ok());
}

/// One container that spins and is then killed in: both are one incident, with the same ids in the
/// store and in every server.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_ids_are_in_every_server() {
    const GATEWAY_TO_APM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/to-apm.yaml");
    const ELASTICSEARCH: &str = "BIANQUE_EXPORTERS__ELASTICSEARCH__URL";
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler, Need::Servers, Need::EveryServer);
    let (es, run) = (Elasticsearch::start(), tempfile::tempdir().unwrap());
    let apm = apm(&es, run.path());
    let backend = Backend::before_jaeger_and_tempo(&[
        ("COLLECTOR_OVERLAY", GATEWAY_TO_APM),
        ("APM_OTLP_GRPC", &apm.at["APM_OTLP_GRPC"]),
    ]);
    let made = bianque().args(["setup", "elasticsearch", "--yes"]).env(ELASTICSEARCH, es.url()).status().unwrap();
    assert!(made.success());
    let mut agent =
        Agent::prepare("[incident]\nquiet = \"60s\"\n[collectors.cpuidle]\nwindow = \"3s\"\ncapture = \"2s\"\n");
    let endpoint = backend.settings(Protocol::Grpc).endpoint.unwrap();
    agent.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    agent.env(ELASTICSEARCH, es.url());
    agent.run();
    agent.wait_ready();

    let (_program, dir) = busy_program("churn_the_numbers");
    let volume = format!("{}:/work:ro", dir.path().display());
    let ill = "/work/busy & sleep 12; head -c 200m /dev/zero | tail -c 200m >/dev/null; wait";
    let container =
        Container::start("ill", &["--cpus", "0.3", "--memory", "48m", "--volume", &volume], &["sh", "-c", ill]);
    let mut traces = BTreeSet::new();
    for name in ["linux.autotracing.cpuidle", "linux.memory.oom_kill"] {
        let event = agent.wait_event(name, timeout(60), |e| is_about(e, "container.name", &container.name));
        let of = |key: &str| event[key].as_str().unwrap().to_owned();
        let (id, trace, span) = (of("id"), of("trace_id"), of("span_id"));
        let log = backend.record("logs", "the Collector's log record", |r| r.text("spanId") == span).await;
        assert_eq!((log.text("traceId"), log.text("eventName")), (trace.as_str(), name));
        assert_eq!(log.resource("container.id").as_deref(), Some(container.id.as_str()));
        let there = |spans: BTreeSet<String>| spans.contains(&span).then_some(());
        eventually("the span in Jaeger", || there(backend.spans_in_jaeger(&trace))).await;
        eventually("the span in Tempo", || there(backend.spans_in_tempo(&trace))).await;
        // The document of the event's span under this name; an exception of the span is another.
        let found = |streams: &str, key: &str| {
            let mut all = es.documents(streams).into_iter();
            all.find(|(_, d)| d["span_id"] == span.as_str() && d["trace_id"] == trace.as_str() && d[key] == name)
                .map(|(document, _)| document)
        };
        let at = "the event in Elasticsearch";
        assert_eq!(eventually(at, || found("logs-bianque.events-default", "event_name")).await, id);
        let at = "the span in Elasticsearch";
        assert_eq!(eventually(at, || found("traces-bianque.incidents-default", "name")).await, span);
        eventually("the event in APM", || found("logs-generic.otel-default", "event_name")).await;
        eventually("the span in APM", || found("traces-generic.otel-default", "name")).await;
        traces.insert(trace);
    }
    assert_eq!(traces.len(), 1, "they are one incident");
}
