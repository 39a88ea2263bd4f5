// SPDX-License-Identifier: Apache-2.0
//! The standard `OTEL_*` variables as a layer of settings.
//!
//! Specification: OpenTelemetry, "OpenTelemetry Protocol Exporter" and "Environment Variable
//! Specification". An empty variable counts as unset; an enum value that we do not know is
//! reported and ignored.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::config::Signal;
use crate::signal::semconv::attr;
use crate::signal::{Attributes, HumanDuration};

/// What the variables ask for.
#[derive(Debug, Default, PartialEq)]
pub struct Layer {
    /// Settings by their place in the configuration (`exporters.otlp…`, `metrics.interval`), to be
    /// merged between the file and the `BIANQUE_` variables. Holds secrets: not for printing.
    pub settings: Value,
    /// What was ignored and why; for a warning each.
    pub warnings: Vec<String>,
}

/// The environment as it was handed in.
pub type Env = BTreeMap<String, String>;

fn get<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
    env.get(name).map(|v| v.trim()).filter(|v| !v.is_empty())
}

/// Reads all variables of the exporter and of the metric interval.
#[must_use]
pub fn layer(env: &Env) -> Layer {
    let mut warnings = Vec::new();
    let mut otlp = exporter_settings(env, "OTEL_EXPORTER_OTLP_", false, &mut warnings);
    for signal in Signal::ALL {
        let upper = signal.name().to_ascii_uppercase();
        let mut own = exporter_settings(env, &format!("OTEL_EXPORTER_OTLP_{upper}_"), true, &mut warnings);
        let selector = format!("OTEL_{upper}_EXPORTER");
        match get(env, &selector) {
            Some("none") => {
                own.insert("enabled".into(), false.into());
            }
            Some(list) if !list.split(',').any(|e| e.trim() == "otlp") => {
                warnings.push(format!("{selector}={list}: only \"otlp\" and \"none\" are known here; ignored"));
            }
            _ => {}
        }
        if !own.is_empty() {
            otlp.insert(signal.name().into(), own.into());
        }
    }
    if is_disabled(env) {
        otlp.insert("enabled".into(), false.into());
    }
    let mut all = Map::new();
    if !otlp.is_empty() {
        all.insert("exporters".into(), json!({ "otlp": otlp }));
    }
    if let Some(interval) = milliseconds(env, "OTEL_METRIC_EXPORT_INTERVAL", &mut warnings) {
        all.insert("metrics".into(), json!({ "interval": interval }));
    }
    warnings.extend(env.keys().filter(|name| is_unused(name)).map(|name| format!("{name} is not used here; ignored")));
    preferences(env, &mut warnings);
    Layer { settings: all.into(), warnings }
}

/// `OTEL_SDK_DISABLED=true`: nothing goes out by OTLP; collecting, the store and `/metrics` stay.
#[must_use]
pub fn is_disabled(env: &Env) -> bool {
    get(env, "OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

/// Whether a variable is one of OpenTelemetry's that nothing reads.
fn is_unused(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("OTEL_") else { return false };
    let signals = Signal::ALL.map(|s| s.name().to_ascii_uppercase());
    let exporter = rest.strip_prefix("EXPORTER_OTLP_").map(|r| {
        let own = signals.iter().find_map(|s| r.strip_prefix(s.as_str())?.strip_prefix('_'));
        own.unwrap_or(r)
    });
    match exporter {
        Some("TEMPORALITY_PREFERENCE" | "DEFAULT_HISTOGRAM_AGGREGATION") => !rest.contains("_METRICS_"),
        Some(suffix) => !SUFFIXES.contains(&suffix),
        None if rest.ends_with("_EXPORTER") => !signals.iter().any(|s| rest.strip_suffix("_EXPORTER") == Some(s)),
        None => !["SDK_DISABLED", "METRIC_EXPORT_INTERVAL", "RESOURCE_ATTRIBUTES", "SERVICE_NAME"].contains(&rest),
    }
}

/// What follows `OTEL_EXPORTER_OTLP_`, for all signals and for one.
const SUFFIXES: [&str; 9] = [
    "ENDPOINT",
    "PROTOCOL",
    "HEADERS",
    "TIMEOUT",
    "COMPRESSION",
    "INSECURE",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
];

/// Forms of metrics that may be asked for: there is one of each.
fn preferences(env: &Env, warnings: &mut Vec<String>) {
    let known = [
        ("TEMPORALITY_PREFERENCE", "cumulative", "the Collector's `cumulativetodelta` processor makes deltas"),
        ("DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram", "histograms have explicit buckets"),
    ];
    for (suffix, only, hint) in known {
        let name = format!("OTEL_EXPORTER_OTLP_METRICS_{suffix}");
        if let Some(v) = get(env, &name).filter(|v| !v.eq_ignore_ascii_case(only)) {
            warnings.push(format!("{name}={v}: only \"{only}\" is known here; ignored ({hint})"));
        }
    }
}

fn exporter_settings(env: &Env, prefix: &str, is_signal: bool, warnings: &mut Vec<String>) -> Map<String, Value> {
    let mut out = Map::new();
    let name = |suffix: &str| format!("{prefix}{suffix}");
    let texts = [
        ("ENDPOINT", "endpoint"),
        ("CERTIFICATE", "ca_file"),
        ("CLIENT_CERTIFICATE", "client_certificate_file"),
        ("CLIENT_KEY", "client_key_file"),
    ];
    for (suffix, key) in texts {
        if let Some(v) = get(env, &name(suffix)) {
            out.insert(key.into(), v.into());
        }
    }
    for (suffix, key, known) in
        [("PROTOCOL", "protocol", ["grpc", "http/protobuf"]), ("COMPRESSION", "compression", ["none", "gzip"])]
    {
        match get(env, &name(suffix)) {
            Some(v) if known.contains(&v) => {
                out.insert(key.into(), v.into());
            }
            Some(v) => warnings.push(format!("{}={v}: neither {} nor {}; ignored", name(suffix), known[0], known[1])),
            None => {}
        }
    }
    if let Some(v) = get(env, &name("INSECURE")) {
        // By the specification anything but "true" is false.
        out.insert("insecure".into(), v.eq_ignore_ascii_case("true").into());
    }
    if let Some(timeout) = milliseconds(env, &name("TIMEOUT"), warnings) {
        out.insert("timeout".into(), timeout.into());
    }
    if let Some(text) = get(env, &name("HEADERS")) {
        let (pairs, bad) = pairs(text);
        if bad > 0 {
            // Without the text: it may hold a secret.
            warnings.push(format!("{}: {bad} part(s) are not of the form key=value; ignored", name("HEADERS")));
        }
        let headers: Map<String, Value> = pairs.into_iter().map(|(k, v)| (k.to_ascii_lowercase(), v.into())).collect();
        if is_signal || !headers.is_empty() {
            out.insert("headers".into(), headers.into());
        }
    }
    out
}

fn milliseconds(env: &Env, name: &str, warnings: &mut Vec<String>) -> Option<String> {
    let text = get(env, name)?;
    match text.parse::<u64>() {
        Ok(ms) if ms > 0 => Some(HumanDuration::from_millis(ms).to_string()),
        _ => {
            warnings.push(format!("{name}={text}: not a number of milliseconds above zero; ignored"));
            None
        }
    }
}

/// `key1=value1,key2=value2` with percent-encoding, the form of the W3C Baggage header; and how many
/// parts were not of that form.
fn pairs(text: &str) -> (Vec<(String, String)>, usize) {
    let mut bad = 0;
    let mut out = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part.split_once('=').map(|(k, v)| (percent_decode(k.trim()), percent_decode(v.trim()))) {
            Some((Some(k), Some(v))) if !k.is_empty() => out.push((k, v)),
            _ => bad += 1,
        }
    }
    (out, bad)
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            let hex = text.get(i + 1..i + 3)?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// What `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say of the agent and the node; and a
/// warning if the first cannot be read. By the specification a malformed list is ignored as a whole.
#[must_use]
pub fn resource(env: &Env) -> (Attributes, Option<String>) {
    let mut out = Attributes::new();
    let mut warning = None;
    if let Some(text) = get(env, "OTEL_RESOURCE_ATTRIBUTES") {
        let (pairs, bad) = pairs(text);
        if bad > 0 {
            warning = Some(format!("OTEL_RESOURCE_ATTRIBUTES={text}: {bad} part(s) are not key=value; all ignored"));
        } else {
            for (k, v) in pairs {
                out.set_named(k.into(), v.into());
            }
        }
    }
    if let Some(name) = get(env, "OTEL_SERVICE_NAME") {
        out.set(attr::SERVICE_NAME, name.to_owned());
    }
    (out, warning)
}

#[cfg(test)]
mod tests {
    use super::super::config::{Protocol, Settings};
    use super::*;
    use crate::exporters::http::Compression;

    fn env(vars: &[(&str, &str)]) -> Env {
        vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn settings(vars: &[(&str, &str)]) -> Settings {
        let layer = layer(&env(vars));
        assert_eq!(layer.warnings, Vec::<String>::new());
        serde_json::from_value(layer.settings["exporters"]["otlp"].clone()).unwrap()
    }

    /// Every general variable reaches its setting.
    #[test]
    fn general_variables() {
        let s = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20eA%3D%3D, x-tenant = a=b"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k"),
        ]);
        let e = s.endpoint(Signal::Metrics).unwrap().unwrap();
        assert_eq!((e.url.as_str(), e.protocol), ("https://c:4318/v1/metrics", Protocol::Http));
        assert_eq!(e.headers["authorization"].reveal(), "Basic eA==");
        assert_eq!(e.headers["x-tenant"].reveal(), "a=b");
        assert_eq!((e.timeout.as_millis(), e.compression), (2500, Compression::Gzip));
        assert_eq!((e.ca_file, e.client), (Some("/ca".into()), Some(("/c".into(), "/k".into()))));
        assert!(s.insecure);
    }

    /// A signal's own variables stand before the general ones, each by itself.
    #[test]
    fn signal_variables_stand_before_general_ones() {
        let s = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://d:4317"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "b=2"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3000"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]);
        let logs = s.endpoint(Signal::Logs).unwrap().unwrap();
        assert_eq!((logs.url.as_str(), logs.protocol, logs.timeout.as_secs()), ("http://d:4317", Protocol::Grpc, 1));
        assert_eq!(logs.headers.keys().collect::<Vec<_>>(), ["b"]);
        let traces = s.endpoint(Signal::Traces).unwrap().unwrap();
        assert_eq!((traces.url.as_str(), traces.timeout.as_secs()), ("http://c:4318/v1/traces", 3));
        assert_eq!(s.endpoint(Signal::Metrics).unwrap(), None);
    }

    /// Values that are not known are reported and ignored, and no header's value is in the report.
    #[test]
    fn bad_values_are_reported_and_ignored() {
        let layer = layer(&env(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "geheim"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ]));
        assert_eq!(layer.settings, json!({}));
        assert_eq!(layer.warnings.len(), 6, "{:?}", layer.warnings);
        assert!(!layer.warnings.join(" ").contains("geheim"));
    }

    /// No standard variable is ignored silently; those of others are none of ours.
    #[test]
    fn unused_variables_are_reported() {
        for name in [
            "OTEL_TRACES_SAMPLER",
            "OTEL_PROPAGATORS",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_METRIC_EXPORT_TIMEOUT",
            "OTEL_CONFIG_FILE",
            "OTEL_EXPORTER_OTLP_LOGS_RETRY",
            "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
            "OTEL_EXPORTER_OTLP_TRACES_TEMPORALITY_PREFERENCE",
            "OTEL_EXPORTER_PROMETHEUS_PORT",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        ] {
            let layer = layer(&env(&[(name, "delta")]));
            assert_eq!(layer.settings, json!({}));
            assert!(layer.warnings.len() == 1 && layer.warnings[0].starts_with(name), "{name}: {:?}", layer.warnings);
        }
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Cumulative"),
            ("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "http://c:4318"),
            ("OTEL_PROFILES_EXPORTER", "otlp"),
            ("OTEL_SERVICE_NAME", "x"),
            ("HOTEL_NAME", "x"),
        ] {
            assert_eq!(layer(&env(&[(name, value)])).warnings, Vec::<String>::new(), "{name}");
        }
    }

    /// The interval is in milliseconds and lands on the agent's own setting.
    #[test]
    fn metric_interval() {
        let layer = layer(&env(&[("OTEL_METRIC_EXPORT_INTERVAL", "60000")]));
        assert_eq!(layer.settings, json!({ "metrics": { "interval": "1m" } }));
    }

    /// A disabled SDK sends nothing, though an endpoint is named.
    #[test]
    fn disabled_sdk_sends_nothing() {
        let s = settings(&[("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]);
        assert!(!s.is_on());
    }

    /// Attributes are decoded, the service name stands before the one in the list, a broken list is ignored whole.
    #[test]
    fn resource_attributes() {
        let (a, w) = resource(&env(&[
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,deployment.environment.name=pr%C3%BCf"),
            ("OTEL_SERVICE_NAME", "node-agent"),
        ]));
        assert_eq!(w, None);
        assert_eq!(a.get("service.name").and_then(|v| v.as_str()), Some("node-agent"));
        assert_eq!(a.get("deployment.environment.name").and_then(|v| v.as_str()), Some("prüf"));
        let (a, w) = resource(&env(&[("OTEL_RESOURCE_ATTRIBUTES", "a=1,b")]));
        assert!(a.is_empty() && w.is_some());
    }
}
