// SPDX-License-Identifier: Apache-2.0
//! The whole way: what happens in a container, read back from the real Collector and from Jaeger.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::servers::Backend;
use crate::support::{Agent, Container, Need, busy_program, is_about, patience, place, wait_for};
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
        let event = agent.wait_event(name, patience(40), |e| is_about(e, "container.name", &container.name));
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
    wait_for("the kills of the container over OTLP", patience(20), || of_container("linux.container.memory.oom_kills"));
    for signal in ["logs", "traces"] {
        let of_quiet = |r: &crate::servers::Record| r.resource("container.name").as_deref() == Some(&quiet.name);
        assert!(!backend.received(signal).iter().any(of_quiet), "{signal} of a container that did nothing");
    }
    assert!(fs::metadata(agent.store()).is_ok());
}
