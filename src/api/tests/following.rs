// SPDX-License-Identifier: Apache-2.0
//! Following events: slow readers, many readers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::*;
use crate::exporters::store::{Settings, Store};
use crate::host::sys;
use crate::pipeline::NoObserver;
use crate::pipeline::log::{Append, Log};
use crate::pipeline::metrics::SelfMetrics;
use crate::signal::Severity;
use crate::signal::entry::Entry;

/// A reader that sleeps while retention passes it by is informed from when to when it has missed events, and
/// then gets all that is left, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_learn_what_they_missed() {
    let memory = Memory::new(2000);
    let server = Running::tcp(&memory).await;
    let mut stream = TcpStream::connect(server.address.unwrap()).await.unwrap();
    stream.write_all(b"GET /v1/events/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let head = read_until(&mut stream, "id: ").await;
    assert!(head.contains("200 OK"), "{head}");
    // Far more than the sockets' buffers hold, at half a kilobyte each.
    for n in 1..=40_000_u64 {
        memory.append(n);
        if n.is_multiple_of(1000) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let text = read_until(&mut stream, &format!("id: {}\n", id(40_000))).await;
    let blocks = text.split("\n\n").filter(|b| !b.contains("event: missed"));
    let ids: Vec<u64> = blocks
        .flat_map(str::lines)
        .filter_map(|l| l.strip_prefix("id: "))
        .filter_map(EventId::parse)
        .map(EventId::time_ns)
        .filter(|n| *n > 0)
        .collect();
    let jumps: Vec<_> = ids.windows(2).filter(|w| w[1] != w[0] + 1).collect();
    assert!(!jumps.is_empty(), "the reader was not slow enough to miss anything");
    assert!(jumps.iter().all(|w| w[1] > w[0]), "out of order: {jumps:?}");
    let reported = text.matches("event: missed\n").count();
    assert_eq!(reported, jumps.len(), "every jump is reported: {jumps:?}");
    let line = text.lines().find(|l| l.starts_with("data: {\"missed\"")).expect("what was missed");
    let said: Json = serde_json::from_str(&line["data: ".len()..]).unwrap();
    assert_eq!(said["since"], Timestamp(jumps[0][0]).rfc3339());
    assert_eq!(said["until"], Timestamp(jumps[0][1]).rfc3339());
    assert_eq!(said["count"], jumps[0][1] - jumps[0][0] - 1);
    // Who goes on from there misses nothing that is left.
    let resume = EventId::parse(said["resume"].as_str().unwrap()).unwrap();
    assert!(resume < id(jumps[0][1]) && resume > id(jumps[0][1] - 1), "{resume}");
}

/// A follower above the limit is refused with a time to retry; a place that is left is free again.
#[tokio::test]
async fn places_are_limited() {
    let server = Running::tcp(&Memory::new(10)).await;
    let all = server.api.watchers.clone().acquire_many_owned(u32::try_from(WATCHERS).unwrap()).await.unwrap();
    let (status, head, body) = server.raw("GET /v1/events/watch HTTP/1.1").await;
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 5\r\n"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("at most 1000"), "{body:?}");
    assert_eq!(server.raw("GET /healthz HTTP/1.1").await.0, 200);
    drop(all);
    let mut stream = TcpStream::connect(server.address.unwrap()).await.unwrap();
    stream.write_all(b"GET /v1/events/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "id: ").await.contains("200 OK"));
    assert_eq!(server.api.watchers.available_permits(), WATCHERS - 1);
    drop(stream);
    for _ in 0..100 {
        if server.api.watchers.available_permits() == WATCHERS {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place was not given back");
}

const HOUR: u64 = 3_600_000_000_000;

fn entry(n: u64) -> Entry {
    let log = LogRecord {
        time_unix_nano: HOUR + n,
        severity_number: Severity::Warn as i32,
        event_name: "linux.test".into(),
        ..LogRecord::default()
    };
    Entry { raw_id: id(HOUR + n).0.to_vec(), collector: "test".into(), log: Some(log), ..Entry::default() }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// How much longer than alone this process takes for its work, as others want the CPUs too, since `before`;
/// and what to compare with next. From the time that its threads ran and that they waited for a CPU
/// (Documentation/scheduler/sched-stats.rst).
fn slowdown(before: (u64, u64)) -> (f64, (u64, u64)) {
    let (mut ran, mut waited) = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        // A thread may have ended meanwhile.
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
        ran += numbers.next().unwrap_or(0);
        waited += numbers.next().unwrap_or(0);
    }
    let (r, w) = (ran.saturating_sub(before.0) as f64, waited.saturating_sub(before.1) as f64);
    (if r > 0.0 { (r + w) / r } else { 1.0 }, (ran, waited))
}

/// When each event came, of the one whose `data:` line it is; reads in the smallest memory.
async fn arrivals(mut stream: TcpStream, seen: Arc<Mutex<Vec<(u64, Instant)>>>) {
    let mut rest = String::new();
    let mut buffer = [0; 2048];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else { return };
        let now = Instant::now();
        rest.push_str(&String::from_utf8_lossy(&buffer[..n]));
        while let Some(end) = rest.find('\n') {
            let line: String = rest.drain(..=end).collect();
            let of = line.strip_prefix("id: ").and_then(|l| EventId::parse(l.trim_end())).map(EventId::time_ns);
            if let Some(n) = of.and_then(|t| t.checked_sub(HOUR)).filter(|n| *n > 0) {
                seen.lock().unwrap().push((n, now));
            }
        }
    }
}

/// A thousand follow at once, over the real log and store: each gets every event once, in order, soon
/// (99 % within 200 ms of a CPU that is theirs), and they cost little memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_follow_at_once() {
    const ROUND: u64 = 10;
    const ROUNDS: u64 = 6;
    sys::raise_file_limit();
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { path: dir.path().join("store"), max_size: 1 << 30, max_age: Duration::MAX };
    let (store, _) = Store::open(settings, Duration::ZERO).unwrap();
    let (log, committer) =
        Log::new(Arc::new(store.clone()), Arc::new(NoObserver), || Timestamp(2 * HOUR), state::BEGINNING);
    let hub = Arc::new(Hub::new(state::BEGINNING, Arc::new([])));
    tokio::spawn(hub.clone().feed(log.watch()));
    let end = Arc::new(AtomicBool::new(false));
    let ended = end.clone();
    let thread = std::thread::spawn(move || committer.run(&ended));
    let backend = Local {
        store,
        hub,
        node: Arc::new([]),
        readiness: Box::new(|| Shared(Memory::new(1)).readiness()),
        metrics: Arc::new(MetricState::new(1, Timestamp(0))),
        own: SelfMetrics::unread(),
        started: Timestamp(HOUR),
        blocking: Arc::new(|f| drop(tokio::task::spawn_blocking(f))),
    };
    let listen = Listen { tcp: Some("127.0.0.1:0".parse().unwrap()), ..Listen::default() };
    let server = Running::serve(Arc::new(backend), &listen).await.unwrap();

    let before = resident_kib();
    let mut followers = Vec::new();
    for _ in 0..WATCHERS {
        let mut stream = TcpStream::connect(server.address.unwrap()).await.unwrap();
        let ask = format!("GET /v1/events/watch?collector=test&after={} HTTP/1.1\r\nHost: localhost\r\n\r\n", id(0));
        stream.write_all(ask.as_bytes()).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        followers.push((seen.clone(), tokio::spawn(arrivals(stream, seen))));
    }
    let mut sent = Vec::new();
    let (mut tails, mut fine) = (Vec::new(), false);
    let mut used = slowdown((0, 0)).1;
    for round in 0..ROUNDS {
        for n in round * ROUND + 1..=(round + 1) * ROUND {
            sent.push(Instant::now());
            log.append(Append { entries: vec![entry(n).into()], ..Append::default() });
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let all = (round + 1) * ROUND;
        let start = Instant::now();
        while followers.iter().any(|(seen, _)| seen.lock().unwrap().len() < usize::try_from(all).unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(30), "not everybody got everything");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut waits: Vec<Duration> = Vec::new();
        for (seen, _) in &followers {
            let seen = seen.lock().unwrap();
            assert!(seen.iter().map(|(n, _)| *n).eq(1..=all), "out of order, or twice");
            let of_round = seen.iter().filter(|(n, _)| *n > round * ROUND);
            waits.extend(of_round.map(|(n, at)| at.duration_since(sent[usize::try_from(*n).unwrap() - 1])));
        }
        waits.sort();
        let tail = waits[waits.len() * 99 / 100];
        let (factor, now) = slowdown(used);
        used = now;
        tails.push((tail, factor));
        // The first pays for the connections.
        fine = round > 0 && tail <= Duration::from_millis(200).mul_f64(factor);
        if fine {
            break;
        }
    }
    let grown = resident_kib().saturating_sub(before);
    println!("{WATCHERS} followers: p99 of each round {tails:?}, {grown} KiB with their clients");
    assert!(fine, "p99 of each round, and how much slower than alone this machine is: {tails:?}");
    assert!(grown < 64 << 10, "{WATCHERS} followers took {grown} KiB");
    server.stop().await;
    for (_, task) in followers {
        task.abort();
    }
    end.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}
