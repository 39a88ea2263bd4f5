// SPDX-License-Identifier: Apache-2.0
//! Questions to the store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use prost::Message;

use super::names::{Names, decode};
use super::open::Db;
use super::segments::FORGOTTEN;
use super::segments::{INCIDENT, Segment};
use super::{CURSOR, NODE_KEY, OPEN_INCIDENT, Store, StoreError};
use crate::pipeline::backing::{NewEntry, Stored};
use crate::signal::entry::{Entry, IncidentRecord, ResourceAttrs};
use crate::signal::ids::{EventId, TraceId};
use crate::signal::{Query, RawEntry, Severity, Timestamp};

/// Events are stored when they arrive, which is after they happened, but clocks are stepped.
const CLOCK_SLACK_NS: u64 = 60_000_000_000;
/// An event is stored at most so long after it happened.
const ARRIVAL_NS: u64 = 600_000_000_000;
/// Candidates that an ambiguous prefix lists.
const CANDIDATES: usize = 10;

/// An incident with what is known of its workload.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredIncident {
    pub record: IncidentRecord,
    pub workload: Option<Arc<ResourceAttrs>>,
}

/// What an id's prefix stands for.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart where it is received")]
pub enum Found {
    Nothing,
    Event(Stored),
    Incident(StoredIncident),
    /// Ids that begin so, the first few of them.
    Ambiguous(Vec<String>),
}

/// The keys that a question can be about.
fn bounds(q: &Query) -> (Bound<[u8; 12]>, Bound<[u8; 12]>) {
    let key = |ns: u64| {
        let mut k = [0; 12];
        k[..8].copy_from_slice(&ns.to_be_bytes());
        k
    };
    let since = q.since.map_or(0, |t| t.0.saturating_sub(CLOCK_SLACK_NS));
    let lower = match q.after {
        Some(id) if id.time_ns() >= since => Bound::Excluded(id.0),
        _ => Bound::Included(key(since)),
    };
    let upper = q.until.map_or(Bound::Unbounded, |t| Bound::Excluded(key(t.0.saturating_add(ARRIVAL_NS))));
    (lower, upper)
}

/// fjall panics on a range that ends before it begins.
fn is_empty(range: &(Bound<[u8; 12]>, Bound<[u8; 12]>)) -> bool {
    match range {
        (Bound::Excluded(a) | Bound::Included(a), Bound::Excluded(b)) => a >= b,
        _ => false,
    }
}

fn segments_of(db: &Db) -> Vec<Arc<Segment>> {
    db.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Store {
    /// Events that a question asks for, oldest first; which ones are left when there are more than
    /// its limit is said at [`Query`].
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn events(&self, q: &Query) -> Result<Vec<Stored>, StoreError> {
        Ok(self.events_among(q)?.0)
    }

    /// As [`Self::events`], and how many entries were looked at to find them.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub fn events_among(&self, q: &Query) -> Result<(Vec<Stored>, u64), StoreError> {
        let db = self.db()?;
        let segments = segments_of(&db);
        let mut names = Names::new(&segments);
        let (mut out, mut looked) = (Vec::new(), 0);
        let limit = q.limit.unwrap_or(usize::MAX);
        let newest_first = q.after.is_none();
        let range = bounds(q);
        if is_empty(&range) {
            return Ok((out, looked));
        }
        let order: Vec<_> = if newest_first { segments.iter().rev().collect() } else { segments.iter().collect() };
        'all: for s in order {
            let iter = s.entries.range(range);
            let iter: Box<dyn Iterator<Item = _>> = if newest_first { Box::new(iter.rev()) } else { Box::new(iter) };
            for item in iter {
                if out.len() >= limit {
                    break 'all;
                }
                looked += 1;
                let entry = names.entry(self, &item.value().map_err(|e| self.failed(&e))?)?;
                if let Some(stored) = self.matching(q, entry, &mut names)? {
                    out.push(stored);
                }
            }
        }
        if newest_first {
            out.reverse();
        }
        Ok((out, looked))
    }

    fn matching(&self, q: &Query, entry: Entry, names: &mut Names<'_>) -> Result<Option<Stored>, StoreError> {
        if !q.wants_event(&entry) {
            return Ok(None);
        }
        let workload = names.of(self, entry.workload())?;
        Ok(q.wants_workload(workload.as_deref()).then(|| Stored { entry: Arc::new(entry), workload }))
    }

    /// Incidents that a question asks for, oldest first; their time is their onset.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn incidents(&self, q: &Query) -> Result<Vec<StoredIncident>, StoreError> {
        let db = self.db()?;
        let segments = segments_of(&db);
        let mut names = Names::new(&segments);
        let mut found = BTreeMap::new();
        self.each_incident(&db, &segments, |i| {
            let wanted = q.wants_time(Timestamp(i.start))
                && q.wants_severity(Severity::of_number(i.severity))
                && q.wants_name(&i.name, &i.collector)
                && q.after.is_none_or(|after| i.opening() > after);
            if wanted {
                found.insert(i.opening(), i);
            }
        })?;
        let limit = q.limit.unwrap_or(usize::MAX);
        let mut out = Vec::new();
        let newest_first = q.after.is_none();
        let mut records = found.into_values();
        while out.len() < limit {
            let Some(record) = (if newest_first { records.next_back() } else { records.next() }) else { break };
            let workload = names.of(self, record.workload())?;
            if q.wants_workload(workload.as_deref()) {
                out.push(StoredIncident { record, workload });
            }
        }
        if newest_first {
            out.reverse();
        }
        Ok(out)
    }

    /// Closed ones first, so that what is open comes last.
    fn each_incident(
        &self,
        db: &Db,
        segments: &[Arc<Segment>],
        mut f: impl FnMut(IncidentRecord),
    ) -> Result<(), StoreError> {
        let closed = segments.iter().flat_map(|s| s.records.prefix([INCIDENT]));
        for item in closed.chain(db.meta.prefix(OPEN_INCIDENT)) {
            f(decode(self, &item.value().map_err(|e| self.failed(&e))?)?);
        }
        Ok(())
    }

    /// Incidents that are open, or were when the last agent ended.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn open_incidents(&self) -> Result<Vec<IncidentRecord>, StoreError> {
        let db = self.db()?;
        let mut open = Vec::new();
        self.each_incident(&db, &[], |i| open.push(i))?;
        Ok(open)
    }

    /// What the id that begins with `prefix` (hex digits) stands for.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn find(&self, prefix: &str) -> Result<Found, StoreError> {
        let prefix = prefix.to_ascii_lowercase();
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Found::Nothing);
        }
        let db = self.db()?;
        let segments = segments_of(&db);
        let mut names = Names::new(&segments);
        let mut incidents = Vec::new();
        self.each_incident(&db, &segments, |i| {
            if i.trace().to_string().starts_with(&prefix) {
                incidents.push(i);
            }
        })?;
        let events = self.events_with_prefix(&names, &prefix)?;
        match (events.as_slice(), incidents.as_slice()) {
            ([], []) => Ok(Found::Nothing),
            ([entry], []) => {
                let workload = names.of(self, entry.workload())?;
                Ok(Found::Event(Stored { entry: entry.clone(), workload }))
            }
            ([], [i]) => {
                let workload = names.of(self, i.workload())?;
                Ok(Found::Incident(StoredIncident { record: i.clone(), workload }))
            }
            _ => {
                let ids = events.iter().map(|e| e.id().to_string());
                let ids = ids.chain(incidents.iter().map(|i| i.trace().to_string()));
                Ok(Found::Ambiguous(ids.take(CANDIDATES).collect()))
            }
        }
    }

    fn events_with_prefix(&self, names: &Names<'_>, prefix: &str) -> Result<Vec<Arc<Entry>>, StoreError> {
        if prefix.len() > 24 {
            return Ok(Vec::new());
        }
        let low = EventId::parse(&format!("{prefix:0<24}"));
        let high = EventId::parse(&format!("{prefix:f<24}"));
        let (Some(low), Some(high)) = (low, high) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for item in names.segments.iter().flat_map(|s| s.entries.range(low.0..=high.0)) {
            found.push(Arc::new(names.entry(self, &item.value().map_err(|e| self.failed(&e))?)?));
            if found.len() > CANDIDATES {
                break;
            }
        }
        Ok(found)
    }

    /// All entries of an incident, in the order of ingest, for its tree.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn incident_entries(&self, i: &IncidentRecord) -> Result<Vec<Stored>, StoreError> {
        let db = self.db()?;
        let segments = segments_of(&db);
        let mut names = Names::new(&segments);
        let trace: TraceId = i.trace();
        let mut out = Vec::new();
        // Captures may end after the incident was closed.
        let mut last = i.last().0;
        let end = i.last().time_ns().saturating_add(ARRIVAL_NS);
        last[..8].copy_from_slice(&end.to_be_bytes());
        for item in segments.iter().flat_map(|s| s.entries.range(i.opening().0..=last)) {
            let entry = names.entry(self, &item.value().map_err(|e| self.failed(&e))?)?;
            if entry.trace() == Some(trace) {
                let workload = names.of(self, entry.workload())?;
                out.push(Stored { entry: Arc::new(entry), workload });
            }
        }
        Ok(out)
    }

    /// Up to `max` entries after `id`, oldest first, fewer when they come to more than `max_bytes`.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    #[cfg(feature = "internals")]
    pub fn entries_after(&self, id: EventId, max: usize, max_bytes: usize) -> Result<Vec<Stored>, StoreError> {
        let encoded = self.encoded_after(id, max, max_bytes)?.into_iter();
        encoded.map(|e| Ok(Stored { entry: Arc::new(decode(self, &e.bytes)?), workload: e.workload })).collect()
    }

    /// As [`Store::entries_after`], encoded.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn encoded_after(&self, id: EventId, max: usize, max_bytes: usize) -> Result<Vec<NewEntry>, StoreError> {
        let db = self.db()?;
        let segments = segments_of(&db);
        let mut names = Names::new(&segments);
        let range = (Bound::Excluded(id.0), Bound::Unbounded);
        let mut out = Vec::new();
        let mut bytes = 0;
        for item in segments.iter().flat_map(|s| s.entries.range(range)) {
            if out.len() >= max || bytes > max_bytes {
                break;
            }
            let (key, value) = item.into_inner().map_err(|e| self.failed(&e))?;
            bytes += value.len();
            let Ok(id) = <[u8; 12]>::try_from(key.as_ref()).map(EventId) else { continue };
            let mut value: Arc<[u8]> = (*value).into();
            // Damage is reported by the decoder of the entry.
            let raw = RawEntry::new(id, value.clone()).ok();
            if raw.as_ref().is_some_and(|e| e.late().next().is_some())
                && let Ok(joined) = names.entry(self, &value)
            {
                value = joined.encode_to_vec().into();
            }
            let of = raw.and_then(|e| e.workload());
            out.push(NewEntry { id, bytes: value, workload: names.of(self, of)? });
        }
        Ok(out)
    }

    /// Number and bytes of the entries after `id`; reads all of them.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn count_after(&self, id: EventId) -> Result<(u64, u64), StoreError> {
        let db = self.db()?;
        let range = (Bound::Excluded(id.0), Bound::Unbounded);
        let (mut count, mut bytes) = (0, 0);
        for item in segments_of(&db).iter().flat_map(|s| s.entries.range(range)) {
            count += 1;
            bytes += u64::from(item.size().map_err(|e| self.failed(&e))?);
        }
        Ok((count, bytes))
    }

    /// How many entries there are after `id`, up to `last` and with it.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn count_between(&self, id: EventId, last: EventId) -> Result<u64, StoreError> {
        let db = self.db()?;
        if last <= id {
            return Ok(0);
        }
        let range = (Bound::Excluded(id.0), Bound::Included(last.0));
        let mut count = 0;
        for item in segments_of(&db).iter().flat_map(|s| s.entries.range(range)) {
            item.key().map_err(|e| self.failed(&e))?;
            count += 1;
        }
        Ok(count)
    }

    /// Whether entries after `id` are gone: age or size took them, or it is an entry's own and no entry of
    /// its time is left, as in a store that was made anew.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn has_forgotten(&self, id: EventId) -> Result<bool, StoreError> {
        let db = self.db()?;
        let newest = db.meta.get(FORGOTTEN).map_err(|e| self.failed(&e))?;
        if newest.is_some_and(|newest| newest.as_ref() > id.0.as_slice()) {
            return Ok(true);
        }
        if id == EventId::before(id.time_ns()) {
            return Ok(false);
        }
        let first = segments_of(&db).iter().find_map(|s| s.entries.first_key_value());
        let Some(first) = first else { return Ok(false) };
        let key = first.key().map_err(|e| self.failed(&e))?;
        Ok(key.as_ref() > id.0.as_slice())
    }

    /// The id of the newest entry.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn last_id(&self) -> Result<Option<EventId>, StoreError> {
        let db = self.db()?;
        for s in segments_of(&db).iter().rev() {
            if let Some(last) = s.entries.last_key_value() {
                let key = last.key().map_err(|e| self.failed(&e))?;
                return Ok(<[u8; 12]>::try_from(key.as_ref()).ok().map(EventId));
            }
        }
        Ok(None)
    }

    /// What an exporter had sent when it was last asked.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn cursor(&self, name: &str) -> Result<Option<EventId>, StoreError> {
        let v = self.db()?.meta.get(format!("{CURSOR}{name}")).map_err(|e| self.failed(&e))?;
        Ok(v.and_then(|v| <[u8; 12]>::try_from(v.as_ref()).ok()).map(EventId))
    }

    /// The node's resource attributes.
    ///
    /// # Errors
    /// Closed, or what could not be read.
    pub fn node(&self) -> Result<Vec<KeyValue>, StoreError> {
        let Some(v) = self.db()?.meta.get(NODE_KEY).map_err(|e| self.failed(&e))? else { return Ok(Vec::new()) };
        Ok(decode::<ResourceAttrs>(self, &v)?.attributes)
    }
}
