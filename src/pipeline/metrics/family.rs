// SPDX-License-Identifier: Apache-2.0
//! One metric and its series.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::series::{Exemplar, Moment, Series, end, hash_value, merge, total};
use super::{FamilyStats, Owners, Room};
use crate::signal::metric::Reading;
use crate::signal::semconv::attr;
use crate::signal::{Attributes, Instrument, MetricDef, Point, Timestamp, Workload, WorkloadKey};

/// Runs of its collector that a series may miss, and one more, before it ends.
const MISSED_RUNS: u64 = 2;

/// What is counted at once.
#[derive(Debug, Clone)]
pub(super) struct Many {
    pub n: u64,
    pub time: Timestamp,
    pub exemplar: Option<Exemplar>,
}

/// A series that ended, and when.
#[derive(Debug)]
struct Ended {
    series: Series,
    at: Timestamp,
}

/// One metric and its series.
#[derive(Debug)]
pub struct Family {
    def: &'static MetricDef,
    collector: &'static str,
    /// Whether its series are counted here, one change at a time, rather than a collector's readings kept.
    counted: bool,
    series: Vec<Series>,
    /// Hash of workload and attributes → place in `series`; the next hash is tried where two agree.
    index: HashMap<u64, usize>,
    /// Sums that the collector no longer reports, under the hash of what tells them apart: who comes back soon goes on
    /// from there.
    ended: HashMap<u64, Ended>,
    overflow: Option<Series>,
    /// What went under overflow in this run.
    spilled: Option<Reading>,
    overflowed: u64,
    exponents: Option<(i32, i32)>,
}

impl Family {
    fn new(def: &'static MetricDef, collector: &'static str, counted: bool) -> Self {
        Family {
            def,
            collector,
            counted,
            series: Vec::new(),
            index: HashMap::new(),
            ended: HashMap::new(),
            overflow: None,
            spilled: None,
            overflowed: 0,
            exponents: None,
        }
    }

    pub(super) fn sampled(def: &'static MetricDef, collector: &'static str) -> Self {
        Self::new(def, collector, false)
    }

    pub(super) fn counted(def: &'static MetricDef, collector: &'static str) -> Self {
        Self::new(def, collector, true)
    }

    #[must_use]
    pub fn def(&self) -> &'static MetricDef {
        self.def
    }

    /// Who measures it; OTel's instrumentation scope.
    #[must_use]
    pub fn collector(&self) -> &'static str {
        self.collector
    }

    /// In the order in which they came, the overflow last.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().chain(&self.overflow)
    }

    /// First and one past the last exponent of the histograms' buckets seen so far: the same for
    /// every series, so that their buckets can be added up.
    #[must_use]
    pub fn exponents(&self) -> Option<(i32, i32)> {
        self.exponents
    }

    fn cumulative(&self) -> bool {
        matches!(self.def.instrument, Instrument::Counter | Instrument::Histogram)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty() && self.overflow.is_none()
    }

    pub(super) fn stats(&self) -> FamilyStats {
        FamilyStats { name: self.def.name, series: self.series().count(), overflowed: self.overflowed }
    }

    pub(super) fn put(&mut self, point: Point, at: Moment, max: usize, owners: &mut Owners) {
        if let Reading::Histogram(h) = &point.reading {
            self.widen((h.offset, end(h)));
        }
        let instrument = self.def.instrument;
        let key = point.workload.as_ref().map(|w| w.key);
        match self.find(key, &point.attributes) {
            Ok(i) => {
                let series = &mut self.series[i];
                series.set_reading(point.reading, instrument, at);
                if let Some(w) = &point.workload {
                    series.set_workload(w);
                    owners.rename(w);
                }
            }
            Err(_) if self.series.len() >= max => {
                self.overflowed += 1;
                self.spilled = Some(match self.spilled.take() {
                    None => point.reading,
                    Some(so_far) => merge(self.def.instrument, so_far, point.reading),
                });
            }
            Err(hash) => {
                let series = self.begin(hash, point, at);
                self.add(hash, series, owners);
            }
        }
    }

    /// A series that is new, or back.
    fn begin(&mut self, hash: u64, point: Point, at: Moment) -> Series {
        let key = point.workload.as_ref().map(|w| w.key);
        let known = self.ended.remove(&hash).map(|e| e.series).filter(|s| s.is(key, &point.attributes));
        let Some(mut series) = known else {
            let mut series = Series::new(point.workload, point.attributes, point.reading, at.since);
            series.seen = at.generation;
            series.read_at(at.now);
            return series;
        };
        if let Some(w) = &point.workload {
            series.set_workload(w);
        }
        series.set_reading(point.reading, self.def.instrument, at);
        series
    }

    /// Ends what the collector no longer reports, and settles what found no room.
    pub(super) fn finish(&mut self, at: Moment, max: usize, owners: &mut Owners) {
        if self.counted {
            return;
        }
        let cumulative = self.cumulative();
        let ended = self.retain(owners, |s| at.generation - s.seen < MISSED_RUNS);
        self.ended.retain(|_, e| at.now.since(e.at) < super::KEEP);
        for series in ended {
            if cumulative && self.ended.len() < max {
                self.ended.insert(hash_of(series.key(), &series.attributes), Ended { series, at: at.now });
            }
        }
        match self.spilled.take() {
            Some(reading) => {
                let new = self.overflow.is_none();
                let overflow = self.overflow.get_or_insert_with(|| overflow(reading.clone(), at.since));
                // A sum over a changing set of series may fall; a counter must not.
                let falls = total(&reading) < total(&overflow.reading);
                let kept = if falls && cumulative && !new { overflow.reading.clone() } else { reading };
                overflow.set_reading(kept, self.def.instrument, at);
            }
            None => self.overflow = self.overflow.take().filter(|s| at.generation - s.seen < MISSED_RUNS),
        }
    }

    pub(super) fn zero(&mut self, now: Timestamp) {
        if let Err(hash) = self.find(None, &Attributes::new()) {
            let series = Series::new(None, Attributes::new(), Reading::Int(0), now);
            self.index.insert(hash, self.series.len());
            self.series.push(series);
        }
    }

    pub(super) fn count(
        &mut self,
        workload: Option<&Arc<Workload>>,
        attributes: Attributes,
        many: Many,
        room: Room<'_>,
    ) {
        let Many { n: more, time, exemplar } = many;
        // The count was zero until now; the event itself must lie after the start.
        let room = Room { start: time.minus(Duration::from_nanos(1)), ..room };
        let series = self.counter(workload, attributes, Reading::Int(0), room);
        if let Reading::Int(n) = &mut series.reading {
            *n += more;
        }
        series.time = series.time.max(time);
        if let Some(e) = exemplar {
            series.exemplar = Some(e);
        }
    }

    /// Changes a series of the agent's own, which begins at `zero`.
    pub(super) fn change(
        &mut self,
        attributes: Attributes,
        zero: Reading,
        now: Timestamp,
        room: Room<'_>,
        change: impl FnOnce(&mut Reading),
    ) {
        let series = self.counter(None, attributes, zero, room);
        change(&mut series.reading);
        series.read_at(now);
        if let Reading::Histogram(h) = &series.reading {
            let seen = (h.offset, end(h));
            self.widen(seen);
        }
    }

    /// Changes those that are there already.
    pub(super) fn change_all(
        &mut self,
        which: impl Fn(&Attributes) -> bool,
        now: Timestamp,
        change: impl Fn(&mut Reading),
    ) {
        for s in self.series.iter_mut().filter(|s| which(&s.attributes)) {
            change(&mut s.reading);
            s.read_at(now);
        }
    }

    /// The series that is counted on, made where it was not there; the overflow where there is no room.
    fn counter(
        &mut self,
        workload: Option<&Arc<Workload>>,
        attributes: Attributes,
        zero: Reading,
        room: Room<'_>,
    ) -> &mut Series {
        match self.find(workload.map(|w| w.key), &attributes) {
            Ok(i) => {
                let series = &mut self.series[i];
                if let Some(w) = workload {
                    series.set_workload(w);
                    room.owners.rename(w);
                }
                series
            }
            Err(_) if self.series.len() >= room.max => {
                self.overflowed += 1;
                self.overflow.get_or_insert_with(|| overflow(zero, room.start))
            }
            Err(hash) => {
                let i = self.series.len();
                self.add(hash, Series::new(workload.cloned(), attributes, zero, room.start), room.owners);
                &mut self.series[i]
            }
        }
    }

    pub(super) fn rename(&mut self, workload: &Arc<Workload>) {
        for s in &mut self.series {
            if s.workload.as_ref().is_some_and(|w| w.key == workload.key) {
                s.set_workload(workload);
            }
        }
    }

    pub(super) fn sweep(
        &mut self,
        now: Timestamp,
        keep: Duration,
        alive: impl Fn(WorkloadKey) -> bool,
        owners: &mut Owners,
    ) {
        if !self.counted {
            return;
        }
        for s in self.series.iter_mut().chain(&mut self.overflow) {
            s.true_at(now);
            let gone = s.workload.as_ref().is_some_and(|w| !alive(w.key));
            s.gone = if gone { s.gone.or(Some(now)) } else { None };
        }
        drop(self.retain(owners, |s| s.gone.is_none_or(|since| now.since(since) < keep)));
    }

    fn add(&mut self, hash: u64, series: Series, owners: &mut Owners) {
        if let Some(w) = &series.workload {
            owners.add(w);
            owners.rename(w);
        }
        self.index.insert(hash, self.series.len());
        self.series.push(series);
    }

    /// Takes out what is not to be kept.
    fn retain(&mut self, owners: &mut Owners, keep: impl Fn(&Series) -> bool) -> Vec<Series> {
        let out: Vec<Series> = self.series.extract_if(.., |s| !keep(s)).collect();
        if out.is_empty() {
            return out;
        }
        out.iter().filter_map(Series::key).for_each(|key| owners.remove(key));
        self.index.clear();
        for i in 0..self.series.len() {
            let s = &self.series[i];
            if let Err(hash) = self.find(s.key(), &s.attributes) {
                self.index.insert(hash, i);
            }
        }
        out
    }

    /// Where the series is, or the free hash under which it would be put.
    fn find(&self, workload: Option<WorkloadKey>, attributes: &Attributes) -> Result<usize, u64> {
        let mut hash = hash_of(workload, attributes);
        loop {
            match self.index.get(&hash) {
                None => return Err(hash),
                Some(&i) if self.series[i].is(workload, attributes) => return Ok(i),
                Some(_) => hash = hash.wrapping_add(1),
            }
        }
    }

    fn widen(&mut self, (from, to): (i32, i32)) {
        let (lo, hi) = self.exponents.unwrap_or((from, to));
        self.exponents = Some((lo.min(from), hi.max(to)));
    }
}

fn hash_of(workload: Option<WorkloadKey>, attributes: &Attributes) -> u64 {
    let mut hasher = DefaultHasher::new();
    workload.hash(&mut hasher);
    for (k, v) in attributes.iter() {
        k.hash(&mut hasher);
        hash_value(v, &mut hasher);
    }
    hasher.finish()
}

fn overflow(reading: Reading, start: Timestamp) -> Series {
    let mut attributes = Attributes::new();
    attributes.set(attr::OVERFLOW, true);
    Series::new(None, attributes, reading, start)
}
