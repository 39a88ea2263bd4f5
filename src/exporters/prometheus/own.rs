// SPDX-License-Identifier: Apache-2.0
//! The agent's own counters, as the OpenTelemetry SDK's Prometheus registry gathers them.

use std::collections::HashSet;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use super::text::{INFINITY, Out, canonical, escape};

/// What the SDK adds about itself and we say better.
const LEFT_OUT: &[&str] = &["target_info", "otel_scope_info"];

/// Writes what is not `written` under the same name already.
pub(super) fn write(out: &mut Out, families: &[MetricFamily], written: &HashSet<String>) {
    for family in families {
        let counter = family.get_field_type() == MetricType::COUNTER;
        let bare = family.name().strip_suffix("_total").filter(|_| counter).unwrap_or(family.name());
        if family.get_metric().is_empty() || written.contains(bare) || LEFT_OUT.contains(&family.name()) {
            continue;
        }
        let (kind, typed) = match family.get_field_type() {
            MetricType::COUNTER => {
                ("counter", if out.open_metrics() { bare.to_owned() } else { format!("{bare}_total") })
            }
            MetricType::HISTOGRAM => ("histogram", bare.to_owned()),
            MetricType::GAUGE => ("gauge", bare.to_owned()),
            // The SDK makes neither.
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        out.head(&typed, kind, family.help(), None);
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            match family.get_field_type() {
                MetricType::COUNTER => value(out, bare, "_total", &labels, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => histogram(out, bare, &labels, metric.get_histogram()),
                _ => value(out, bare, "", &labels, metric.get_gauge().get_value()),
            }
        }
    }
}

fn value(out: &mut Out, name: &str, suffix: &str, labels: &str, v: f64) {
    out.sample(name, suffix, labels);
    // The registry keeps whole numbers as floats.
    if v.fract() == 0.0 && (0.0..9e15).contains(&v) {
        out.uint(v as u64)
    } else {
        out.float(v)
    }
    out.end();
}

fn histogram(out: &mut Out, name: &str, labels: &str, h: &prometheus::proto::Histogram) {
    for bucket in h.get_bucket().iter().filter(|b| b.upper_bound().is_finite()) {
        let le = format!(r#"le="{}""#, canonical(out.format(), bucket.upper_bound()));
        out.bucket(name, labels, &le, bucket.cumulative_count());
        out.end();
    }
    out.bucket(name, labels, INFINITY, h.get_sample_count());
    out.end();
    value(out, name, "_sum", labels, h.get_sample_sum());
    out.sample(name, "_count", labels);
    out.uint(h.get_sample_count());
    out.end();
}

fn labels(pairs: &[LabelPair]) -> String {
    let mut text = String::new();
    // The scope is the agent on every one of them: it tells nothing.
    for pair in pairs.iter().filter(|p| !p.name().starts_with("otel_scope_") && !p.value().is_empty()) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(pair.name());
        text.push_str("=\"");
        escape(&mut text, pair.value(), true);
        text.push('"');
    }
    text
}
