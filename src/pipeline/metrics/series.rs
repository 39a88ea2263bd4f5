// SPDX-License-Identifier: Apache-2.0
//! One series, and what can be done with values.

use std::hash::{DefaultHasher, Hash};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::signal::ids::TraceId;
use crate::signal::metric::Reading;
use crate::signal::{Attributes, Histogram, Instrument, Timestamp, Value, Workload, WorkloadKey};

/// The incident behind a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    pub trace: TraceId,
    /// The one value that was seen: 1 for a counted event.
    pub value: f64,
    pub time: Timestamp,
}

/// What is ahead of a series' time by more than this was stamped before the clock was set back.
const CLOCK_STEP: Duration = Duration::from_secs(60);

/// A sum whose source began anew, as when a cgroup was removed and made again.
#[derive(Debug)]
struct Resumed {
    /// What the series came to before.
    before: Reading,
    /// The source's own figure.
    source: Reading,
}

/// One series and its latest value.
#[derive(Debug)]
pub struct Series {
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) attributes: Attributes,
    pub(super) reading: Reading,
    resumed: Option<Box<Resumed>>,
    pub(super) start: Timestamp,
    pub(super) time: Timestamp,
    pub(super) exemplar: Option<Exemplar>,
    /// The run of its collector that wrote it last.
    pub(super) seen: u64,
    /// Since when its workload is gone.
    pub(super) gone: Option<Timestamp>,
    text: OnceLock<Box<str>>,
}

impl Series {
    pub(super) fn new(
        workload: Option<Arc<Workload>>,
        attributes: Attributes,
        reading: Reading,
        start: Timestamp,
    ) -> Self {
        Series {
            workload,
            attributes,
            reading,
            resumed: None,
            start,
            time: start,
            exemplar: None,
            seen: 0,
            gone: None,
            text: OnceLock::new(),
        }
    }

    /// Whose it is; `None`: the node's.
    #[must_use]
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        self.workload.as_ref()
    }

    pub(super) fn key(&self) -> Option<WorkloadKey> {
        self.workload.as_ref().map(|w| w.key)
    }

    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Since when a sum or histogram counts.
    #[must_use]
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// When the value was read.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The last event that a counter counted.
    #[must_use]
    pub fn exemplar(&self) -> Option<&Exemplar> {
        self.exemplar.as_ref()
    }

    /// The text that a writer keeps with the series, such as its labels; made anew when they change.
    pub fn text(&self, make: impl FnOnce(&Series) -> String) -> &str {
        self.text.get_or_init(|| make(self).into_boxed_str())
    }

    pub(super) fn is(&self, workload: Option<WorkloadKey>, attributes: &Attributes) -> bool {
        self.key() == workload && self.attributes == *attributes
    }

    pub(super) fn set_workload(&mut self, workload: &Arc<Workload>) {
        let Some(old) = &mut self.workload else { return };
        if !Arc::ptr_eq(old, workload) {
            if old != workload {
                self.text = OnceLock::new();
            }
            *old = workload.clone();
        }
    }

    /// Takes what a run of the collector yielded. A sum never falls: when its source does, it began anew, and what was
    /// counted before stays.
    pub(super) fn set_reading(&mut self, reading: Reading, instrument: Instrument, at: Moment) {
        if matches!(instrument, Instrument::Counter | Instrument::Histogram) {
            let last = self.resumed.as_ref().map_or(&self.reading, |r| &r.source);
            if total(&reading) < total(last) {
                self.resumed = Some(Box::new(Resumed { before: self.reading.clone(), source: reading.clone() }));
            }
        }
        self.reading = match &mut self.resumed {
            None => reading,
            Some(r) => {
                r.source = reading.clone();
                merge(instrument, r.before.clone(), reading)
            }
        };
        self.seen = at.generation;
        self.read_at(at.now);
    }

    /// The value is true at this time. A start that would lie after it was taken before the clock was set back.
    pub(super) fn read_at(&mut self, now: Timestamp) {
        self.time = now;
        self.start = self.start.min(now);
    }

    /// The same for what was counted at another time, and may be newer.
    pub(super) fn true_at(&mut self, now: Timestamp) {
        if now >= self.time || self.time.since(now) > CLOCK_STEP {
            self.read_at(now);
        }
    }
}

/// One run of a collector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub generation: u64,
    /// When the run before it was, or the agent's start: what is seen for the first time began later.
    pub since: Timestamp,
    pub now: Timestamp,
}

/// What must not fall in a cumulative series.
pub(super) fn total(reading: &Reading) -> f64 {
    match reading {
        Reading::Int(n) => *n as f64,
        Reading::Double(v) => *v,
        Reading::Histogram(h) => h.count() as f64,
    }
}

/// Sums add up; of levels, which cannot be added, the highest stays.
pub(super) fn merge(instrument: Instrument, a: Reading, b: Reading) -> Reading {
    let level = instrument == Instrument::Gauge;
    match (a, b) {
        (Reading::Int(a), Reading::Int(b)) => Reading::Int(if level { a.max(b) } else { a.saturating_add(b) }),
        (Reading::Histogram(a), Reading::Histogram(b)) => Reading::Histogram(add(a, &b)),
        (a, b) => {
            let (a, b) = (total(&a), total(&b));
            Reading::Double(if level { a.max(b) } else { a + b })
        }
    }
}

/// One past the exponent of the last bucket.
pub(super) fn end(h: &Histogram) -> i32 {
    h.offset.saturating_add(i32::try_from(h.counts.len()).unwrap_or(i32::MAX))
}

fn add(mut a: Histogram, b: &Histogram) -> Histogram {
    let (lo, hi) = (a.offset.min(b.offset), end(&a).max(end(b)));
    let mut counts = vec![0; usize::try_from(hi - lo).unwrap_or(0)];
    for h in [&a, b] {
        let from = usize::try_from(h.offset - lo).unwrap_or(0);
        for (slot, n) in counts[from..].iter_mut().zip(&h.counts) {
            *slot += n;
        }
    }
    a.zero_count += b.zero_count;
    a.sum = a.sum.zip(b.sum).map(|(a, b)| a + b);
    (a.offset, a.counts) = (lo, counts);
    a
}

pub(super) fn hash_value(value: &Value, hasher: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Bool(b) => b.hash(hasher),
        Value::Int(i) => i.hash(hasher),
        Value::Double(d) => d.to_bits().hash(hasher),
        Value::Str(s) => s.hash(hasher),
        Value::Array(a) => a.iter().for_each(|v| hash_value(v, hasher)),
        Value::Map(m) => m.iter().for_each(|(k, v)| {
            k.hash(hasher);
            hash_value(v, hasher);
        }),
    }
}
