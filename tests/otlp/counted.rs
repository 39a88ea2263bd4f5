// SPDX-License-Identifier: Apache-2.0
//! The agent's own counters, as its page shows them.

use std::sync::Arc;

use bianque::exporters::prometheus::{Format, Prometheus};
use bianque::pipeline::metrics::{MetricState, SelfMetrics};
use bianque::signal::{Attributes, Timestamp};

/// Counters, and who reads them.
pub struct Counted(Arc<MetricState>);

impl Default for Counted {
    fn default() -> Self {
        Counted(Arc::new(MetricState::new(1000, Timestamp(0))))
    }
}

impl Counted {
    /// Where to count.
    pub fn metrics(&self) -> SelfMetrics {
        SelfMetrics::new(self.0.clone(), || Timestamp(0))
    }

    /// What was counted; 0 when there is no such series.
    pub fn count(&self, series: &str) -> u64 {
        let page = Prometheus::new(self.0.clone(), &Attributes::new(), Box::new(Vec::new)).scrape(Format::Text);
        let text = std::str::from_utf8(page.as_ref()).unwrap();
        text.lines().find_map(|l| l.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0)
    }
}
