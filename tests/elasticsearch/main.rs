// SPDX-License-Identifier: Apache-2.0
//! Delivery to Elasticsearch, and its setup, against a server with faults. Every test holds that
//! nothing accepted is lost, nothing is there twice, and every loss is counted. That it works is shown
//! on the real server, in `tests/e2e`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests may end so")]

#[path = "../otlp/counted.rs"]
mod counted;
mod server;
#[path = "../otlp/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bianque::exporters::elasticsearch::config::Urls;
use bianque::exporters::elasticsearch::setup::{Change, apply, plan};
use bianque::exporters::elasticsearch::{Client, Delivery, Settings};
use bianque::exporters::http::Compression;
use bianque::exporters::node::Node;
use bianque::exporters::settings::Secret;
use bianque::signal::Attributes;
use counted::Counted;
use serde_json::json;
use server::{Answer, Options, Server};
use source::TestLog;
use tokio::time::{Instant, timeout};

const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// A delivery under way.
struct Agent {
    own: Counted,
    stop: tokio::sync::oneshot::Sender<Instant>,
    task: tokio::task::JoinHandle<()>,
}

fn settings(to: &[SocketAddr]) -> Settings {
    let url = Urls(to.iter().map(|a| format!("http://{a}")).collect());
    Settings { url, timeout: Duration::from_millis(500).into(), ..Settings::default() }
}

impl Agent {
    fn start(log: &TestLog, settings: &Settings) -> Agent {
        let own = Counted::default();
        let client = Client::new(settings, 0).unwrap();
        let node = Node::new(&Attributes::new());
        let delivery = Delivery::new(log.clone(), client, "default", node, own.metrics(), 1)
            .with_backoff(Duration::from_millis(20), Duration::from_millis(100));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shutdown = Box::pin(async move { stopped.await.unwrap_or_else(|_| Instant::now()) });
        Agent { own, stop, task: tokio::spawn(delivery.run(shutdown)) }
    }

    /// Ends it, with time to flush.
    async fn stop(self, flush: Duration) {
        self.stop.send(Instant::now() + flush).unwrap();
        timeout(flush + Duration::from_secs(5), self.task).await.expect("it did not end in time").unwrap();
    }

    fn count(&self, series: &str) -> u64 {
        self.own.count(series)
    }

    fn sent(&self, signal: &str) -> u64 {
        self.count(&format!("bianque_exporter_sent_total{{exporter=\"elasticsearch\",signal=\"{signal}\"}}"))
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.count(&format!("bianque_events_dropped_total{{exporter=\"elasticsearch\",reason=\"{reason}\"}}"))
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("e{i}")).collect()
}

/// A server that fails to store a document and then says that it is there is not believed: the document is kept
/// until another was taken after it, and sent again.
#[tokio::test]
async fn what_is_said_to_be_there_after_a_failure_is_sent_again() {
    let script = |n| match n {
        0 => Answer::But(500, "i_o_exception", &["e0"]),
        _ => Answer::Pretend(&["e0"]),
    };
    let (server, at) = Server::start(ANY_PORT.into(), Options::default(), script).await;
    let log = TestLog::of(["e0".to_owned()]);
    let agent = Agent::start(&log, &settings(&[at]));
    until("some tries", || server.seen().len() > 4).await;
    assert_eq!((server.names(), log.len()), (Vec::new(), 1));
    log.push(source::entry(1, "e1"));
    until("both", || log.len() == 0).await;
    assert_eq!(server.names(), ["e0", "e1"]);
    agent.stop(Duration::ZERO).await;
}

/// Whatever the server answers first, all is there in the end, once, and counted.
#[tokio::test]
async fn nothing_is_lost_or_doubled() {
    let busy = Answer::But(429, "es_rejected_execution_exception", &["e3", "e5"]);
    let blocked = Answer::But(403, "cluster_block_exception", &["e0"]);
    let no_template = Answer::But(404, "index_not_found_exception", &["e0", "e1", "e2", "e3", "e4"]);
    let faults = [
        busy,
        blocked,
        no_template,
        Answer::TakeAndHang,
        Answer::TakeAndGarble,
        Answer::Status(503),
        Answer::Status(401),
    ];
    for fault in faults {
        let first = fault.clone();
        let script = move |n| if n < 2 { first.clone() } else { Answer::Take };
        let (server, at) = Server::start(ANY_PORT.into(), Options::default(), script).await;
        let log = TestLog::of(names(600));
        let agent = Agent::start(&log, &settings(&[at]));
        until("all delivered", || log.len() == 0).await;
        assert_eq!(server.names(), names(600), "{fault:?}");
        assert_eq!(server.documents(), 1200, "each event has its span");
        assert_eq!((agent.sent("logs"), agent.sent("traces")), (600, 600), "{fault:?}");
        agent.stop(Duration::ZERO).await;
    }
}

/// A server that is down gets everything as soon as it is up; of two addresses one is enough.
#[tokio::test]
async fn down_then_up() {
    let reserved = tokio::net::TcpListener::bind(SocketAddr::from(ANY_PORT)).await.unwrap();
    let dead = reserved.local_addr().unwrap();
    drop(reserved);
    let log = TestLog::of(names(100));
    let agent = Agent::start(&log, &settings(&[dead]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(log.len(), 100, "something was acknowledged though nobody listened");
    agent.stop(Duration::ZERO).await;
    let (server, at) = Server::start(ANY_PORT.into(), Options::default(), |_| Answer::Take).await;
    let agent = Agent::start(&log, &settings(&[dead, at]));
    until("all delivered", || log.len() == 0).await;
    assert_eq!(server.names(), names(100));
    agent.stop(Duration::ZERO).await;
}

/// What does not fit the mapping is left out and counted; the rest goes on. A server that takes
/// nothing at all is at fault itself, and then everything is kept.
#[tokio::test]
async fn poison_is_set_aside() {
    let poison = Answer::But(400, "document_parsing_exception", &["e7", "e9"]);
    let (server, at) = Server::start(ANY_PORT.into(), Options::default(), move |_| poison.clone()).await;
    let log = TestLog::of(names(20));
    let agent = Agent::start(&log, &settings(&[at]));
    until("all but two delivered", || log.len() == 0).await;
    assert_eq!((server.names().len(), agent.dropped("refused")), (18, 2));
    agent.stop(Duration::ZERO).await;

    let (_server, at) = Server::start(ANY_PORT.into(), Options::default(), |_| Answer::Status(400)).await;
    let log = TestLog::of(names(200));
    let agent = Agent::start(&log, &settings(&[at]));
    until("some are set aside", || agent.dropped("refused") >= 16).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((agent.dropped("refused"), log.len()), (16, 200));
    agent.stop(Duration::ZERO).await;
}

/// Requests are made as small as the server wants them, and what alone is too large is left out.
#[tokio::test]
async fn too_large_is_split() {
    let (server, at) = Server::start(ANY_PORT.into(), Options::default(), |_| Answer::AtMost(10)).await;
    let log = TestLog::of(names(300));
    let agent = Agent::start(&log, &settings(&[at]));
    until("all delivered", || log.len() == 0).await;
    assert_eq!((server.names(), agent.dropped("too_large")), (names(300), 0));
    agent.stop(Duration::ZERO).await;

    let (_server, at) = Server::start(ANY_PORT.into(), Options::default(), |_| Answer::AtMost(0)).await;
    let log = TestLog::of(names(3));
    let agent = Agent::start(&log, &settings(&[at]));
    until("all left out", || log.len() == 0).await;
    assert_eq!(agent.dropped("too_large"), 6);
    agent.stop(Duration::ZERO).await;
}

/// The server's wish for patience is obeyed, and what it gets next is less.
#[tokio::test]
async fn patience_is_obeyed() {
    let script = |n| if n == 0 { Answer::Busy(1) } else { Answer::Take };
    let (server, at) = Server::start(ANY_PORT.into(), Options::default(), script).await;
    let log = TestLog::of(names(100));
    let agent = Agent::start(&log, &settings(&[at]));
    until("all delivered", || log.len() == 0).await;
    let seen = server.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(1));
    assert!(seen[1].documents <= seen[0].documents / 2, "{seen:?}");
    agent.stop(Duration::ZERO).await;
}

/// Nothing is sent to what does not say that it is Elasticsearch.
#[tokio::test]
async fn other_products_get_nothing() {
    let options = Options { product: false, ..Options::default() };
    let (server, at) = Server::start(ANY_PORT.into(), options, |_| Answer::Take).await;
    let log = TestLog::of(names(5));
    let agent = Agent::start(&log, &settings(&[at]));
    let denied = "bianque_exporter_failures_total{exporter=\"elasticsearch\",reason=\"denied\",signal=\"entries\"}";
    until("it was refused", || agent.count(denied) > 2).await;
    assert_eq!((server.seen().len(), log.len()), (0, 5));
    agent.stop(Duration::ZERO).await;
    let e = plan(&Client::new(&settings(&[at]), 0).unwrap(), "30d").await.unwrap_err();
    assert!(format!("{e:#}").contains("not Elasticsearch"), "{e:#}");
}

/// A key that is refused is read again from its file; bodies are compressed where it is asked for.
#[tokio::test]
async fn key_is_read_again() {
    let options = Options { only: Some("ApiKey bmV3"), ..Options::default() };
    let (server, at) = Server::start(ANY_PORT.into(), options, |_| Answer::Take).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "b2xk\n").unwrap();
    let mut s = settings(&[at]);
    s.api_key_file = Some(file.path().to_owned());
    s.compression = Compression::Gzip;
    let log = TestLog::of(names(5));
    let agent = Agent::start(&log, &s);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(log.len(), 5);
    std::fs::write(file.path(), "bmV3\n").unwrap();
    until("all delivered", || log.len() == 0).await;
    assert!(server.seen()[0].compressed);
    agent.stop(Duration::ZERO).await;
    s.api_key_file = None;
    s.api_key = Some(Secret::new("other"));
    let e = plan(&Client::new(&s, 0).unwrap(), "30d").await.unwrap_err();
    assert!(format!("{e:#}").contains("401"), "{e:#}");
}

/// At the end, what is left is delivered within the time that there is, and the rest stays.
#[tokio::test]
async fn end_is_in_time() {
    let (server, at) = Server::start(ANY_PORT.into(), Options::default(), |_| Answer::Take).await;
    let log = TestLog::of(names(1000));
    Agent::start(&log, &settings(&[at])).stop(Duration::from_secs(5)).await;
    assert_eq!((log.len(), server.names().len()), (0, 1000));
    let (_server, at) = Server::start(ANY_PORT.into(), Options::default(), |_| Answer::TakeAndHang).await;
    let log = TestLog::of(names(10));
    let agent = Agent::start(&log, &settings(&[at]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    agent.stop(Duration::from_millis(200)).await;
    assert_eq!(log.len(), 10);
}

/// On a server with everything, a policy is made and used, and the second time nothing is to be done;
/// what somebody changed is made again, but for the policy.
#[tokio::test]
async fn setup_with_a_life_cycle() {
    let other = BTreeMap::from([("/_index_template/_simulate".to_owned(), json!({}))]);
    let (server, at) = Server::start(ANY_PORT.into(), Options { other, ..Options::default() }, |_| Answer::Take).await;
    let client = Client::new(&settings(&[at]), 0).unwrap();
    let first = plan(&client, "12d").await.unwrap();
    assert_eq!((first.version.as_str(), first.left_out.len()), ("8.19.0", 0));
    let paths: Vec<_> = first.steps.iter().map(|s| s.path.as_str()).collect();
    let expected = [
        "/_ilm/policy/bianque",
        "/_component_template/bianque@settings",
        "/_component_template/bianque@mappings",
        "/_index_template/logs-bianque.events",
        "/_index_template/traces-bianque.incidents",
        "/_index_template/profiles-bianque.captures",
    ];
    assert_eq!(paths, expected);
    assert!(first.steps.iter().all(|s| s.change == Change::New));
    for step in &first.steps {
        apply(&client, step).await.unwrap();
    }
    let policy = server.put("/_ilm/policy/bianque").unwrap();
    assert_eq!(policy["policy"]["phases"]["delete"]["min_age"], "12d");
    let settings = server.put("/_component_template/bianque@settings").unwrap();
    assert_eq!(settings["template"]["settings"]["index"]["lifecycle"]["name"], "bianque");
    let mappings = server.put("/_component_template/bianque@mappings").unwrap();
    let properties = &mappings["template"]["mappings"]["properties"];
    assert_eq!(properties["data_stream"]["properties"]["type"]["type"], "constant_keyword");
    assert_eq!(properties["body"]["properties"]["text"]["type"], "match_only_text");
}
