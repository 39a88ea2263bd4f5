// SPDX-License-Identifier: Apache-2.0
//! Stacks of captures as OTLP profiles, through a Collector that takes them and one that does not.

use std::time::Duration;

use crate::counted::Counted;
use bianque::exporters::otlp::Protocol;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::servers::Backend;

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];

/// A capture's profile arrives with its workload, its stacks, and the trace and span of the capture.
#[tokio::test(flavor = "multi_thread")]
async fn capture_becomes_a_profile_of_its_span() {
    for protocol in BOTH {
        let backend = Backend::gateway(&["to-files", "profiles-to-files"], &[]);
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path());
        agent.deliver(&backend.settings(protocol));
        agent.spin("p", false);
        let event = backend
            .record("logs", "the onset's log record", |r| r.attribute("test.mark").as_deref() == Some("p"))
            .await;
        let span = backend.record("traces", "the capture's span", |r| r.text("name") == "cpu_profile").await;
        let profile = backend.record("profiles", "the profile", |_| true).await;
        assert_eq!(profile.resource("container.name").as_deref(), Some("shop"), "{profile:?}");
        assert_eq!(profile.resource("service.name").as_deref(), Some("shop-api"));
        assert_eq!(profile.scope["name"], "cpuidle");
        let sample = &profile.body["samples"][0];
        assert_eq!(sample["values"][0], "42", "{profile:?}");
        let link = &profile.dictionary["linkTable"][index(&sample["linkIndex"])];
        assert_eq!((&link["traceId"], &link["spanId"]), (&span.body["traceId"], &span.body["spanId"]));
        assert_eq!(link["traceId"], event.body["traceId"]);
        assert_eq!(span.attribute("linux.profile.id").as_deref(), profile.body["profileId"].as_str());
        let functions = profile.dictionary["functionTable"].as_array().unwrap();
        let names: Vec<_> =
            functions.iter().map(|f| &profile.dictionary["stringTable"][index(&f["nameStrindex"])]).collect();
        assert!(names.contains(&&"churn".into()), "{names:?}");
        agent.stop().await;
    }
}

fn index(v: &serde_json::Value) -> usize {
    usize::try_from(v.as_u64().unwrap_or(0)).unwrap()
}

/// A Collector that does not know profiles is asked once; what it does not get is counted, and holds
/// up neither logs nor traces nor the agent's end.
#[tokio::test(flavor = "multi_thread")]
async fn server_without_profiles_is_left_alone() {
    for protocol in BOTH {
        let backend = Backend::gateway(&["to-files"], &[]);
        let counted = Counted::default();
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path());
        agent.deliver_counted(&backend.settings(protocol), &counted.metrics());
        for mark in ["one", "two", "three"] {
            agent.spin(mark, false);
            backend.record("logs", "the log record", |r| r.attribute("test.mark").as_deref() == Some(mark)).await;
        }
        let count = |series: &str| counted.count(series);
        let end = Instant::now() + Duration::from_secs(20);
        let suppressed = "bianque_events_suppressed_total{exporter=\"otlp\",reason=\"unsupported\"}";
        while count(suppressed) < 3 {
            assert!(Instant::now() < end, "{} of 3 counted", count(suppressed));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let asked = "bianque_exporter_failures_total{exporter=\"otlp\",reason=\"unsupported\",signal=\"profiles\"}";
        assert_eq!(count(asked), 1, "{protocol:?}");
        agent.stop().await;
        assert_eq!(count("bianque_exporter_behind_count{exporter=\"otlp/profiles\"}"), 0);
    }
}
