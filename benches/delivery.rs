// SPDX-License-Identifier: Apache-2.0
//! What delivery of stored events costs, and how fast the agent catches up after an outage: the real
//! agent, with all default collectors, finds a million events in its store that no back end has had,
//! and a server on this machine that takes them over OTLP.
//!
//!     cargo bench --bench delivery -- [--check] [--events N]
//!
//! First the logs alone over OTLP/HTTP and OTLP/gRPC, and then Elasticsearch alone, for CPU time an event and a document;
//! then each catches up with logs, traces and profiles, of which one entry in a hundred has one, and then both at once
//! with metrics and somebody who scrapes: for the time until all have arrived, in order for each workload, and meanwhile
//! for memory, the local API's answers, and the time from an OOM kill to `events --follow`.
//! `--check` fails above a bar. Root. The server counts records and does not decode them.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark may end so")]
#![expect(clippy::disallowed_methods, reason = "the processes that are measured have to be started")]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bianque::exporters::store::{Settings, Store};
use bianque::pipeline::backing::{Commit, NewEntry};
use bianque::signal::entry::{EntryBuf, ResourceAttrs};
use bianque::signal::ids::{EventId, SpanId, TraceId};
use bianque::signal::otlp::{self, Place};
use bianque::signal::semconv::attr;
use bianque::signal::{
    Event, EventDef, Frame, MetricDef, Panel, Profile, ProfileKind, Severity, StackSample, Thread, Timestamp, Workload,
    WorkloadKey, WorkloadKind, profile,
};
use kills::eat;
use rig::Agent;
use sink::Sink;
use table::{Table, pss};

#[expect(dead_code, reason = "the other benches want more of it")]
mod kills;
#[expect(dead_code, reason = "the other benches want more of it")]
mod rig;
mod sink;
mod table;

const WORKLOADS: u64 = 20;
/// Entries of one commit.
const COMMIT: u64 = 1000;
/// One entry of so many has a profile: a capture's.
const PROFILED: u64 = 100;
/// Stands in the template where each entry has its own time.
const TIME: u64 = 0x1122_3344_5566_7788;
const KEY: u64 = 0xfedc_ba98_7654_3210;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let ["eat", group] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        eat(Path::new(group));
    }
    let check = args.iter().any(|a| a == "--check");
    let at = args.iter().position(|a| a == "--events");
    let events = at.map_or(1_000_000, |i| args[i + 1].parse().unwrap());
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("delivery: skipped: loading BPF programs needs root");
        return ExitCode::from(u8::from(check));
    }
    let mut table = Table::default();
    let logs = catch_up(events, &["logs"], Way::Http, "none");
    let each = |r: &Run| r.cpu.as_secs_f64() * 1e6 / events as f64;
    table.barred("CPU an event, logs alone (20 us: 50,000 a second)", each(&logs), "us", 20.0);
    table.row("  time until all had arrived", logs.took.as_secs_f64(), "s");
    let grpc = catch_up(events, &["logs"], Way::Grpc, "none");
    table.barred("CPU an event, logs alone over gRPC", each(&grpc), "us", 20.0);
    table.row("  time until all had arrived", grpc.took.as_secs_f64(), "s");
    let elasticsearch = catch_up(events, &DOCUMENTS, Way::Http, "none");
    // Each event is a log record and a span.
    table.barred("CPU a document, Elasticsearch alone", each(&elasticsearch) / 2.0, "us", 20.0);
    let compressed = catch_up(events / 4, &DOCUMENTS, Way::Http, "gzip");
    table.barred("  compressed", each(&compressed) * 4.0 / 2.0, "us", 20.0);
    behaves(&mut table, &format!("catching up on {events} events, to Elasticsearch"), &elasticsearch);
    for (way, name) in [(Way::Http, "OTLP/HTTP"), (Way::Grpc, "OTLP/gRPC")] {
        let otlp = catch_up(events, &OTLP, way, "none");
        behaves(&mut table, &format!("catching up on {events} events, over {name}"), &otlp);
        table.row("  CPU an event", each(&otlp), "us");
        let all = catch_up(events, &[&OTLP[..], &DOCUMENTS[..]].concat(), way, "none");
        behaves(&mut table, &format!("catching up on {events} events, all exporters, {name}"), &all);
        table.row("  CPU an event", each(&all), "us");
    }
    if table.kept() || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is delivered with all on.
const OTLP: [&str; 3] = ["logs", "traces", "profiles"];
const DOCUMENTS: [&str; 3] = ["elasticsearch/logs", "elasticsearch/traces", "elasticsearch/profiles"];

/// So many of the events has this signal.
fn wanted(signal: &str, events: u64) -> u64 {
    if signal.ends_with("profiles") { events / PROFILED } else { events }
}

/// How OTLP is spoken.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Http,
    Grpc,
}

/// Puts a catching-up against its bars.
fn behaves(table: &mut Table, what: &str, run: &Run) {
    table.barred(what, run.took.as_secs_f64(), "s", 30.0);
    table.barred("  records out of order in their workload, or doubled", run.disorder as f64, "", 0.0);
    table.barred("  PSS at most", run.pss / 1024.0 / 1024.0, "MiB", 64.0);
    table.barred(&format!("  /v1/events meanwhile, p99 of {}", run.answers.len()), p99_ms(&run.answers), "ms", 200.0);
    let reported = format!("  OOM kill -> events --follow meanwhile, p99 of {}", run.reported.len());
    table.barred(&reported, p99_ms(&run.reported), "ms", 200.0);
}

/// What was seen while the agent caught up.
struct Run {
    took: Duration,
    cpu: Duration,
    pss: f64,
    disorder: u64,
    /// Times of the local API's answers.
    answers: Vec<Duration>,
    /// Times from a kill to its line in `events --follow`.
    reported: Vec<Duration>,
}

fn p99_ms(times: &[Duration]) -> f64 {
    assert!(!times.is_empty(), "the agent had caught up before anything was timed: take more --events");
    let mut all = times.to_vec();
    all.sort();
    all[(all.len() - 1) * 99 / 100].as_secs_f64() * 1e3
}

/// Lets an agent that has `events` behind deliver these signals.
fn catch_up(events: u64, signals: &[&str], way: Way, compression: &str) -> Run {
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("store"), events);
    let sink = Sink::start();
    let mut env = Vec::new();
    if signals.iter().any(|s| OTLP.contains(s)) {
        let (url, protocol) = if way == Way::Grpc { (sink.grpc_url(), "grpc") } else { (sink.url(), "http/protobuf") };
        env.push(("BIANQUE_EXPORTERS__OTLP__ENDPOINT".to_owned(), url));
        env.push(("BIANQUE_EXPORTERS__OTLP__PROTOCOL".to_owned(), protocol.to_owned()));
    }
    for signal in OTLP {
        let name = format!("BIANQUE_EXPORTERS__OTLP__{}__ENABLED", signal.to_ascii_uppercase());
        env.push((name, signals.contains(&signal).to_string()));
    }
    let all = signals.len() > DOCUMENTS.len();
    env.push(("BIANQUE_EXPORTERS__OTLP__METRICS__ENABLED".to_owned(), all.to_string()));
    if signals.contains(&DOCUMENTS[0]) {
        env.push(("BIANQUE_EXPORTERS__ELASTICSEARCH__URL".to_owned(), sink.url()));
        env.push(("BIANQUE_EXPORTERS__ELASTICSEARCH__COMPRESSION".to_owned(), compression.to_owned()));
    }
    let start = Instant::now();
    let agent = Agent::with(dir, &env);
    let mut run = Run {
        took: Duration::ZERO,
        cpu: Duration::ZERO,
        pss: 0.0,
        disorder: 0,
        answers: Vec::new(),
        reported: Vec::new(),
    };
    let (mut follower, arrivals) = kills::follow(&agent);
    let mut kill = 0;
    while signals.iter().any(|s| sink.count(s) < wanted(s, events)) {
        assert!(start.elapsed() < Duration::from_secs(600), "{:?} of {events} within ten minutes", sink.counts());
        let asked = Instant::now();
        assert!(agent.get("/v1/events?limit=100").is_some(), "the agent does not answer");
        run.answers.push(asked.elapsed());
        if all {
            assert!(agent.get("/metrics").is_some(), "the agent is not scraped");
        }
        kills::one(kill);
        kill += 1;
        run.pss = run.pss.max(pss(agent.pid()));
        run.reported.extend(arrivals.try_iter());
        std::thread::sleep(Duration::from_millis(50));
    }
    run.took = start.elapsed();
    run.cpu = cpu(agent.pid());
    run.reported.extend(arrivals.recv_timeout(Duration::from_secs(1)));
    drop((follower.kill(), follower.wait()));
    run.disorder = sink.disorder();
    run
}

/// CPU time of a process, threads that have ended included, in steps of 10 ms.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    Duration::from_millis(fields.skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum::<u64>() * 10)
}

/// Puts events of several workloads into a store, with the exporters' cursors before them.
fn fill(path: &Path, events: u64) {
    let week = Duration::from_secs(7 * 86_400);
    let settings = Settings { path: path.to_owned(), max_size: 4 << 30, max_age: week };
    let (store, _) = Store::open(settings, Duration::ZERO).unwrap();
    let (plain, profiled) = (Template::new(false), Template::new(true));
    let workloads: Vec<_> = (0..WORKLOADS).map(workload).collect();
    let first = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap() - 3_600_000_000_000;
    let cursors = ["otlp/logs", "otlp/traces", "otlp/profiles", "elasticsearch"].map(|s| (s.to_owned(), id(first)));
    store.commit(&Commit { cursors: cursors.into(), ..Commit::default() }).unwrap();
    let mut done = 0;
    while done < events {
        while !store.has_room().unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let next = (done + 1..=(done + COMMIT).min(events)).map(|i| {
            let w = &workloads[usize::try_from(i % WORKLOADS).unwrap()];
            let template = if i % PROFILED == 0 { &profiled } else { &plain };
            // A microsecond apart.
            template.entry(first + i * 1000, w)
        });
        store.commit(&Commit { entries: next.collect(), ..Commit::default() }).unwrap();
        done += COMMIT;
    }
}

fn id(ns: u64) -> EventId {
    let mut b = [9; 12];
    b[..8].copy_from_slice(&ns.to_be_bytes());
    EventId(b)
}

fn workload(n: u64) -> Arc<ResourceAttrs> {
    Arc::new(ResourceAttrs::from(&Workload {
        container_id: Some(format!("{n:064x}")),
        container_name: Some(format!("server-{n}")),
        image_name: Some("registry.example.org/shop/server".into()),
        runtime: Some("containerd"),
        service_name: Some(format!("server-{n}").into()),
        ..Workload::new(WorkloadKey(n + 1), WorkloadKind::Container, format!("/kubepods/{n}"))
    }))
}

/// Two hundred samples in forty stacks of a busy program, twenty frames deep.
fn cpu_profile() -> Profile {
    let frame = |stack: u64, n: u64| Frame {
        symbol: Some(format!("shop::orders::handler_{}::poll", (stack * 7 + n) % 90).into()),
        address: 0x40_0000 + 64 * (stack * 20 + n),
        ..Frame::default()
    };
    let sample = |stack| StackSample {
        user: (0..20).map(|n| frame(stack, n)).collect(),
        thread: Thread { pid: 100, tid: 100, comm: "server".into() },
        value: 5,
        ..StackSample::default()
    };
    Profile { kind: ProfileKind::CPU, stacks: (0..40).map(sample).collect(), period: 10_101_010, lost: 0 }
}

/// An encoded entry, and where its own values go.
struct Template {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    times: Vec<usize>,
    keys: Vec<usize>,
}

impl Template {
    /// As the pipeline makes it of a softirq delay: four attributes, a thread, a kernel stack of twelve; and, on request,
    /// with the profile of a capture.
    fn new(profiled: bool) -> Template {
        static METRIC: MetricDef = MetricDef::counter("linux.bench", "{event}", "").shown_as(Panel::None);
        static DEF: EventDef = EventDef {
            name: "linux.softirq.delay",
            summary: "",
            severity: Severity::Warn,
            worst: Severity::Warn,
            attributes: &[],
            counter: &METRIC,
            container_counter: Some(&METRIC),
        };
        let mut e = Event::new(&DEF, Timestamp(TIME), None, "NET_RX waited 123 ms on CPU 1".into());
        e.thread = Some(Thread { pid: 100, tid: 101, comm: "ksoftirqd/1".into() });
        e.attributes.set(attr::CPU_LOGICAL_NUMBER, 1).set(attr::CPU_MODE, "softirq");
        e.attributes.set_named("linux.softirq.vector".into(), "net_rx".into());
        e.attributes.set_named("linux.softirq.delay".into(), 123_000_000.into());
        let frame = |n: u64| Frame {
            symbol: Some("__netif_receive_skb_core.constprop.0".into()),
            offset: 16 * n,
            ..Frame::default()
        };
        e.kernel_stack = (0..12).map(frame).collect();
        let (trace, span) = (TraceId([7; 16]), SpanId([5; 8]));
        let mut entry = EntryBuf::new(id(TIME), "softirq", Some(WorkloadKey(KEY)));
        entry.log(&e, Some((trace, span)));
        entry.span(&otlp::event_span(&e, "softirq", Place { trace, span, parent: Some(SpanId([4; 8])) }));
        if profiled {
            let (start, end) = (Timestamp(TIME), Timestamp(TIME + 2_000_000_000));
            let of = profile::Origin { collector: "softirq", start, end, trace, span, id: [6; 16] };
            entry.profile(&profile::encode(&[cpu_profile()], &of).unwrap());
        }
        let bytes = entry.encoded().to_vec();
        let find = |what: &[u8]| (0..bytes.len() - what.len()).filter(|i| bytes[*i..].starts_with(what)).collect();
        let (ids, times, keys) = (find(&TIME.to_be_bytes()), find(&TIME.to_le_bytes()), find(&KEY.to_le_bytes()));
        Template { bytes, ids, times, keys }
    }

    fn entry(&self, ns: u64, w: &Arc<ResourceAttrs>) -> NewEntry {
        let mut bytes = self.bytes.clone();
        let places =
            [(&self.ids, ns.to_be_bytes()), (&self.times, ns.to_le_bytes()), (&self.keys, w.raw_key.to_le_bytes())];
        for (at, value) in places {
            for i in at {
                bytes[*i..*i + 8].copy_from_slice(&value);
            }
        }
        NewEntry { id: id(ns), bytes: bytes.into(), workload: Some(w.clone()) }
    }
}
