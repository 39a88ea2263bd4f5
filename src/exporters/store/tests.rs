// SPDX-License-Identifier: Apache-2.0
use std::fs;

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::*;
use crate::pipeline::backing::NewEntry;
use crate::pipeline::testing::{DEF, workload};
use crate::signal::entry::{Entry, IncidentRecord};
use crate::signal::ids::TraceId;
use crate::signal::{Query, Timestamp, otlp};

const S: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * S;
/// A midnight, UTC.
const START: u64 = 20_000 * DAY;

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
}

fn settings(dir: &tempfile::TempDir) -> Settings {
    Settings { path: dir.path().to_owned(), max_size: 1 << 30, max_age: Duration::from_secs(7 * 86_400) }
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, opened) = Store::open(settings(&dir), Duration::ZERO).unwrap();
        assert!(opened.set_aside.is_none());
        Rig { dir, store }
    }

    fn put(&self, ns: u64, name: &str, w: Option<u64>) -> EventId {
        let e = entry(ns, name, w);
        self.store.commit(&Commit { entries: vec![new(&e)], ..Commit::default() }).unwrap();
        e.id()
    }

    /// Closes, lets `f` change the files, opens again.
    fn reopen(self, f: impl FnOnce(&Path)) -> (Self, Opened) {
        let dir = self.dir;
        drop(self.store);
        f(&folder(dir.path()));
        let (store, opened) = Store::open(settings(&dir), Duration::ZERO).unwrap();
        (Rig { dir, store }, opened)
    }

    fn ids(&self) -> Vec<EventId> {
        let all = self.store.entries_after(EventId([0; 12]), usize::MAX, usize::MAX).unwrap();
        all.iter().map(|s| s.entry.id()).collect()
    }
}

fn id(ns: u64) -> EventId {
    let mut b = [7; 12];
    b[..8].copy_from_slice(&ns.to_be_bytes());
    EventId(b)
}

fn entry(ns: u64, name: &str, w: Option<u64>) -> Entry {
    let mut e = Entry::new(id(ns), "test", w.map(WorkloadKey));
    e.log = Some(LogRecord {
        time_unix_nano: ns,
        severity_number: 13,
        event_name: name.to_owned(),
        ..LogRecord::default()
    });
    e
}

fn new(e: &Entry) -> NewEntry {
    let workload = e.workload().map(|k| Arc::new(ResourceAttrs::from(&*workload(k.0))));
    NewEntry { id: e.id(), bytes: e.encode_to_vec().into(), workload }
}

fn incident(trace: u8, opening: u64) -> IncidentRecord {
    IncidentRecord {
        raw_trace: vec![trace; 16],
        raw_opening: id(opening).0.to_vec(),
        raw_last: id(opening + S).0.to_vec(),
        collector: "test".into(),
        name: "linux.test".into(),
        severity: 13,
        start: opening,
        ..IncidentRecord::default()
    }
}

fn found(rig: &Rig, q: &Query) -> Vec<u64> {
    rig.store.events(q).unwrap().iter().map(|s| (s.entry.id().time_ns() - START) / S).collect()
}

/// Each part of a question narrows the answer; without `after` the newest are meant, with it the oldest.
#[test]
fn questions() {
    let rig = Rig::new();
    for i in 0..6 {
        rig.put(START + i * S, if i % 2 == 0 { "linux.memory.oom_kill" } else { "linux.softirq.delay" }, Some(i % 3));
    }
    let q = Query::default;
    assert_eq!(found(&rig, &q()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(found(&rig, &Query { limit: Some(2), ..q() }), [4, 5]);
    assert_eq!(found(&rig, &Query { limit: Some(2), after: Some(id(START + S)), ..q() }), [2, 3]);
    assert_eq!(found(&rig, &Query { after: Some(id(START + 9 * S)), ..q() }), [0; 0]);
    assert_eq!(found(&rig, &Query { name: Some("oom_kill".into()), ..q() }), [0, 2, 4]);
    assert_eq!(found(&rig, &Query { container: Some("box1".into()), ..q() }), [1, 4]);
    assert_eq!(
        found(&rig, &Query { container: Some("0000".into()), name: Some("linux.memory".into()), ..q() }),
        [0, 2, 4]
    );
    let between = Query { since: Some(Timestamp(START + 2 * S)), until: Some(Timestamp(START + 4 * S)), ..q() };
    assert_eq!(found(&rig, &between), [2, 3]);
    let backwards = Query { since: Some(Timestamp(START + 9 * DAY)), until: Some(Timestamp(START)), ..q() };
    assert_eq!(found(&rig, &backwards), [0; 0], "no panic either");
}

/// Any unique prefix names an event or an incident; an ambiguous one lists what it could be.
#[test]
fn prefixes() {
    let rig = Rig::new();
    let (a, b) = (rig.put(START, "a", None), rig.put(START + 1, "b", Some(1)));
    let c = Commit {
        incidents: vec![
            incident(0xab, START),
            IncidentRecord { end_reason: "quiet".into(), ..incident(0xac, START + 1) },
        ],
        ..Commit::default()
    };
    rig.store.commit(&c).unwrap();
    let find = |p: &str| rig.store.find(p).unwrap();
    assert!(matches!(find(&b.to_string()), Found::Event(s) if s.entry.id() == b && s.workload.is_some()));
    assert!(
        matches!(find(&a.to_string()[..16]), Found::Event(s) if s.entry.id() == a),
        "16 digits are a unique prefix"
    );
    assert_eq!(find(&a.to_string()[..12]), Found::Ambiguous(vec![a.to_string(), b.to_string()]));
    assert!(matches!(find("aba"), Found::Incident(i) if i.record.trace() == TraceId([0xab; 16])));
    assert!(matches!(find("ACA"), Found::Incident(i) if !i.record.is_open()));
    assert_eq!(find("a"), Found::Ambiguous(vec![TraceId([0xac; 16]).to_string(), TraceId([0xab; 16]).to_string()]));
    for nothing in ["", "xyz", "abacab", &"0".repeat(40)] {
        assert_eq!(find(nothing), Found::Nothing, "{nothing}");
    }
}

/// An incident is listed while it is open and after, and its entries are found by its trace.
#[test]
fn incidents_open_and_closed() {
    let rig = Rig::new();
    let mut mine = entry(START, "a", None);
    mine.log.as_mut().unwrap().trace_id = vec![0xab; 16];
    let other = entry(START + 1, "b", None);
    let open = incident(0xab, START);
    rig.store
        .commit(&Commit { entries: vec![new(&mine), new(&other)], incidents: vec![open.clone()], ..Commit::default() })
        .unwrap();
    assert_eq!(rig.store.open_incidents().unwrap(), std::slice::from_ref(&open));
    assert_eq!(rig.store.incidents(&Query::default()).unwrap()[0].record, open);
    let closed = IncidentRecord { end_reason: "quiet".into(), ..open };
    rig.store.commit(&Commit { incidents: vec![closed.clone()], ..Commit::default() }).unwrap();
    assert!(rig.store.open_incidents().unwrap().is_empty());
    let (rig, _) = rig.reopen(|_| {});
    assert_eq!(rig.store.incidents(&Query::default()).unwrap()[0].record, closed);
    let entries = rig.store.incident_entries(&closed).unwrap();
    assert_eq!(entries.iter().map(|s| s.entry.id()).collect::<Vec<_>>(), [mine.id()]);
}

/// A name that comes late reaches entries written before it; after a restart, one still to come does not replace it.
#[test]
fn late_names() {
    let rig = Rig::new();
    let e = entry(START, "a", Some(1));
    let mut unnamed = (*workload(1)).clone();
    unnamed.container_name = None;
    unnamed.pending = true;
    let unnamed = Arc::new(ResourceAttrs::from(&unnamed));
    let first = NewEntry { workload: Some(unnamed.clone()), ..new(&e) };
    rig.store.commit(&Commit { entries: vec![first], ..Commit::default() }).unwrap();
    let name = |rig: &Rig| rig.store.events(&Query::default()).unwrap()[0].workload.clone().unwrap().name.clone();
    assert_ne!(name(&rig), "box1");
    let named = Arc::new(ResourceAttrs::from(&*workload(1)));
    rig.store.commit(&Commit { workloads: vec![named], ..Commit::default() }).unwrap();
    assert_eq!(name(&rig), "box1");
    let (rig, _) = rig.reopen(|_| {});
    let second = NewEntry { workload: Some(unnamed), ..new(&entry(START + 1, "a", Some(1))) };
    rig.store.commit(&Commit { entries: vec![second], ..Commit::default() }).unwrap();
    assert_eq!(name(&rig), "box1");
}

/// Names of a stack that came after its entry are there however the entry is read, also from a later segment and
/// after a restart; another entry of the same addresses stays as it is.
#[test]
fn late_names_are_joined_at_read() {
    let rig = Rig::new();
    let commit = |ns, key| {
        let (entry, names) = crate::signal::testing::late(id(ns), &DEF, key, None);
        let entry = NewEntry { id: entry.id, bytes: entry.encoded().into(), workload: None };
        rig.store.commit(&Commit { entries: vec![entry], ..Commit::default() }).unwrap();
        names
    };
    let names = commit(START, 1);
    commit(START + S, 2);
    rig.put(START + DAY, "a", None);
    rig.store.commit(&Commit { stacks: vec![Arc::new(names)], ..Commit::default() }).unwrap();
    let (rig, _) = rig.reopen(|_| {});
    let stack = |e: &Entry| otlp::text(&e.log.as_ref().unwrap().attributes, "linux.stack.user").map(str::to_owned);
    let all: Vec<_> = rig.store.events(&Query::default()).unwrap().iter().map(|s| stack(&s.entry)).collect();
    assert_eq!(all, [Some("main+0x0".into()), Some("0x10".into()), None]);
    let sent = rig.store.entries_after(EventId([0; 12]), usize::MAX, usize::MAX).unwrap();
    assert_eq!(sent.iter().map(|s| stack(&s.entry)).collect::<Vec<_>>(), all);
    let Found::Event(found) = rig.store.find(&id(START).to_string()).unwrap() else { panic!("found") };
    let incident = rig.store.incident_entries(&incident(4, START)).unwrap();
    assert_eq!((stack(&found.entry), stack(&incident[0].entry)), (all[0].clone(), all[0].clone()));
}

/// Segments roll at midnight UTC; those older than the limit go as a whole, and what an exporter
/// had still to send is counted.
#[test]
fn age() {
    let rig = Rig::new();
    for day in 0..3 {
        for i in 0..10 {
            rig.put(START + day * DAY + i * S, "a", None);
        }
    }
    assert_eq!(segments::open_all(&rig.store.db().unwrap().database).unwrap().len(), 3);
    let cursor = Some(id(START + 5 * S));
    let expired = rig.store.expire(START + 8 * DAY - S, cursor).unwrap();
    assert_eq!(expired, Expired::default(), "its last entry is not 7 days old");
    let forgotten = |rig: &Rig, ns| rig.store.has_forgotten(EventId::before(ns)).unwrap();
    assert!(!forgotten(&rig, START - S), "nothing was before the first entry");
    assert!(rig.store.has_forgotten(id(START - S)).unwrap(), "an entry of another store");
    let expired = rig.store.expire(START + 8 * DAY + S, cursor).unwrap();
    assert_eq!(expired, Expired { segments: 1, undelivered: 4 });
    assert_eq!(rig.ids().len(), 20);
    let (rig, _) = rig.reopen(|_| {});
    assert_eq!(rig.ids().len(), 20, "they stay away");
    assert!(forgotten(&rig, START - S) && forgotten(&rig, START + 8 * S));
    assert!(!forgotten(&rig, START + 10 * S), "none is gone after the last of the first day");
}

/// By size too: eight segments at most, the oldest dropped, the newest kept.
#[test]
fn size() {
    let dir = tempfile::tempdir().unwrap();
    let max_size = 32 << 20;
    let (store, _) = Store::open(Settings { max_size, ..settings(&dir) }, Duration::ZERO).unwrap();
    let rig = Rig { dir, store };
    let mut noise = 1_u64;
    let mut last = EventId([0; 12]);
    for i in 0..60 {
        let batch: Vec<_> = (0..1000)
            .map(|j| {
                let mut e = entry(START + (i * 1000 + j) * 1000, "a", None);
                // Incompressible, so that it is as large on disk.
                let bytes = (0..1024).map(|_| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    noise.to_be_bytes()[0]
                });
                e.profile = Some(bytes.collect());
                last = e.id();
                new(&e)
            })
            .collect();
        while !rig.store.has_room().unwrap() {
            std::thread::sleep(Duration::from_millis(5));
        }
        rig.store.commit(&Commit { entries: batch, ..Commit::default() }).unwrap();
        rig.store.expire(START + DAY, None).unwrap();
    }
    let db = rig.store.db().unwrap();
    let on_disk: u64 = db.segments.read().unwrap().iter().map(|s| s.disk_space()).sum();
    assert!(on_disk <= max_size + (4 << 20), "{on_disk}");
    assert!(on_disk >= max_size / 2, "no more than is needed is dropped: {on_disk}");
    assert_eq!(rig.store.last_id().unwrap(), Some(last));
}

fn journal(store: &Path) -> PathBuf {
    let files = fs::read_dir(store).unwrap().map(|f| f.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|e| e == "jnl")).max().unwrap()
}

/// Changes one byte of the journal, at the first place where `needle` lies.
fn flip(store: &Path, needle: &[u8], offset: isize) {
    let path = journal(store);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(needle.len()).position(|w| w == needle).expect("it is in the journal");
    bytes[at.checked_add_signed(offset).unwrap()] ^= 0x55;
    fs::write(&path, bytes).unwrap();
}

/// One wrong byte in a value, or in a tag or length (where fjall would silently cut the rest off):
/// the store is set aside, kept, reported, and the agent goes on with an empty one.
#[test]
fn a_flipped_byte_is_set_aside() {
    let tag = -(1 + 1 + 1 + 8 + 2 + 4 + 4) - 12;
    let length = -4 - 12;
    for offset in [5, tag, length] {
        let rig = Rig::new();
        for i in 0..20 {
            rig.put(START + i * S, "a", None);
        }
        let needle = entry(START + 10 * S, "a", None).encode_to_vec();
        let (rig, opened) = rig.reopen(|store| flip(store, &needle, offset));
        let (aside, reason) = opened.set_aside.expect("reported");
        assert!(aside.join("version").exists() && !reason.is_empty(), "{aside:?} {reason}");
        assert!(rig.ids().is_empty());
        rig.put(START, "a", None);
        assert_eq!(rig.ids().len(), 1, "and it works");
    }
}

/// The half-written end of a journal is no damage: what was accepted before it is there.
#[test]
fn a_torn_tail_is_cut_off() {
    let rig = Rig::new();
    for i in 0..20 {
        rig.put(START + i * S, "a", None);
    }
    let last = entry(START + 19 * S, "a", None).encode_to_vec();
    let (rig, opened) = rig.reopen(|store| {
        let path = journal(store);
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(last.len()).position(|w| w == last).unwrap();
        fs::write(&path, &bytes[..at + 3]).unwrap();
    });
    assert!(opened.set_aside.is_none());
    assert_eq!(rig.ids().len(), 19);
}

/// A store of a later version is not touched, but set aside.
#[test]
fn a_newer_format_is_set_aside() {
    let rig = Rig::new();
    rig.put(START, "a", None);
    rig.store.db().unwrap().meta.insert("format", 99_u32.to_be_bytes()).unwrap();
    let (rig, opened) = rig.reopen(|_| {});
    assert!(opened.set_aside.is_some_and(|(_, why)| why.contains("format 99")));
    assert!(rig.ids().is_empty());
}

/// Two agents, or an agent and a query, never have it at once; a query creates and repairs nothing.
#[test]
fn the_lock() {
    let rig = Rig::new();
    rig.put(START, "a", None);
    let path = rig.dir.path().to_owned();
    let again = Store::open(settings(&rig.dir), Duration::from_millis(300));
    assert!(matches!(again, Err(OpenError::Locked(_))), "{again:?}");
    assert!(matches!(Store::open_existing(&path), Err(OpenError::Locked(_))));
    let Rig { dir, store } = rig;
    drop(store);
    let reader = Store::open_existing(&path).unwrap();
    assert_eq!(reader.last_id().unwrap(), Some(id(START)));
    drop(reader);
    fs::write(journal(&folder(&path)).with_file_name("version"), "nonsense").unwrap();
    assert!(matches!(Store::open_existing(&path), Err(OpenError::Damaged { .. })));
    assert!(folder(&path).exists(), "left where it was");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open_existing(empty.path()), Err(OpenError::Missing(_))));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    drop(dir);
}

/// Cursors and the node's attributes are there after a restart.
#[test]
fn meta() {
    let rig = Rig::new();
    let node = [crate::signal::otlp::key_value("host.name", &crate::signal::Value::from("n1"))];
    rig.store.set_node(&node).unwrap();
    rig.store.commit(&Commit { cursors: vec![("otlp".into(), id(5))], ..Commit::default() }).unwrap();
    let (rig, _) = rig.reopen(|_| {});
    assert_eq!(rig.store.cursor("otlp").unwrap(), Some(id(5)));
    assert_eq!(rig.store.cursor("other").unwrap(), None);
    assert_eq!(rig.store.node().unwrap(), node);
}

/// A store that is closed says why.
#[test]
fn closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::closed(settings(&dir), "read-only file system".into());
    assert!(store.events(&Query::default()).unwrap_err().to_string().contains("read-only file system"));
    assert!(store.reopen().is_ok());
    assert!(store.events(&Query::default()).unwrap().is_empty());
}

/// However many tables a store has, what it keeps in memory of each does not grow with what is in the table: as they
/// are flushed, and as they are found again. All entries and records are there.
#[test]
fn tables_cost_no_memory() {
    use fjall::AbstractTree as _;
    const EACH: u64 = 2_000;
    let pinned = |rig: &Rig| {
        let db = rig.store.inner.db.read().unwrap().clone().unwrap();
        let segments = db.segments.read().unwrap();
        let all: Vec<_> = segments.iter().flat_map(|s| [&s.entries, &s.records]).collect();
        let tables: usize = all.iter().map(|k| k.table_count()).sum();
        let bytes = |k: &&fjall::Keyspace| k.tree.pinned_filter_size() + k.tree.pinned_block_index_size();
        (tables, all.iter().map(bytes).sum::<usize>())
    };
    let flush = |rig: &Rig| {
        let db = rig.store.inner.db.read().unwrap().clone().unwrap();
        let segments = db.segments.read().unwrap();
        segments.iter().flat_map(|s| [&s.entries, &s.records]).for_each(|k| k.rotate_memtable_and_wait().unwrap());
    };
    let rig = Rig::new();
    for table in 0..4 {
        let all: Vec<_> = (0..EACH).map(|i| entry(START + table * EACH + i, "x", Some(table * EACH + i))).collect();
        rig.store.commit(&Commit { entries: all.iter().map(new).collect(), ..Commit::default() }).unwrap();
        flush(&rig);
    }
    let check = |rig: &Rig| {
        let (tables, bytes) = pinned(rig);
        // Filters alone would be 2 bytes an entry.
        assert!(tables >= 2 && bytes <= tables * 1024, "{bytes} bytes of {tables} tables are kept in memory");
        assert_eq!(rig.ids().len() as u64, 4 * EACH);
        assert_eq!(rig.ids(), (0..4 * EACH).map(|i| id(START + i)).collect::<Vec<_>>());
    };
    check(&rig);
    check(&rig.reopen(|_| {}).0);
}
