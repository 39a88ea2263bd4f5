// SPDX-License-Identifier: Apache-2.0
//! The one writer of `/metrics`: every collector's series, the node, the workloads, the agent's own
//! counters and instruments of the OpenTelemetry API, as Prometheus text 0.0.4 or OpenMetrics 1.0.
//!
//! Names follow OpenTelemetry's "Prometheus and OpenMetrics Compatibility" specification: see
//! [`names`]. A workload's series carry exactly `container_id`, `container_name`,
//! `k8s_namespace_name`, `k8s_pod_name` and `k8s_container_name`, as far as there are such;
//! everything else of it is on `linux_workload_info`, to join. A systemd unit or plain cgroup, which
//! has no container id, is named by `container_name`.

mod instruments;
pub mod names;
pub mod negotiate;
#[cfg(test)]
pub(crate) mod openmetrics;
mod text;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Once, PoisonError};

use prometheus::proto::MetricFamily;

use crate::pipeline::metrics::{Family, MetricState, Series};
use crate::signal::metric::Reading;
use crate::signal::{Attributes, Histogram, Instrument, Workload};
use names::Name;
pub use negotiate::Format;
use text::Out;

/// Gathers what was made through the OpenTelemetry API.
pub type Gather = Box<dyn Fn() -> Vec<MetricFamily> + Send + Sync>;

/// The buffer of the last scrape. To write into memory that the kernel has to give anew costs several
/// times what the writing costs: 4 ms instead of 0.5 ms for 6 MB.
type Spare = Arc<Mutex<Vec<u8>>>;

/// Name of the family with what is known of each workload; in text it ends in [`INFO`].
pub const WORKLOAD_INFO: &str = "linux_workload";

/// What the samples of an info family end in.
pub const INFO: &str = "_info";

/// More than this is given back; it is some 25,000 series.
const KEPT: usize = 8 << 20;

/// One scrape's text; its memory serves the next.
pub struct Page {
    bytes: Vec<u8>,
    spare: Spare,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let len = bytes.len();
        if len <= KEPT {
            bytes.clear();
            // A buffer that grew by doubling has up to as much again to spare.
            bytes.shrink_to(len + len / 8);
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        }
    }
}

/// The writer. One per agent; may be called from several threads at once.
pub struct Prometheus {
    state: Arc<MetricState>,
    /// The node's resource as label text.
    target: String,
    gather: Gather,
    spare: Spare,
    conflict: Once,
}

impl Prometheus {
    /// `node`: the resource of the node; `gather`: what was made through the OpenTelemetry API.
    #[must_use]
    pub fn new(state: Arc<MetricState>, node: &Attributes, gather: Gather) -> Self {
        Prometheus { state, target: text::labels(node.iter()), gather, spare: Spare::default(), conflict: Once::new() }
    }

    /// All that is known now, in one format.
    #[must_use]
    pub fn scrape(&self, format: Format) -> Page {
        let buffer = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        let mut out = Out::new(format, buffer);
        let gathered = (self.gather)();
        self.info(&mut out, "target", "The node and the agent", std::iter::once(self.target.as_str()));
        let mut written = HashSet::new();
        {
            let view = self.state.read();
            let workloads = view.workloads().map(|o| o.text(|w| text::labels(about(w).iter())));
            self.info(&mut out, WORKLOAD_INFO, "What is known of a workload, to join with its series", workloads);
            for family in view.families() {
                let name = Name::of(family.def());
                if written.insert(name.family.clone()) {
                    write_family(&mut out, family, &name);
                } else {
                    self.conflict(family.def().name);
                }
            }
        }
        let left_out = instruments::write(&mut out, &gathered, &written);
        left_out.into_iter().for_each(|name| self.conflict(name));
        Page { bytes: out.finish(), spare: self.spare.clone() }
    }

    fn conflict(&self, name: &str) {
        self.conflict.call_once(|| {
            tracing::error!("{name} is left out of /metrics: another metric has the same Prometheus name; rename one");
        });
    }

    fn info<'a>(&self, out: &mut Out, name: &str, help: &str, labels: impl Iterator<Item = &'a str>) {
        let mut labels = labels.peekable();
        if labels.peek().is_none() {
            return;
        }
        let kind = if out.open_metrics() { "info" } else { "gauge" };
        // OpenMetrics names an info family without its suffix, plain text with it.
        let sample = format!("{name}{INFO}");
        out.head(if out.open_metrics() { name } else { &sample }, kind, help, None);
        for l in labels {
            out.sample(&sample, "", l);
            out.uint(1);
            out.end();
        }
    }
}

/// The labels of a workload's series, and whatever else is known of it.
fn about(w: &Workload) -> Attributes {
    let mut all = text::identity(w);
    all.extend(w.resource());
    all
}

fn write_family(out: &mut Out, family: &Family, name: &Name) {
    let kind = match family.def().instrument {
        Instrument::Counter => "counter",
        Instrument::UpDownCounter | Instrument::Gauge => "gauge",
        Instrument::Histogram => "histogram",
    };
    // Plain text types a counter under its sample's name, OpenMetrics under the family's.
    let typed = if out.open_metrics() { &name.family } else { &name.sample };
    out.head(typed, kind, family.def().help, name.unit.as_deref());
    let bounds = family.exponents().map_or_else(Vec::new, |(lo, hi)| text::bounds(out.format(), lo, hi));
    for series in family.series() {
        let labels = series.text(labels_of);
        match series.reading() {
            Reading::Histogram(h) => histogram(out, &name.family, labels, h, &bounds),
            reading => {
                out.sample(&name.sample, "", labels);
                match reading {
                    Reading::Int(v) => out.uint(*v),
                    Reading::Double(v) => out.float(*v),
                    Reading::Histogram(_) => {}
                }
                if family.def().instrument == Instrument::Counter {
                    out.exemplar(series.exemplar());
                }
                out.end();
            }
        }
    }
}

fn labels_of(series: &Series) -> String {
    let identity = series.workload().map(|w| text::identity(w)).unwrap_or_default();
    text::labels(identity.iter().chain(series.attributes().iter()))
}

/// Writes the cumulative buckets of one series. Bucket `i` ends at 2^(i+1), so the first bound, 2^lo,
/// holds what is below the resolution. Without a sum, OpenMetrics allows no count either, and plain
/// text gets no invented sum.
fn histogram(out: &mut Out, name: &str, labels: &str, h: &Histogram, bounds: &[text::Bound]) {
    let mut sum = h.zero_count;
    let mut counts = h.counts.iter();
    let mut next = h.offset;
    for bound in bounds {
        // The bucket that ends here has the exponent before the bound's.
        if bound.exponent > next {
            if let Some(n) = counts.next() {
                sum += n;
            }
            next += 1;
        }
        out.bucket(name, labels, &bound.label, sum);
        out.end();
    }
    let count = h.count();
    out.bucket(name, labels, text::INFINITY, count);
    out.end();
    if let Some(sum) = h.sum {
        out.sample(name, "_sum", labels);
        out.float(sum);
        out.end();
    }
    if h.sum.is_some() || !out.open_metrics() {
        out.sample(name, "_count", labels);
        out.uint(count);
        out.end();
    }
}

#[cfg(test)]
mod tests;
