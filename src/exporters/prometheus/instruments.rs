// SPDX-License-Identifier: Apache-2.0
//! What was made through the OpenTelemetry API, as the SDK's Prometheus registry gathers it.

use std::collections::HashSet;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use super::text::{INFINITY, Out, canonical, escape};

/// Writes what is not `written` under the same name already; says what it left out.
pub(super) fn write<'a>(out: &mut Out, families: &'a [MetricFamily], written: &HashSet<String>) -> Vec<&'a str> {
    let mut left_out = Vec::new();
    for family in families {
        let counter = family.get_field_type() == MetricType::COUNTER;
        let bare = family.name().strip_suffix("_total").filter(|_| counter).unwrap_or(family.name());
        if written.contains(bare) {
            left_out.push(family.name());
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
        let mut before = HashSet::new();
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            // Integers and floats of one name are two streams to the SDK.
            if !before.insert(labels.clone()) {
                continue;
            }
            match family.get_field_type() {
                MetricType::COUNTER => value(out, bare, "_total", &labels, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => histogram(out, bare, &labels, metric.get_histogram()),
                _ => value(out, bare, "", &labels, metric.get_gauge().get_value()),
            }
        }
    }
    left_out
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
    for pair in pairs.iter().filter(|p| !p.value().is_empty()) {
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
