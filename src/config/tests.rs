// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::collectors::Invalid;
use crate::collectors::{
    self, Collector, Context, Info, MetricCollector, Registration, Settings, Unavailable, registry,
};
use crate::signal::Metrics;

/// Settings of a collector that exists only here.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct DemoConfig {
    /// Waits longer than this are reported.
    threshold: HumanDuration,
    /// Share of a CPU, in percent.
    percent: u8,
    /// Devices to leave out.
    exclude: Vec<String>,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Fast,
    Exact,
}

impl Default for DemoConfig {
    fn default() -> Self {
        DemoConfig {
            threshold: HumanDuration::from_millis(100),
            percent: 80,
            exclude: vec!["loop".into()],
            mode: Mode::Fast,
        }
    }
}

impl Settings for DemoConfig {
    fn validate(&self) -> Result<(), Invalid> {
        let expected = || "1 to 100".to_owned();
        if (1..=100).contains(&self.percent) {
            Ok(())
        } else {
            Err(Invalid { key: "percent", value: self.percent.to_string(), expected: expected() })
        }
    }
}

struct Demo;

impl Collector for Demo {
    const INFO: Info = Info {
        name: "demo",
        summary: "A demonstration.",
        doc: "",
        enabled: true,
        needs: &[],
        object: None,
        optional: &[],
        capabilities: &[],
        metrics: &[],
        events: &[],
    };
    type Config = DemoConfig;
    fn new(_: DemoConfig, _: &mut Context<'_>) -> Result<Self, Unavailable> {
        Err(Unavailable::because("only a test"))
    }
    fn reload(&mut self, _: DemoConfig) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for Demo {
    fn collect(&mut self, _: &mut Metrics) -> anyhow::Result<()> {
        Ok(())
    }
}

static DEMO: &[Registration] = &[registry::metrics::<Demo>()];

/// Loads a file's text (written to a temporary directory), variables and flags.
fn with(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, file).unwrap();
    let env: BTreeMap<_, _> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut sources = Sources { file: File::Named(path.clone()), env, flags: vec![] };
    for (key, value) in flags {
        sources.flag("--set", key, value);
    }
    load(&sources, DEMO).map_err(|e| e.to_string().replace(&path.display().to_string(), "c.toml"))
}

/// Without any source the documented defaults are in force.
#[test]
fn defaults() {
    let c = load(&Sources { file: File::None, ..Sources::default() }, DEMO).unwrap().config;
    assert_eq!(c.store, Store::default());
    assert_eq!(c.http.listen.to_string(), "127.0.0.1:9774");
    assert!(c.collector("demo").enabled);
    assert_eq!(c.collector("demo").settings["threshold"].as_str(), Some("100ms"));
}

/// Each source wins over those before it, value by value.
#[test]
fn precedence() {
    let file = "[metrics]\ninterval = '20s'\nmax_series = 1\n[incident]\nquiet = '1m'\n[store]\nmax_age = '2d'";
    let env = [
        ("BIANQUE_METRICS__MAX_SERIES", "2"),
        ("BIANQUE_STORE__MAX_AGE", "3d"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
    ];
    let loaded = with(file, &env, &[("store.max_age", "4d")]).unwrap();
    let c = &loaded.config;
    assert_eq!(c.metrics.interval.to_string(), "20s");
    assert_eq!((c.metrics.max_series, c.incident.quiet.to_string().as_str()), (2, "1m"));
    assert_eq!(c.store.max_age.to_string(), "4d");
    let origin = |key: &str| loaded.origin(&key.split('.').map(str::to_owned).collect::<Vec<_>>());
    assert!(matches!(origin("incident.quiet"), Origin::File { line: Some(5), .. }));
    assert_eq!(origin("metrics.max_series"), Origin::Variable("BIANQUE_METRICS__MAX_SERIES".into()));
    assert_eq!(origin("store.max_age"), Origin::Flag("--set".into()));
    assert_eq!(origin("store.path"), Origin::Default);

    let otel = with("", &[("OTEL_METRIC_EXPORT_INTERVAL", "5000")], &[]).unwrap();
    assert_eq!(otel.config.metrics.interval.to_string(), "5s");
}

/// Collectors' sections take the common keys and their own, from every source.
#[test]
fn collector_sections() {
    let env = [("BIANQUE_COLLECTORS__DEMO__THRESHOLD", "7ms"), ("BIANQUE_COLLECTORS__DEMO__EXCLUDE", "[\"sda\"]")];
    let c = with("[collectors.demo]\nenabled = false\ninterval = '1m'\nmode = 'exact'", &env, &[]).unwrap().config;
    let demo = c.collector("demo");
    assert_eq!((demo.enabled, demo.interval), (false, Some(HumanDuration::from_secs(60))));
    let typed: DemoConfig = demo.settings.try_into().unwrap();
    assert_eq!((typed.threshold.as_millis(), typed.exclude, typed.percent), (7, vec!["sda".to_owned()], 80));
    assert!(matches!(typed.mode, Mode::Exact));
}

/// All errors are reported at once, each with file and line or variable, key, value and what is valid.
#[test]
fn every_fault_is_reported() {
    let file = "\
[metrics]
interval = '15x'
max_series = 'many'
[stor]
path = '/x'
[log]
level = 'inof'
[collectors.dmeo]
enabled = true
[collectors.demo]
treshold = '1s'
percent = 101
exclude = 'sda'
mode = 3
enabled = 'yes'
";
    let env = [
        ("BIANQUE_STORE__PAHT", "/x"),
        ("BIANQUE_STORE__MAX_SIZE", "1KiB"),
        ("BIANQUE_HTTP__LISTEN", "0.0.0.0:80"),
        ("BIANQUE_COLLECTORS__DEMO__PERCENT", "300"),
    ];
    let error = with(file, &env, &[("api.socket", "relative.sock")]).unwrap_err();
    let want = r#"
c.toml:2: metrics.interval = "15x": expected a duration such as "200ms", "15s", "1m30s" or "7d"
c.toml:3: metrics.max_series = "many": expected a whole number from 0 to 4294967295
c.toml:4: stor: unknown key; did you mean `store`?
c.toml:7: log.level = "inof": expected one of "error", "warn", "info", "debug", "trace"; did you mean "info"?
c.toml:8: collectors.dmeo: unknown key; did you mean `demo`?
c.toml:11: collectors.demo.treshold: unknown key; did you mean `threshold`?
c.toml:12: collectors.demo.percent = 101: expected 1 to 100
c.toml:13: collectors.demo.exclude = "sda": expected a list such as ["a", "b"]
c.toml:14: collectors.demo.mode = 3: expected one of "fast", "exact"
c.toml:15: collectors.demo.enabled = "yes": expected true or false
BIANQUE_STORE__PAHT: store.paht: unknown variable; did you mean `BIANQUE_STORE__PATH`?
BIANQUE_STORE__MAX_SIZE: store.max_size = "1KiB": expected at least 16MiB
BIANQUE_HTTP__LISTEN: http.listen = "0.0.0.0:80": expected a loopback address, or `http.token_file` or `http.client_ca_file` set as well
BIANQUE_COLLECTORS__DEMO__PERCENT: collectors.demo.percent = 300: expected a whole number from 0 to 255
--set: api.socket = "relative.sock": expected an absolute path
"#;
    assert_eq!(error, want.trim());
}

/// A syntax error has its line; a file that was asked for and is missing is an error.
#[test]
fn the_file_itself() {
    let error = with("[metrics]\ninterval = \n", &[], &[]).unwrap_err();
    assert!(error.starts_with("c.toml:2: is not TOML: "), "{error}");
    let missing = Sources { file: File::Named("/nonexistent/c.toml".into()), ..Sources::default() };
    let error = load(&missing, DEMO).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/c.toml: cannot be read: "), "{error}");
}

/// Text that looks like a number is text where text is wanted.
#[test]
fn variables_are_typed_by_what_is_wanted() {
    let c = with("", &[("BIANQUE_HTTP__TOKEN_FILE", "12345")], &[]).unwrap().config;
    assert_eq!(c.http.token_file, Some("12345".into()));
}

/// The commented default file, comments taken off its settings, is the defaults.
#[test]
fn default_file_is_the_defaults() {
    let text = render::default_file(DEMO);
    let set = |c: char| c.is_ascii_lowercase();
    let lines = text.lines().map(|l| l.strip_prefix('#').filter(|r| r.starts_with(set)).unwrap_or(l));
    let on = lines.collect::<Vec<_>>().join("\n");
    assert!(on.matches(" = ").count() > 10, "{on}");
    for text in [text.clone(), on] {
        let loaded = with(&text, &[], &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let default = load(&Sources { file: File::None, ..Sources::default() }, DEMO).unwrap();
        assert_eq!(loaded.config, default.config);
    }
}

/// What `config print` writes is a configuration again, and says where each value came from.
#[test]
fn effective_reads_back() {
    let loaded = with("[store]\nmax_age = '3d'", &[("BIANQUE_COLLECTORS__DEMO__PERCENT", "5")], &[]).unwrap();
    let text = render::effective(&loaded);
    assert!(text.contains("c.toml:2"), "{text}");
    assert!(text.contains("# BIANQUE_COLLECTORS__DEMO__PERCENT"), "{text}");
    assert_eq!(with(&text, &[], &[]).unwrap().config, loaded.config);
}

/// The schema knows every collector's settings with their defaults, and nothing else.
#[test]
fn schema_has_the_collectors() {
    let s = schema::schema(DEMO);
    let demo = &s["properties"]["collectors"]["properties"]["demo"];
    assert_eq!(demo["properties"]["percent"]["default"], 80);
    assert_eq!(demo["properties"]["enabled"]["default"], true);
    assert_eq!(demo["additionalProperties"], false);
    assert!(demo["properties"]["threshold"]["description"].as_str().unwrap().starts_with("Waits longer"));
    assert!(!s.to_string().contains("$ref"), "{s:#}");
    let _ = collectors::BUILT_IN;
}

/// The standard variables stand between the file and ours, and a fault of theirs names the variable.
#[test]
fn otel_variables() {
    let file = "[exporters.otlp]\nendpoint = 'http://file:4317'\ntimeout = '1s'";
    let otel = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317");
    let endpoint = |env: &[(&str, &str)]| with(file, env, &[]).unwrap().config.exporters.otlp.endpoint.unwrap();
    assert_eq!(endpoint(&[]), "http://file:4317");
    assert_eq!(endpoint(&[otel]), "http://otel:4317");
    assert_eq!(endpoint(&[otel, ("BIANQUE_EXPORTERS__OTLP__ENDPOINT", "http://ours:4317")]), "http://ours:4317");
    let error = with(file, &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "ftp://u:pw@x")], &[]).unwrap_err();
    assert!(error.starts_with("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: exporters.otlp.logs.endpoint = "), "{error}");
    assert!(!error.contains("pw"), "{error}");
    assert_eq!(with(file, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke")], &[]).unwrap().warnings.len(), 1);
}

/// No secret is shown: not by `config print`, not by an error.
#[test]
fn secrets_are_not_shown() {
    let env =
        [("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "api-key=hunter2"), ("BIANQUE_EXPORTERS__OTLP__HEADERS__A", "hunter2")];
    let loaded = with("[exporters.otlp.headers]\nauthorization = 'Bearer hunter2'", &env, &[]).unwrap();
    assert_eq!(loaded.config.exporters.otlp.headers["authorization"].reveal(), "Bearer hunter2");
    for text in [render::effective(&loaded), render::redacted(&loaded).to_string(), format!("{:?}", loaded.config)] {
        assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
    }
    for file in [
        "[exporters.otlp.headers]\na = ['hunter2']",
        "[exporters.otlp]\nheaders = 'hunter2'",
        "[exporters.otlp]\nheader.a = 'hunter2'",
    ] {
        let error = with(file, &[], &[]).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// A collector's filter is checked where it is written, each selector by itself, and is no setting of its own.
#[test]
fn filters() {
    let file = "[collectors.demo.filter]\ndeny = ['container=a', 'qos=Guaranteed']\n";
    let loaded = with(file, &[], &[]).unwrap();
    let demo = loaded.config.collector("demo");
    assert_eq!(demo.filter.deny, ["container=a", "qos=Guaranteed"]);
    assert!(!demo.settings.contains_key("filter"));
    assert!(render::effective(&loaded).contains("[collectors.demo.filter]"));
    assert!(!render::effective(&with("", &[], &[]).unwrap()).contains("filter"), "what is not set is not shown");

    let e = with("[collectors.demo.filter]\nallow = ['node']\ndeny = ['node', 'contaner=a']", &[], &[]).unwrap_err();
    assert!(e.starts_with("c.toml:3: collectors.demo.filter.deny = ") && e.contains("place of \"contaner=a\""), "{e}");
    let e = with("[collectors.demo.filter]\ndeni = []", &[], &[]).unwrap_err();
    assert_eq!(e, "c.toml:2: collectors.demo.filter.deni: unknown key; did you mean `deny`?");
    let env = [("BIANQUE_COLLECTORS__DEMO__FILTER__DENY", "['node']")];
    assert_eq!(with("", &env, &[]).unwrap().config.collector("demo").filter.deny, ["node"]);

    let text = render::default_file(DEMO);
    assert!(text.contains("[collectors.demo.filter]\n") && text.contains("# Not set by default"), "{text}");
}
