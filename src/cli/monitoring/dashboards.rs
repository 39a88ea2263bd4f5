// SPDX-License-Identifier: Apache-2.0
//! Grafana's dashboards: the node, its workloads, the agent itself. A row for each collector, a panel for each metric
//! that declares one; of the agent itself, all.

use serde_json::{Value as Json, json};

use super::is_of_workloads;
use super::query::{INSTANCE, WORKLOAD, labels};
use crate::collectors::Registration;
use crate::exporters::prometheus::names::{Name, word};
use crate::exporters::prometheus::{INFO, WORKLOAD_INFO};
use crate::pipeline::metrics::own;
use crate::signal::{Instrument, MetricDef, Panel};

/// Prometheus as the dashboard's own variable names it.
const SOURCE: &str = "${datasource}";
/// More workloads than this in one panel cannot be distinguished.
const TOP: usize = 20;

/// Every dashboard, by name.
pub fn all(registrations: &[Registration]) -> Vec<(&'static str, Json)> {
    vec![("node", node(registrations)), ("workloads", workloads(registrations)), ("agent", agent())]
}

fn node(registrations: &[Registration]) -> Json {
    let about = "What the node's kernel does and what went wrong in it, as bianque sees it.";
    let mut board = Board::new("node", about, vec![variable(INSTANCE, &Name::of(&own::SERIES_COUNT).sample, "")]);
    let selector = format!("{{{INSTANCE}=~\"${INSTANCE}\"}}");
    board.rows(registrations, |m| !is_of_workloads(m), &selector, &[INSTANCE.to_owned()], None);
    board.json()
}

fn workloads(registrations: &[Registration]) -> Json {
    let about = "What containers, units and cgroups use, wait for and suffer from.";
    let all = format!("{WORKLOAD_INFO}{INFO}");
    let mut variables = vec![variable(INSTANCE, &all, "")];
    let mut known = format!("{INSTANCE}=~\"${INSTANCE}\"");
    for label in WORKLOAD.map(|k| word(k.name)) {
        variables.push(variable(&label, &all, &known));
        known = format!("{known}, {label}=~\"${label}\"");
    }
    let mut board = Board::new("workloads", about, variables);
    let by = WORKLOAD.map(|k| word(k.name));
    board.rows(registrations, is_of_workloads, &format!("{{{known}}}"), &by, Some(TOP));
    board.json()
}

fn agent() -> Json {
    let about = "bianque itself: what it reports, what it loses and why, what it costs.";
    let mut board = Board::new("agent", about, vec![variable(INSTANCE, &Name::of(&own::SERIES_COUNT).sample, "")]);
    for d in own::ALL {
        board.own(d);
    }
    board.json()
}

/// A choice of label values. All, where nothing is chosen, also of series that have no such label.
fn variable(label: &str, series: &str, known: &str) -> Json {
    let selector = if known.is_empty() { String::new() } else { format!("{{{known}}}") };
    json!({
        "name": label,
        "label": label,
        "type": "query",
        "datasource": source(),
        "query": { "query": format!("label_values({series}{selector}, {label})"), "refId": label },
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "allValue": ".*",
        "current": { "text": "All", "value": "$__all" },
    })
}

fn source() -> Json {
    json!({ "type": "prometheus", "uid": SOURCE })
}

/// What a panel asks and how it writes numbers.
struct Query {
    kind: &'static str,
    expr: String,
    legend: String,
    unit: &'static str,
}

/// A dashboard as it grows: rows of two panels.
struct Board {
    name: &'static str,
    about: &'static str,
    variables: Vec<Json>,
    panels: Vec<Json>,
    x: u32,
    y: u32,
}

impl Board {
    const WIDTH: u32 = 12;
    const HEIGHT: u32 = 8;

    fn new(name: &'static str, about: &'static str, mut variables: Vec<Json>) -> Self {
        variables.insert(0, json!({ "name": "datasource", "type": "datasource", "query": "prometheus" }));
        Board { name, about, variables, panels: Vec::new(), x: 0, y: 0 }
    }

    /// A row for each collector that has such metrics.
    fn rows(
        &mut self,
        registrations: &[Registration],
        wanted: fn(&MetricDef) -> bool,
        selector: &str,
        by: &[String],
        top: Option<usize>,
    ) {
        for r in registrations {
            let metrics = r.metrics().into_iter().filter(|m| wanted(m));
            let panels: Vec<_> = metrics.filter_map(|m| Some((m, query(m, selector, by, top)?))).collect();
            if panels.is_empty() {
                continue;
            }
            self.row(&format!("{}: {}", r.info.name, r.info.summary));
            for (m, q) in panels {
                let page = format!("docs/reference/collectors/{}.md", r.info.name);
                let about = format!("`{}`. What it means and what to do next: {page}", m.name);
                self.panel(m.help, &about, q);
            }
        }
    }

    fn own(&mut self, d: &MetricDef) {
        let name = Name::of(d);
        let selector = format!("{{{INSTANCE}=~\"${INSTANCE}\"}}");
        let by = [&[INSTANCE.to_owned()], &*labels(d)].concat();
        let (joined, legend) = (by.join(", "), legend(&by));
        let state = d.attributes.contains(&own::STATE);
        let (kind, expr) = match d.instrument {
            Instrument::Counter => {
                ("timeseries", format!("sum by ({joined}) (rate({}{selector}[$__rate_interval]))", name.sample))
            }
            Instrument::Histogram => {
                let buckets = format!("rate({}_bucket{selector}[$__rate_interval])", name.family);
                ("timeseries", format!("histogram_quantile(0.99, sum by (le, {joined}) ({buckets}))"))
            }
            Instrument::Gauge | Instrument::UpDownCounter if state => {
                ("table", format!("max by ({joined}) ({}{selector}) == 1", name.sample))
            }
            Instrument::Gauge | Instrument::UpDownCounter => {
                ("timeseries", format!("max by ({joined}) ({}{selector})", name.sample))
            }
        };
        let quantile = if d.instrument == Instrument::Histogram { ", 99th percentile" } else { "" };
        let title = format!("{}{quantile}", d.name);
        let unit = if d.instrument == Instrument::Counter { rate_unit(d.unit) } else { unit(d.unit) };
        self.panel(&title, d.help, Query { kind, expr, legend, unit });
    }

    fn row(&mut self, title: &str) {
        self.end_line();
        let place = json!({ "h": 1, "w": 24, "x": 0, "y": self.y });
        let id = self.next_id();
        self.panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "gridPos": place, "panels": [],
        }));
        self.y += 1;
    }

    fn panel(&mut self, title: &str, about: &str, q: Query) {
        let place = json!({ "h": Self::HEIGHT, "w": Self::WIDTH, "x": self.x, "y": self.y });
        let heat = q.kind == "heatmap";
        let table = q.kind == "table";
        let format = if heat {
            "heatmap"
        } else if table {
            "table"
        } else {
            "time_series"
        };
        let options = if heat {
            json!({ "calculate": false, "yAxis": { "unit": q.unit }, "color": { "mode": "scheme", "scheme": "Oranges" } })
        } else if table {
            json!({})
        } else {
            json!({
                "legend": { "displayMode": "list", "placement": "bottom" },
                "tooltip": { "mode": "multi", "sort": "desc" },
            })
        };
        let id = self.next_id();
        self.panels.push(json!({
            "id": id,
            "type": q.kind,
            "title": title,
            "description": about,
            "gridPos": place,
            "datasource": source(),
            "fieldConfig": { "defaults": { "unit": q.unit, "min": 0 }, "overrides": [] },
            "options": options,
            "targets": [{
                "refId": "A",
                "datasource": source(),
                "expr": q.expr,
                "legendFormat": q.legend,
                "format": format,
                "instant": table,
            }],
        }));
        self.x += Self::WIDTH;
        if self.x >= 24 {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        if self.x > 0 {
            self.y += Self::HEIGHT;
        }
        self.x = 0;
    }

    fn next_id(&self) -> usize {
        self.panels.len() + 1
    }

    fn json(self) -> Json {
        json!({
            "uid": format!("bianque-{}", self.name),
            "title": format!("bianque: {}", self.name),
            "description": self.about,
            "tags": ["bianque"],
            "schemaVersion": 39,
            "editable": true,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "links": [{
                "title": "bianque", "type": "dashboards", "tags": ["bianque"], "asDropdown": true, "includeVars": true,
                "keepTime": true,
            }],
            "templating": { "list": self.variables },
            "panels": self.panels,
        })
    }
}

/// How a metric is asked for; `None` where it declares no panel.
fn query(m: &MetricDef, selector: &str, by: &[String], top: Option<usize>) -> Option<Query> {
    let name = Name::of(m);
    let keys = [by, &labels(m)].concat();
    let joined = keys.join(", ");
    let most = |expr: String| top.map_or_else(|| expr.clone(), |n| format!("topk({n}, {expr})"));
    let (kind, expr, unit) = match m.panel {
        Panel::None => return None,
        Panel::Rate => {
            let rate = format!("sum by ({joined}) (rate({}{selector}[$__rate_interval]))", name.sample);
            ("timeseries", most(rate), rate_unit(m.unit))
        }
        Panel::Gauge => {
            let level = format!("sum by ({joined}) ({}{selector})", name.sample);
            ("timeseries", most(level), unit(m.unit))
        }
        Panel::Heatmap => {
            let buckets = format!("sum by (le) (increase({}_bucket{selector}[$__rate_interval]))", name.family);
            ("heatmap", buckets, unit(m.unit))
        }
    };
    let legend = if kind == "heatmap" { "{{le}}".to_owned() } else { legend(&keys) };
    Some(Query { kind, expr, legend, unit })
}

fn legend(keys: &[impl AsRef<str>]) -> String {
    keys.iter().map(|k| format!("{{{{{}}}}}", k.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Grafana's name of a unit.
fn unit(ucum: &str) -> &'static str {
    match ucum {
        "s" => "s",
        "By" => "bytes",
        "1" => "percentunit",
        _ => "short",
    }
}

/// The same of its rate: seconds in a second are a share of one CPU.
fn rate_unit(ucum: &str) -> &'static str {
    match ucum {
        "s" => "percentunit",
        "By" => "Bps",
        "{packet}" => "pps",
        _ => "cps",
    }
}
