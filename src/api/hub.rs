// SPDX-License-Identifier: Apache-2.0
//! The newest events in memory, once for all who follow them: read from the log, kept for as long as
//! there is room, and put into words at most once, however many read them.
//!
//! An entry waits a moment for names of its stack that are still being looked up, and later entries wait
//! behind it.
//!
//! Entries are numbered as they come. Who was at a number and finds what is left of the store to begin
//! at a higher one knows how many it has missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::Page;
use crate::pipeline::backing::Stored;
use crate::pipeline::log::{Live, Watch};
use crate::signal::ids::EventId;
use crate::signal::{Query, StackNames, json};

/// Room for encoded entries; in words they are about twice as large.
const BYTES: usize = 1 << 20;
const ENTRIES: usize = 2_048;
/// Who follows sees an event so much later at most; names that come after it are in what is read from then on.
const HOLD: Duration = Duration::from_millis(500);

/// A place in the order of ingest, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub id: EventId,
    /// Entries that the agent has accepted up to here, counted from its start.
    pub number: i64,
}

/// The newest entries.
pub struct Hub {
    ring: Mutex<Ring>,
    newest: watch::Sender<Position>,
    node: Arc<[KeyValue]>,
}

struct Ring {
    entries: VecDeque<Recent>,
    bytes: usize,
    /// All that comes after it is in here.
    floor: Position,
}

struct Recent {
    at: Position,
    bytes: usize,
    /// `None`: no event, but a capture, which only has its number.
    event: Option<Stored>,
    text: OnceLock<Arc<str>>,
}

impl Hub {
    /// `newest`: what was accepted last before anything is fed.
    #[must_use]
    pub fn new(newest: EventId, node: Arc<[KeyValue]>) -> Hub {
        let start = Position { id: newest, number: 0 };
        let ring = Ring { entries: VecDeque::new(), bytes: 0, floor: start };
        Hub { ring: Mutex::new(ring), newest: watch::Sender::new(start), node }
    }

    /// Takes in what is accepted from now on, until the agent stops.
    pub async fn feed(self: Arc<Self>, mut live: Watch) {
        let mut held: VecDeque<(Instant, Stored)> = VecDeque::new();
        loop {
            let next = match held.front() {
                Some((since, _)) => tokio::time::timeout_at(*since + HOLD, live.next()).await.ok(),
                None => Some(live.next().await),
            };
            match next {
                Some(Live::Entry(stored)) => held.push_back((Instant::now(), stored)),
                Some(Live::Named(names)) => {
                    held.iter_mut().for_each(|(_, stored)| join(&names, stored));
                    self.name(&names);
                }
                Some(Live::Missed(n)) => {
                    held.drain(..).for_each(|(_, stored)| self.push(stored));
                    self.skip(n);
                }
                Some(Live::End) => return held.drain(..).for_each(|(_, stored)| self.push(stored)),
                None => {}
            }
            let overdue = held.len().saturating_sub(ENTRIES);
            let complete = |(since, stored): &(Instant, Stored)| !is_late(stored) || since.elapsed() >= HOLD;
            let ready = held.iter().take_while(|h| complete(h)).count().max(overdue);
            held.drain(..ready).for_each(|(_, stored)| self.push(stored));
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names that came after their entry was let go.
    fn name(&self, names: &StackNames) {
        for recent in &mut self.ring().entries {
            if let Some(stored) = recent.event.as_mut().filter(|s| is_late(s)) {
                join(names, stored);
                recent.text = OnceLock::new();
            }
        }
    }

    fn push(&self, stored: Stored) {
        let last = *self.newest.borrow();
        let at = Position { id: stored.entry.id(), number: last.number + 1 };
        // Accepted before the hub was made, and seen twice.
        if at.id <= last.id {
            return;
        }
        let event = stored.entry.log.is_some().then_some(stored);
        let bytes = event.as_ref().map_or(0, |s| s.entry.encoded_len());
        let mut ring = self.ring();
        ring.bytes += bytes;
        ring.entries.push_back(Recent { at, bytes, event, text: OnceLock::new() });
        while ring.bytes > BYTES || ring.entries.len() > ENTRIES {
            let Some(old) = ring.entries.pop_front() else { break };
            ring.bytes -= old.bytes;
            ring.floor = old.at;
        }
        drop(ring);
        self.newest.send_replace(at);
    }

    /// The log was faster: what is not in here is in the store. Where it ends is known with the next entry.
    fn skip(&self, n: u64) {
        let mut ring = self.ring();
        let number = self.newest.borrow().number + i64::try_from(n).unwrap_or(i64::MAX);
        ring.entries.clear();
        ring.bytes = 0;
        ring.floor = Position { id: EventId([0xff; 12]), number };
        drop(ring);
        self.newest.send_modify(|p| p.number = number);
    }

    #[must_use]
    pub fn newest(&self) -> Position {
        *self.newest.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.newest.subscribe()
    }

    /// What a follower reads next, if all after its place is still in here.
    #[must_use]
    pub fn page(&self, q: &Query) -> Option<Page> {
        let (after, limit) = (q.after?, q.limit.unwrap_or(usize::MAX));
        let ring = self.ring();
        let first = ring.entries.front();
        // After a jump of the log the floor is unknown: who has seen the first that is in here has missed none.
        if after < ring.floor.id && first.is_none_or(|f| after < f.at.id) {
            return None;
        }
        let from = ring.entries.partition_point(|r| r.at.id <= after);
        let mut page = Page::default();
        for recent in ring.entries.range(from..) {
            if page.events.len() >= limit {
                page.more = true;
                break;
            }
            page.upto = Some(recent.at.id);
            page.looked += 1;
            if let Some(stored) = recent.event.as_ref().filter(|s| wants(q, s)) {
                let text = recent.text.get_or_init(|| self.text(stored));
                page.events.push((recent.at.id, text.clone()));
            }
        }
        Some(page)
    }

    fn text(&self, s: &Stored) -> Arc<str> {
        json::event(&s.entry, s.workload.as_deref(), &self.node).to_string().into()
    }
}

fn is_late(s: &Stored) -> bool {
    !s.entry.raw_late.is_empty()
}

fn join(names: &StackNames, s: &mut Stored) {
    if s.entry.raw_late.contains(&names.key().0) {
        names.join(Arc::make_mut(&mut s.entry));
    }
}

fn wants(q: &Query, s: &Stored) -> bool {
    q.wants_event(&s.entry) && q.wants_workload(s.workload.as_deref())
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::LogRecord;

    use super::*;
    use crate::pipeline::testing::DEF;
    use crate::signal::entry::Entry;

    fn id(n: u64) -> EventId {
        let mut id = EventId([0; 12]);
        id.0[..8].copy_from_slice(&n.to_be_bytes());
        id
    }

    fn stored(n: u64, text: usize) -> Stored {
        let log = LogRecord { event_name: "a".into(), severity_text: "x".repeat(text), ..LogRecord::default() };
        let entry = Entry { raw_id: id(n).0.to_vec(), log: Some(log), ..Entry::default() };
        Stored { entry: Arc::new(entry), workload: None }
    }

    fn read(hub: &Hub, after: u64) -> Option<Vec<u64>> {
        let q = Query { after: Some(id(after)), limit: Some(3), ..Query::default() };
        hub.page(&q).map(|p| p.events.iter().map(|(id, _)| id.time_ns()).collect())
    }

    /// Who is within what is kept reads on from there; who is not is sent to the store. What is kept
    /// is bounded, by size and by number.
    #[test]
    fn keeps_the_newest() {
        let hub = Hub::new(id(10), Arc::new([]));
        assert_eq!(read(&hub, 10), Some(vec![]));
        assert_eq!(read(&hub, 9), None, "what came before it was made");
        (9..=15).for_each(|n| hub.push(stored(n, 1)));
        assert_eq!(read(&hub, 10), Some(vec![11, 12, 13]));
        assert_eq!(read(&hub, 13), Some(vec![14, 15]));
        assert_eq!(hub.newest(), Position { id: id(15), number: 5 });
        (16..=20).for_each(|n| hub.push(stored(n, BYTES / 3)));
        assert_eq!(read(&hub, 10), None);
        assert_eq!(read(&hub, 18), Some(vec![19, 20]));
        (21..=20 + 2 * ENTRIES as u64).for_each(|n| hub.push(stored(n, 1)));
        assert_eq!(hub.ring.lock().unwrap().entries.len(), ENTRIES);
        assert!(hub.ring.lock().unwrap().bytes <= BYTES);
    }

    /// After a jump of the log only who has seen what came after it reads here; numbers go on.
    #[test]
    fn jumps_are_left_to_the_store() {
        let hub = Hub::new(id(10), Arc::new([]));
        hub.push(stored(11, 1));
        hub.skip(5);
        assert_eq!(read(&hub, 11), None);
        hub.push(stored(17, 1));
        assert_eq!(read(&hub, 11), None);
        hub.push(stored(18, 1));
        assert_eq!(read(&hub, 17), Some(vec![18]));
        assert_eq!(hub.newest(), Position { id: id(18), number: 8 });
    }

    /// An event waits for the names of its stack, and what comes after it behind it; without them it goes after half a
    /// second. Names that come later are in what is read then.
    #[tokio::test(start_paused = true)]
    async fn names_are_waited_for() {
        let (entries, named, watch) = Watch::fed();
        let hub = Arc::new(Hub::new(id(0), Arc::new([])));
        tokio::spawn(hub.clone().feed(watch));
        let late = |n: u64| {
            let (entry, names) = crate::signal::testing::late(id(n), &DEF, n, None);
            let entry = Entry::decode(entry.encoded()).unwrap();
            entries.send(Stored { entry: Arc::new(entry), workload: None }).unwrap();
            Arc::new(names)
        };
        let text = |n: u64| {
            let q = Query { after: Some(id(n - 1)), limit: Some(1), ..Query::default() };
            hub.page(&q).unwrap().events[0].1.clone()
        };
        let names = late(1);
        entries.send(stored(2, 1)).unwrap();
        tokio::time::sleep(HOLD / 2).await;
        assert_eq!(read(&hub, 0), Some(vec![]));
        named.send(names).unwrap();
        tokio::time::sleep(HOLD / 10).await;
        assert_eq!(read(&hub, 0), Some(vec![1, 2]));
        assert!(text(1).contains("main+0x0"), "{}", text(1));
        let names = late(3);
        tokio::time::sleep(HOLD * 2).await;
        assert!(text(3).contains("0x10"), "{}", text(3));
        named.send(names).unwrap();
        tokio::time::sleep(HOLD / 10).await;
        assert!(text(3).contains("main+0x0"), "{}", text(3));
    }

    /// Words are made once, however many read them.
    #[test]
    fn words_are_shared() {
        let hub = Hub::new(id(1), Arc::new([]));
        hub.push(stored(2, 1));
        let q = Query { after: Some(id(1)), ..Query::default() };
        let (a, b) = (hub.page(&q).unwrap(), hub.page(&q).unwrap());
        assert!(Arc::ptr_eq(&a.events[0].1, &b.events[0].1));
    }
}
