// SPDX-License-Identifier: Apache-2.0
//! What a capture may hold: profiles, tables and time series. Readers go by the type of a piece, never
//! by the collector that took it.

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::key_value::key_value;
use super::semconv::attr;
use super::{Stack, Thread, Timestamp, Value};

/// Rows of a table; further ones are counted.
pub const MAX_ROWS: usize = 1_000;
/// Points of a series; further ones are counted.
pub const MAX_POINTS: usize = 3_600;

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq)]
pub enum Evidence {
    Profile(Profile),
    Table(Table),
    Series(Series),
}

/// A kind of value and its unit, as profiles name them (pprof).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueType {
    pub name: &'static str,
    /// `count`, `nanoseconds`, `bytes`.
    pub unit: &'static str,
}

/// What a profile measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileKind {
    /// What the value of a stack is.
    pub sample: ValueType,
    /// What is between two samples; `None`: everything is in it.
    pub period: Option<ValueType>,
}

impl ProfileKind {
    /// Where CPU time went, by samples.
    pub const CPU: ProfileKind = ProfileKind::sampled("samples", "count", "cpu", "nanoseconds");
    /// How long threads did not run although they had begun something.
    pub const OFF_CPU: ProfileKind = ProfileKind::whole("off_cpu", "nanoseconds");
    /// How long threads waited for a device.
    pub const IO_WAIT: ProfileKind = ProfileKind::whole("io_wait", "nanoseconds");
    /// Threads in uninterruptible sleep.
    pub const BLOCKED: ProfileKind = ProfileKind::whole("blocked", "count");
    /// Memory that was asked for, by samples.
    pub const ALLOCATED: ProfileKind = ProfileKind::sampled("allocated", "bytes", "space", "bytes");

    /// A kind of which everything is measured.
    #[must_use]
    pub const fn whole(name: &'static str, unit: &'static str) -> Self {
        ProfileKind { sample: ValueType { name, unit }, period: None }
    }

    /// A kind of which one sample is taken in each period.
    #[must_use]
    pub const fn sampled(
        name: &'static str,
        unit: &'static str,
        period: &'static str,
        period_unit: &'static str,
    ) -> Self {
        let period = Some(ValueType { name: period, unit: period_unit });
        ProfileKind { sample: ValueType { name, unit }, period }
    }

    /// `cpu`, `off_cpu`, …
    #[must_use]
    pub fn name(self) -> &'static str {
        kind_name(self.sample.name, self.period.map_or("", |p| p.name))
    }
}

/// A kind's name by its types: samples are of what is between two of them, all else is what it is called.
#[must_use]
pub fn kind_name<'a>(sample: &'a str, period: &'a str) -> &'a str {
    if sample == ProfileKind::CPU.sample.name && !period.is_empty() { period } else { sample }
}

/// One distinct stack of a profile and its value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StackSample {
    /// Innermost first.
    pub kernel: Stack,
    /// Innermost first.
    pub user: Stack,
    pub thread: Thread,
    /// In the unit of the profile's kind: how often it was seen, how long, how much.
    pub value: u64,
}

/// Values by stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub kind: ProfileKind,
    pub stacks: Vec<StackSample>,
    /// In the unit of the kind's period, e.g. 10,101,010 ns at 99 Hz; 0 where there is none.
    pub period: u64,
    /// Samples that the kernel could not hand over, or that had no room.
    pub lost: u64,
}

impl Profile {
    /// Sum of all values.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.stacks.iter().fold(0, |sum, s| sum.saturating_add(s.value))
    }
}

/// What is in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    Int,
    Double,
}

impl ColumnType {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ColumnType::Text => "text",
            ColumnType::Int => "int",
            ColumnType::Double => "double",
        }
    }
}

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnType,
    /// UCUM, as metrics have it: `By`, `s`, `ns`, `{request}`; empty for text.
    pub unit: &'static str,
}

impl Column {
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Column { name, kind: ColumnType::Text, unit: "" }
    }

    #[must_use]
    pub const fn int(name: &'static str, unit: &'static str) -> Self {
        Column { name, kind: ColumnType::Int, unit }
    }

    #[must_use]
    pub const fn double(name: &'static str, unit: &'static str) -> Self {
        Column { name, kind: ColumnType::Double, unit }
    }
}

/// Rows under named columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    name: &'static str,
    columns: Vec<Column>,
    rows: Vec<Vec<Option<Value>>>,
    left_out: u64,
}

impl Table {
    #[must_use]
    pub fn new(name: &'static str, columns: &[Column]) -> Self {
        Table { name, columns: columns.to_vec(), rows: Vec::new(), left_out: 0 }
    }

    /// Adds a row, a cell a column; `None` is what could not be looked at. Beyond [`MAX_ROWS`] rows are
    /// only counted, so the most important ones come first.
    pub fn row(&mut self, cells: Vec<Option<Value>>) {
        if self.rows.len() < MAX_ROWS {
            self.rows.push(cells);
        } else {
            self.left_out += 1;
        }
    }

    #[cfg(test)]
    pub(crate) fn cells(&self) -> &[Vec<Option<Value>>] {
        &self.rows
    }

    fn value(&self) -> Value {
        let column =
            |c: &Column| map([("name", c.name.into()), ("type", c.kind.name().into()), ("unit", c.unit.into())]);
        let row = |cells: &Vec<Option<Value>>| {
            let named = self.columns.iter().zip(cells);
            Value::Map(named.filter_map(|(c, v)| Some((Cow::Borrowed(c.name), v.clone()?))).collect())
        };
        map([
            ("type", "table".into()),
            ("name", self.name.into()),
            ("columns", Value::Array(self.columns.iter().map(column).collect())),
            ("rows", Value::Array(self.rows.iter().map(row).collect())),
            ("left_out", self.left_out.into()),
        ])
    }
}

/// A figure over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: &'static str,
    /// UCUM, as metrics have it.
    unit: &'static str,
    points: Vec<(Timestamp, f64)>,
    left_out: u64,
}

impl Series {
    #[must_use]
    pub fn new(name: &'static str, unit: &'static str) -> Self {
        Series { name, unit, points: Vec::new(), left_out: 0 }
    }

    /// Adds a point, oldest first. Beyond [`MAX_POINTS`] they are only counted.
    pub fn point(&mut self, time: Timestamp, value: f64) {
        if self.points.len() < MAX_POINTS {
            self.points.push((time, value));
        } else {
            self.left_out += 1;
        }
    }

    fn value(&self) -> Value {
        map([
            ("type", "series".into()),
            ("name", self.name.into()),
            ("unit", self.unit.into()),
            ("times", Value::Array(self.points.iter().map(|(t, _)| t.0.into()).collect())),
            ("values", Value::Array(self.points.iter().map(|(_, v)| (*v).into()).collect())),
            ("left_out", self.left_out.into()),
        ])
    }
}

fn map<const N: usize>(cells: [(&'static str, Value); N]) -> Value {
    Value::Map(cells.into_iter().map(|(k, v)| (Cow::Borrowed(k), v)).collect())
}

/// The profiles among the pieces.
pub fn profiles(evidence: &[Evidence]) -> impl Iterator<Item = &Profile> {
    evidence.iter().filter_map(|e| if let Evidence::Profile(p) = e { Some(p) } else { None })
}

/// Tables and series as one structured attribute of the capture's span; `None` where there is none.
/// Profiles have a signal of their own.
#[must_use]
pub fn attribute(evidence: &[Evidence]) -> Option<KeyValue> {
    let pieces: Vec<Value> = evidence
        .iter()
        .filter_map(|e| match e {
            Evidence::Profile(_) => None,
            Evidence::Table(t) => Some(t.value()),
            Evidence::Series(s) => Some(s.value()),
        })
        .collect();
    (!pieces.is_empty()).then(|| key_value(attr::LINUX_CAPTURE_EVIDENCE.name, &Value::Array(pieces)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds are called by what they measure.
    #[test]
    fn kinds_have_names() {
        let all = [ProfileKind::CPU, ProfileKind::OFF_CPU, ProfileKind::IO_WAIT, ProfileKind::BLOCKED];
        assert_eq!(all.map(ProfileKind::name), ["cpu", "off_cpu", "io_wait", "blocked"]);
        assert_eq!(ProfileKind::ALLOCATED.name(), "allocated");
    }

    /// However much is put in, what is kept is bounded, and the rest is counted.
    #[test]
    fn evidence_is_bounded() {
        let mut table = Table::new("t", &[Column::int("n", "1")]);
        let mut series = Series::new("s", "1");
        (0..MAX_ROWS as u64 + 2).for_each(|n| table.row(vec![Some(n.into())]));
        (0..MAX_POINTS as u64 + 3).for_each(|n| series.point(Timestamp(n), 0.0));
        assert_eq!((table.rows.len(), table.left_out), (MAX_ROWS, 2));
        assert_eq!((series.points.len(), series.left_out), (MAX_POINTS, 3));
    }
}
