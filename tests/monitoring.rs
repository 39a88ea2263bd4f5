// SPDX-License-Identifier: Apache-2.0
//! Dashboards and alerts ask for what the agent exports, and Prometheus' own tool takes them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may end so")]
#![expect(clippy::disallowed_methods, reason = "the check is Prometheus' own program")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bianque::cli::monitoring::{self, Alert};
use bianque::collectors::BUILT_IN;
use bianque::exporters::prometheus::{Format, Prometheus};
use bianque::pipeline::metrics::{MetricState, own};
use bianque::signal::{
    Attributes, Event, EventDef, Histogram, Instrument, Key, MetricDef, Metrics, Panel, Pod, Severity, Timestamp,
    Value, Workload, WorkloadKey, WorkloadKind,
};
use serde_json::Value as Json;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/monitoring/alerts.yaml");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/otel-config/prometheus.yml");

/// Names of samples, each with its labels.
type Exported = BTreeMap<String, BTreeSet<String>>;

/// All that the agent can export, as its own writer writes it: a point of each metric, its own among them, and an event
/// of each kind.
fn exported() -> Exported {
    let state = Arc::new(MetricState::new(100, Timestamp(0)));
    let who = Arc::new(Workload {
        container_id: Some("c1".into()),
        container_name: Some("app".into()),
        pod: Some(Pod {
            uid: "u".into(),
            name: Some("web-1".into()),
            namespace: Some("shop".into()),
            container: Some("app".into()),
            ..Pod::default()
        }),
        ..Workload::new(WorkloadKey(1), WorkloadKind::Container, "/kubepods/x")
    });
    let of_collectors = BUILT_IN.iter().map(|r| (r.info.name, r.info.metrics));
    for (name, all) in of_collectors.chain([("bianque", own::ALL)]) {
        let mut metrics = Metrics::default();
        for m in all {
            let who = m.name.contains("container.").then_some(&who);
            let attributes: Vec<(Key, Value)> = m.attributes.iter().map(|k| (*k, "x".into())).collect();
            match m.instrument {
                Instrument::Histogram => {
                    let h = Histogram { counts: vec![1], sum: Some(1.0), ..Histogram::default() };
                    metrics.histogram(m, who, &attributes, h);
                }
                _ => metrics.count(m, who, &attributes, 1),
            }
        }
        state.update(name, &mut metrics, Timestamp(1));
    }
    for r in BUILT_IN {
        for e in r.info.events {
            let mut attributes = Attributes::new();
            e.attributes.iter().for_each(|k| {
                attributes.set(*k, "x");
            });
            let event = Event::new(e, Timestamp(2), Some(who.clone()), String::new());
            state.count_event(&Event { attributes, ..event }, None);
        }
    }
    let page = Prometheus::new(state, &Attributes::new(), Box::new(Vec::new)).scrape(Format::Text);
    let mut out = Exported::new();
    for line in std::str::from_utf8(page.as_ref()).unwrap().lines().filter(|l| !l.starts_with('#')) {
        let end = line.find(['{', ' ']).unwrap();
        let labels = line[end..].split("=\"").filter_map(|part| part.rsplit(['{', ',', '"']).next());
        let of = out.entry(line[..end].to_owned()).or_default();
        of.extend(labels.filter(|l| l.chars().all(|c| c.is_alphanumeric() || c == '_')).map(str::to_owned));
    }
    out
}

/// Every query of the dashboards, with where it stands; those that fill variables are selectors alone.
fn dashboard_queries() -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (path, text) in monitoring::files(BUILT_IN).iter().filter(|(path, _)| path.ends_with(".json")) {
        let board: Json = serde_json::from_str(text).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{path}: {}", panel["title"].as_str().unwrap());
                out.push((place, target["expr"].as_str().unwrap().to_owned()));
            }
        }
        for variable in board["templating"]["list"].as_array().unwrap() {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).unwrap();
            let (selector, label) = inner.rsplit_once(", ").unwrap();
            out.push((format!("{path}: ${label}"), format!("sum by ({label}) ({selector})")));
        }
    }
    assert!(out.len() > 40, "{}", out.len());
    out
}

/// What the alerts ask, and what their templates do.
fn alert_queries() -> Vec<(String, String)> {
    let of = |a: &Alert| {
        let inner = a.description.split('`').filter(|t| t.starts_with("topk(")).map(|t| t.replace("%[1]q", "\"n1\""));
        inner.chain([a.expr.clone()]).map(|q| (a.name.clone(), q)).collect::<Vec<_>>()
    };
    monitoring::alerts(BUILT_IN).iter().flat_map(of).collect()
}

/// Names of metrics and of labels in a query. It is one of ours: no names in quotes, no comments.
fn names(query: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    const WORDS: [&str; 6] = ["or", "and", "unless", "offset", "sum", "max"];
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '$');
    let (mut at, mut braces, mut list) = (0, false, false);
    while let Some(c) = query[at..].chars().next() {
        let rest = &query[at..];
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        let next = rest[word.len()..].trim_start().chars().next();
        match c {
            '"' => at += 1 + rest[1..].find('"').unwrap(),
            '[' => at += rest.find(']').unwrap(),
            '{' => braces = true,
            '}' => braces = false,
            ')' => list = false,
            _ if word.is_empty() => {}
            _ if braces || list => drop(labels.insert(word)),
            _ if matches!(word, "by" | "on") => list = true,
            _ if next == Some('(') || WORDS.contains(&word) || c.is_ascii_digit() => {}
            _ => drop(metrics.insert(word)),
        }
        at += if word.is_empty() { 1 } else { word.len() };
    }
    (metrics, labels)
}

/// The reader of queries itself.
#[test]
fn queries_are_taken_apart() {
    let q =
        r#"topk(5, sum by (le, a) ((increase(m_total{b=~"x{y"}[5m]) > 0) or (n > 0.5 unless n offset 5m))) / on (i) o"#;
    let (metrics, labels) = names(q);
    assert_eq!(metrics.into_iter().collect::<Vec<_>>(), ["m_total", "n", "o"]);
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["a", "b", "i", "le"]);
}

/// No query asks for a series or a label that no agent exports.
#[test]
fn queries_name_what_is_exported() {
    let exported = exported();
    let mut problems = Vec::new();
    for (place, query) in dashboard_queries().into_iter().chain(alert_queries()) {
        let (metrics, labels) = names(&query);
        assert!(!metrics.is_empty(), "{place}: {query}");
        // What Prometheus itself adds; and a histogram's bounds.
        let mut known: BTreeSet<&str> = BTreeSet::from(["instance"]);
        for m in &metrics {
            match exported.get(*m) {
                Some(has) => known.extend(has.iter().map(String::as_str)),
                None => problems.push(format!("{place}: no series {m}")),
            }
        }
        problems.extend(labels.difference(&known).map(|l| format!("{place}: no label {l} in {query}")));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Nothing that is declared is left out: each metric with a panel, each of the agent's own, each event that warns.
#[test]
fn everything_declared_is_shown() {
    let queries: String = dashboard_queries().into_iter().map(|(_, q)| q + "\n").collect();
    // `_total` stands behind the unit.
    let text = |m: &MetricDef| m.name.strip_suffix(".total").unwrap_or(m.name).replace('.', "_");
    let shown = |m: &MetricDef| m.panel == Panel::None || queries.contains(&text(m));
    let alerts = monitoring::alerts(BUILT_IN);
    for r in BUILT_IN {
        for e in r.info.events {
            assert!(shown(e.counter) && e.container_counter.is_none_or(shown), "{}", e.name);
            let alert = alerts
                .iter()
                .any(|a| a.collector == Some(r.info.name) && a.expr.contains(&e.counter.name.replace('.', "_")));
            assert_eq!(alert, e.worst >= Severity::Warn, "{}", e.name);
        }
        assert!(r.info.metrics.iter().all(|m| shown(m)), "{}", r.info.name);
    }
    for m in own::ALL {
        assert!(queries.contains(&m.name.replace('.', "_")), "{}", m.name);
    }
    assert!(alerts.iter().all(|a| a.next.len() > 20), "an alert does not say what to do next");
    let names: BTreeSet<_> = alerts.iter().map(|a| &a.name).collect();
    assert_eq!(names.len(), alerts.len(), "two alerts have one name");
}

fn promtool(args: &[&str]) -> (bool, String) {
    let out = Command::new("promtool").args(args).output().expect("promtool, of Debian's package prometheus");
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// Prometheus takes the rules, from the configuration that names them; and each query of a dashboard, as a rule.
#[test]
fn prometheus_takes_them() {
    let (fine, said) = promtool(&["check", "config", CONFIG]);
    let count = monitoring::alerts(BUILT_IN).len();
    assert!(fine && said.contains(&format!("{count} rules found")), "{said}");
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    for (i, (_, query)) in dashboard_queries().iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m");
        let _ = writeln!(rules, "      - {{record: \"q{i}\", expr: {}}}", Json::from(query));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    let (fine, said) = promtool(&["check", "rules", file.to_str().unwrap()]);
    assert!(fine, "{said}");
}

/// One case for `promtool test rules`: series, a time, and the state of one alert then.
struct Case<'a> {
    series: &'a [(&'a str, &'a str)],
    at: &'a str,
    alert: &'a Alert,
    /// Labels and description of what fires.
    fires: &'a [(&'a [(&'a str, &'a str)], &'a str)],
}

fn case(out: &mut String, case: &Case<'_>) {
    let text = |s: &str| Json::from(s).to_string();
    out.push_str("  - interval: 1m\n    input_series:\n");
    for (series, values) in case.series {
        let _ = writeln!(out, "      - {{series: {}, values: \"{values}\"}}", text(series));
    }
    let _ = write!(
        out,
        "    alert_rule_test:\n      - eval_time: {}\n        alertname: {}\n        exp_alerts:",
        case.at, case.alert.name
    );
    out.push_str(if case.fires.is_empty() { " []\n" } else { "\n" });
    for (labels, description) in case.fires {
        let _ = writeln!(out, "          - exp_labels:\n              severity: {}", case.alert.severity);
        for (name, value) in case.alert.collector.map(|c| ("collector", c)).iter().chain(*labels) {
            let _ = writeln!(out, "              {name}: {}", text(value));
        }
        let summary = format!("n1: {}", case.alert.summary);
        let _ = write!(
            out,
            "            exp_annotations:\n              summary: {}\n              description: {}\n              next: {}\n              page: {}\n",
            text(&summary),
            text(description),
            text(&case.alert.next),
            text(&case.alert.page())
        );
    }
}

/// In Prometheus' own hands: the first kill of a node alerts at once, and names who suffered; a warning alerts
/// when it comes again; a lost event says why.
#[test]
fn alerts_fire_when_they_should() {
    let alerts = monitoring::alerts(BUILT_IN);
    let alert = |name: &str| alerts.iter().find(|a| a.name == name).unwrap();
    let oom = [
        (r#"linux_memory_oom_kills_total{instance="n1"}"#, "0x30"),
        (r#"linux_memory_oom_kills_total{instance="n1",linux_oom_constraint="memcg"}"#, "_x10 1x19"),
        (
            r#"linux_container_memory_oom_kills_total{instance="n1",k8s_namespace_name="shop",k8s_pod_name="web-1",container_name="app"}"#,
            "_x10 1x19",
        ),
        (r#"linux_container_memory_oom_kills_total{instance="n2",container_name="other"}"#, "_x10 1x19"),
    ];
    let kill = "1 in five minutes, of: web-1 app (1). On the node, `bianque events --name linux.memory.oom_kill` shows what was captured.";
    let softirq = [(r#"linux_softirq_delays_total{instance="n1"}"#, "0x9 1x9 2x30")];
    let again = [(r#"linux_softirq_delays_total{instance="n1"}"#, "0x9 1x3 2x30")];
    let delayed =
        "1 in five minutes. On the node, `bianque events --name linux.softirq.delay` shows what was captured.";
    let dropped = [(r#"bianque_events_dropped_total{instance="n1",exporter="otlp",reason="retention"}"#, "_x5 70x9")];
    let kept = [
        (r#"bianque_events_dropped_total{instance="n1",exporter="otlp",reason="retention"}"#, "3x30"),
        (r#"bianque_events_suppressed_total{instance="n1",collector="cpuidle",reason="did_not_last"}"#, "0x5 70x9"),
        (r#"bianque_events_suppressed_total{instance="n1",exporter="otlp",reason="unsupported"}"#, "0x5 70x9"),
    ];
    let failed = [(r#"bianque_events_dropped_total{instance="n1",collector="oom",reason="queue_full"}"#, "_x5 2x9")];
    let lost_by = "collector=oom instance=n1 reason=queue_full (2)";
    let oom_queue: &[(&str, &str)] = &[("instance", "n1"), ("collector", "oom"), ("reason", "queue_full")];
    let lost = "exporter=otlp instance=n1 reason=retention (70)";
    let gone =
        [(r#"bianque_series_count{instance="n1"}"#, "9x9 stale"), (r#"bianque_series_count{instance="n2"}"#, "9x30")];
    let n1: &[(&str, &str)] = &[("instance", "n1")];
    let why: &[(&str, &str)] = &[("instance", "n1"), ("exporter", "otlp"), ("reason", "retention")];
    let cases = [
        Case { series: &oom, at: "9m", alert: alert("BianqueMemoryOomKill"), fires: &[] },
        Case { series: &oom, at: "11m", alert: alert("BianqueMemoryOomKill"), fires: &[(n1, kill)] },
        Case { series: &oom, at: "17m", alert: alert("BianqueMemoryOomKill"), fires: &[] },
        Case { series: &softirq, at: "15m", alert: alert("BianqueSoftirqDelay"), fires: &[] },
        Case { series: &again, at: "16m", alert: alert("BianqueSoftirqDelay"), fires: &[(n1, delayed)] },
        Case { series: &dropped, at: "7m", alert: alert("BianqueEventsDropped"), fires: &[(why, lost)] },
        Case { series: &failed, at: "7m", alert: alert("BianqueEventsDropped"), fires: &[(oom_queue, lost_by)] },
        // What was left out on purpose is no loss.
        Case { series: &kept, at: "7m", alert: alert("BianqueEventsDropped"), fires: &[] },
        Case { series: &gone, at: "12m", alert: alert("BianqueAgentGone"), fires: &[] },
        Case { series: &gone, at: "16m", alert: alert("BianqueAgentGone"), fires: &[(n1, "instance=n1 (9)")] },
    ];
    prometheus_agrees(&cases);
}

fn prometheus_agrees(cases: &[Case<'_>]) {
    let mut text = format!("rule_files: [{RULES}]\nevaluation_interval: 1m\ntests:\n");
    cases.iter().for_each(|c| case(&mut text, c));
    let dir = tempfile::tempdir().unwrap();
    let file = Path::new(dir.path()).join("cases.yaml");
    std::fs::write(&file, text).unwrap();
    let (fine, said) = promtool(&["test", "rules", file.to_str().unwrap()]);
    assert!(fine, "{said}");
}

/// Each alert of an event fires when events of its severity go on, and not for those below, which the same counter
/// counts: drops that were reported to their sender, a segment that was lost once, a hang that ended. One that warns does
/// not for a single event, and none for a count that stands.
#[test]
fn alerts_of_events_read_their_severity() {
    let events = || BUILT_IN.iter().flat_map(|r| r.info.events.iter().copied());
    let alerts = monitoring::alerts(BUILT_IN);
    let n1: &[(&str, &str)] = &[("instance", "n1")];
    let mut texts: Vec<(&Alert, String, &str, String)> = Vec::new();
    let of_each = events().filter(|e| e.worst >= Severity::Warn).flat_map(|e| {
        let page = format!("--name {}`", e.name);
        let of_it: Vec<&Alert> = alerts.iter().filter(|a| a.description.contains(&page)).collect();
        assert!(!of_it.is_empty(), "{}", e.name);
        of_it.clone().into_iter().map(move |alert| (e, alert, of_it.len() > 1))
    });
    for (e, alert, is_one_of_two) in of_each {
        let fires =
            format!("5 in five minutes. On the node, `bianque events --name {}` shows what was captured.", e.name);
        let least = e.severity.max(if alert.severity == "critical" { Severity::Error } else { Severity::Warn });
        for severity in [Severity::Info, Severity::Warn, Severity::Error, Severity::Fatal] {
            let tells_apart = counter_labels(e).contains(&"linux_event_severity".to_owned());
            let is_others = is_one_of_two && alert.severity == "warning" && severity >= Severity::Error;
            let is_meant = if tells_apart { severity >= least && !is_others } else { severity == e.severity };
            if is_meant || tells_apart {
                let fires = if is_meant { fires.clone() } else { String::new() };
                texts.push((alert, series_of(e, severity), "0+1x30", fires));
            }
        }
        texts.push((alert, series_of(e, least), "7x30", String::new()));
        if alert.severity == "warning" {
            texts.push((alert, series_of(e, least), "0x20 1x10", String::new()));
        }
    }
    let told_apart =
        texts.iter().filter(|(_, s, values, fires)| s.contains("INFO") && *values == "0+1x30" && fires.is_empty());
    assert!(told_apart.count() >= 7, "drops, retransmits, hangs, lockups, links, bonds, hardware errors");
    let with_series: Vec<_> =
        texts.iter().map(|(a, s, values, fires)| (*a, [(s.as_str(), *values)], [(n1, fires.as_str())])).collect();
    let cases: Vec<_> = with_series
        .iter()
        .map(|(alert, series, fires)| Case {
            series,
            at: "25m",
            alert,
            fires: if fires[0].1.is_empty() { &[] } else { fires },
        })
        .collect();
    prometheus_agrees(&cases);
}

fn counter_labels(e: &EventDef) -> Vec<String> {
    e.counter.attributes.iter().map(|k| k.name.replace('.', "_")).collect()
}

/// The series of a node's counter of such events.
fn series_of(e: &EventDef, severity: Severity) -> String {
    let name = bianque::exporters::prometheus::names::Name::of(e.counter).sample;
    let mut labels = vec!["instance=\"n1\"".to_owned()];
    labels.extend(counter_labels(e).iter().map(|l| {
        let value = if l == "linux_event_severity" { severity.name() } else { "x" };
        format!("{l}=\"{value}\"")
    }));
    format!("{name}{{{}}}", labels.join(","))
}

/// Alerts about the agent: name, series (`I` is the agent), values that fire, labels and figure, values that do not.
const OWN_ALERTS: [[&str; 5]; 10] = [
    ["BianqueAgentGone", "bianque_series_count{I}", "9x20 stale", "instance=n1 (9)", "9x30"],
    [
        "BianqueCollectorFailed",
        "bianque_collector_state{I,collector=\"oom\",state=\"stuck\"}",
        "1x30",
        "collector=oom instance=n1 state=stuck (1)",
        "0x30",
    ],
    [
        "BianqueCollectorFailed",
        "bianque_collector_state{I,collector=\"oom\",state=\"failed\"}",
        "1x30",
        "collector=oom instance=n1 state=failed (1)",
        "0x23 1x7",
    ],
    [
        "BianqueStoreDegraded",
        "bianque_store_state{I,state=\"degraded\"}",
        "1x30",
        "instance=n1 state=degraded (1)",
        "0x30",
    ],
    [
        "BianqueEventsDropped",
        "bianque_events_dropped_total{I,exporter=\"store\",reason=\"store\"}",
        "0x23 4x7",
        "exporter=store instance=n1 reason=store (4)",
        "4x30",
    ],
    [
        "BianqueRecordsLost",
        "bianque_records_lost_total{I,probe=\"oom\",reason=\"ring_full\"}",
        "0+1x30",
        "instance=n1 probe=oom reason=ring_full (5)",
        "0x23 1x7",
    ],
    [
        "BianqueExporterBehind",
        "bianque_exporter_lag_seconds{I,exporter=\"otlp\"}",
        "301x30",
        "exporter=otlp instance=n1 (301)",
        "300x30",
    ],
    [
        "BianqueNamesOld",
        "bianque_workload_source_state{I,source=\"cri\",state=\"old\"}",
        "1x30",
        "instance=n1 source=cri state=old (1)",
        "0x30",
    ],
    [
        "BianqueSeriesFolded",
        "bianque_series_overflowed_total{I,metric=\"x\"}",
        "0+1x30",
        "instance=n1 metric=x (5)",
        "5x30",
    ],
    [
        "BianqueProbesCostly",
        "bianque_probe_time_seconds_total{I,probe=\"p\"}",
        "0+1.2x30",
        "instance=n1 (10m)",
        "0+0.5x30",
    ],
];

/// The agent's own: each fires after some minutes by what it is for, and not by the nearest that it is not for.
#[test]
fn alerts_about_the_agent() {
    const OF: &str = "instance=\"n1\"";
    let alerts = monitoring::alerts(BUILT_IN);
    let tried: BTreeSet<_> = OWN_ALERTS.iter().map(|[name, ..]| (*name).to_owned()).collect();
    assert_eq!(tried, alerts.iter().filter(|a| a.collector.is_none()).map(|a| a.name.clone()).collect());
    let cpus = format!("system_cpu_logical_count{{{OF}}}");
    let mut owned = Vec::new();
    for [name, series, values, text, other] in &OWN_ALERTS {
        let alert = alerts.iter().find(|a| a.name == *name).unwrap();
        let (labels, _) = text.rsplit_once(" (").unwrap();
        let labels: Vec<_> = labels.split(' ').map(|l| l.split_once('=').unwrap()).collect();
        let series = series.replace('I', OF);
        owned.push((alert, series.clone(), *values, Some((labels, *text))));
        owned.push((alert, series, *other, None));
    }
    let with_series: Vec<_> = owned
        .iter()
        .map(|(a, s, v, fires)| {
            (
                *a,
                [(s.as_str(), *v), (cpus.as_str(), "2x30")],
                fires.iter().map(|(l, t)| (l.as_slice(), *t)).collect::<Vec<_>>(),
            )
        })
        .collect();
    let cases: Vec<_> =
        with_series.iter().map(|(alert, series, fires)| Case { series, at: "28m", alert, fires }).collect();
    prometheus_agrees(&cases);
}
