// SPDX-License-Identifier: Apache-2.0
//! The latest values of metrics as JSON: what the page draws, and what a script asks without a
//! time-series database.

use axum::http::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::problem::Problem;
use crate::pipeline::metrics::{Family, Series, View};
use crate::signal::entry::ResourceAttrs;
use crate::signal::metric::Reading;
use crate::signal::{Instrument, Panel, Query, json as form};

/// Which series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricQuery {
    /// Its collector, the whole name, or a dotted part at either end.
    pub name: Option<String>,
    /// Of this container, pod or unit alone.
    pub container: Option<String>,
    pub scope: Scope,
}

/// The workload of the series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Node,
    Workloads,
    All,
}

impl MetricQuery {
    /// Reads the parameters of a question.
    pub(super) fn read(given: &[(String, String)]) -> Result<Self, Problem> {
        let mut q = MetricQuery::default();
        for (key, value) in given {
            let bad = |valid: &str| {
                Problem::new(StatusCode::BAD_REQUEST, format!("{key}={value}")).expected(valid.to_owned())
            };
            match key.as_str() {
                _ if value.is_empty() => return Err(bad("a value")),
                "name" => q.name = Some(value.clone()),
                "container" => q.container = Some(value.clone()),
                "scope" => {
                    q.scope = match value.as_str() {
                        "node" => Scope::Node,
                        "workloads" => Scope::Workloads,
                        "all" => Scope::All,
                        _ => return Err(bad("node, workloads or all")),
                    }
                }
                _ => return Err(bad("no such parameter; there are name, container, scope")),
            }
        }
        if q.container.is_some() {
            q.scope = Scope::Workloads;
        }
        Ok(q)
    }

    fn wants(&self, series: &Series) -> bool {
        match (series.workload(), self.scope) {
            (None, Scope::Node | Scope::All) => true,
            (None, Scope::Workloads) | (Some(_), Scope::Node) => false,
            (Some(w), Scope::Workloads | Scope::All) => {
                self.container.as_deref().is_none_or(|c| ResourceAttrs::from(&**w).is_called(c))
            }
        }
    }
}

/// One line for each series that is asked for.
#[must_use]
pub fn lines(view: &View<'_>, q: &MetricQuery) -> Vec<String> {
    let names = Query { name: q.name.clone(), ..Query::default() };
    let families = view.families().filter(|f| names.wants_name(f.def().name, f.collector()));
    families.flat_map(|f| f.series().filter(|s| q.wants(s)).map(|s| line(f, s).to_string())).collect()
}

fn line(family: &Family, series: &Series) -> Json {
    let def = family.def();
    let mut o = Map::new();
    o.insert("time".into(), series.time().rfc3339().into());
    o.insert("name".into(), def.name.into());
    o.insert("collector".into(), family.collector().into());
    o.insert("instrument".into(), instrument(def.instrument).into());
    o.insert("unit".into(), def.unit.into());
    o.insert("help".into(), def.help.into());
    o.insert("panel".into(), panel(def.panel).into());
    if let Some(w) = series.workload() {
        o.insert("resource".into(), form::attributes(&w.resource()));
    }
    o.insert("attributes".into(), form::attributes(series.attributes()));
    match series.reading() {
        Reading::Int(v) => o.insert("value".into(), form::uint(*v)),
        Reading::Double(v) => o.insert("value".into(), json!(v)),
        Reading::Histogram(h) => {
            let buckets: Vec<Json> = (h.offset..)
                .zip(&h.counts)
                .filter(|(_, n)| **n > 0)
                .map(|(i, n)| json!([f64::from(i + 1).exp2(), n]))
                .collect();
            // Upper bound and count of each bucket that is not empty; not added up.
            let h = json!({ "count": h.count(), "sum": h.sum, "zero_count": h.zero_count, "buckets": buckets });
            o.insert("histogram".into(), h)
        }
    };
    Json::Object(o)
}

fn instrument(i: Instrument) -> &'static str {
    match i {
        Instrument::Counter => "counter",
        Instrument::UpDownCounter => "up_down_counter",
        Instrument::Gauge => "gauge",
        Instrument::Histogram => "histogram",
    }
}

fn panel(p: Panel) -> &'static str {
    match p {
        Panel::Rate => "rate",
        Panel::Gauge => "gauge",
        Panel::Heatmap => "heatmap",
        Panel::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::metrics::MetricState;
    use crate::signal::{Histogram, MetricDef, Metrics, Timestamp};

    static LOAD: MetricDef = MetricDef::gauge("a.load", "1", "Load");
    static WAIT: MetricDef = MetricDef::histogram("b.wait", "s", "Waiting");

    fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// The documented form, and that filters hold.
    #[test]
    fn form() {
        let state = MetricState::new(10, Timestamp(0));
        let mut m = Metrics::default();
        m.value(&LOAD, None, &[], 0.5);
        let counts = vec![2, 0, 3];
        m.histogram(&WAIT, None, &[], Histogram { zero_count: 1, offset: -4, counts, sum: Some(0.5) });
        state.update("t", &mut m, Timestamp(1_700_000_000_000_000_000));
        let ask = |pairs: &[(&str, &str)]| lines(&state.read(), &MetricQuery::read(&given(pairs)).unwrap()).join("\n");
        insta::assert_snapshot!(ask(&[]), @r#"
        {"time":"2023-11-14T22:13:20.000000000Z","name":"a.load","collector":"t","instrument":"gauge","unit":"1","help":"Load","panel":"gauge","attributes":{},"value":0.5}
        {"time":"2023-11-14T22:13:20.000000000Z","name":"b.wait","collector":"t","instrument":"histogram","unit":"s","help":"Waiting","panel":"heatmap","attributes":{},"histogram":{"count":6,"sum":0.5,"zero_count":1,"buckets":[[0.125,2],[0.5,3]]}}
        "#);
        assert_eq!(ask(&[("name", "load")]).lines().count(), 1);
        assert_eq!(ask(&[("scope", "workloads")]), "");
        let e = MetricQuery::read(&given(&[("scope", "x")])).err().unwrap();
        assert_eq!(e.expected, Some("node, workloads or all".into()));
    }
}
