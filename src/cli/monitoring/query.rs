// SPDX-License-Identifier: Apache-2.0
//! PromQL, put together from declared names.

use crate::exporters::prometheus::names::word;
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef};

/// The label by which Prometheus distinguishes agents, and so nodes.
pub const INSTANCE: &str = "instance";

/// The labels that name a workload.
pub const WORKLOAD: [Key; 3] = [attr::K8S_NAMESPACE_NAME, attr::K8S_POD_NAME, attr::CONTAINER_NAME];

/// Labels of a metric's own attributes.
pub fn labels(m: &MetricDef) -> Vec<String> {
    m.attributes.iter().map(|k| word(k.name)).collect()
}

/// Growth of counters in five minutes, where there was any. A series that was not there five minutes ago grew by
/// all it has: `increase()` needs two samples, and what happens for the first time brings its series with it.
pub fn grown(sample: &str, selector: &str, by: &str) -> String {
    let s = format!("{sample}{selector}");
    format!("sum by ({by}) ((increase({s}[5m]) > 0) or ({s} > 0 unless {s} offset 5m))")
}
