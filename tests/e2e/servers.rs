// SPDX-License-Identifier: Apache-2.0
//! The real servers, started by `tests/backends`, each test's on ports and in folders of its own.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bianque::exporters::otlp::{Protocol, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

const BACKENDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/backends");
/// Certificates of the Collector behind TLS.
pub const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/tls");

/// A running server; ends when it is dropped.
pub struct Server {
    run: PathBuf,
    env: HashMap<String, String>,
    /// What its `run` printed: where to reach it.
    pub at: HashMap<String, String>,
}

impl Server {
    pub fn start(name: &str, env: HashMap<String, String>) -> Server {
        let run = Path::new(BACKENDS).join(name).join("run");
        let mut server = Server { run, env, at: HashMap::new() };
        let out = server.call("start");
        let lines = out.lines().filter_map(|l| l.split_once('='));
        server.at = lines.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        server
    }

    /// Sends a signal to its processes: `KILL` ends it as a power cut would, `STOP` has it hang until `CONT`.
    pub fn signal(&self, signal: &str) {
        let name = self.run.parent().and_then(Path::file_name).unwrap();
        let file = Path::new(&self.env["BACKENDS_RUN"]).join(name).join("pid");
        let text = std::fs::read_to_string(file).unwrap();
        let pid = text.split(' ').next().unwrap();
        let sent = Command::new("kill").args(["-s", signal, "--", &format!("-{pid}")]).status().unwrap();
        assert!(sent.success(), "kill -s {signal} -- -{pid}");
        // One that has much memory gives it back first; until then it counts as running.
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while signal == "KILL" && Path::new("/proc").join(pid).exists() {
            assert!(std::time::Instant::now() < end, "{pid} does not die");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts it with another value of a variable.
    pub fn start_with(&mut self, key: &str, value: &str) {
        self.call("stop");
        self.env.insert(key.to_owned(), value.to_owned());
        self.call("start");
    }

    /// Where it takes something: `JAEGER_OTLP_GRPC`.
    pub fn address(&self, key: &str) -> SocketAddr {
        self.at[key].rsplit('/').next().unwrap().parse().unwrap()
    }

    pub fn call(&self, verb: &str) -> String {
        let out = Command::new(&self.run).arg(verb).envs(&self.env).output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{} {verb}: {errors}", self.run.display());
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = self.run.parent().and_then(Path::file_name).unwrap_or_default();
            let log = Path::new(&self.env["BACKENDS_RUN"]).join(name).join("log");
            eprintln!("--- {}\n{}---", log.display(), std::fs::read_to_string(&log).unwrap_or_default());
        }
        // Not `call`: a panic here would hide the test's own.
        drop(Command::new(&self.run).arg("stop").envs(&self.env).output());
    }
}

/// Free ports under these names; all are held until each is chosen, so that none is given twice.
/// Another process may take one before the server does; then the start fails and says so.
pub fn with_ports(names: &[&str], run: &Path) -> HashMap<String, String> {
    let held: Vec<_> = names.iter().map(|n| (n, TcpListener::bind("127.0.0.1:0").unwrap())).collect();
    let port = |l: &TcpListener| l.local_addr().unwrap().port().to_string();
    let mut env: HashMap<_, _> = held.iter().map(|(n, l)| ((**n).to_owned(), port(l))).collect();
    env.insert("BACKENDS_RUN".to_owned(), run.to_str().unwrap().to_owned());
    env
}

/// A Collector with files of `otel-config/`, and the servers behind it that were asked for.
pub struct Backend {
    pub collector: Server,
    jaeger: Option<Server>,
    tempo: Option<Server>,
    out: PathBuf,
    _folder: TempDir,
}

impl Backend {
    pub fn collector() -> Backend {
        Self::start(None, &[])
    }

    pub fn behind_tls() -> Backend {
        let overlay = format!("{TLS}/collector.yaml");
        Self::start(None, &[("COLLECTOR_OVERLAY", &overlay), ("TLS_DIR", TLS)])
    }

    /// A gateway to what these files of `otel-config/` name; a variable for each server behind it.
    pub fn gateway(to: &[&str], more: &[(&str, &str)]) -> Backend {
        let configs = [&["gateway"], to].concat().join(" ");
        Self::start(None, &[&[("COLLECTOR_CONFIGS", configs.as_str())], more].concat())
    }

    /// A Collector with a configuration of a test's own.
    pub fn configured(file: &str) -> Backend {
        Self::start(None, &[("COLLECTOR_CONFIG", file)])
    }

    /// A gateway to Jaeger and Tempo.
    pub fn with_jaeger_and_tempo() -> Backend {
        Self::before_jaeger_and_tempo(&[])
    }

    /// The same, with more variables for the Collector.
    pub fn before_jaeger_and_tempo(more: &[(&str, &str)]) -> Backend {
        let folder = tempfile::tempdir().unwrap();
        let jaeger = jaeger(folder.path());
        let ports =
            ["TEMPO_PORT", "TEMPO_INTERNAL_GRPC_PORT", "TEMPO_GOSSIP_PORT", "TEMPO_GRPC_PORT", "TEMPO_HTTP_PORT"];
        let tempo = Server::start("tempo", with_ports(&ports, folder.path()));
        let to =
            [("JAEGER_OTLP_GRPC", &*jaeger.at["JAEGER_OTLP_GRPC"]), ("TEMPO_OTLP_GRPC", &*tempo.at["TEMPO_OTLP_GRPC"])];
        let configs = [("COLLECTOR_CONFIGS", "gateway to-jaeger to-tempo to-files")];
        let mut backend = Self::start(Some(folder), &[&configs[..], &to[..], more].concat());
        backend.jaeger = Some(jaeger);
        backend.tempo = Some(tempo);
        backend
    }

    pub fn with_jaeger() -> Backend {
        Self::before_jaeger("collector")
    }

    /// A gateway to Jaeger; logs go to files.
    pub fn with_jaeger_behind_gateway() -> Backend {
        Self::before_jaeger("gateway to-jaeger to-files")
    }

    fn before_jaeger(configs: &str) -> Backend {
        let folder = tempfile::tempdir().unwrap();
        let jaeger = jaeger(folder.path());
        let to = jaeger.at["JAEGER_OTLP_GRPC"].clone();
        let mut backend = Self::start(Some(folder), &[("JAEGER_OTLP_GRPC", &to), ("COLLECTOR_CONFIGS", configs)]);
        backend.jaeger = Some(jaeger);
        backend
    }

    fn start(folder: Option<TempDir>, more: &[(&str, &str)]) -> Backend {
        let folder = folder.unwrap_or_else(|| tempfile::tempdir().unwrap());
        let ports =
            ["COLLECTOR_GRPC_PORT", "COLLECTOR_HTTP_PORT", "COLLECTOR_HEALTH_PORT", "COLLECTOR_PROMETHEUS_PORT"];
        let mut env = with_ports(&ports, folder.path());
        let out = folder.path().join("out");
        env.insert("COLLECTOR_OUT".to_owned(), out.to_str().unwrap().to_owned());
        env.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Backend { collector: Server::start("collector", env), jaeger: None, tempo: None, out, _folder: folder }
    }

    /// Ends the Collector; [`Self::start_collector`] starts it on the same ports.
    pub fn stop_collector(&self) {
        self.collector.call("stop");
    }

    pub fn start_collector(&self) {
        self.collector.call("start");
    }

    /// Ends Jaeger; [`Self::start_jaeger`] starts it on the same ports, empty.
    pub fn stop_jaeger(&self) {
        self.jaeger().call("stop");
    }

    pub fn start_jaeger(&self) {
        self.jaeger().call("start");
    }

    /// Settings that lead here.
    pub fn settings(&self, protocol: Protocol) -> Settings {
        let endpoint = match protocol {
            Protocol::Grpc => format!("http://{}", self.collector.at["COLLECTOR_OTLP_GRPC"]),
            Protocol::Http => self.collector.at["COLLECTOR_OTLP_HTTP"].clone(),
        };
        Settings { endpoint: Some(endpoint), protocol: Some(protocol), ..Settings::default() }
    }

    /// What came out of the Collector so far: for each record (log record, span, profile or metric) its
    /// resource, scope and itself.
    pub fn received(&self, signal: &str) -> Vec<Record> {
        let text = std::fs::read_to_string(self.out.join(format!("{signal}.jsonl"))).unwrap_or_default();
        // The last line may be half written.
        let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.flat_map(|l| records(&l)).collect()
    }

    /// Waits for a record.
    pub async fn record(&self, signal: &str, what: &str, is_it: impl Fn(&Record) -> bool) -> Record {
        eventually(what, || self.received(signal).into_iter().find(&is_it)).await
    }

    /// Where the Collector shows metrics to Prometheus.
    pub fn metrics_url(&self) -> &str {
        &self.collector.at["COLLECTOR_METRICS"]
    }

    /// What it shows there.
    pub fn scrape(&self) -> String {
        get(self.metrics_url())
    }

    /// A trace as Jaeger's API has it, once it has one.
    pub async fn trace(&self, id: &str) -> Value {
        self.whole_trace(id, 1).await
    }

    /// A trace as Jaeger's API has it, once all its `spans` are there.
    pub async fn whole_trace(&self, id: &str, spans: usize) -> Value {
        let url = format!("{}/api/traces/{id}", self.jaeger().at["JAEGER_QUERY_URL"]);
        eventually("the trace in Jaeger", || {
            let answer: Value = serde_json::from_str(&get(&url)).ok()?;
            let trace = &answer["data"][0];
            (trace["spans"].as_array()?.len() >= spans).then(|| trace.clone())
        })
        .await
    }

    /// Ids of a trace's spans in Jaeger, in hex.
    pub fn spans_in_jaeger(&self, trace: &str) -> BTreeSet<String> {
        let answer = get(&format!("{}/api/traces/{trace}", self.jaeger().at["JAEGER_QUERY_URL"]));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let spans = answer["data"][0]["spans"].as_array().cloned().unwrap_or_default();
        spans.iter().filter_map(|s| s["spanID"].as_str().map(str::to_owned)).collect()
    }

    /// Ids of a trace's spans in Tempo, in hex.
    pub fn spans_in_tempo(&self, trace: &str) -> BTreeSet<String> {
        let answer = get(&format!("{}/api/traces/{trace}", self.tempo().at["TEMPO_URL"]));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
        records(&answer).iter().filter_map(|r| Some(hex(&BASE64_STANDARD.decode(r.text("spanId")).ok()?))).collect()
    }

    /// A trace as Tempo has it, once all its `spans` are there.
    pub async fn trace_in_tempo(&self, id: &str, spans: usize) -> Vec<Record> {
        let url = format!("{}/api/traces/{id}", self.tempo().at["TEMPO_URL"]);
        eventually("the trace in Tempo", || {
            let answer: Value = serde_json::from_str(&get(&url)).ok()?;
            let found = records(&answer);
            (found.len() >= spans).then_some(found)
        })
        .await
    }

    /// The traces that Tempo finds: `q` is TraceQL, `tags` the older search by tags.
    pub fn search(&self, parameter: &str, query: &str) -> Vec<Value> {
        let url = format!("{}/api/search", self.tempo().at["TEMPO_URL"]);
        let data = format!("{parameter}={query}");
        let out =
            Command::new("curl").args(["-sS", "-m", "5", "-G", "--data-urlencode", &data, &url]).output().unwrap();
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        answer["traces"].as_array().cloned().unwrap_or_default()
    }

    pub fn jaeger(&self) -> &Server {
        self.jaeger.as_ref().expect("started with Jaeger")
    }

    pub fn tempo(&self) -> &Server {
        self.tempo.as_ref().expect("started with Tempo")
    }
}

fn jaeger(run: &Path) -> Server {
    let ports = [
        "JAEGER_QUERY_PORT",
        "JAEGER_QUERY_GRPC_PORT",
        "JAEGER_GRPC_PORT",
        "JAEGER_HTTP_PORT",
        "JAEGER_HEALTH_PORT",
        "JAEGER_HEALTH_GRPC_PORT",
    ];
    Server::start("jaeger", with_ports(&ports, run))
}

/// One log record, span, profile or metric of the Collector's output.
#[derive(Debug, Clone)]
pub struct Record {
    pub resource: Value,
    pub scope: Value,
    pub schema_url: String,
    pub body: Value,
    /// What the indices of a profile point into.
    pub dictionary: Value,
}

impl Record {
    /// A resource attribute.
    pub fn resource(&self, key: &str) -> Option<String> {
        attribute(&self.resource["attributes"], key).or_else(|| self.indexed_resource(key))
    }

    /// The Collector moves the texts of a profile's resource into its dictionary.
    fn indexed_resource(&self, key: &str) -> Option<String> {
        let text = |index: &Value| self.dictionary["stringTable"][usize::try_from(index.as_u64()?).ok()?].as_str();
        let all = self.resource["attributes"].as_array()?;
        let found = all.iter().find(|kv| text(&kv["keyStrindex"]) == Some(key))?;
        text(&found["value"]["stringValueStrindex"]).map(str::to_owned)
    }

    /// One of the record's own attributes.
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.body["attributes"], key)
    }

    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }
}

fn attribute(all: &Value, key: &str) -> Option<String> {
    let value = &all.as_array()?.iter().find(|kv| kv["key"] == key)?["value"];
    let value = value.as_object()?.values().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn records(line: &Value) -> Vec<Record> {
    let names = [
        ("resourceLogs", "scopeLogs", "logRecords"),
        ("resourceSpans", "scopeSpans", "spans"),
        ("resourceMetrics", "scopeMetrics", "metrics"),
        ("resourceProfiles", "scopeProfiles", "profiles"),
        // What Tempo answers.
        ("batches", "scopeSpans", "spans"),
    ];
    let all = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let mut out = Vec::new();
    for (by_resource, by_scope, bodies) in names {
        for r in all(&line[by_resource]) {
            for s in all(&r[by_scope]) {
                for body in all(&s[bodies]) {
                    let schema_url = s["schemaUrl"].as_str().unwrap_or_default().to_owned();
                    let (resource, scope) = (r["resource"].clone(), s["scope"].clone());
                    out.push(Record { resource, scope, schema_url, body, dictionary: line["dictionary"].clone() });
                }
            }
        }
    }
    out
}

/// Looks again and again until there is something.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn get(url: &str) -> String {
    let out = Command::new("curl").args(["-sS", "-m", "5", url]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}
