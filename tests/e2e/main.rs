// SPDX-License-Identifier: Apache-2.0
//! What the agent sends, as it comes out of the real OpenTelemetry Collector, Jaeger and Tempo, with
//! the configuration in `otel-config/`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests start the servers, and may end so"
)]

mod agent;
#[path = "../otlp/counted.rs"]
mod counted;
mod elastic;
mod elasticsearch;
mod gateway;
mod helm;
mod profiles;
mod proxy;
mod servers;
mod traces;
mod weather;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, node, now, shop};
use bianque::exporters::otlp::{MetricDelivery, Node, Protocol, Signal, Transport};
use bianque::pipeline::metrics::{MetricState, SelfMetrics};
use bianque::signal::{Histogram, MetricDef, Metrics, Stage};
use bianque::telemetry::{Bounds, Options, Output, Telemetry};
use servers::{Backend, TLS, eventually};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];

/// An event comes out of the Collector as a log record and a span of one trace, with the container's
/// resource, the collector's scope and the schema; Jaeger shows the incident under the container's
/// service.
#[tokio::test(flavor = "multi_thread")]
async fn event_becomes_log_and_trace() {
    let backend = Backend::with_jaeger();
    for protocol in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path());
        agent.deliver(&backend.settings(protocol));
        let mark = format!("{protocol:?}");
        agent.kill(&mark);
        let log = backend.record("logs", "the log record", |r| r.attribute("test.mark").as_ref() == Some(&mark)).await;
        assert_eq!(log.text("eventName"), "linux.memory.oom_kill");
        assert_eq!(log.scope["name"], "oom");
        assert_eq!(log.scope["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(log.schema_url, bianque::signal::semconv::SCHEMA_URL);
        assert_eq!(log.resource("container.name").as_deref(), Some("shop"));
        assert_eq!(log.resource("service.name").as_deref(), Some("shop-api"));
        assert_eq!(log.resource("host.name").as_deref(), Some("node-1"));
        assert_eq!(log.resource("service.version"), None, "the agent's version is not the container's");
        let (trace, span) = (log.text("traceId").to_owned(), log.text("spanId").to_owned());
        let event = backend.record("traces", "the event's span", |r| r.text("spanId") == span).await;
        assert_eq!(event.text("traceId"), trace);
        assert_eq!(event.resource("container.name").as_deref(), Some("shop"));
        // The root comes when the incident is closed.
        let root = backend
            .record("traces", "the root span", |r| r.text("traceId") == trace && r.text("parentSpanId").is_empty())
            .await;
        assert_eq!(root.text("spanId"), event.text("parentSpanId"));
        let seen = backend.trace(&trace).await;
        let operations: BTreeSet<_> = seen["spans"].as_array().unwrap().iter().map(|s| s["spanID"].as_str()).collect();
        assert!(operations.contains(&Some(span.as_str())), "{seen}");
        let services: Vec<_> = seen["processes"].as_object().unwrap().values().map(|p| &p["serviceName"]).collect();
        assert_eq!(services, ["shop-api"]);
        agent.stop().await;
    }
}

/// A Collector that is away for a while, and an agent that is started anew, lose no event.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_collector_is_away() {
    let backend = Backend::collector();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver(&backend.settings(Protocol::Grpc));
    let marks: BTreeSet<String> = (0..300).map(|i| format!("m{i}")).collect();
    let (first, rest) = (marks.iter().take(100), marks.iter().skip(100));
    first.for_each(|m| agent.kill(m));
    backend.record("logs", "a first record", |r| r.attribute("test.mark").is_some()).await;
    backend.stop_collector();
    rest.for_each(|m| agent.kill(m));
    tokio::time::sleep(Duration::from_secs(1)).await;
    agent.stop().await;
    let mut agent = Agent::start(folder.path());
    agent.deliver(&backend.settings(Protocol::Grpc));
    backend.start_collector();
    let missing = || {
        let got: BTreeSet<_> = backend.received("logs").iter().filter_map(|r| r.attribute("test.mark")).collect();
        marks.difference(&got).cloned().collect::<Vec<_>>()
    };
    for _ in 0..300 {
        if missing().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(missing(), Vec::<String>::new());
    agent.stop().await;
}

static BUSY: MetricDef = MetricDef::counter("linux.container.test.busy", "s", "Time");
static DELAY: MetricDef = MetricDef::histogram("linux.test.delay", "s", "Delay");

/// Metrics, the agent's own among them, come out with their kinds, units and resources, and the Collector shows them to
/// Prometheus.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_through() {
    for protocol in BOTH {
        let backend = Backend::collector();
        let state = Arc::new(MetricState::new(2000, now()));
        let mut m = Metrics::default();
        m.value(&BUSY, Some(&shop()), &[], 1.5);
        m.histogram(&DELAY, None, &[], Histogram { zero_count: 1, offset: -10, counts: vec![4, 0, 2], sum: None });
        state.update("cpu", &mut m, now());
        let own = SelfMetrics::new(state.clone(), now);
        own.dropped(Stage::Exporter("store"), "retention", 4);
        let transport =
            Transport::new(&backend.settings(protocol).endpoint(Signal::Metrics).unwrap().unwrap()).unwrap();
        let interval = Duration::from_millis(300);
        let delivery = MetricDelivery::new(state, transport, Node::new(&node()), interval, own);
        let task = tokio::spawn(delivery.run(Box::pin(std::future::pending())));
        let busy = backend.record("metrics", "the sum", |r| r.text("name") == BUSY.name).await;
        assert_eq!((busy.resource("container.name").as_deref(), busy.text("unit")), (Some("shop"), "s"));
        assert_eq!((&busy.scope["name"], &busy.body["sum"]["isMonotonic"]), (&"cpu".into(), &true.into()));
        assert_eq!(busy.body["sum"]["dataPoints"][0]["asDouble"], 1.5);
        let delay = backend.record("metrics", "the histogram", |r| r.text("name") == DELAY.name).await;
        assert_eq!((delay.resource("host.name").as_deref(), delay.resource("container.name")), (Some("node-1"), None));
        let point = &delay.body["exponentialHistogram"]["dataPoints"][0];
        assert_eq!((&point["count"], &point["zeroCount"]), (&"7".into(), &"1".into()));
        assert_eq!(point["positive"]["offset"], -10);
        let dropped = backend.record("metrics", "a counter", |r| r.text("name") == "bianque.events.dropped").await;
        assert_eq!(dropped.body["sum"]["dataPoints"][0]["asInt"], "4");
        assert_eq!(
            (&dropped.scope["name"], dropped.resource("host.name").as_deref()),
            (&"bianque".into(), Some("node-1"))
        );
        let line = eventually("the sample in the Collector's text", || {
            let text = backend.scrape();
            text.lines().find(|l| l.starts_with("linux_container_test_busy_seconds_total{")).map(str::to_owned)
        })
        .await;
        assert!(line.contains("container_name=\"shop\"") && line.contains(" 1.5"), "{line}");
        task.abort();
    }
}

/// The agent's own logs and spans arrive, and nothing of what its export stack logs.
#[tokio::test(flavor = "multi_thread")]
async fn own_telemetry_comes_through_without_feeding_itself() {
    for protocol in BOTH {
        let backend = Backend::collector();
        let otlp = backend.settings(protocol);
        let instruments = Bounds { interval: Duration::from_millis(300), max_series: 10, declared: Vec::new() };
        let options = Options { resource: node(), otlp: &otlp, instruments };
        let telemetry = Telemetry::start(options).unwrap();
        let subscriber = telemetry.subscriber("trace", Output::Text).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!(target: "bianque::agent", "start").in_scope(|| {
                tracing::warn!(target: "bianque::agent", "careful");
                tracing::error!(target: "hyper_util::client", "a loop");
                tracing::error!(target: "opentelemetry_sdk", "a loop");
            });
        });
        tokio::task::spawn_blocking(move || telemetry.shutdown(Duration::from_secs(9))).await.unwrap();
        let log = backend.record("logs", "the log line", |r| r.body["body"]["stringValue"] == "careful").await;
        let span = backend.record("traces", "the span", |r| r.text("name") == "start").await;
        assert_eq!(log.resource("service.name").as_deref(), Some("bianque"));
        assert_eq!(log.text("traceId"), span.text("traceId"));
        let scopes: BTreeSet<_> = backend.received("logs").iter().map(|r| r.scope["name"].to_string()).collect();
        assert_eq!(scopes, ["\"bianque::agent\"".to_owned()].into(), "the export stack's logs went out");
    }
}

/// TLS is verified: with the right CA everything arrives, without it nothing is sent; a renewed file is
/// taken without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified() {
    let backend = Backend::behind_tls();
    for protocol in BOTH {
        let mut settings = backend.settings(protocol);
        settings.endpoint = settings.endpoint.map(|e| e.replace("http://", "https://"));
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path());
        let mark = format!("{protocol:?}");
        agent.kill(&mark);
        agent.deliver(&settings);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let got = |r: &servers::Record| r.attribute("test.mark").as_ref() == Some(&mark);
        assert!(!backend.received("logs").iter().any(got), "it was sent to a server that nobody vouches for");
        agent.stop().await;
        let mut agent = Agent::start(folder.path());
        // A file that is wrong at first is read again when it changes.
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap().cert.pem()).unwrap();
        settings.ca_file = Some(ca.clone());
        agent.deliver(&settings);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!backend.received("logs").iter().any(got), "it was sent to a server that another CA vouches for");
        std::fs::copy(format!("{TLS}/ca.pem"), &ca).unwrap();
        backend.record("logs", "the record over TLS", got).await;
        agent.stop().await;
    }
}
