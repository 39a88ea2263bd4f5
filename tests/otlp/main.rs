// SPDX-License-Identifier: Apache-2.0
//! Delivery over OTLP against a back end with faults. Every test runs over gRPC and over HTTP, and
//! holds that nothing accepted is lost and every loss is counted.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests may end so")]

#[path = "../e2e/agent.rs"]
#[expect(dead_code, reason = "the tests with real servers want more of it")]
mod agent;
mod bulk;
mod counted;
mod load;
mod server;
#[path = "../common/smaps.rs"]
mod smaps;
mod source;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use bianque::exporters::health::{ExporterStatus, Health};
use bianque::exporters::otlp::{Compression, Delivery, Node, Protocol, Secret, Settings, Signal, Transport};
use bianque::signal::Attributes;
use counted::Counted;
use server::{Answer, Server};
use source::TestLog;
use tokio::time::{Instant, timeout};

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// A delivery of logs under way.
struct Agent {
    own: Counted,
    health: Health,
    stop: tokio::sync::oneshot::Sender<Instant>,
    task: tokio::task::JoinHandle<()>,
}

fn settings(protocol: Protocol, to: SocketAddr) -> Settings {
    let mut s = Settings { endpoint: Some(format!("http://{to}")), protocol: Some(protocol), ..Settings::default() };
    s.timeout = Duration::from_millis(500).into();
    s
}

impl Agent {
    fn start(log: &TestLog, settings: &Settings) -> Agent {
        let own = Counted::default();
        let transport = Transport::new(&settings.endpoint(Signal::Logs).unwrap().unwrap()).unwrap();
        let node = Node::new(&Attributes::new());
        let delivery = Delivery::new(Signal::Logs, log.clone(), transport, node, own.metrics(), 1)
            .with_backoff(Duration::from_millis(20), Duration::from_millis(100));
        let health = Health::default();
        let delivery = delivery.with_health(health.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shutdown = Box::pin(async move { stopped.await.unwrap_or_else(|_| Instant::now()) });
        Agent { own, health, stop, task: tokio::spawn(delivery.run(shutdown)) }
    }

    /// Ends it, with time to flush.
    async fn stop(self, flush: Duration) -> Counted {
        self.stop.send(Instant::now() + flush).unwrap();
        timeout(flush + Duration::from_secs(5), self.task).await.expect("it did not end in time").unwrap();
        self.own
    }

    /// Its status, as the agent's API shows it.
    fn status(&self) -> Option<ExporterStatus> {
        self.health.now().remove("otlp/logs")
    }

    fn count(&self, series: &str) -> u64 {
        self.own.count(series)
    }
}

fn dropped(reason: &str) -> String {
    format!("bianque_events_dropped_total{{exporter=\"otlp\",reason=\"{reason}\"}}")
}

const SENT: &str = "bianque_exporter_sent_total{exporter=\"otlp\",signal=\"logs\"}";

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

/// A back end that is down gets everything, in order and once, as soon as it is up.
#[tokio::test]
async fn down_then_up() {
    for protocol in BOTH {
        let reserved = tokio::net::TcpListener::bind(SocketAddr::from(ANY_PORT)).await.unwrap();
        let at = reserved.local_addr().unwrap();
        drop(reserved);
        let log = TestLog::of(names(1200));
        let agent = Agent::start(&log, &settings(protocol, at));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(log.len(), 1200, "something was acknowledged though nobody listened");
        let (server, _) = Server::start(protocol, at, |_, _| Answer::Accept).await;
        until("all delivered", || log.len() == 0).await;
        assert_eq!(server.accepted(), names(1200));
        assert_eq!(agent.count(SENT), 1200);
    }
}

/// A request without an answer in time is sent again.
#[tokio::test]
async fn slow() {
    for protocol in BOTH {
        let script = |n, _: &[String]| if n < 2 { Answer::Hang } else { Answer::Accept };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(5));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("all delivered", || log.len() == 0).await;
        assert_eq!((server.accepted(), server.seen().len()), (names(5), 3), "{protocol:?}");
        assert_eq!(agent.count(SENT), 5);
    }
}

/// One record that the server refuses is found, left out and counted; the others arrive.
#[tokio::test]
async fn poison_record_is_set_aside() {
    for protocol in BOTH {
        let script = |_, names: &[String]| {
            if names.iter().any(|n| n == "e13") { Answer::Refuse } else { Answer::Accept }
        };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(40));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("all delivered", || log.len() == 0).await;
        let expected: Vec<_> = names(40).into_iter().filter(|n| n != "e13").collect();
        assert_eq!(server.accepted(), expected);
        assert_eq!((agent.count(&dropped("refused")), agent.count(SENT)), (1, 39));
    }
}

/// A server that refuses everything is taken to be at fault: after a few records the rest is kept,
/// and arrives when the server is well again.
#[tokio::test]
async fn server_that_refuses_everything_does_not_empty_the_log() {
    for protocol in BOTH {
        let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_well = well.clone();
        let script = move |_, _: &[String]| {
            if is_well.load(std::sync::atomic::Ordering::Relaxed) { Answer::Accept } else { Answer::Refuse }
        };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(200));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("records were refused", || agent.count(&dropped("refused")) >= 16).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((agent.count(&dropped("refused")), log.len()), (16, 200));
        well.store(true, std::sync::atomic::Ordering::Relaxed);
        until("the rest delivered", || log.len() == 0).await;
        assert_eq!(server.accepted(), names(200)[16..]);
        assert_eq!(agent.count(SENT), 184);
    }
}

/// A server that refuses us, not the data, loses nothing of it; meanwhile its status says why nothing is delivered.
#[tokio::test]
async fn denied_is_kept_until_somebody_acts() {
    for protocol in BOTH {
        let script = |n, _: &[String]| if n < 10 { Answer::Deny } else { Answer::Accept };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(5));
        let agent = Agent::start(&log, &settings(protocol, at));
        let mut why = None;
        until("all delivered", || {
            if let Some(ExporterStatus::Failing(text)) = agent.status() {
                why = Some(text);
            }
            log.len() == 0
        })
        .await;
        assert!(why.is_some_and(|why| !why.is_empty()), "it said that it fared well");
        assert_eq!(agent.status(), Some(ExporterStatus::Healthy));
        assert_eq!(server.accepted(), names(5));
        assert_eq!(agent.count(SENT), 5);
        let failed = "bianque_exporter_failures_total{exporter=\"otlp\",reason=\"denied\",signal=\"logs\"}";
        assert_eq!(agent.count(failed), 10);
    }
}

/// `Retry-After` and `RetryInfo` are obeyed though our own wait would be shorter; without them a busy
/// server is tried again soon.
#[tokio::test]
async fn servers_wish_to_wait_is_obeyed() {
    for protocol in BOTH {
        let script = |n, _: &[String]| match n {
            0 => Answer::Busy(Some(Duration::from_secs(1))),
            1 => Answer::Busy(None),
            _ => Answer::Accept,
        };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(3));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("all delivered", || log.len() == 0).await;
        let seen = server.seen();
        assert_eq!(seen.len(), 3);
        assert!(seen[1].at - seen[0].at >= Duration::from_secs(1), "{protocol:?}: {:?}", seen[1].at - seen[0].at);
        assert!(seen[2].at - seen[1].at < Duration::from_secs(1));
        assert_eq!(agent.count(SENT), 3);
    }
}

/// What a partial success rejects is counted and not sent again.
#[tokio::test]
async fn partial_success() {
    for protocol in BOTH {
        let (server, at) = Server::start(protocol, ANY_PORT.into(), |_, _| Answer::Partial(2)).await;
        let log = TestLog::of(names(5));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("all delivered", || log.len() == 0).await;
        assert_eq!(server.seen().len(), 1);
        assert_eq!((agent.count(&dropped("rejected")), agent.count(SENT)), (2, 3));
    }
}

/// A request that is too large is halved until it fits; a record that never fits is counted.
#[tokio::test]
async fn too_large_is_split() {
    for protocol in BOTH {
        let script = |_, names: &[String]| {
            if names.len() > 3 || names.iter().any(|n| n == "e5") { Answer::TooLarge } else { Answer::Accept }
        };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(20));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("all delivered", || log.len() == 0).await;
        let expected: Vec<_> = names(20).into_iter().filter(|n| n != "e5").collect();
        assert_eq!(server.accepted(), expected);
        assert_eq!((agent.count(&dropped("too_large")), agent.count(SENT)), (1, 19));
    }
}

/// Requests stay below what servers take, before anyone complains.
#[tokio::test]
async fn large_entries_are_sent_in_several_requests() {
    for protocol in BOTH {
        let (server, at) = Server::start(protocol, ANY_PORT.into(), |_, _| Answer::Accept).await;
        let log = TestLog::default();
        for i in 0..6 {
            let mut e = source::entry(i, &format!("e{i}"));
            e.log.as_mut().unwrap().severity_text = "x".repeat(1 << 20);
            log.push(e);
        }
        let mut s = settings(protocol, at);
        s.timeout = Duration::from_secs(10).into();
        let agent = Agent::start(&log, &s);
        until("all delivered", || log.len() == 0).await;
        assert_eq!(server.accepted(), names(6));
        assert!(server.seen().len() >= 2 && server.seen().iter().all(|s| s.names.len() < 4));
        assert_eq!(agent.count(SENT), 6);
    }
}

/// An answer that makes no sense is no acceptance.
#[tokio::test]
async fn garbage_is_no_acceptance() {
    for protocol in BOTH {
        let script = |n, _: &[String]| if n < 3 { Answer::Garbage } else { Answer::Accept };
        let (server, at) = Server::start(protocol, ANY_PORT.into(), script).await;
        let log = TestLog::of(names(5));
        let agent = Agent::start(&log, &settings(protocol, at));
        until("all delivered", || log.len() == 0).await;
        assert_eq!((server.accepted(), server.seen().len()), (names(5), 4));
        assert_eq!(agent.count(SENT), 5);
    }
}

/// A server of another protocol on the port is not taken for an acceptance either.
#[tokio::test]
async fn wrong_protocol_loses_nothing() {
    for (ours, theirs) in [(Protocol::Grpc, Protocol::Http), (Protocol::Http, Protocol::Grpc)] {
        let (_server, at) = Server::start(theirs, ANY_PORT.into(), |_, _| Answer::Accept).await;
        let log = TestLog::of(names(5));
        let agent = Agent::start(&log, &settings(ours, at));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let counted = agent.stop(Duration::ZERO).await;
        assert_eq!((log.len(), counted.count(SENT)), (5, 0), "{ours:?}");
        assert_eq!(counted.count(&dropped("refused")), 0, "{ours:?}");
    }
}

/// At the end what is left goes out; with a dead back end the end still comes in time, nothing is
/// acknowledged, and the next start delivers it.
#[tokio::test]
async fn end_flushes_in_time_and_restart_goes_on() {
    for protocol in BOTH {
        let (server, at) =
            Server::start(protocol, ANY_PORT.into(), |n, _| if n == 0 { Answer::Hang } else { Answer::Accept }).await;
        let log = TestLog::of(names(5));
        let mut patient = settings(protocol, at);
        patient.timeout = Duration::from_secs(30).into();
        let agent = Agent::start(&log, &patient);
        until("a request is under way", || !server.seen().is_empty()).await;
        let before = Instant::now();
        let counted = agent.stop(Duration::from_millis(300)).await;
        assert!(before.elapsed() < Duration::from_secs(2));
        assert_eq!((log.len(), counted.count(SENT)), (5, 0));
        let agent = Agent::start(&log, &patient);
        let counted = agent.stop(Duration::from_secs(10)).await;
        assert_eq!((log.len(), server.accepted(), counted.count(SENT)), (0, names(5), 5));
    }
}

/// Headers come from a file, too, and are taken over when it is written anew.
#[tokio::test]
async fn headers_of_a_file_are_renewed() {
    for protocol in BOTH {
        let (server, at) = Server::start(protocol, ANY_PORT.into(), |_, _| Answer::Accept).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "authorization: Bearer first\n").unwrap();
        let mut s = settings(protocol, at);
        s.headers_file = Some(file.path().to_owned());
        let log = TestLog::of(names(5));
        let agent = Agent::start(&log, &s);
        until("the first delivered", || log.len() == 0).await;
        agent.stop(Duration::ZERO).await;
        let transport = &mut Transport::new(&s.endpoint(Signal::Logs).unwrap().unwrap()).unwrap();
        std::fs::write(file.path(), "authorization: Bearer second\n").unwrap();
        let sees = |what: &str| server.seen().last().unwrap().authorization.as_deref() == Some(what);
        assert!(sees("Bearer first"));
        let end = Instant::now() + Duration::from_secs(15);
        while !sees("Bearer second") {
            assert!(Instant::now() < end, "the new header is not sent");
            transport.export(Vec::new().into()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What cannot be used changes nothing.
        std::fs::write(file.path(), "geheim").unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        transport.export(Vec::new().into()).await;
        assert!(sees("Bearer second"));
    }
}

/// Headers and compression reach the server.
#[tokio::test]
async fn headers_and_compression() {
    for protocol in BOTH {
        let (server, at) = Server::start(protocol, ANY_PORT.into(), |_, _| Answer::Accept).await;
        let log = TestLog::of(names(50));
        let mut s = settings(protocol, at);
        s.headers.insert("Authorization".into(), Secret::new("Bearer geheim"));
        s.compression = Compression::Gzip;
        let _agent = Agent::start(&log, &s);
        until("all delivered", || log.len() == 0).await;
        let seen = &server.seen()[0];
        assert_eq!((seen.authorization.as_deref(), seen.compressed), (Some("Bearer geheim"), true));
        assert_eq!(server.accepted(), names(50));
    }
}
