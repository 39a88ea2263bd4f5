// SPDX-License-Identifier: Apache-2.0
//! The latest value of every series: metric collectors, the event counters and the agent's own write
//! here on their own time, the Prometheus and OTLP writers read what is there. A scrape never runs a collector.

mod family;
pub mod own;
mod series;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::signal::ids::TraceId;
use crate::signal::semconv::{AGENT, attr};
use crate::signal::{Attributes, Event, EventDef, MetricDef, Metrics, Severity, Timestamp, Workload, WorkloadKey};

pub use family::Family;
pub use own::SelfMetrics;
pub use series::{Exemplar, Series};

/// Event counters of a workload outlive it by this much, so that the last event before its end is
/// still scraped, and told from a counter that was never there. Other sums are no longer exported, but go on if it
/// comes back within it.
const KEEP: Duration = Duration::from_secs(300);

/// The latest value of every series of the agent.
#[derive(Debug)]
pub struct MetricState {
    max_series: usize,
    start: Timestamp,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    families: BTreeMap<&'static str, Family>,
    owners: Owners,
    runs: HashMap<&'static str, Run>,
}

/// How far a metric collector is.
#[derive(Debug)]
struct Run {
    generation: u64,
    last: Timestamp,
}

/// What one metric family holds, for the agent's own metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyStats {
    pub name: &'static str,
    pub series: usize,
    /// Points that found no room and went under `overflow="true"`, since start.
    pub overflowed: u64,
}

impl MetricState {
    /// `max_series`: how many series a metric may have; `start`: since when the agent counts.
    #[must_use]
    pub fn new(max_series: usize, start: Timestamp) -> Self {
        MetricState { max_series, start, inner: Mutex::default() }
    }

    /// Takes what one run of a collector yielded and leaves `metrics` empty. Series that were not
    /// in it for the second time in a row end.
    pub fn update(&self, collector: &'static str, metrics: &mut Metrics, now: Timestamp) {
        let mut guard = self.lock();
        let Inner { families, owners, runs } = &mut *guard;
        let run = runs.entry(collector).or_insert(Run { generation: 0, last: self.start });
        run.generation += 1;
        let since = std::mem::replace(&mut run.last, now);
        let at = series::Moment { generation: run.generation, since, now };
        for point in metrics.drain() {
            let family = families.entry(point.def.name).or_insert_with(|| Family::sampled(point.def, collector));
            family.put(point, at, self.max_series, owners);
        }
        for family in families.values_mut().filter(|f| f.collector() == collector) {
            family.finish(at, self.max_series, owners);
        }
    }

    /// Starts the node's counters of a collector's events at zero: a counter that is there and zero
    /// tells "watched, nothing seen", which a missing one does not. Counters with attributes start
    /// with one series without them, as their values are not known before the first event.
    pub fn register_events(&self, collector: &'static str, defs: &[&'static EventDef], now: Timestamp) {
        let Inner { families, .. } = &mut *self.lock();
        for def in defs {
            families.entry(def.counter.name).or_insert_with(|| Family::counted(def.counter, collector)).zero(now);
            if let Some(counter) = def.container_counter {
                families.entry(counter.name).or_insert_with(|| Family::counted(counter, collector));
            }
        }
    }

    /// Counts one event, on the node's counter and, when it has a workload, on the workload's. Of
    /// the event's attributes and its severity, those that the counter declares tell series apart; the trace becomes
    /// the exemplar.
    pub fn count_event(&self, event: &Event, trace: Option<TraceId>) {
        let exemplar = trace.map(|trace| Exemplar { trace, value: 1.0, time: event.time });
        let many = family::Many { n: 1, time: event.time, exemplar };
        self.count_events(event.def, event.severity, event.workload.as_ref(), &event.attributes, many);
    }

    /// Counts `n` events of which there is no more than this: they became no event.
    pub fn count_more(
        &self,
        def: &'static EventDef,
        severity: Severity,
        workload: Option<&Arc<Workload>>,
        attributes: &Attributes,
        n: u64,
        time: Timestamp,
    ) {
        let many = family::Many { n, time, exemplar: None };
        self.count_events(def, severity, workload, attributes, many);
    }

    fn count_events(
        &self,
        def: &'static EventDef,
        severity: Severity,
        workload: Option<&Arc<Workload>>,
        attributes: &Attributes,
        many: family::Many,
    ) {
        let Inner { families, owners, .. } = &mut *self.lock();
        let mut count = |counter: &'static MetricDef, who: Option<&Arc<Workload>>| {
            let family = families.entry(counter.name).or_insert_with(|| Family::counted(counter, AGENT));
            let mut picked = Attributes::new();
            for key in counter.attributes {
                picked.set_some(*key, attributes.get(key.name).cloned());
                if *key == attr::LINUX_EVENT_SEVERITY {
                    picked.set(*key, severity.name());
                }
            }
            let room = Room { start: self.start, max: self.max_series, owners };
            family.count(who, picked, many.clone(), room);
        };
        count(def.counter, None);
        if let (Some(counter), Some(workload)) = (def.container_counter, workload) {
            count(counter, Some(workload));
        }
    }

    /// Changes one of the agent's own metrics.
    fn change_own(&self, def: &'static MetricDef, change: impl FnOnce(&mut Family, Room<'_>)) {
        let Inner { families, owners, .. } = &mut *self.lock();
        let family = families.entry(def.name).or_insert_with(|| Family::counted(def, AGENT));
        change(family, Room { start: self.start, max: self.max_series, owners });
    }

    /// Takes what is newly known of a workload over to its series.
    pub fn rename(&self, workload: &Arc<Workload>) {
        let Inner { families, owners, .. } = &mut *self.lock();
        if owners.rename(workload) {
            families.values_mut().for_each(|f| f.rename(workload));
        }
    }

    /// Ends event counters of workloads that have been gone for five minutes; what is counted here is
    /// true until now. To be called every interval; `alive` says whether a workload still exists.
    pub fn sweep(&self, now: Timestamp, alive: impl Fn(WorkloadKey) -> bool) {
        let Inner { families, owners, .. } = &mut *self.lock();
        for family in families.values_mut() {
            family.sweep(now, KEEP, &alive, owners);
        }
    }

    /// Everything as it is now. Writers hold it only while they write into memory.
    #[must_use]
    pub fn read(&self) -> View<'_> {
        View(self.lock())
    }

    /// How many series there are of each metric, and how many points found no room.
    #[must_use]
    pub fn stats(&self) -> Vec<FamilyStats> {
        self.lock().families.values().map(Family::stats).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A writer that panicked leaves at worst one series half updated.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All series at one moment.
#[derive(Debug)]
pub struct View<'a>(MutexGuard<'a, Inner>);

impl View<'_> {
    /// Metrics that have a series, in the order of their names.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        self.0.families.values().filter(|f| !f.is_empty())
    }

    /// Workloads that have a series, in the order of their keys.
    pub fn workloads(&self) -> impl Iterator<Item = &Owner> {
        self.0.owners.0.values()
    }
}

/// A workload that has series.
#[derive(Debug)]
pub struct Owner {
    workload: Arc<Workload>,
    series: usize,
    text: OnceLock<Box<str>>,
}

impl Owner {
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The text that a writer keeps with it; made anew when more becomes known of the workload.
    pub fn text(&self, make: impl FnOnce(&Workload) -> String) -> &str {
        self.text.get_or_init(|| make(&self.workload).into_boxed_str())
    }
}

/// Where a new series finds its place.
struct Room<'a> {
    /// Since when the agent counts.
    start: Timestamp,
    /// How many series the metric may have.
    max: usize,
    owners: &'a mut Owners,
}

/// Who has series, and how many.
#[derive(Debug, Default)]
struct Owners(BTreeMap<WorkloadKey, Owner>);

impl Owners {
    fn add(&mut self, workload: &Arc<Workload>) {
        let owner = self.0.entry(workload.key).or_insert_with(|| Owner {
            workload: workload.clone(),
            series: 0,
            text: OnceLock::new(),
        });
        owner.series += 1;
    }

    fn remove(&mut self, key: WorkloadKey) {
        if let Some(owner) = self.0.get_mut(&key) {
            owner.series -= 1;
            if owner.series == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// Whether anything changed.
    fn rename(&mut self, workload: &Arc<Workload>) -> bool {
        match self.0.get_mut(&workload.key) {
            Some(owner) if owner.workload != *workload => {
                owner.workload = workload.clone();
                owner.text = OnceLock::new();
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
