// SPDX-License-Identifier: Apache-2.0
//! Logs and metrics behind the gateway of `otel-config/`: where Loki takes them, and in Prometheus.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bianque::exporters::otlp::{MetricDelivery, Node, Protocol, Signal, Transport};
use bianque::pipeline::metrics::{MetricState, SelfMetrics};
use bianque::signal::Metrics;
use serde_json::Value;

use crate::agent::{Agent, node, now, shop};
use crate::servers::{Backend, eventually, get};

/// Events reach the address where Loki takes OTLP, with what it makes labels of.
#[tokio::test(flavor = "multi_thread")]
async fn events_go_where_loki_takes_them() {
    let loki = Backend::configured(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/as-loki.yaml"));
    let url = loki.settings(Protocol::Http).endpoint.unwrap();
    let gateway = Backend::gateway(&["to-loki"], &[("LOKI_URL", &url)]);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver(&gateway.settings(Protocol::Grpc));
    agent.kill("l");
    let log = loki.record("logs", "the log record", |r| r.attribute("test.mark").as_deref() == Some("l")).await;
    let labels = ["service.name", "container.name", "k8s.namespace.name", "k8s.pod.name"];
    let reported = labels.map(|k| log.resource(k).unwrap_or_default());
    assert_eq!(reported, ["shop-api", "shop", "sales", "shop-7"]);
    assert_eq!((log.text("eventName"), log.text("severityText")), ("linux.memory.oom_kill", "ERROR"));
    assert_eq!(log.text("traceId").len(), 32);
    agent.stop().await;
}

struct Prometheus {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// The real server with `otel-config/prometheus.yml`, but for what it scrapes and how often.
    fn scraping(target: &str) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/otel-config/prometheus.yml")).unwrap();
        assert!(text.contains("127.0.0.1:9774") && text.contains("scrape_interval: 15s"));
        let text = text.replace("../deploy", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy"));
        let text = text.replace("127.0.0.1:9774", target).replace("scrape_interval: 15s", "scrape_interval: 1s");
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, text).unwrap();
        let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Prometheus { child, url: format!("http://{at}"), _folder: folder }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Metrics of a container are in Prometheus under its name and its node's, by way of the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_reach_prometheus() {
    let gateway = Backend::gateway(&["to-prometheus"], &[]);
    let state = Arc::new(MetricState::new(2000, now()));
    let mut m = Metrics::default();
    m.value(&crate::BUSY, Some(&shop()), &[], 2.5);
    state.update("cpu", &mut m, now());
    let endpoint = gateway.settings(Protocol::Grpc).endpoint(Signal::Metrics).unwrap().unwrap();
    let transport = Transport::new(&endpoint).unwrap();
    let interval = Duration::from_millis(500);
    let delivery = MetricDelivery::new(state, transport, Node::new(&node()), interval, SelfMetrics::unread());
    let task = tokio::spawn(delivery.run(Box::pin(std::future::pending())));
    let url = gateway.metrics_url();
    let prometheus = Prometheus::scraping(url.trim_start_matches("http://").trim_end_matches("/metrics"));
    let query = "linux_container_test_busy_seconds_total%7Bcontainer_name%3D%22shop%22%2Chost_name%3D%22node-1%22%7D";
    let value = eventually("the sample in Prometheus", || {
        let text = get(&format!("{}/api/v1/query?query={query}", prometheus.url));
        let answer: Value = serde_json::from_str(&text).ok()?;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(value, "2.5");
    let rules: Value = serde_json::from_str(&get(&format!("{}/api/v1/rules?type=alert", prometheus.url))).unwrap();
    let rules = rules["data"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
    assert_eq!(rules.count(), bianque::cli::monitoring::alerts(bianque::collectors::BUILT_IN).len());
    task.abort();
}
