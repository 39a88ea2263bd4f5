// SPDX-License-Identifier: Apache-2.0
//! What Grafana and Prometheus are given under `deploy/monitoring/`, made from what the collectors declare: a panel
//! for each metric that has one, an alert for each event of severity WARN or above, and alerts about
//! the agent itself. `tests/generated.rs` keeps the files fresh, `tests/monitoring.rs` their queries true.

mod alerts;
mod dashboards;
mod query;

use std::fmt::Write as _;

use crate::collectors::Registration;
use crate::signal::MetricDef;
pub use alerts::{Alert, all as alerts};

/// Every file: its path below the project, and its text.
#[must_use]
pub fn files(registrations: &[Registration]) -> Vec<(String, String)> {
    let mut out = vec![("deploy/monitoring/alerts.yaml".to_owned(), alerts::rules(registrations))];
    out.extend(
        dashboards::all(registrations)
            .into_iter()
            .map(|(name, dashboard)| (format!("deploy/monitoring/dashboards/{name}.json"), format!("{dashboard:#}\n"))),
    );
    out
}

/// The page of the reference that lists the alerts.
pub(super) fn page(registrations: &[Registration]) -> String {
    let mut out = String::from(
        "# Alerts\n\n`deploy/monitoring/alerts.yaml` has them as rules for Prometheus; the Helm chart brings them as a \
         PrometheusRule.\n",
    );
    for a in alerts(registrations) {
        let lasts = a.lasts.map_or_else(String::new, |l| format!(", for {l}"));
        let _ = write!(out, "\n## {}\n\n{}. Severity {}{lasts}.\n\n", a.name, a.summary, a.severity);
        let _ = write!(out, "```promql\n{}\n```\n\nWhat to do next: ", a.expr);
        match a.collector {
            Some(c) => {
                let _ = writeln!(out, "[{c}](collectors/{c}.md#what-to-do-next).");
            }
            None => {
                let _ = writeln!(out, "{}", a.next);
            }
        }
    }
    out
}

/// Whether the series of a metric are workloads' rather than the node's: no family mixes the two.
fn is_of_workloads(m: &MetricDef) -> bool {
    m.name.split('.').any(|part| part == "container")
}
