// SPDX-License-Identifier: Apache-2.0
//! The lines of the two formats: Prometheus text 0.0.4 (Prometheus' documentation, "Exposition
//! formats") and OpenMetrics 1.0 (prometheus.io/docs/specs/om/open_metrics_spec).

use std::fmt::Write as _;

use smallvec::{SmallVec, smallvec};

use super::Format;
use super::names::word;
use crate::pipeline::metrics::Exemplar;
use crate::signal::semconv::attr;
use crate::signal::{Attributes, Value, Workload, WorkloadKind};

/// Label of the last bucket.
pub(super) const INFINITY: &str = r#"le="+Inf""#;

/// A bucket's upper bound.
pub(super) struct Bound {
    pub exponent: i32,
    pub label: String,
}

/// 2^lo to 2^hi.
pub(super) fn bounds(format: Format, lo: i32, hi: i32) -> Vec<Bound> {
    let bound = |exponent| Bound { exponent, label: format!(r#"le="{}""#, canonical(format, 2_f64.powi(exponent))) };
    (lo..=hi).map(bound).collect()
}

/// A number as a label: as Go writes it, and in OpenMetrics never as a whole number without a point.
pub(super) fn canonical(format: Format, v: f64) -> String {
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let scientific = format!("{v:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let e: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..21).contains(&e) {
        return format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs());
    }
    let plain = v.to_string();
    if format == Format::OpenMetrics && !plain.contains('.') { plain + ".0" } else { plain }
}

/// What names a workload on each of its series.
pub(super) fn identity(w: &Workload) -> Attributes {
    let mut a = Attributes::new();
    let pod = w.pod.as_ref();
    a.set_some(attr::CONTAINER_ID, w.container_id.clone());
    a.set_some(attr::CONTAINER_NAME, w.container_name.clone());
    a.set_some(attr::K8S_NAMESPACE_NAME, pod.and_then(|p| p.namespace.clone()));
    a.set_some(attr::K8S_POD_NAME, pod.and_then(|p| p.name.clone()));
    a.set_some(attr::K8S_CONTAINER_NAME, pod.and_then(|p| p.container.clone()));
    if w.container_id.is_none() && w.kind != WorkloadKind::Container {
        // Units of different users may have one name; the path is theirs alone.
        let system = w.unit.as_ref().filter(|u| w.cgroup == format!("/system.slice/{u}"));
        // The agent's process where its cgroup is others' too.
        let own = w.container_name.as_ref().filter(|_| w.kind == WorkloadKind::Own);
        a.set(attr::CONTAINER_NAME, system.or(own).unwrap_or(&w.cgroup).clone());
    }
    a
}

/// Label text without its braces. Empty values are left out: to Prometheus they are the same. Where several names make
/// one label name, their values are joined by `;` in the order of the names, as OpenTelemetry's "Prometheus and
/// OpenMetrics Compatibility" demands.
pub(super) fn labels<'a>(attributes: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let mut labels: Vec<Label<'a>> = Vec::new();
    for (name, value) in attributes {
        let value = value_text(value);
        if value.is_empty() {
            continue;
        }
        let word = word(name);
        match labels.iter_mut().find(|l| l.word == word) {
            Some(label) => label.join(name, value),
            None => labels.push(Label { word, values: smallvec![(name, value)] }),
        }
    }
    let mut out = String::new();
    for Label { word, values } in &labels {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(word);
        out.push_str("=\"");
        for (i, (_, value)) in values.iter().enumerate() {
            out.push_str(if i > 0 { ";" } else { "" });
            escape(&mut out, value, true);
        }
        out.push('"');
    }
    out
}

/// A label, and the values of all attributes whose names make its name.
struct Label<'a> {
    word: String,
    values: SmallVec<[(&'a str, String); 1]>,
}

impl<'a> Label<'a> {
    fn join(&mut self, name: &'a str, value: String) {
        let at = self.values.partition_point(|(n, _)| *n < name);
        self.values.insert(at, (name, value));
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Str(s) => s.clone().into_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Double(d) => d.to_string(),
        Value::Array(items) => items.iter().map(value_text).collect::<Vec<_>>().join(","),
        Value::Map(m) => m.iter().map(|(k, v)| format!("{k}={}", value_text(v))).collect::<Vec<_>>().join(","),
    }
}

/// Backslash and newline are escaped everywhere; quotes in label values, and in OpenMetrics' help.
pub(super) fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// The text as it is written.
pub(super) struct Out {
    bytes: Vec<u8>,
    format: Format,
}

impl Out {
    /// Writes into an empty buffer that was used before.
    pub fn new(format: Format, buffer: Vec<u8>) -> Self {
        Out { bytes: buffer, format }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn open_metrics(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    /// A family's first lines.
    pub fn head(&mut self, name: &str, kind: &str, help: &str, unit: Option<&str>) {
        let mut text = String::new();
        if !help.is_empty() {
            let _ = write!(text, "# HELP {name} ");
            escape(&mut text, help, self.open_metrics());
            text.push('\n');
        }
        let _ = writeln!(text, "# TYPE {name} {kind}");
        if let (Some(unit), true) = (unit, self.open_metrics()) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A line up to its value.
    pub fn sample(&mut self, name: &str, suffix: &str, labels: &str) {
        self.push(name);
        self.push(suffix);
        if !labels.is_empty() {
            self.push("{");
            self.push(labels);
            self.push("}");
        }
        self.push(" ");
    }

    /// A bucket's line with its value.
    pub fn bucket(&mut self, name: &str, labels: &str, le: &str, cumulative: u64) {
        self.push(name);
        self.push("_bucket{");
        if !labels.is_empty() {
            self.push(labels);
            self.push(",");
        }
        self.push(le);
        self.push("} ");
        self.uint(cumulative);
    }

    pub fn uint(&mut self, v: u64) {
        self.push(itoa::Buffer::new().format(v));
    }

    pub fn float(&mut self, v: f64) {
        if v.is_nan() {
            self.push("NaN");
        } else if v.is_infinite() {
            self.push(if v > 0.0 { "+Inf" } else { "-Inf" });
        } else {
            self.push(zmij::Buffer::new().format_finite(v));
        }
    }

    /// After a value, in OpenMetrics only.
    pub fn exemplar(&mut self, e: Option<&Exemplar>) {
        if let (Some(e), true) = (e, self.open_metrics()) {
            let (s, ms) = (e.time.0 / 1_000_000_000, e.time.0 / 1_000_000 % 1000);
            let text = format!(" # {{trace_id=\"{}\"}} {} {s}.{ms:03}", e.trace, canonical(self.format, e.value));
            self.push(&text);
        }
    }

    pub fn end(&mut self) {
        self.bytes.push(b'\n');
    }

    pub fn finish(mut self) -> Vec<u8> {
        if self.open_metrics() {
            self.push("# EOF\n");
        }
        self.bytes
    }

    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }
}
