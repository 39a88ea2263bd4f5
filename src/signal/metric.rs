// SPDX-License-Identifier: Apache-2.0
//! Metric definitions and the points that collectors hand over.

use std::sync::Arc;

use super::{Attributes, Key, Value, Workload};

/// The OTel instrument a metric is exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Instrument {
    /// Monotonic sum, cumulative since [`Point::start`].
    Counter,
    /// Sum that can fall.
    UpDownCounter,
    Gauge,
    /// Base-2 exponential histogram of scale 0, counted in the kernel.
    Histogram,
}

/// How a dashboard shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panel {
    Rate,
    Gauge,
    Heatmap,
    /// Only in tables and queries.
    None,
}

/// What a metric is called and means; a static of the collector that emits it, one line each:
///
/// ```
/// # use bianque::prelude::*;
/// const MODES: &[Key] = &[Key::new("cpu.mode", "What the CPU did")];
/// static TIME: MetricDef = MetricDef::counter("system.cpu.time", "s", "What the CPUs did").by(MODES);
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct MetricDef {
    /// Dotted OTel name, e.g. `system.cpu.time`.
    pub name: &'static str,
    pub instrument: Instrument,
    /// UCUM, base units: `s`, `By`, `1`, `{event}`.
    pub unit: &'static str,
    pub help: &'static str,
    pub attributes: &'static [Key],
    /// Follows from the instrument; [`Self::shown_as`] changes it.
    pub panel: Panel,
}

impl MetricDef {
    /// A sum that only grows, since the agent or the node started.
    #[must_use]
    pub const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Instrument::Counter, unit, help, Panel::Rate)
    }

    /// What may be added up over series and can fall: a usage, a limit, a size, a number of things.
    #[must_use]
    pub const fn up_down_counter(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Instrument::UpDownCounter, unit, help, Panel::Gauge)
    }

    /// What cannot be added up: a share, an age, a temperature.
    #[must_use]
    pub const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Instrument::Gauge, unit, help, Panel::Gauge)
    }

    /// A distribution.
    #[must_use]
    pub const fn histogram(name: &'static str, unit: &'static str, help: &'static str) -> Self {
        Self::new(name, Instrument::Histogram, unit, help, Panel::Heatmap)
    }

    /// The attributes that tell its series apart, besides the workload.
    #[must_use]
    pub const fn by(self, attributes: &'static [Key]) -> Self {
        MetricDef { attributes, ..self }
    }

    /// Another panel than the instrument's.
    #[must_use]
    pub const fn shown_as(self, panel: Panel) -> Self {
        MetricDef { panel, ..self }
    }

    const fn new(
        name: &'static str,
        instrument: Instrument,
        unit: &'static str,
        help: &'static str,
        panel: Panel,
    ) -> Self {
        MetricDef { name, instrument, unit, help, attributes: &[], panel }
    }
}

/// A base-2 exponential histogram of scale 0 in seconds: bucket `i` holds `(2^i, 2^(i+1)]` s.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Values below the resolution (1 us).
    pub zero_count: u64,
    /// Exponent of the first entry of `counts`.
    pub offset: i32,
    pub counts: Vec<u64>,
    /// Sum of all values in the metric's unit, when the kernel kept it.
    pub sum: Option<f64>,
}

/// Exponent of the resolution: what is not above 2^-20 s, a microsecond, lies in the zero bucket.
const RESOLUTION: i32 = -20;

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: f64) {
        *self.sum.get_or_insert(0.0) += value;
        // Beyond 2^64 s there is nothing.
        let exponent = (value.log2().ceil() as i32).saturating_sub(1).min(63);
        if value <= 0.0 || exponent < RESOLUTION {
            self.zero_count += 1;
            return;
        }
        if self.counts.is_empty() {
            self.offset = exponent;
        }
        let before = usize::try_from(self.offset - exponent).unwrap_or(0);
        self.counts.splice(..0, std::iter::repeat_n(0, before));
        self.offset = self.offset.min(exponent);
        let at = usize::try_from(exponent - self.offset).unwrap_or(0);
        self.counts.resize(self.counts.len().max(at + 1), 0);
        self.counts[at] += 1;
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.zero_count + self.counts.iter().sum::<u64>()
    }
}

/// One value of one series.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    Int(u64),
    Double(f64),
    Histogram(Histogram),
}

/// One series' value as collected.
#[derive(Debug, Clone)]
pub struct Point {
    pub def: &'static MetricDef,
    /// `None`: the node.
    pub workload: Option<Arc<Workload>>,
    pub attributes: Attributes,
    pub reading: Reading,
}

/// What a metric collector writes into. Cleared and reused between intervals.
#[derive(Debug, Default)]
pub struct Metrics {
    points: Vec<Point>,
}

impl Metrics {
    /// A count since start (or boot) in whole units.
    pub fn count(&mut self, def: &'static MetricDef, who: Option<&Arc<Workload>>, attributes: &[(Key, Value)], v: u64) {
        self.push(def, who, attributes, Reading::Int(v));
    }

    /// The same of what may not be there.
    pub fn count_some(
        &mut self,
        def: &'static MetricDef,
        who: Option<&Arc<Workload>>,
        attributes: &[(Key, Value)],
        v: Option<u64>,
    ) {
        if let Some(v) = v {
            self.count(def, who, attributes, v);
        }
    }

    /// A sum or a level in the metric's unit (seconds, a ratio, …).
    pub fn value(&mut self, def: &'static MetricDef, who: Option<&Arc<Workload>>, attributes: &[(Key, Value)], v: f64) {
        self.push(def, who, attributes, Reading::Double(v));
    }

    pub fn histogram(
        &mut self,
        def: &'static MetricDef,
        who: Option<&Arc<Workload>>,
        attributes: &[(Key, Value)],
        h: Histogram,
    ) {
        self.push(def, who, attributes, Reading::Histogram(h));
    }

    fn push(&mut self, def: &'static MetricDef, who: Option<&Arc<Workload>>, attributes: &[(Key, Value)], r: Reading) {
        let mut attrs = Attributes::new();
        for (k, v) in attributes {
            attrs.set(*k, v.clone());
        }
        self.points.push(Point { def, workload: who.cloned(), attributes: attrs, reading: r });
    }

    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Takes out the points that do not fit.
    pub fn retain(&mut self, fits: impl FnMut(&Point) -> bool) {
        self.points.retain(fits);
    }

    /// The value of the series with these attributes, of the workload with this cgroup or of the node.
    #[cfg(test)]
    pub(crate) fn figure(&self, name: &str, cgroup: Option<&str>, attributes: &[(&str, &str)]) -> Option<f64> {
        let fits = |p: &&Point| {
            let text = |k: &str| {
                p.attributes
                    .get(k)
                    .and_then(|v| v.as_str().map(str::to_owned).or_else(|| v.as_int().map(|n| n.to_string())))
            };
            p.def.name == name
                && p.workload.as_ref().map(|w| &*w.cgroup) == cgroup
                && p.attributes.iter().count() == attributes.len()
                && attributes.iter().all(|(k, v)| text(k).as_deref() == Some(*v))
        };
        let mut found = self.points.iter().filter(fits);
        let point = found.next()?;
        assert!(found.next().is_none(), "{name} twice");
        match point.reading {
            Reading::Int(n) => Some(n as f64),
            Reading::Double(d) => Some(d),
            Reading::Histogram(_) => None,
        }
    }

    pub fn drain(&mut self) -> std::vec::Drain<'_, Point> {
        self.points.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A declaration of one line says all: the instrument gives the panel, what follows refines it.
    #[test]
    fn instruments_choose_their_panels() {
        const KEY: Key = Key::new("k", "");
        let panels = [
            (MetricDef::counter("a", "s", ""), Instrument::Counter, Panel::Rate),
            (MetricDef::up_down_counter("a", "By", ""), Instrument::UpDownCounter, Panel::Gauge),
            (MetricDef::gauge("a", "1", ""), Instrument::Gauge, Panel::Gauge),
            (MetricDef::histogram("a", "s", ""), Instrument::Histogram, Panel::Heatmap),
        ];
        for (def, instrument, panel) in panels {
            assert_eq!((def.instrument, def.panel, def.attributes), (instrument, panel, &[] as &[Key]));
        }
        let def = MetricDef::counter("a", "s", "What").by(&[KEY]).shown_as(Panel::None);
        assert_eq!((def.name, def.unit, def.help), ("a", "s", "What"));
        assert_eq!((def.attributes, def.panel), (&[KEY] as &[Key], Panel::None));
    }
}
