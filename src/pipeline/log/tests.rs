// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::pipeline::testing::{DEF, Fake, Mood, workload};
use crate::signal::Stage;
use crate::signal::ids::EventIds;
use crate::signal::otlp::text;

#[derive(Default)]
struct Counts {
    dropped: AtomicU64,
    accepted: AtomicU64,
}

impl Observer for Counts {
    fn dropped(&self, _stage: Stage<'_>, _reason: &'static str, n: u64) {
        self.dropped.fetch_add(n, Ordering::Relaxed);
    }

    fn accepted(&self, n: u64) {
        self.accepted.fetch_add(n, Ordering::Relaxed);
    }
}

struct Rig {
    log: Log,
    fake: Arc<Fake>,
    counts: Arc<Counts>,
    ids: EventIds,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

const WAIT: Duration = Duration::from_secs(10);

impl Rig {
    fn new(fake: Arc<Fake>, limit: usize) -> Rig {
        let counts = Arc::new(Counts::default());
        let last = fake.ids().last().map_or(0, |id| id.time_ns());
        let mut ids = EventIds::new("host", last);
        let start = ids.next(1);
        let (log, committer) = Log::with_memory(fake.clone(), counts.clone(), || Timestamp(0), start, limit);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = Some(std::thread::spawn(move || committer.run(&stopped)));
        Rig { log, fake, counts, ids, stop, thread }
    }

    fn append(&mut self, n: usize, w: Option<&Arc<Workload>>) -> Vec<EventId> {
        (0..n)
            .map(|_| {
                let id = self.ids.next(1);
                let mut e = EntryBuf::new(id, "test", w.map(|w| w.key));
                e.profile(&[b'x'; 1000]);
                self.log.append(Append {
                    entries: vec![e],
                    workloads: w.cloned().into_iter().collect(),
                    incidents: vec![],
                });
                id
            })
            .collect()
    }

    fn until(&self, what: &str, f: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !f(self) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            t.join().unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.fake.set(Mood::Well);
        self.finish();
    }
}

fn ids(b: &Batch) -> Vec<EventId> {
    b.entries.iter().map(|e| e.id()).collect()
}

async fn read(r: &mut Reader, n: usize) -> Vec<EventId> {
    let mut got = Vec::new();
    let deadline = Instant::now() + WAIT;
    while got.len() < n && Instant::now() < deadline {
        let b = r.next(1000, Duration::from_millis(100)).await.unwrap_or_default();
        got.extend(ids(&b));
        r.ack(&b);
    }
    got
}

/// Every entry reaches a reader once, in order, after its commit; until it is acknowledged it is given again.
#[tokio::test]
async fn in_order_and_again_until_acknowledged() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    let sent = rig.append(5, None);
    rig.until("committed", |rig| rig.fake.ids().len() == 5);
    assert_eq!(r.behind().events, 5);
    let first = r.next(2, WAIT).await.unwrap();
    assert_eq!(ids(&first), sent[..2]);
    assert_eq!(ids(&r.next(2, WAIT).await.unwrap()), sent[..2], "not acknowledged");
    r.ack(&first);
    assert_eq!(ids(&r.next(10, WAIT).await.unwrap()), sent[2..]);
    assert_eq!(r.behind().events, 3);
    assert_eq!(rig.counts.accepted.load(Ordering::Relaxed), 5);
    assert!(r.next(10, WAIT).await.is_ok());
}

/// With nothing to read the reader waits no longer than it was told.
#[tokio::test]
async fn an_empty_log_times_out() {
    let rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    assert!(r.next(10, Duration::from_millis(20)).await.unwrap().is_empty());
}

/// After a restart a reader goes on behind what it had acknowledged; what was stored meanwhile is counted.
#[tokio::test]
async fn cursors_survive_a_restart() {
    let fake = Arc::new(Fake::default());
    let sent = {
        let mut rig = Rig::new(fake.clone(), MEMORY);
        let mut r = rig.log.reader("otlp").unwrap();
        let sent = rig.append(6, None);
        // The first is committed alone where the others come late.
        rig.until("committed", |rig| rig.fake.ids().len() == 6);
        let b = r.next(2, WAIT).await.unwrap();
        r.ack(&b);
        rig.finish();
        sent
    };
    assert_eq!(fake.cursor("otlp").unwrap(), Some(sent[1]));
    let rig = Rig::new(fake, MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    assert_eq!(r.behind().events, 4);
    assert_eq!(read(&mut r, 4).await, sent[2..]);
    assert_eq!(r.behind().events, 0);
    let mut new = rig.log.reader("elasticsearch").unwrap();
    assert!(new.next(10, Duration::from_millis(20)).await.unwrap().is_empty(), "a new exporter gets no history");
}

/// On a disk that is slow the end does not wait until all is saved: no commit begins when the time is over, and what is
/// left is reported. What was committed is there.
#[test]
fn a_slow_store_does_not_delay_the_end() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    rig.fake.set(Mood::Slow(Duration::from_secs(1)));
    rig.append(6_000, None);
    let before = *rig.fake.commits.lock().unwrap();
    rig.finish();
    let after = *rig.fake.commits.lock().unwrap();
    assert!(after - before <= 3, "{} commits of a second each, one of them under way", after - before);
    let saved = rig.fake.ids().len();
    assert!(saved > 0 && saved < 6_000);
    assert_eq!(rig.log.unsaved(), 6_000 - saved);
}

/// A reader that is slower than memory is deep gets the rest from the store, without a gap.
#[tokio::test]
async fn falls_back_to_the_store() {
    let mut rig = Rig::new(Arc::default(), 20_000);
    let mut r = rig.log.reader("otlp").unwrap();
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.extend(rig.append(10, None));
        let n = sent.len();
        rig.until("committed", |rig| rig.fake.ids().len() == n);
    }
    assert_eq!(read(&mut r, sent.len()).await, sent);
    assert_eq!(rig.counts.dropped.load(Ordering::Relaxed), 0);
}

/// When commits fail, readers go on from memory; when the store is back, all is saved.
#[tokio::test]
async fn a_broken_store_degrades_and_recovers() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    rig.fake.set(Mood::Broken);
    let sent = rig.append(10, None);
    rig.until("degraded", |rig| rig.log.state().degraded.is_some_and(|why| why.contains("no space")));
    assert_eq!(read(&mut r, 10).await, sent);
    assert_eq!(rig.counts.accepted.load(Ordering::Relaxed), 0, "accepted means committed");
    rig.fake.set(Mood::Well);
    rig.until("recovered", |rig| rig.log.state().degraded.is_none() && rig.fake.ids() == sent);
    assert_eq!(rig.counts.dropped.load(Ordering::Relaxed), 0);
}

/// A commit that hangs for more than a second is a degraded store too.
#[tokio::test]
async fn a_hanging_store_degrades() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    rig.fake.set(Mood::Hanging);
    let sent = rig.append(3, None);
    assert!(r.next(10, Duration::from_millis(300)).await.unwrap().is_empty(), "not yet");
    assert_eq!(read(&mut r, 3).await, sent);
    assert!(rig.log.state().degraded.is_some_and(|why| why.contains("not answered")));
    rig.fake.set(Mood::Well);
    rig.until("recovered", |rig| rig.log.state().degraded.is_none());
}

/// What falls out of memory unsaved is counted, exactly; the rest is delivered and later saved.
#[tokio::test]
async fn unsaved_losses_are_counted() {
    let mut rig = Rig::new(Arc::default(), 20_000);
    let mut r = rig.log.reader("otlp").unwrap();
    rig.fake.set(Mood::Broken);
    let sent = rig.append(100, None);
    rig.until("degraded", |rig| rig.log.state().degraded.is_some());
    let got = read(&mut r, usize::MAX / 2).await;
    let lost = usize::try_from(rig.counts.dropped.load(Ordering::Relaxed)).unwrap();
    assert!(lost > 0);
    assert_eq!(got, sent[lost..], "what is left comes in order");
    assert_eq!(rig.log.state().dropped, lost as u64);
    assert_eq!(r.behind().events, 0);
    rig.fake.set(Mood::Well);
    rig.until("saved", |rig| rig.fake.ids() == sent[lost..]);
}

/// Entries of a workload without a name wait for it, and go out with it.
#[tokio::test]
async fn names_are_waited_for() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    let mut unnamed = (*workload(1)).clone();
    unnamed.pending = true;
    unnamed.container_name = None;
    rig.append(1, Some(&Arc::new(unnamed)));
    assert!(r.next(10, Duration::from_millis(300)).await.unwrap().is_empty(), "held back");
    let began = Instant::now();
    rig.log.renamed(&workload(1));
    let b = r.next(10, WAIT).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let attrs = &b.workloads[&workload(1).key];
    assert_eq!(text(&attrs.attributes, "container.name"), Some("box1"));
    rig.until("the store has the name too", |rig| {
        rig.fake.workloads.lock().unwrap().get(&1).is_some_and(|w| w.name == "box1")
    });
}

/// A name that never comes holds an entry up for two seconds, not longer.
#[tokio::test]
async fn names_are_not_waited_for_long() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    let mut unnamed = (*workload(1)).clone();
    unnamed.pending = true;
    rig.append(1, Some(&Arc::new(unnamed)));
    let began = Instant::now();
    assert_eq!(r.next(10, WAIT).await.unwrap().entries.len(), 1);
    assert!((1900..4000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

/// An event whose stack may still be named, and its name.
fn late(rig: &mut Rig) -> (EventId, StackNames) {
    let id = rig.ids.next(1);
    let (entry, names) = crate::signal::testing::late(id, &DEF, id.time_ns(), None);
    rig.log.append(Append { entries: vec![entry], ..Append::default() });
    (id, names)
}

fn stacks(b: &Batch) -> Vec<Option<&str>> {
    b.entries.iter().map(|e| text(&e.log.as_ref()?.attributes, "linux.stack.user")).collect()
}

/// An entry waits for the names of its stack and goes out with them, once; the store gets them beside the entry
/// that it has. What comes before its entry waits for that.
#[tokio::test]
async fn late_names_of_stacks_are_waited_for() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    let (id, names) = late(&mut rig);
    rig.until("committed", |rig| rig.fake.ids() == [id]);
    assert!(r.next(10, Duration::from_millis(300)).await.unwrap().is_empty(), "held back");
    rig.log.named(names.clone());
    let b = r.next(10, WAIT).await.unwrap();
    assert_eq!((ids(&b), stacks(&b)), (vec![id], vec![Some("main+0x0")]));
    r.ack(&b);
    rig.log.named(names.clone());
    assert!(r.next(10, Duration::from_millis(100)).await.unwrap().is_empty(), "not again");
    assert_eq!((r.behind().events, r.behind().bytes), (0, 0));
    rig.until("stored", |rig| rig.fake.stacks.lock().unwrap().contains_key(&names.key().0));
    let id = rig.ids.next(1);
    let (entry, names) = crate::signal::testing::late(id, &DEF, 77, None);
    rig.log.named(names);
    rig.log.append(Append { entries: vec![entry], ..Append::default() });
    let b = r.next(10, Duration::from_millis(1500)).await.unwrap();
    assert_eq!(stacks(&b), [Some("main+0x0")], "nothing to wait for");
}

/// Names that do not come hold up what is behind them for two seconds, in order; when they come after all, they
/// reach the store and no exporter.
#[tokio::test]
async fn late_names_of_stacks_are_not_waited_for_long() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut r = rig.log.reader("otlp").unwrap();
    let began = Instant::now();
    let (first, names) = late(&mut rig);
    let second = rig.append(1, None)[0];
    let b = r.next(10, WAIT).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < WAIT / 2, "{:?}", began.elapsed());
    assert_eq!((ids(&b), stacks(&b)), (vec![first, second], vec![Some("0x10"), None]));
    r.ack(&b);
    rig.log.named(names.clone());
    rig.until("stored", |rig| rig.fake.stacks.lock().unwrap().contains_key(&names.key().0));
    assert!(r.next(10, Duration::from_millis(100)).await.unwrap().is_empty(), "what was sent is not sent again");
}

/// Names survive a store that fails, as entries do.
#[tokio::test]
async fn late_names_of_stacks_wait_for_the_store() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let (id, names) = late(&mut rig);
    rig.until("committed", |rig| rig.fake.ids() == [id]);
    rig.fake.set(Mood::Hanging);
    rig.log.named(names.clone());
    rig.fake.set(Mood::Broken);
    rig.until("degraded", |rig| rig.log.state().degraded.is_some());
    rig.fake.set(Mood::Well);
    rig.until("stored", |rig| rig.fake.stacks.lock().unwrap().contains_key(&names.key().0));
}

/// Followers get names that come after their entry.
#[tokio::test]
async fn followers_get_late_names() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut w = rig.log.watch();
    let (id, names) = late(&mut rig);
    let Live::Entry(got) = w.next().await else { panic!("an entry") };
    assert_eq!((got.entry.id(), got.entry.raw_late.len()), (id, 1));
    rig.log.named(names.clone());
    assert_eq!(w.next().await, Live::Named(Arc::new(names)));
}

/// Followers see what is committed, and are told what they were too slow for.
#[tokio::test]
async fn followers_get_committed_entries() {
    let mut rig = Rig::new(Arc::default(), MEMORY);
    let mut w = rig.log.watch();
    rig.fake.set(Mood::Hanging);
    let sent = rig.append(1, None);
    assert!(tokio::time::timeout(Duration::from_millis(200), w.next()).await.is_err(), "not committed yet");
    rig.fake.set(Mood::Well);
    let Live::Entry(got) = w.next().await else { panic!("an entry") };
    assert_eq!(got.entry.id(), sent[0]);
    rig.append(3 * LIVE, None);
    rig.until("committed", |rig| rig.fake.ids().len() == 1 + 3 * LIVE);
    rig.finish();
    let Live::Missed(missed) = w.next().await else { panic!("told of the gap") };
    assert_eq!(missed, 2 * LIVE as u64);
}
