// SPDX-License-Identifier: Apache-2.0
//! The store under real faults: its process is killed, its disk is full.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "starts itself and mounts; helpers of tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bianque::exporters::store::{Settings, Store};
use bianque::pipeline::NoObserver;
use bianque::pipeline::log::{Append, Live, Log};
use bianque::signal::Timestamp;
use bianque::signal::entry::EntryBuf;
use bianque::signal::ids::{EventId, EventIds};

const CHILD: &str = "BIANQUE_TEST_STORE";

fn settings(path: &Path) -> Settings {
    Settings { path: path.to_owned(), max_size: 1 << 30, max_age: Duration::from_secs(7 * 86_400) }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// A log over a real store, with its committer's thread.
struct Rig {
    store: Store,
    log: Log,
    ids: EventIds,
    noise: u64,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    fn new(path: &Path) -> Rig {
        let (store, _) = Store::open(settings(path), Duration::from_secs(10)).unwrap();
        let mut ids = EventIds::new("host", store.last_id().unwrap().map_or(0, EventId::time_ns));
        let start = ids.next(now());
        let observer = Arc::new(NoObserver);
        let (log, committer) = Log::new(Arc::new(store.clone()), observer, || Timestamp(now()), start);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = Some(std::thread::spawn(move || committer.run(&stopped)));
        Rig { store, log, ids, noise: 1, stop, thread }
    }

    /// An entry of about 1 KiB that no compression makes smaller.
    fn append(&mut self) -> EventId {
        let id = self.ids.next(now());
        let mut e = EntryBuf::new(id, "test", None);
        let noise = (0..1000).map(|_| {
            self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.noise.to_be_bytes()[0]
        });
        e.profile(&noise.collect::<Vec<_>>());
        self.log.append(Append { entries: vec![e], ..Append::default() });
        id
    }

    fn until(&self, what: &str, f: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !f(self) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.log.state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            drop(t.join());
        }
    }
}

fn stored(store: &Store) -> Vec<EventId> {
    let all = store.entries_after(EventId([0; 12]), usize::MAX, usize::MAX).unwrap();
    all.iter().map(|s| s.entry.id()).collect()
}

/// The process that the next test starts and kills: commits, and prints what is accepted.
#[expect(clippy::print_stdout, reason = "the test reads it")]
fn commit_until_killed(path: &Path) {
    let mut rig = Rig::new(path);
    let mut watch = rig.log.watch();
    let follower = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        loop {
            match runtime.block_on(watch.next()) {
                Live::Entry(s) => println!("accepted {}", s.entry.id()),
                Live::Named(_) | Live::Missed(_) => {}
                Live::End => return,
            }
        }
    });
    for _ in 0..1_000_000 {
        rig.append();
        std::thread::sleep(Duration::from_micros(100));
    }
    drop(follower.join());
}

/// kill -9 under load, three times over on the same store: every event that was accepted is there.
#[test]
fn an_accepted_event_survives_kill_9() {
    // This very test is what the child runs.
    if let Some(path) = std::env::var_os(CHILD) {
        return commit_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut accepted = Vec::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_accepted_event_survives_kill_9", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let before = accepted.len();
        let mut killed = false;
        for line in lines {
            let Ok(line) = line else { break };
            // The last line may be cut off by the kill.
            accepted.extend(line.rsplit("accepted ").next().and_then(EventId::parse));
            if !killed && accepted.len() > before + 3000 {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself after {} events", accepted.len() - before);
        let (store, opened) = Store::open(settings(dir.path()), Duration::from_secs(10)).unwrap();
        assert!(opened.set_aside.is_none(), "{opened:?}");
        let there: std::collections::HashSet<_> = stored(&store).into_iter().collect();
        let missing = accepted.iter().filter(|id| !there.contains(id)).count();
        assert_eq!(missing, 0, "of {} accepted", accepted.len());
    }
}

/// A disk of its own that is unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|s| s.success()).then(|| SmallDisk(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A full disk: the store is degraded and says so, delivery goes on from memory, and once there is
/// space again everything that memory held is saved, without a restart.
#[test]
fn a_full_disk_degrades_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), "32m") else {
        // Only where the test does not run as root: `make test` does.
        eprintln!("skipped: cannot mount a tmpfs here");
        return;
    };
    let mut rig = Rig::new(&disk.0);
    let mut reader = rig.log.reader("otlp").unwrap();
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 28 << 20]).unwrap();
    let mut sent = Vec::new();
    for _ in 0..6000 {
        sent.push(rig.append());
        std::thread::sleep(Duration::from_micros(200));
    }
    rig.until("degraded", |rig| rig.log.state().degraded.is_some());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let batch = runtime.block_on(reader.next(1000, Duration::from_secs(5))).unwrap();
        assert!(!batch.is_empty(), "{} of {} delivered", got.len(), sent.len());
        got.extend(batch.entries.iter().map(|e| e.id()));
        reader.ack(&batch);
    }
    assert_eq!(got, sent, "delivery does not need the disk");
    std::fs::remove_file(&ballast).unwrap();
    rig.until("recovered", |rig| rig.log.state().degraded.is_none());
    sent.push(rig.append());
    rig.until("saved", |rig| rig.store.last_id().ok().flatten() == sent.last().copied());
    assert_eq!(stored(&rig.store), sent);
    assert_eq!(rig.log.state().dropped, 0);
    assert_eq!(rig.log.state().set_aside, None, "a full disk is no damage");
}
