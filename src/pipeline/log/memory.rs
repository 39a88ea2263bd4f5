// SPDX-License-Identifier: Apache-2.0
//! What the log holds in memory, under its lock.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::late::{Late, joined};
use super::{SLOW_COMMIT, StoreState};
use crate::pipeline::backing::{Commit, NewEntry};
use crate::signal::entry::{EntryBuf, IncidentRecord, ResourceAttrs};
use crate::signal::ids::{EventId, StackKey};
use crate::signal::{StackNames, Workload, WorkloadKey};

/// Entries of a workload or with a stack whose names are still being looked up wait so long for them.
pub(super) const HOLD: Duration = Duration::from_secs(2);
/// A commit's size; one more entry may go over.
const COMMIT_BYTES: usize = 1024 * 1024;
/// Known workloads beyond which those without entries in memory are forgotten.
const WORKLOADS: usize = 1024;
/// Of a slot beside its bytes.
const SLOT_BYTES: usize = size_of::<Slot>() + 32;

pub(super) struct Slot {
    pub id: EventId,
    pub at: Instant,
    pub bytes: Arc<[u8]>,
    pub workload: Option<WorkloadKey>,
    /// Under which names of its stacks may still come.
    late: Vec<StackKey>,
    committed: bool,
}

struct Known {
    workload: Arc<Workload>,
    attrs: Arc<ResourceAttrs>,
}

/// An exporter's place in the log.
pub(super) struct Cursor {
    pub id: EventId,
    dirty: bool,
    /// What is after it.
    pub events: u64,
    pub bytes: u64,
}

/// Where the entries after an id are.
pub(super) enum After<I> {
    Here(I),
    /// Memory does not reach back so far. Where the store has nothing either, go on from `gap_ends`.
    InStore {
        gap_ends: EventId,
    },
    Soon,
}

pub(super) struct Memory {
    slots: VecDeque<Slot>,
    bytes: usize,
    limit: usize,
    /// The newest entry that is no longer here.
    gone: EventId,
    /// The newest entry that is in the store.
    committed: EventId,
    workloads: HashMap<WorkloadKey, Known>,
    renamed: HashMap<WorkloadKey, Arc<ResourceAttrs>>,
    late: Late,
    /// Names of stacks whose entries are in the store, or about to be.
    named: Vec<Arc<StackNames>>,
    pub incidents: BTreeMap<Vec<u8>, IncidentRecord>,
    pub cursors: HashMap<String, Cursor>,
    /// Where a reader without a cursor begins.
    pub start: EventId,
    /// The newest entry of the commit under way, and since when.
    in_flight: Option<(EventId, Instant)>,
    /// Entries of that commit which have left memory.
    left_in_flight: u64,
    failed: Option<String>,
    dropped: u64,
    pub set_aside: Option<String>,
}

impl Memory {
    pub fn new(start: EventId, limit: usize) -> Self {
        Memory {
            slots: VecDeque::new(),
            bytes: 0,
            limit,
            gone: start,
            committed: start,
            workloads: HashMap::new(),
            renamed: HashMap::new(),
            late: Late::default(),
            named: Vec::new(),
            incidents: BTreeMap::new(),
            cursors: HashMap::new(),
            start,
            in_flight: None,
            left_in_flight: 0,
            failed: None,
            dropped: 0,
            set_aside: None,
        }
    }

    /// Remembers a workload that has entries.
    pub fn know(&mut self, w: &Arc<Workload>) {
        let known = self.workloads.get(&w.key).map(|k| &k.workload);
        // An event that waited in the queue has the workload as it was known then.
        if known.is_some_and(|k| Arc::ptr_eq(k, w) || *k == *w || (w.pending && !k.pending)) {
            return;
        }
        let attrs = Arc::new(ResourceAttrs::from(&**w));
        let known = Known { workload: w.clone(), attrs: attrs.clone() };
        if self.workloads.insert(w.key, known).is_some() {
            self.renamed.insert(w.key, attrs);
        }
    }

    /// Whether anything here belongs to the workload, and it has a new name.
    pub fn rename(&mut self, w: &Arc<Workload>) -> bool {
        let known = self.workloads.contains_key(&w.key);
        if known {
            self.know(w);
        }
        known
    }

    pub fn attrs(&self, key: WorkloadKey) -> Option<Arc<ResourceAttrs>> {
        self.workloads.get(&key).map(|k| k.attrs.clone())
    }

    /// `bytes`: the encoded entry.
    pub fn push(&mut self, entry: &EntryBuf, bytes: Arc<[u8]>) {
        let (bytes, late) = self.late.entry(&entry.late, bytes);
        let size = bytes.len();
        self.bytes += size + SLOT_BYTES;
        let (id, workload) = (entry.id, entry.workload);
        self.slots.push_back(Slot { id, at: Instant::now(), bytes, workload, late, committed: false });
        for c in self.cursors.values_mut() {
            c.events += 1;
            c.bytes += size as u64;
        }
    }

    /// Joins names to their entry, here and in the store; keeps those whose entry has not come yet.
    pub fn named(&mut self, names: Arc<StackNames>) -> bool {
        if !self.late.has_entry(&names) {
            return false;
        }
        let under_way = self.in_flight.map_or(self.committed, |(last, _)| last);
        // One that is gone from here is there, unless the store takes nothing.
        let mut in_store = self.failed.is_none();
        if let Some(slot) = self.slots.iter_mut().rev().find(|s| s.late.contains(&names.key())) {
            slot.late.retain(|k| *k != names.key());
            let (id, before) = (slot.id, slot.bytes.len());
            slot.bytes = joined(&slot.bytes, &names);
            in_store = id <= under_way;
            let after = slot.bytes.len();
            self.bytes = self.bytes + after - before;
            for c in self.cursors.values_mut().filter(|c| c.id < id) {
                c.bytes = (c.bytes + after as u64).saturating_sub(before as u64);
            }
        }
        if in_store {
            self.named.push(names);
        }
        true
    }

    /// Makes room, oldest first. Returns how many went unsaved.
    pub fn evict(&mut self) -> u64 {
        let mut lost = 0;
        while self.bytes > self.limit {
            let Some(slot) = self.pop() else { break };
            if slot.committed {
                continue;
            }
            // What is being committed may still be saved.
            if self.in_flight.is_some_and(|(last, _)| slot.id <= last) {
                self.left_in_flight += 1;
            } else {
                lost += 1;
                self.uncount(slot.id, slot.bytes.len());
            }
        }
        self.dropped += lost;
        lost
    }

    /// An entry will reach nobody any more: who has not passed it is that much less behind.
    fn uncount(&mut self, id: EventId, bytes: usize) {
        for c in self.cursors.values_mut().filter(|c| c.id < id) {
            c.events = c.events.saturating_sub(1);
            c.bytes = c.bytes.saturating_sub(bytes as u64);
        }
    }

    fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.bytes -= slot.bytes.len() + SLOT_BYTES;
        self.gone = slot.id;
        Some(slot)
    }

    /// Frees what is committed and passed by every reader.
    fn trim(&mut self) {
        let passed = self.cursors.values().map(|c| c.id).min();
        while self.slots.front().is_some_and(|s| s.committed && passed.is_none_or(|p| s.id <= p)) {
            self.pop();
        }
        if self.workloads.len() > WORKLOADS {
            let used: HashSet<_> = self.slots.iter().filter_map(|s| s.workload).collect();
            self.workloads.retain(|k, _| used.contains(k));
        }
    }

    /// Entries after `id` that may be delivered.
    pub fn after(&self, id: EventId) -> After<impl Iterator<Item = &Slot>> {
        let degraded = self.degraded().is_some();
        if id < self.gone {
            if id < self.committed {
                return After::InStore { gap_ends: self.gone.min(self.committed) };
            }
            // What has left memory while it was being committed will be in the store in a moment.
            if self.left_in_flight > 0 && !degraded {
                return After::Soon;
            }
        }
        let from = self.slots.partition_point(|s| s.id <= id);
        After::Here(self.slots.range(from..).take_while(move |s| s.committed || degraded))
    }

    /// Whether the entry has to wait for names of its workload or stacks.
    pub fn held_until(&self, s: &Slot) -> Option<Instant> {
        let of_workload = s.workload.and_then(|k| self.workloads.get(&k)).is_some_and(|k| k.workload.pending);
        ((of_workload || !s.late.is_empty()) && s.at.elapsed() < HOLD).then(|| s.at + HOLD)
    }

    pub fn has_after(&self, id: EventId) -> bool {
        self.slots.back().is_some_and(|s| s.id > id)
    }

    /// Moves a reader's cursor.
    pub fn ack(&mut self, name: &str, id: EventId, events: u64, bytes: u64) {
        if let Some(c) = self.cursors.get_mut(name).filter(|c| c.id < id) {
            c.id = id;
            c.dirty = true;
            c.events = c.events.saturating_sub(events);
            // Names may have come since the batch was made, and made its entries larger.
            c.bytes = if c.events == 0 { 0 } else { c.bytes.saturating_sub(bytes) };
        }
        self.trim();
    }

    /// Moves a cursor over a gap and counts anew what is after it.
    pub fn skip_to(&mut self, name: &str, id: EventId) {
        let from = self.slots.partition_point(|s| s.id <= id);
        let rest = self.slots.range(from..);
        let (events, bytes) = rest.fold((0, 0), |(n, b), s| (n + 1, b + s.bytes.len() as u64));
        if let Some(c) = self.cursors.get_mut(name) {
            *c = Cursor { id, dirty: true, events, bytes };
        }
    }

    /// Registers a reader that has `stored` entries and bytes of the store before it.
    pub fn register(&mut self, name: &str, id: EventId, stored: (u64, u64)) {
        // What is committed is counted in `stored`, unless the reader begins with this run.
        let unsaved = self.slots.iter().filter(|s| s.id > id && (id >= self.start || s.id > self.committed));
        let (events, bytes) = unsaved.fold(stored, |(n, b), s| (n + 1, b + s.bytes.len() as u64));
        // Saved from the first commit on: a reader that never gets to acknowledge anything would else
        // begin after its backlog at the next start.
        self.cursors.insert(name.to_owned(), Cursor { id, dirty: true, events, bytes });
    }

    pub fn lowest_cursor(&self) -> Option<EventId> {
        self.cursors.values().map(|c| c.id).min()
    }

    /// Whether entries or what belongs to them wait for a commit. Cursors wait for company.
    pub fn has_work(&self) -> bool {
        self.slots.back().is_some_and(|s| !s.committed)
            || !self.renamed.is_empty()
            || !self.named.is_empty()
            || !self.incidents.is_empty()
    }

    /// Takes what is to be committed next.
    pub fn begin(&mut self) -> Commit {
        let from = self.slots.partition_point(|s| s.committed);
        let mut size = 0;
        let mut entries = Vec::new();
        for s in self.slots.range(from..) {
            if size > COMMIT_BYTES {
                break;
            }
            size += s.bytes.len();
            let workload = s.workload.and_then(|k| self.attrs(k));
            entries.push(NewEntry { id: s.id, bytes: s.bytes.clone(), workload });
        }
        let mut cursors = Vec::new();
        for (name, c) in &mut self.cursors {
            if std::mem::take(&mut c.dirty) {
                cursors.push((name.clone(), c.id));
            }
        }
        let last = entries.last().map_or(self.committed, |e| e.id);
        self.in_flight = Some((last, Instant::now()));
        Commit {
            entries,
            workloads: std::mem::take(&mut self.renamed).into_values().collect(),
            stacks: std::mem::take(&mut self.named),
            incidents: std::mem::take(&mut self.incidents).into_values().collect(),
            cursors,
        }
    }

    /// The commit has returned. Says whether this ended a failure.
    pub fn committed(&mut self, c: &Commit) -> bool {
        if let Some(last) = c.entries.last() {
            self.committed = last.id;
            let from = self.slots.partition_point(|s| s.committed);
            let to = self.slots.partition_point(|s| s.id <= last.id);
            for s in self.slots.range_mut(from..to.max(from)) {
                s.committed = true;
            }
        }
        self.in_flight = None;
        self.left_in_flight = 0;
        self.trim();
        self.failed.take().is_some()
    }

    /// The commit has failed: what it held waits for the next one. Returns entries lost meanwhile.
    pub fn failed(&mut self, c: Commit, why: &str) -> u64 {
        let Commit { entries, workloads, mut stacks, incidents, cursors } = c;
        self.named.append(&mut stacks);
        for w in workloads {
            self.renamed.entry(w.key()).or_insert(w);
        }
        for i in incidents {
            self.incidents.entry(i.raw_trace.clone()).or_insert(i);
        }
        for (name, _) in cursors {
            if let Some(c) = self.cursors.get_mut(&name) {
                c.dirty = true;
            }
        }
        self.in_flight = None;
        self.failed = Some(why.to_owned());
        let (lost, gone) = (std::mem::take(&mut self.left_in_flight), self.gone);
        for e in entries.iter().take_while(|e| e.id <= gone) {
            self.uncount(e.id, e.bytes.len());
        }
        self.dropped += lost;
        lost
    }

    pub fn set_failed(&mut self, why: &str) {
        self.failed = Some(why.to_owned());
    }

    /// Why entries are not being saved.
    pub fn degraded(&self) -> Option<String> {
        let slow = self.in_flight.map(|(_, since)| since.elapsed()).filter(|d| *d > SLOW_COMMIT);
        self.failed.clone().or_else(|| slow.map(|d| format!("the disk has not answered for {} s", d.as_secs())))
    }

    /// Entries that the store has not taken.
    pub fn unsaved(&self) -> usize {
        self.slots.iter().filter(|s| !s.committed).count()
    }

    pub fn state(&self) -> StoreState {
        StoreState { degraded: self.degraded(), dropped: self.dropped, set_aside: self.set_aside.clone() }
    }
}
