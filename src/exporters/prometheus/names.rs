// SPDX-License-Identifier: Apache-2.0
//! Prometheus names of OpenTelemetry metrics, after the OpenTelemetry specification's "Prometheus
//! and OpenMetrics Compatibility", section "OTLP Metric points to Prometheus":
//!
//! - What is not a letter, digit or underscore becomes an underscore; several become one.
//! - The unit is appended as a word: `s` → `_seconds`, `By` → `_bytes`, `By/s` → `_bytes_per_second`,
//!   and `1` → `_ratio` for gauges only. What stands in braces is dropped, and so nothing is
//!   appended for `{event}`. A name that has the word already does not get it twice.
//! - Counters end in `_total`, which also comes last where the name had it elsewhere at its end.

use crate::signal::{Instrument, MetricDef};

/// What a metric is called in Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// With the unit, without `_total`: what OpenMetrics calls the family.
    pub family: String,
    /// What a sample is called: for counters with `_total`.
    pub sample: String,
    /// The unit as a word, where [`Self::family`] ends in it, as OpenMetrics demands for `# UNIT`.
    pub unit: Option<String>,
}

impl Name {
    /// The name of a metric.
    #[must_use]
    pub fn of(def: &MetricDef) -> Self {
        Self::new(def.name, def.unit, def.instrument)
    }

    /// The name of what is not declared by a [`MetricDef`].
    #[must_use]
    pub fn new(name: &str, unit: &str, instrument: Instrument) -> Self {
        let counter = instrument == Instrument::Counter;
        let mut family = word(name);
        if counter && let Some(bare) = family.strip_suffix("_total") {
            family.truncate(bare.len());
        }
        let mut unit = unit_word(unit, instrument);
        if let Some(u) = &unit
            && !format!("_{family}_").contains(&format!("_{u}_"))
        {
            family.push('_');
            family.push_str(u);
        }
        unit = unit.filter(|u| family.ends_with(&format!("_{u}")));
        let sample = if counter { format!("{family}_total") } else { family.clone() };
        Name { family, sample, unit }
    }
}

/// An OpenTelemetry name as a metric or label name.
#[must_use]
pub fn word(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            if out.is_empty() && c.is_ascii_digit() {
                out.push('_');
            }
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    // No name is no label.
    if out.is_empty() { "_".into() } else { out }
}

fn unit_word(unit: &str, instrument: Instrument) -> Option<String> {
    if unit == "1" {
        return (instrument == Instrument::Gauge).then(|| "ratio".to_owned());
    }
    // What stands in braces is a remark (UCUM, section 12).
    let mut bare = String::new();
    let mut depth = 0_usize;
    for c in unit.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            c if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    let (of, per) = bare.split_once('/').map_or((bare.as_str(), None), |(a, b)| (a, Some(b)));
    let of = plural(of);
    let words = match per {
        Some(p) if of.is_empty() => format!("per_{}", singular(p)),
        Some(p) => format!("{of}_per_{}", singular(p)),
        None => of,
    };
    (!words.is_empty()).then(|| word(&words))
}

/// The table of the specification, as far as base units and what is built of them go.
fn plural(unit: &str) -> String {
    let known = match unit {
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "bit" => "bits",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "%" => "percent",
        other => other,
    };
    known.to_owned()
}

fn singular(unit: &str) -> &str {
    match unit {
        "s" => "second",
        "m" => "minute",
        "h" => "hour",
        "d" => "day",
        "w" => "week",
        "mo" => "month",
        "y" => "year",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Panel;

    /// The rule of the module's head, case by case.
    #[test]
    fn names_follow_the_specification() {
        use Instrument::{Counter, Gauge, Histogram, UpDownCounter};
        for (name, unit, instrument, family, sample, unit_word) in [
            ("system.cpu.time", "s", Counter, "system_cpu_time_seconds", "system_cpu_time_seconds_total", "seconds"),
            (
                "system.memory.usage",
                "By",
                UpDownCounter,
                "system_memory_usage_bytes",
                "system_memory_usage_bytes",
                "bytes",
            ),
            ("container.cpu.usage", "1", Gauge, "container_cpu_usage_ratio", "container_cpu_usage_ratio", "ratio"),
            ("cpu.ratio", "1", Gauge, "cpu_ratio", "cpu_ratio", "ratio"),
            ("cpus", "1", UpDownCounter, "cpus", "cpus", ""),
            ("io.bytes", "By", Counter, "io_bytes", "io_bytes_total", "bytes"),
            ("bytes.read", "By", Counter, "bytes_read", "bytes_read_total", ""),
            (
                "linux.runqueue.delay",
                "s",
                Histogram,
                "linux_runqueue_delay_seconds",
                "linux_runqueue_delay_seconds",
                "seconds",
            ),
            ("linux.oom.kills", "{kill}", Counter, "linux_oom_kills", "linux_oom_kills_total", ""),
            ("requests.total", "{request}", Counter, "requests", "requests_total", ""),
            ("x", "By/s", Gauge, "x_bytes_per_second", "x_bytes_per_second", "bytes_per_second"),
            ("y", "{packet}/s", Gauge, "y_per_second", "y_per_second", "per_second"),
            ("5xx..rate-é", "", Gauge, "_5xx_rate_", "_5xx_rate_", ""),
        ] {
            let def = MetricDef { name, instrument, unit, help: "", attributes: &[], panel: Panel::None };
            let expected = Name {
                family: family.into(),
                sample: sample.into(),
                unit: (!unit_word.is_empty()).then(|| unit_word.to_owned()),
            };
            assert_eq!(Name::of(&def), expected);
        }
    }
}
