// SPDX-License-Identifier: Apache-2.0
//! CPU time from a decoded record to the committed entry (incident, OTLP, log, store), against
//! plain fjall that is given the same bytes in the same batches in the same run. The bar: at most
//! 10 us an event in batches of 100 and more. Ends with the memory of 100,000 events.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot run has nothing better to do")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bianque::exporters::store::{Settings, Store};
use bianque::pipeline::incident::{self, Identity, Moment};
use bianque::pipeline::limits::RateLimit;
use bianque::pipeline::log::Log;
use bianque::pipeline::{Input, Observer, Pipeline, Setup};
use bianque::signal::ids::EventId;
use bianque::signal::semconv::attr;
use bianque::signal::{Event, EventDef, Frame, Key, MetricDef, Panel, Severity, Thread, Timestamp};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

const BATCH: u64 = 100;

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
const VECTOR: Key = Key::new("linux.softirq.vector", "");
const DELAY: Key = Key::new("linux.softirq.delay", "");

/// Counts what has been committed.
#[derive(Default)]
struct Accepted(AtomicU64);

impl Observer for Accepted {
    fn accepted(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

/// CPU time of this process, threads that have ended included, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn memory_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// An event as a collector makes it of a record: four attributes, a thread, a kernel stack of twelve
/// whose symbol is shared, as the resolver's cache hands them out.
fn event(i: u64, symbol: &Arc<str>) -> Event {
    let mut e = Event::new(&DEF, Timestamp(i), None, format!("NET_RX waited {i} us on CPU 1"));
    e.duration = Some(Duration::from_micros(i));
    e.thread = Some(Thread { pid: 100, tid: 101, comm: "ksoftirqd/1".into() });
    e.attributes.set(VECTOR, "net_rx").set(DELAY, i).set(attr::CPU_LOGICAL_NUMBER, 1).set(attr::CPU_MODE, "softirq");
    let frame = |n: u64| Frame {
        symbol: Some(symbol.clone()),
        offset: 16 * n + i % 7,
        address: 0xffff_ffff_8100_0000 + n,
        ..Frame::default()
    };
    e.kernel_stack = (0..12).map(frame).collect();
    e
}

/// A pipeline over a real store, both threads running.
struct Rig {
    sender: bianque::pipeline::Sender,
    accepted: Arc<Accepted>,
    sent: u64,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    store: Store,
}

impl Rig {
    fn new(path: &Path) -> Rig {
        let week = Duration::from_secs(7 * 86_400);
        let settings = Settings { path: path.to_owned(), max_size: 1 << 30, max_age: week };
        let (store, _) = Store::open(settings, Duration::ZERO).expect("a new store");
        let accepted = Arc::new(Accepted::default());
        let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000_000));
        let now = move || Moment {
            wall: Timestamp(clock.fetch_add(1000, Ordering::Relaxed)),
            steady: Duration::from_secs(1),
        };
        let (log, committer) = Log::new(Arc::new(store.clone()), accepted.clone(), || Timestamp(0), EventId([0; 12]));
        let (sender, pipeline) = Pipeline::new(Setup {
            identity: Identity { host_id: "h".into(), boot_id: "b".into() },
            incidents: incident::Settings::default(),
            limit: RateLimit { burst: u32::MAX, per_second: 1e9 },
            log,
            observer: accepted.clone(),
            now: Box::new(now),
            last_id: None,
            left_open: Vec::new(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b) = (stop.clone(), stop.clone());
        let threads = vec![std::thread::spawn(move || pipeline.run(&a)), std::thread::spawn(move || committer.run(&b))];
        Rig { sender, accepted, sent: 0, stop, threads, store }
    }

    /// Sends events so that the queue always holds them, and waits for the last commit.
    fn send(&mut self, events: u64) {
        let symbol: Arc<str> = "__netif_receive_skb_core.constprop.0".into();
        for i in 0..events {
            while self.sent - self.accepted.0.load(Ordering::Relaxed) >= 1500 {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.sender.send(Input::Event { collector: "softirq", event: event(i, &symbol) });
            self.sent += 1;
        }
        while self.accepted.0.load(Ordering::Relaxed) < self.sent {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads.drain(..) {
            drop(t.join());
        }
    }
}

/// The entries that the pipeline makes of such events.
fn encoded() -> Vec<Vec<u8>> {
    use prost::Message;
    let dir = tempfile::tempdir().expect("a folder");
    let mut rig = Rig::new(dir.path());
    rig.send(1000);
    let stored = rig.store.entries_after(EventId([0; 12]), 1000, usize::MAX).expect("readable");
    stored.iter().map(|s| s.entry.encode_to_vec()).collect()
}

fn fjall_alone(group: &mut BenchmarkGroup<'_, WallTime>, values: &[Vec<u8>]) {
    let dir = tempfile::tempdir().expect("a folder");
    let db = fjall::Database::builder(dir.path()).worker_threads(1).open().expect("a new database");
    let options = || fjall::KeyspaceCreateOptions::default().max_memtable_size(2 << 20);
    let keyspace = db.keyspace("entries", options).expect("a new keyspace");
    let mut key = 0_u64;
    group.bench_function("fjall alone", |b| {
        b.iter_custom(|rounds| {
            let before = cpu_time();
            for _ in 0..rounds {
                let mut batch = db.batch();
                for _ in 0..BATCH {
                    key += 1;
                    let value = &values[usize::try_from(key).unwrap_or(0) % values.len()];
                    batch.insert(&keyspace, key.to_be_bytes(), value.as_slice());
                }
                batch.commit().expect("committed");
            }
            (cpu_time() - before).max(Duration::from_nanos(rounds))
        });
    });
}

fn record_to_committed(group: &mut BenchmarkGroup<'_, WallTime>) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut rig = Rig::new(dir.path());
    group.bench_function("record to committed", |b| {
        b.iter_custom(|rounds| {
            let before = cpu_time();
            rig.send(rounds * BATCH);
            (cpu_time() - before).max(Duration::from_nanos(rounds))
        });
    });
}

fn main() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = memory_kib("VmRSS");
    let mut rig = Rig::new(dir.path());
    let cpu = cpu_time();
    rig.send(100_000);
    let cpu = cpu_time() - cpu;
    println!(
        "100,000 events: {:.1} us CPU each; memory {} KiB before, {} KiB after, {} KiB at most",
        cpu.as_secs_f64() * 10.0,
        before,
        memory_kib("VmRSS"),
        memory_kib("VmHWM")
    );
    drop(rig);
    let values = encoded();
    println!("an entry has {} bytes", values.iter().map(Vec::len).sum::<usize>() / values.len());
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("store (CPU time)");
    group.throughput(Throughput::Elements(BATCH));
    fjall_alone(&mut group, &values);
    record_to_committed(&mut group);
    group.finish();
    criterion.final_summary();
}
