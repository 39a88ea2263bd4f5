// SPDX-License-Identifier: Apache-2.0
//! Rules that every declaration keeps, over all collectors and the agent's own metrics: names, units,
//! texts and attributes, as OpenTelemetry's guidelines for naming and for metrics have them.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::{BTreeMap, BTreeSet};

use bianque::collectors::BUILT_IN;
use bianque::pipeline::metrics::own;
use bianque::signal::semconv::{SCHEMA_URL, attr};
use bianque::signal::{EventDef, Instrument, Key, MetricDef};

/// Where names may begin: the conventions' own, and ours for what they lack.
const METRIC_SPACES: &[&str] = &["system.", "container.", "process.", "k8s.", "hw.", "linux."];
/// UCUM, base units; a number of things has its name in braces.
const UNITS: &[&str] = &["s", "By", "By/s", "1", "Hz", "Cel", "J", "W"];

/// Every metric of every collector, each definition once, with who declares it.
fn metrics() -> Vec<(&'static str, &'static MetricDef)> {
    let mut out: Vec<(&str, &MetricDef)> = Vec::new();
    for r in BUILT_IN {
        let counters = r.info.events.iter().flat_map(|e| std::iter::once(e.counter).chain(e.container_counter));
        for m in r.info.metrics.iter().copied().chain(counters) {
            if !out.iter().any(|(_, o)| std::ptr::eq(*o, m)) {
                out.push((r.info.name, m));
            }
        }
    }
    out
}

fn events() -> impl Iterator<Item = &'static EventDef> {
    BUILT_IN.iter().flat_map(|r| r.info.events.iter().copied())
}

/// Lower case, in parts. It begins with a letter, as do its parts, but for a time that a figure is over: `.15m`.
fn is_dotted(name: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_lowercase())
            && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let over = |p: &str| p.strip_suffix(['s', 'm', 'h']).is_some_and(|n| n.parse::<u8>().is_ok());
    let mut parts = name.split('.');
    name.contains('.') && parts.next().is_some_and(part) && parts.all(|p| part(p) || over(p))
}

/// A part of a sentence: begins as one, does not end as one, fits a line.
fn is_fragment(text: &str) -> bool {
    !text.is_empty() && !text.ends_with(['.', ' ']) && text.trim() == text && !text.contains('\n')
}

/// What is wrong with a metric by itself.
fn faults(name: &str, instrument: Instrument, unit: &str, help: &str) -> Vec<String> {
    let last = name.rsplit('.').next().unwrap();
    let things = unit.starts_with('{') && unit.ends_with('}') && unit.len() > 2;
    // The nouns of this field that end in s and are no plural.
    let plural =
        last.ends_with('s') && !["status", "class", "series", "process", "bus", "rss", "surplus"].contains(&last);
    // semantic-conventions#2995 has pressure so.
    let proposed = name.ends_with(".linux.pressure.total");
    // The semantic conventions' one counter of that name.
    let adopted = name == "system.network.packet.count" && instrument == Instrument::Counter;
    let rules = [
        (is_dotted(name), "a name is dotted lower case"),
        (!name.ends_with("_total") && (!name.ends_with(".total") || proposed), "`_total` is the translation's to add"),
        (things || UNITS.contains(&unit), "a unit is UCUM's, a base unit, or {thing}"),
        (
            !things || !unit.trim_matches(['{', '}']).ends_with('s') || ["{series}", "{process}"].contains(&unit),
            "a thing is singular",
        ),
        (!last.split('_').any(|w| ["seconds", "bytes", "ms", "ratio"].contains(&w)), "a unit is not in the name"),
        (!plural || instrument == Instrument::Counter, "only counters are plural"),
        (
            last != "count" || adopted || instrument == Instrument::UpDownCounter && things,
            "`.count` is an up-down counter of things",
        ),
        (last != "limit" || instrument == Instrument::UpDownCounter, "a limit is an up-down counter"),
        (
            last != "size" || instrument == Instrument::UpDownCounter && unit == "By",
            "a size is an up-down counter of By",
        ),
        (last != "utilization" || instrument == Instrument::Gauge && unit == "1", "a utilization is a gauge of 1"),
        (last != "time" || instrument == Instrument::Counter && unit == "s", "`.time` is a counter of s"),
        (last != "duration" || instrument == Instrument::Histogram && unit == "s", "`.duration` is a histogram of s"),
        (
            instrument != Instrument::Histogram || ["s", "By", "1"].contains(&unit) || things,
            "a histogram's unit is s, By, 1 or {thing}",
        ),
        (is_fragment(help), "a help text is part of a sentence, without a dot"),
    ];
    rules
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, rule)| format!("{name} ({instrument:?}, {unit}): {rule}"))
        .collect()
}

/// All declared metrics keep the rules, the agent's own too.
#[test]
fn metrics_keep_the_rules() {
    let mut problems = Vec::new();
    for (collector, m) in metrics() {
        problems.extend(faults(m.name, m.instrument, m.unit, m.help));
        if !METRIC_SPACES.iter().any(|s| m.name.starts_with(s)) {
            problems.push(format!("{}, of {collector}, begins with none of {METRIC_SPACES:?}", m.name));
        }
    }
    for m in own::ALL {
        problems.extend(faults(m.name, m.instrument, m.unit, m.help));
        if !m.name.starts_with("bianque.") {
            problems.push(format!("{} is the agent's own and does not begin with bianque.", m.name));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The rules see what breaks them.
#[test]
fn rules_are_no_formality() {
    use Instrument::{Counter, Gauge, Histogram, UpDownCounter};
    let bad = [
        ("Linux.x", Counter, "s", "What"),
        ("linux.x_total", Counter, "{event}", "What"),
        ("linux.x", Counter, "ms", "What"),
        ("linux.x", Counter, "{events}", "What"),
        ("linux.x_seconds", Counter, "s", "What"),
        ("linux.handles", UpDownCounter, "{handle}", "What"),
        ("linux.x.count", Gauge, "{x}", "What"),
        ("linux.x.limit", Gauge, "By", "What"),
        ("linux.x.size", Gauge, "By", "What"),
        ("linux.x.utilization", UpDownCounter, "1", "What"),
        ("linux.x.time", Gauge, "s", "What"),
        ("linux.x.duration", Counter, "s", "What"),
        ("linux.x", Histogram, "Hz", "What"),
        ("linux.x", Counter, "s", "What it is."),
        ("linux.x", Counter, "s", ""),
    ];
    for (name, instrument, unit, help) in bad {
        assert_eq!(faults(name, instrument, unit, help).len(), 1, "{name} {instrument:?} {unit} {help:?}");
    }
    assert_eq!(faults("linux.x.held_offs", Counter, "{event}", "Times it was held off"), [] as [String; 0]);
}

/// A name means one thing: one metric, one event, one attribute with one text.
#[test]
fn names_mean_one_thing() {
    let mut all: Vec<&str> = metrics().iter().map(|(_, m)| m.name).chain(own::ALL.iter().map(|m| m.name)).collect();
    all.extend(events().map(|e| e.name));
    let distinct: BTreeSet<&str> = all.iter().copied().collect();
    let twice: Vec<_> = distinct.iter().filter(|n| all.iter().filter(|m| m == n).count() > 1).collect();
    assert!(twice.is_empty(), "declared twice: {twice:?}");

    let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
    for key in keys() {
        let first = texts.entry(key.name).or_insert(key.help);
        assert_eq!(*first, key.help, "{} has two texts", key.name);
    }
}

fn keys() -> Vec<Key> {
    let of_metrics = metrics().into_iter().flat_map(|(_, m)| m.attributes);
    of_metrics.chain(events().flat_map(|e| e.attributes)).copied().collect()
}

/// Attributes have dotted names and texts, each once in a declaration.
#[test]
fn attributes_keep_the_rules() {
    let mut problems: Vec<String> = Vec::new();
    for k in keys() {
        if !is_dotted(k.name) || !is_fragment(k.help) {
            problems.push(format!("{}: {:?}", k.name, k.help));
        }
    }
    let lists = metrics().into_iter().map(|(_, m)| (m.name, m.attributes));
    for (name, list) in lists.chain(events().map(|e| (e.name, e.attributes))) {
        let distinct: BTreeSet<&str> = list.iter().map(|k| k.name).collect();
        if distinct.len() < list.len() {
            problems.push(format!("{name} lists an attribute twice"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// An event is ours by name, and what counts it is a counter of events by some of its attributes.
#[test]
fn events_keep_the_rules() {
    let mut problems = Vec::new();
    for e in events() {
        if !is_dotted(e.name) || !e.name.starts_with("linux.") || !is_fragment(e.summary) {
            problems.push(format!("{}: {:?}", e.name, e.summary));
        }
        for counter in std::iter::once(e.counter).chain(e.container_counter) {
            // Every event has a severity.
            let known = |k: &Key| e.attributes.contains(k) || *k == attr::LINUX_EVENT_SEVERITY;
            let known = counter.attributes.iter().all(known);
            if !known || counter.instrument != Instrument::Counter || counter.unit != "{event}" {
                problems.push(format!("{} cannot count {}", counter.name, e.name));
            }
        }
        if e.container_counter.is_some_and(|c| !c.name.starts_with("linux.container.")) {
            problems.push(format!("{}: the workloads' counter is not of linux.container.", e.name));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The change log names the version of the conventions that is sent with the data.
#[test]
fn the_change_log_names_the_schema_that_is_sent() {
    let version = SCHEMA_URL.strip_prefix("https://opentelemetry.io/schemas/").unwrap();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CHANGELOG.md")).unwrap();
    let named: Vec<&str> = text.split("semantic conventions ").skip(1).filter_map(|t| t.split(' ').next()).collect();
    assert_eq!(named, [version.strip_suffix(".0").unwrap()], "SCHEMA_URL is of {version}");
}
