// SPDX-License-Identifier: Apache-2.0
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

mod following;
mod security;

use super::backend::*;
use super::*;
use crate::collectors::Kind;
use crate::collectors::run::{State, Status};
use crate::exporters::prometheus::Prometheus;
use crate::pipeline::metrics::MetricState;
use crate::signal::ids::EventId;
use crate::signal::{Attributes, Query, Timestamp};

/// Keeps the newest `keep` events; event `n` has the time `n` and the name `a.even` or `a.odd`.
struct Memory {
    events: Mutex<Vec<(EventId, Arc<str>)>>,
    keep: usize,
    last: watch::Sender<EventId>,
}

fn id(n: u64) -> EventId {
    let mut id = EventId([7; 12]);
    id.0[..8].copy_from_slice(&n.to_be_bytes());
    id
}

impl Memory {
    fn new(keep: usize) -> Arc<Self> {
        Arc::new(Memory { events: Mutex::default(), keep, last: watch::Sender::new(id(0)) })
    }

    fn append(&self, n: u64) {
        let name = if n.is_multiple_of(2) { "a.even" } else { "a.odd" };
        let line = serde_json::json!({ "id": id(n).to_string(), "n": n, "name": name, "pad": "x".repeat(500) });
        let mut events = self.events.lock().unwrap();
        events.push((id(n), line.to_string().into()));
        let over = events.len().saturating_sub(self.keep);
        events.drain(..over);
        drop(events);
        self.last.send_replace(id(n));
    }
}

/// The tests' own handle: the trait is for a type of this crate.
struct Shared(Arc<Memory>);

impl Backend for Shared {
    fn events(&self, q: Query) -> Reply<Page> {
        let last = *self.0.last.borrow();
        let events = self.0.events.lock().unwrap();
        let gap = q
            .after
            .is_some_and(|a| a > id(0) && events.first().is_some_and(|(first, _)| first.time_ns() > a.time_ns() + 1));
        let forgotten = events.first().and_then(|(first, _)| i64::try_from(first.time_ns() - 1).ok());
        let name = |json: &str| serde_json::from_str::<Json>(json).unwrap()["name"].as_str().unwrap().to_owned();
        let mut found: Vec<_> = events.iter().filter(|(id, _)| q.after.is_none_or(|a| *id > a)).cloned().collect();
        found.retain(|(_, json)| q.wants_name(&name(json), "a"));
        let limit = q.limit.expect("a limit is always set");
        let more = found.len() > limit;
        match q.after {
            Some(_) => found.truncate(limit),
            None => drop(found.drain(..found.len().saturating_sub(limit))),
        }
        let seen = found.last().map(|(id, _)| *id);
        let upto = if more { seen } else { seen.max(Some(last)) };
        Box::pin(async move {
            Ok(Page {
                looked: found.len() as u64,
                events: found,
                upto,
                more,
                gap: gap.then_some(Gap { upto: forgotten }),
            })
        })
    }

    fn incidents(&self, _: Query) -> Reply<Vec<String>> {
        Box::pin(async { Ok(vec![r#"{"id":"1"}"#.to_owned(), r#"{"id":"2"}"#.to_owned()]) })
    }

    fn find(&self, prefix: String) -> Reply<Found> {
        let ids = [
            "aa".to_owned() + &"1".repeat(30),
            "ab".to_owned() + &"2".repeat(30),
            "c".repeat(32),
            "ccc".to_owned() + &"d".repeat(21),
        ];
        let found: Vec<_> = ids.into_iter().filter(|id| id.starts_with(&prefix)).collect();
        let found = match found.as_slice() {
            [] => Found::Nothing,
            [one] if one.len() == 24 => Found::Event(format!(r#"{{"id":"{one}"}}"#)),
            [one] => Found::Incident(format!(r#"{{"id":"{one}"}}"#)),
            _ => Found::Ambiguous(found),
        };
        Box::pin(async { Ok(found) })
    }

    fn last(&self) -> Reply<EventId> {
        let last = *self.0.last.borrow();
        Box::pin(async move { Ok(last) })
    }

    fn number(&self, id: EventId) -> Reply<Option<i64>> {
        Box::pin(async move { Ok(i64::try_from(id.time_ns()).ok()) })
    }

    fn changes(&self) -> Box<dyn Changes> {
        Box::new(Waiter(self.0.last.subscribe()))
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            ready: self.0.keep > 0,
            store: StoreReadiness { state: "ok", reason: None, dropped: 0 },
            symbols: None,
            exporters: Vec::new(),
            collectors: vec![Status {
                name: "oom",
                kind: Kind::Events,
                state: State::Unavailable,
                hook: None,
                reason: Some("no BTF".into()),
                emits: vec!["linux.memory.oom_kill"],
            }],
        }
    }

    fn node(&self) -> Reply<String> {
        Box::pin(async { Ok(r#"{"ready":true}"#.to_owned()) })
    }

    fn metrics(&self, _: &MetricQuery) -> Vec<String> {
        Vec::new()
    }

    fn costs(&self) -> Vec<String> {
        Vec::new()
    }
}

struct Waiter(watch::Receiver<EventId>);

impl Changes for Waiter {
    fn beyond(&mut self, id: EventId) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { self.0.wait_for(|last| *last > id).await.is_ok() })
    }
}

/// A running server; stops when dropped.
struct Running {
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    api: Arc<Api>,
}

impl Running {
    async fn start(memory: &Arc<Memory>, listen: &Listen) -> anyhow::Result<Self> {
        Self::serve(Arc::new(Shared(memory.clone())), listen).await
    }

    async fn serve(backend: Arc<dyn Backend>, listen: &Listen) -> anyhow::Result<Self> {
        let server = Server::bind(listen).await?;
        let (stop, stopped) = watch::channel(false);
        let state = Arc::new(MetricState::new(10, Timestamp(0)));
        let metrics = Arc::new(Prometheus::new(state, Attributes::new().set_here(), Box::new(Vec::new)));
        let now = Box::new(|| Timestamp(1_800_000_000_000_000_000));
        let api = Arc::new(Api::new(backend, metrics, now, stopped));
        let address = server.address();
        let task = tokio::spawn(server.run(api.clone(), Arc::new(|f| drop(tokio::spawn(f)))));
        Ok(Running { address, stop, task, api })
    }

    async fn tcp(memory: &Arc<Memory>) -> Self {
        let listen = Listen { tcp: Some("127.0.0.1:0".parse().unwrap()), ..Listen::default() };
        Self::start(memory, &listen).await.unwrap()
    }

    fn client(&self) -> Client {
        Client::tcp(self.address.unwrap(), None)
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("stops in time").unwrap();
    }

    /// Status, head and body of a request as it goes over the wire.
    async fn raw(&self, request: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address.unwrap()).await.unwrap();
        let request = request.replace('\n', "\r\n") + "\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
        (head[9..12].parse().unwrap(), head, answer[end..].to_vec())
    }
}

trait SetHere {
    fn set_here(&mut self) -> &Attributes;
}
impl SetHere for Attributes {
    fn set_here(&mut self) -> &Attributes {
        self.set(crate::signal::semconv::attr::HOST_NAME, "node-1")
    }
}

async fn lines(mut lines: Lines) -> Vec<u64> {
    let mut out = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        out.push(serde_json::from_str::<Json>(&line).unwrap()["n"].as_u64().unwrap());
    }
    out
}

fn refused(e: Option<ClientError>) -> (u16, String) {
    match e {
        Some(ClientError::Refused { status, .. }) => (status.as_u16(), e.unwrap().to_string()),
        other => panic!("not refused: {other:?}"),
    }
}

/// `/metrics` in the form that is asked for, compressed only for who asks.
#[tokio::test]
async fn metrics_are_negotiated() {
    let server = Running::tcp(&Memory::new(1)).await;
    let (status, head, body) = server.raw("GET /metrics HTTP/1.1").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    let plain = String::from_utf8(body).unwrap();
    assert!(plain.contains("# TYPE target_info gauge\ntarget_info{host_name=\"node-1\"} 1\n"), "{plain}");
    let ask = "GET /metrics HTTP/1.1\nAccept: text/plain;q=0.1\nAccept: application/openmetrics-text;version=1.0.0\nAccept-Encoding: br, gzip";
    let (_, head, body) = server.raw(ask).await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(head.contains("vary: accept, accept-encoding\r\n"), "{head}");
    let mut open = String::new();
    flate2::read::GzDecoder::new(body.as_slice()).read_to_string(&mut open).unwrap();
    assert!(open.ends_with("# EOF\n"), "{open}");
    server.stop().await;
}

/// Health is a word, readiness says what runs and why not, and not being ready is a status.
#[tokio::test]
async fn health_and_readiness() {
    let server = Running::tcp(&Memory::new(1)).await;
    assert_eq!(server.raw("GET /healthz HTTP/1.1").await.2, b"ok\n");
    let (status, _, body) = server.raw("GET /readyz HTTP/1.1").await;
    let said: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(said["store"]["state"], "ok");
    let row = serde_json::json!({
        "name": "oom", "kind": "events", "state": "unavailable", "hook": null, "reason": "no BTF", "emits": ["linux.memory.oom_kill"]
    });
    assert_eq!(said["collectors"][0], row);
    let (_, _, body) = server.raw("GET /v1/collectors HTTP/1.1").await;
    assert_eq!(serde_json::from_slice::<Json>(&body).unwrap(), row);
    let unready = Running::tcp(&Memory::new(0)).await;
    assert_eq!(unready.raw("GET /readyz HTTP/1.1").await.0, 503);
}

/// The page comes with a policy that lets nothing else run, is not sent twice, and data is no page.
#[tokio::test]
async fn page_and_its_policy() {
    let server = Running::tcp(&Memory::new(1)).await;
    let (status, head, body) = server.raw("GET / HTTP/1.1").await;
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&body).starts_with("<!doctype html>"));
    assert!(head.contains("content-type: text/html; charset=utf-8\r\n") && head.contains("nosniff\r\n"), "{head}");
    let policy = head.lines().find_map(|l| l.strip_prefix("content-security-policy: ")).expect("a policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let tag = head.lines().find_map(|l| l.strip_prefix("etag: ")).expect("a tag");
    let (status, again, body) = server.raw(&format!("GET / HTTP/1.1\nIf-None-Match: {tag}")).await;
    assert_eq!((status, body.len()), (304, 0));
    assert!(again.contains(policy), "a browser would keep another policy: {again}");
    for path in ["/v1/node", "/metrics", "/nowhere"] {
        let (_, head, _) = server.raw(&format!("GET {path} HTTP/1.1")).await;
        assert!(head.contains("content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff\r\n"), "{head}");
    }
}

/// Without a limit all events come, over as many pages as it takes; with one, the newest; filters hold.
#[tokio::test]
async fn events_are_queried() {
    let memory = Memory::new(10_000);
    (1..=1000).for_each(|n| memory.append(n));
    let server = Running::tcp(&memory).await;
    let client = server.client();
    let ask = async |q: Query| lines(client.events(&q).await.unwrap()).await;
    assert_eq!(ask(Query::default()).await, (1..=1000).collect::<Vec<_>>());
    assert_eq!(ask(Query { limit: Some(3), ..Query::default() }).await, [998, 999, 1000]);
    let odd = Query { name: Some("odd".into()), after: Some(id(994)), ..Query::default() };
    assert_eq!(ask(odd).await, [995, 997, 999]);
    let found = client.incidents(&Query::default()).await.unwrap();
    assert_eq!(lines_of(found).await, [r#"{"id":"1"}"#, r#"{"id":"2"}"#]);
}

async fn lines_of(mut lines: Lines) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        out.push(line);
    }
    out
}

/// What is wrong is refused with what would be right, as JSON.
#[tokio::test]
async fn refusals_say_what_would_be_valid() {
    let server = Running::tcp(&Memory::new(1)).await;
    let client = server.client();
    for (path, parameters, status, words) in [
        ("/v1/events", &[("nme", "oom")][..], 400, "there are since, until, name"),
        ("/v1/events", &[("since", "soon")], 400, "RFC 3339"),
        ("/v1/events", &[("limit", "10001")], 400, "1 to 10000"),
        ("/v1/events", &[("name", "a"), ("name", "b")], 400, "name is given twice"),
        ("/v1/events/watch", &[("limit", "1")], 400, "limit means nothing"),
        ("/v1/incidents", &[("x", "")], 400, "x="),
        ("/v1/incidents/cc", &[("x", "1")], 400, "no such parameter: x"),
        ("/v1/incidents/xyz", &[], 400, "xyz is no incident's id: 32 hex digits"),
        ("/v1/incidents/dd", &[], 404, "no incident's id begins with dd"),
        ("/v1/incidents/a", &[], 409, "aa111111111111111111111111111111"),
        ("/v1/event", &[], 404, "/v1/events/watch"),
    ] {
        let parameters: Vec<_> = parameters.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let (got, said) = refused(client.get(path, &parameters).await.err());
        assert!(got == status && said.contains(words), "{path}: {got} {said}");
    }
    let (status, head, body) = server.raw("POST /v1/events HTTP/1.1\nContent-Length: 0").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get,head\r\n"), "{head}");
    assert!(serde_json::from_slice::<Json>(&body).unwrap()["error"].as_str().unwrap().contains("GET"));
    let long = format!("GET /healthz HTTP/1.1\nX: {}", "y".repeat(40_000));
    assert_eq!(server.raw(&long).await.0, 431);
}

/// Any unique beginning of an id will do, and an event's does not stand in an incident's way.
#[tokio::test]
async fn ids_by_prefix() {
    let server = Running::tcp(&Memory::new(1)).await;
    let client = server.client();
    assert_eq!(client.incident("aa").await.unwrap()["id"], "aa".to_owned() + &"1".repeat(30));
    assert_eq!(client.incident("ccc").await.unwrap()["id"], "c".repeat(32));
    let event = lines_of(client.get("/v1/events/ccc", &[]).await.unwrap()).await;
    assert_eq!(event, [format!(r#"{{"id":"ccc{}"}}"#, "d".repeat(21))]);
    assert_eq!(refused(client.get("/v1/events/aa", &[]).await.err()).0, 404);
}

/// An address that others can reach is refused without a token; with one, all but health asks for it.
#[tokio::test]
async fn tokens_guard_other_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef0123\n").unwrap();
    let mut listen = Listen { tcp: Some("0.0.0.0:0".parse().unwrap()), ..Listen::default() };
    let e = Server::bind(&listen).await.err().unwrap().to_string();
    assert!(e.contains("http.token_file") && e.contains("0.0.0.0:0"), "{e}");
    listen.token_file = Some(file);
    let server = Running::start(&Memory::new(1), &listen).await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], server.address.unwrap().port()));
    let ask = async |token: Option<&str>, path: &str| {
        let client = Client::tcp(address, token.map(str::to_owned));
        client.get(path, &[]).await.map_or_else(|e| refused(Some(e)).0, |_| 200)
    };
    for path in ["/metrics", "/v1/events", "/v1/events/watch", "/v1/incidents/aa", "/nothing"] {
        assert_eq!(ask(None, path).await, 401, "{path}");
        assert_eq!(ask(Some("0123456789abcdef012"), path).await, 401, "{path}");
    }
    assert_eq!(ask(Some("0123456789abcdef0123"), "/metrics").await, 200);
    assert_eq!(ask(None, "/healthz").await, 200);
    assert_eq!(ask(None, "/readyz").await, 200);
}

fn on_socket(path: &Path) -> Listen {
    Listen { socket: Some(path.to_owned()), ..Listen::default() }
}

/// The socket is for its group only, replaces a stale one, never a live one or another file, and goes with the agent.
#[tokio::test]
async fn socket_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run").join("api.sock");
    let memory = Memory::new(1);
    let nobody = Client::unix(&path).get("/healthz", &[]).await.err().unwrap();
    assert!(matches!(nobody, ClientError::NobodyListens(_)), "{nobody}");
    let server = Running::start(&memory, &on_socket(&path)).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(lines_of(Client::unix(&path).get("/healthz", &[]).await.unwrap()).await, ["ok"]);
    let e = format!("{:#}", Running::start(&memory, &on_socket(&path)).await.err().unwrap());
    assert!(e.contains("another agent answers") && e.contains("api.sock"), "{e}");
    server.stop().await;
    assert!(!path.exists());
    // As after kill -9: the file is there and nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Running::start(&memory, &on_socket(&path)).await.unwrap();
    assert_eq!(lines_of(Client::unix(&path).get("/healthz", &[]).await.unwrap()).await, ["ok"]);
    server.stop().await;
    std::fs::write(&path, "precious").unwrap();
    let e = format!("{:#}", Running::start(&memory, &on_socket(&path)).await.err().unwrap());
    assert!(e.contains("no socket"), "{e}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// A follower sees every event once and in order, though events keep coming and the agent restarts under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_resume_without_loss_or_repetition() {
    const EVENTS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let memory = Memory::new(usize::MAX);
    (1..=10).for_each(|n| memory.append(n));
    let mut server = Some(Running::start(&memory, &on_socket(&path)).await.unwrap());
    // From before the newest; and one that sees only its own, to whom most events are nothing.
    let all = Query { after: Some(id(4)), ..Query::default() };
    let odd = Query { name: Some("odd".into()), ..all.clone() };
    let follow = |query: Query, last: u64| {
        let mut follower = Client::unix(&path).follow(query);
        tokio::spawn(async move {
            let (mut got, mut breaks) = (Vec::new(), 0);
            while got.last() != Some(&last) {
                match follower.next().await.unwrap() {
                    Followed::Event { id, .. } => got.push(id.time_ns()),
                    Followed::Disconnected(_) => breaks += 1,
                    missed @ Followed::Missed { .. } => panic!("{missed:?}"),
                }
            }
            (got, breaks)
        })
    };
    let followers = (follow(all, EVENTS), follow(odd, EVENTS - 1));
    for n in 11..=EVENTS {
        memory.append(n);
        if n.is_multiple_of(50) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if n.is_multiple_of(1000) && n < EVENTS {
            // Not before they have a connection to lose.
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.take().unwrap().stop().await;
        } else if n % 1000 == 100 && server.is_none() {
            server = Some(Running::start(&memory, &on_socket(&path)).await.unwrap());
        }
    }
    let (got, breaks) = tokio::time::timeout(Duration::from_secs(30), followers.0).await.unwrap().unwrap();
    assert_eq!(got, (5..=EVENTS).collect::<Vec<_>>());
    assert!(breaks >= 1, "the restarts were not noticed");
    let (got, _) = tokio::time::timeout(Duration::from_secs(30), followers.1).await.unwrap().unwrap();
    assert_eq!(got, (5..=EVENTS).filter(|n| n % 2 == 1).collect::<Vec<_>>());
}

/// Without a place to go on from, a follower sees what happens from now on; a browser's header goes before its parameters.
#[tokio::test]
async fn followers_begin_now_or_where_they_were() {
    let memory = Memory::new(100);
    (1..=10).for_each(|n| memory.append(n));
    let server = Running::tcp(&memory).await;
    let mut follower = server.client().follow(Query::default());
    let (next, ()) = tokio::join!(follower.next(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        memory.append(11);
    });
    assert!(matches!(next.unwrap(), Followed::Event { id: got, .. } if got == id(11)));
    let mut stream = TcpStream::connect(server.address.unwrap()).await.unwrap();
    let ask =
        format!("GET /v1/events/watch?after={} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {}\r\n\r\n", id(2), id(8));
    stream.write_all(ask.as_bytes()).await.unwrap();
    let text = read_until(&mut stream, &id(11).to_string()).await;
    assert!(text.contains(&id(9).to_string()) && !text.contains(&id(7).to_string()), "{text}");
    assert!(text.to_ascii_lowercase().contains("content-type: text/event-stream"), "{text}");
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 65536];
    while !text.contains(end) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await;
        let n = read.unwrap_or_else(|_| panic!("{end} did not come")).unwrap();
        assert!(n > 0, "the stream ended before {end}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}
