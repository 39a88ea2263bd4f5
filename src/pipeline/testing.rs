// SPDX-License-Identifier: Apache-2.0
//! Signals and a store that tests make up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;

use super::backing::{Backing, Commit, Expired, NewEntry};
use crate::signal::entry::{Entry, IncidentRecord, ResourceAttrs};
use crate::signal::ids::EventId;
use crate::signal::{
    Event, EventDef, MetricDef, Panel, Severity, StackNames, Timestamp, Workload, WorkloadKey, WorkloadKind,
};

pub(crate) static METRIC: MetricDef = MetricDef::counter("made.up", "{event}", "").shown_as(Panel::None);

pub(crate) static DEF: EventDef = EventDef {
    name: "made.up.warning",
    summary: "",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[],
    counter: &METRIC,
    container_counter: Some(&METRIC),
};

pub(crate) static INFO: EventDef = EventDef {
    name: "made.up.info",
    summary: "",
    severity: Severity::Info,
    worst: Severity::Info,
    attributes: &[],
    counter: &METRIC,
    container_counter: Some(&METRIC),
};

pub(crate) fn workload(key: u64) -> Arc<Workload> {
    Arc::new(Workload {
        container_id: Some(format!("{key:064x}")),
        container_name: Some(format!("box{key}")),
        runtime: Some("podman"),
        ..Workload::new(WorkloadKey(key), WorkloadKind::Container, format!("/machine/{key}"))
    })
}

pub(crate) fn event(def: &'static EventDef, time: u64, w: Option<&Arc<Workload>>) -> Event {
    Event::new(def, Timestamp(time), w.cloned(), "it happened".into())
}

/// How the made-up store fails.
#[derive(Default, Clone, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Every call fails until it is opened again in a better mood.
    Broken,
    /// Commits hang until the mood changes.
    Hanging,
    /// Commits take this long.
    Slow(Duration),
}

/// A store in memory that can fail.
#[derive(Default)]
pub(crate) struct Fake {
    pub mood: Mutex<Mood>,
    pub entries: Mutex<BTreeMap<EventId, Arc<Entry>>>,
    pub workloads: Mutex<BTreeMap<u64, Arc<ResourceAttrs>>>,
    pub incidents: Mutex<BTreeMap<Vec<u8>, IncidentRecord>>,
    pub stacks: Mutex<BTreeMap<u64, Arc<StackNames>>>,
    pub cursors: Mutex<BTreeMap<String, EventId>>,
    pub commits: Mutex<u64>,
}

impl Fake {
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(*self.mood.lock().unwrap() != Mood::Broken, "no space left on device");
        Ok(())
    }

    pub fn ids(&self) -> Vec<EventId> {
        self.entries.lock().unwrap().keys().copied().collect()
    }
}

impl Backing for Fake {
    fn has_room(&self) -> anyhow::Result<bool> {
        self.check().map(|()| true)
    }

    fn commit(&self, c: &Commit) -> anyhow::Result<()> {
        while *self.mood.lock().unwrap() == Mood::Hanging {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Mood::Slow(takes) = self.mood.lock().unwrap().clone() {
            std::thread::sleep(takes);
        }
        self.check()?;
        *self.commits.lock().unwrap() += 1;
        for e in &c.entries {
            self.entries.lock().unwrap().insert(e.id, Arc::new(Entry::decode(&*e.bytes)?));
            if let Some(w) = &e.workload {
                self.workloads.lock().unwrap().entry(w.raw_key).or_insert_with(|| w.clone());
            }
        }
        for w in &c.workloads {
            self.workloads.lock().unwrap().insert(w.raw_key, w.clone());
        }
        for i in &c.incidents {
            self.incidents.lock().unwrap().insert(i.raw_trace.clone(), i.clone());
        }
        for s in &c.stacks {
            self.stacks.lock().unwrap().insert(s.key().0, s.clone());
        }
        for (name, id) in &c.cursors {
            self.cursors.lock().unwrap().insert(name.clone(), *id);
        }
        Ok(())
    }

    fn reopen(&self) -> anyhow::Result<Option<String>> {
        self.check().map(|()| None)
    }

    fn expire(&self, _now_ns: u64, _lowest: Option<EventId>) -> anyhow::Result<Expired> {
        Ok(Expired::default())
    }

    fn size(&self) -> anyhow::Result<u64> {
        Ok(0)
    }

    fn entries_after(&self, id: EventId, max: usize, _max_bytes: usize) -> anyhow::Result<Vec<NewEntry>> {
        self.check()?;
        let after = (std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded);
        let entries = self.entries.lock().unwrap();
        let encoded =
            |(id, e): (&EventId, &Arc<Entry>)| NewEntry { id: *id, bytes: e.encode_to_vec().into(), workload: None };
        Ok(entries.range(after).take(max).map(encoded).collect())
    }

    fn count_after(&self, id: EventId) -> anyhow::Result<(u64, u64)> {
        let after = (std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded);
        Ok((self.entries.lock().unwrap().range(after).count() as u64, 0))
    }

    fn cursor(&self, name: &str) -> anyhow::Result<Option<EventId>> {
        Ok(self.cursors.lock().unwrap().get(name).copied())
    }
}
