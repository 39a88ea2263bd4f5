// SPDX-License-Identifier: Apache-2.0
//! Alerting rules: one for each event that is worth one, and those about the agent itself.
//!
//! Only events of the severity that their kind usually has, or above it, count, from WARN on. One of severity ERROR
//! alerts at once. A WARN alerts when it happens again and again: each counts for five minutes, and that has to last
//! for five. Kinds that have both have an alert for each.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use serde_json::json;

use super::query::{INSTANCE, WORKLOAD, grown, labels};
use crate::collectors::Registration;
use crate::collectors::metrics::cpu::CPU_COUNT;
use crate::exporters::prometheus::names::{Name, word};
use crate::pipeline::metrics::own;
use crate::signal::semconv::attr;
use crate::signal::{EventDef, MetricDef, Severity};

type Severities = RangeInclusive<Severity>;

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub name: String,
    pub expr: String,
    /// How long it must hold before somebody is told.
    pub lasts: Option<&'static str>,
    /// `critical` or `warning`.
    pub severity: &'static str,
    /// Whose event it is; `None`: about the agent itself.
    pub collector: Option<&'static str>,
    pub summary: String,
    /// With Prometheus' templates: figures, and who suffers.
    pub description: String,
    /// What to do, in words.
    pub next: String,
}

impl Alert {
    /// Where more is to be read.
    #[must_use]
    pub fn page(&self) -> String {
        match self.collector {
            Some(c) => format!("docs/reference/collectors/{c}.md#what-to-do-next"),
            None => format!("docs/reference/alerts.md#{}", self.name.to_lowercase()),
        }
    }
}

/// Every alert.
#[must_use]
pub fn all(registrations: &[Registration]) -> Vec<Alert> {
    let mut out: Vec<Alert> = registrations
        .iter()
        .flat_map(|r| r.info.events.iter().map(move |e| (r, *e)))
        .flat_map(|(r, e)| of_event(r, e))
        .collect();
    out.extend(about_the_agent());
    out.extend(cost(registrations));
    out
}

fn of_event(r: &Registration, e: &EventDef) -> impl Iterator<Item = Alert> {
    let name = format!("Bianque{}", camel(e.name.strip_prefix("linux.").unwrap_or(e.name)));
    let from = e.severity.max(Severity::Warn);
    let (warns, errs) = (from < Severity::Error && e.worst >= from, e.worst >= Severity::Error);
    let upto = if errs { Severity::Warn } else { Severity::Fatal };
    let critical = if warns { format!("{name}Critical") } else { name.clone() };
    let warning = warns.then(|| of_severities(r, e, name, &(from..=upto)));
    let critical = errs.then(|| of_severities(r, e, critical, &(from.max(Severity::Error)..=Severity::Fatal)));
    [warning, critical].into_iter().flatten()
}

fn of_severities(r: &Registration, e: &EventDef, name: String, of: &Severities) -> Alert {
    let urgent = *of.start() >= Severity::Error;
    Alert {
        name,
        expr: grown(&Name::of(e.counter).sample, &selector(&severities(e.counter, of)), INSTANCE),
        lasts: (!urgent).then_some("5m"),
        severity: if urgent { "critical" } else { "warning" },
        collector: Some(r.info.name),
        summary: e.summary.to_owned(),
        description: format!(
            "{{{{ $value | printf \"%.0f\" }}}} in five minutes{}. On the node, `bianque events --name {}` shows what was \
             captured.",
            e.container_counter.map_or_else(String::new, |c| affected_workloads(c, of)),
            e.name
        ),
        next: what_to_do_next(&r.info.markdown()),
    }
}

/// Matches events of these severities, where a counter has them as a label: what a collector reports for the record
/// alone alerts nobody.
fn severities(counter: &MetricDef, of: &Severities) -> Option<String> {
    let all = [Severity::Debug, Severity::Info, Severity::Warn, Severity::Error, Severity::Fatal];
    let names: Vec<_> = all.into_iter().filter(|s| of.contains(s)).map(Severity::name).collect();
    let key = counter.attributes.iter().find(|k| **k == attr::LINUX_EVENT_SEVERITY)?;
    Some(format!("{}=~\"{}\"", word(key.name), names.join("|")))
}

fn selector(matchers: &Option<String>) -> String {
    matchers.as_ref().map(|m| format!("{{{m}}}")).unwrap_or_default()
}

/// A template that names the workloads whose counters grew: `, of: web-1 app (3)`.
fn affected_workloads(counter: &MetricDef, of: &Severities) -> String {
    let [namespace, pod, container] = WORKLOAD.map(|k| word(k.name));
    let severities = severities(counter, of).map(|s| format!(",{s}")).unwrap_or_default();
    let selector = format!("{{{INSTANCE}=%[1]q{severities}}}");
    let query = grown(&Name::of(counter).sample, &selector, &[&*namespace, &*pod, &*container].join(", "));
    format!(
        "{{{{ with query (printf `topk(5, {query})` $labels.{INSTANCE}) }}}}, of:{{{{ range . }}}} \
         {{{{ with .Labels.{pod} }}}}{{{{ . }}}} {{{{ end }}}}{{{{ .Labels.{container} }}}} \
         ({{{{ .Value | printf \"%.0f\" }}}}){{{{ end }}}}{{{{ end }}}}"
    )
}

/// `memory.oom_kill` → `MemoryOomKill`.
fn camel(name: &str) -> String {
    let words = name.split(['.', '_']);
    words.map(|w| w.chars().take(1).flat_map(char::to_uppercase).chain(w.chars().skip(1)).collect::<String>()).collect()
}

/// The section of a collector's page, as one line.
fn what_to_do_next(markdown: &str) -> String {
    let after = markdown.split_once("# What to do next\n").map_or("", |(_, rest)| rest);
    let section = after.split("\n#").next().unwrap_or(after);
    section.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What an alert about the agent says beside its condition.
struct Own {
    name: &'static str,
    lasts: &'static str,
    severity: &'static str,
    summary: &'static str,
    next: &'static str,
}

fn about_the_agent() -> Vec<Alert> {
    let sample = |m: &MetricDef| Name::of(m).sample;
    let [series, collector, store] = [&own::SERIES_COUNT, &own::COLLECTOR_STATE, &own::STORE_STATE].map(sample);
    let [lag, source] = [&own::EXPORTER_LAG, &own::SOURCE_STATE].map(sample);
    let state = word(own::STATE.name);
    let grown = |m: &MetricDef| grown(&sample(m), "", &[&[INSTANCE.to_owned()], &*labels(m)].concat().join(", "));
    let [dropped, lost, folded] = [&own::EVENTS_DROPPED, &own::RECORDS_LOST, &own::SERIES_OVERFLOWED].map(grown);
    vec![
        own_alert(GONE, format!("max by ({INSTANCE}) ({series} offset 10m) unless max by ({INSTANCE}) ({series})")),
        own_alert(COLLECTOR_FAILED, format!("{collector}{{{state}=~\"failed|stuck\"}} == 1")),
        own_alert(STORE_DEGRADED, format!("{store}{{{state}=\"degraded\"}} == 1")),
        own_alert(DROPPED, dropped),
        own_alert(LOST, lost),
        own_alert(BEHIND, format!("{lag} > 300")),
        own_alert(NAMES, format!("{source}{{{state}=~\"old|down\"}} == 1")),
        own_alert(SERIES, folded),
    ]
}

/// Design's budget: half a percent of the node's CPU.
fn cost(registrations: &[Registration]) -> Option<Alert> {
    let mut all = registrations.iter().flat_map(|r| r.info.metrics);
    let cpus = Name::of(all.find(|m| ***m == CPU_COUNT)?).sample;
    let time = Name::of(&own::PROBE_TIME).sample;
    let used = format!("sum by ({INSTANCE}) (rate({time}[10m]))");
    Some(own_alert(COST, format!("{used} / on ({INSTANCE}) max by ({INSTANCE}) ({cpus}) > 0.005")))
}

fn own_alert(own: Own, expr: String) -> Alert {
    Alert {
        name: own.name.to_owned(),
        expr,
        lasts: Some(own.lasts).filter(|l| !l.is_empty()),
        severity: own.severity,
        collector: None,
        summary: own.summary.to_owned(),
        description: "{{ range $name, $value := $labels }}{{ if ne $name \"__name__\" }}{{ $name }}={{ $value }} \
                      {{ end }}{{ end }}({{ $value | humanize }})"
            .to_owned(),
        next: own.next.to_owned(),
    }
}

const GONE: Own = Own {
    name: "BianqueAgentGone",
    lasts: "5m",
    severity: "warning",
    summary: "The agent, or its node, is gone: it was there ten minutes ago, and is not",
    next: "If the node was not taken out: see whether it answers, then `systemctl status bianque` or the pod's last state, and \
           the end of its log.",
};
const COLLECTOR_FAILED: Own = Own {
    name: "BianqueCollectorFailed",
    lasts: "5m",
    severity: "warning",
    summary: "A collector panics again and again, or one of its calls does not return",
    next: "`bianque list` on the node gives the reason. Stuck: a file system, a device or the kernel does not answer that collector; \
           the others go on. Failed: please report the message.",
};
const STORE_DEGRADED: Own = Own {
    name: "BianqueStoreDegraded",
    lasts: "1m",
    severity: "critical",
    summary: "Events cannot be committed to the store; delivery goes on from memory",
    next: "The disk under `store.path` is full, slow or read-only: see `df`, the kernel's log and the disk's latency. What falls \
           out of memory unsaved counts as dropped.",
};
const DROPPED: Own = Own {
    name: "BianqueEventsDropped",
    lasts: "",
    severity: "critical",
    summary: "Events are lost: they could not be processed or delivered, and are gone",
    next: "The labels say where and why. `retention`: the back end was away for longer than the store holds, so raise \
           `store.max_size` or `store.max_age`. `store`: see BianqueStoreDegraded. Otherwise the back end refuses them: the agent's \
           log has its answer.",
};
const LOST: Own = Own {
    name: "BianqueRecordsLost",
    lasts: "5m",
    severity: "warning",
    summary: "The kernel cannot hand over all records of a probe",
    next: "More happens than is read: see whether the agent's CPU is throttled (its cgroup's limit), and raise the threshold of \
           the collector, or filter, so that fewer records are made.",
};
const BEHIND: Own = Own {
    name: "BianqueExporterBehind",
    lasts: "5m",
    severity: "warning",
    summary: "An exporter is more than five minutes behind",
    next: "The back end is away, slow, or refuses: `bianque_exporter_failures_total` has the reason, the agent's log the answer. \
           Nothing is lost while the store holds it.",
};
const NAMES: Own = Own {
    name: "BianqueNamesOld",
    lasts: "10m",
    severity: "warning",
    summary: "A source of workloads' names is down; earlier metadata is kept",
    next: "New pods may have no names. The label says which: the runtime's CRI socket, the kubelet or the API server. See whether \
           it answers on the node, and whether its permissions or certificates have changed.",
};
const SERIES: Own = Own {
    name: "BianqueSeriesFolded",
    lasts: "5m",
    severity: "warning",
    summary: "A metric has more series than allowed; the rest is folded into overflow=\"true\"",
    next: "Raise `metrics.max_series`, or filter the workloads that the collector reports.",
};
const COST: Own = Own {
    name: "BianqueProbesCostly",
    lasts: "10m",
    severity: "warning",
    summary: "The agent's probes take more than 0.5 % of the node's CPU",
    next: "`bianque_probe_time_seconds_total` says which probe; turn its collector off, or filter.",
};

/// The rules as Prometheus reads them.
pub fn rules(registrations: &[Registration]) -> String {
    let (events, own): (Vec<_>, Vec<_>) = all(registrations).into_iter().partition(|a| a.collector.is_some());
    let mut out = String::from(
        "# SPDX-License-Identifier: Apache-2.0\n# Made by `make regen` from the sources; do not edit.\ngroups:\n",
    );
    for (group, alerts) in [("bianque-events", events), ("bianque-agent", own)] {
        let _ = write!(out, "  - name: {group}\n    rules:\n");
        for a in alerts {
            rule(&mut out, &a);
        }
    }
    out
}

/// A JSON string is a YAML string.
fn rule(out: &mut String, a: &Alert) {
    let text = |s: &str| json!(s).to_string();
    let _ = write!(out, "      - alert: {}\n        expr: {}\n", a.name, text(&a.expr));
    if let Some(lasts) = a.lasts {
        let _ = writeln!(out, "        for: {lasts}");
    }
    let collector = a.collector.map_or_else(String::new, |c| format!("\n          collector: {c}"));
    let _ = write!(out, "        labels:\n          severity: {}{collector}\n        annotations:\n", a.severity);
    let summary = format!("{{{{ $labels.{INSTANCE} }}}}: {}", a.summary);
    for (key, value) in [("summary", &summary), ("description", &a.description), ("next", &a.next), ("page", &a.page())]
    {
        let _ = writeln!(out, "          {key}: {}", text(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An alert's name is its event's; its advice is the whole section, and nothing of the next.
    #[test]
    fn names_and_advice() {
        assert_eq!(camel("memory.oom_kill"), "MemoryOomKill");
        let page = "# How\nso\n\n# What to do next\nLook\nthere.\n\n# More\nno\n";
        assert_eq!(what_to_do_next(page), "Look there.");
        assert_eq!(what_to_do_next("## What to do next\nLast."), "Last.");
    }
}
