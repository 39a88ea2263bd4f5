// SPDX-License-Identifier: Apache-2.0
//! Collectors that users write: the examples are agents of their own, and their signals come out
//! of the real Collector like anything else.
//!
//! The same on every kernel.

use std::path::{Path, PathBuf};

use crate::servers::Backend;
use crate::support::{Agent, Need, Process, place, shell, timeout, unique, wait_for};
use bianque::exporters::otlp::Protocol;

/// An example's binary, and how it is built.
fn example(name: &str, how: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_bianque")).parent().unwrap();
    let path = folder.join(name);
    assert!(path.exists(), "no {}: run `{how}` (tests/run does)", path.display());
    path
}

fn cargo_example(name: &str) -> PathBuf {
    example(&format!("examples/{name}"), "cargo build --examples")
}

fn start(program: PathBuf, backend: &Backend, config: &str) -> Agent {
    let endpoint = backend.settings(Protocol::Grpc).endpoint.unwrap();
    let mut agent = Agent::prepare(config);
    agent.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    agent.program(program).run();
    agent.wait_ready();
    agent
}

/// A metric of one's own is on `/metrics`, in the Collector, and in the list; so is one that was made through the
/// OpenTelemetry API.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_ones_own() {
    let _place = place!(Need::Agent, Need::Servers);
    let backend = Backend::collector();
    let agent = start(cargo_example("metrics"), &backend, "");
    let open =
        wait_for("the metric", timeout(10), || agent.metric("acme_file_handle_count", &[("acme_state", "open")]));
    assert!(open >= 1.0, "{open} open files");
    let metric =
        backend.record("metrics", "acme.file.handle.count", |m| m.text("name") == "acme.file.handle.count").await;
    let points = metric.body["sum"]["dataPoints"].to_string();
    assert!(points.contains("\"open\"") && points.contains("\"limit\""), "{points}");
    wait_for("the instrument", timeout(10), || agent.metric("acme_file_handle_read_duration_seconds_count", &[]));
    let name = "acme.file.handle.read.duration";
    let instrument = backend.record("metrics", name, |m| m.text("name") == name).await;
    assert_eq!((&instrument.scope["name"], instrument.text("unit")), (&"file_handles".into(), "s"));
    assert_eq!(instrument.resource("host.name"), metric.resource("host.name"));
    let listed = agent.json(&["list"]);
    assert!(listed.iter().any(|c| c["name"] == "file_handles"), "list does not show it: {listed:?}");
}

/// A cgroup of the memory controller, which names the workload; removed with the test.
struct Group(String);

impl Group {
    fn new() -> Self {
        let (ok, path) = shell(&format!(
            "g=/sys/fs/cgroup; if [ -e $g/cgroup.controllers ]; then echo +memory >$g/cgroup.subtree_control; \
             else g=$g/memory; fi; mkdir $g/{0} && echo $g/{0}",
            unique("crash")
        ));
        assert!(ok, "no cgroup: {path}");
        Group(path.trim().to_owned())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

/// A BPF program of one's own: a crash is an event with the cgroup that it happened in.
#[tokio::test(flavor = "multi_thread")]
async fn event_of_ones_own_probe() {
    const NAME: &str = "acme.process.crash";
    let _place = place!(Need::Agent, Need::Servers);
    let how = "CARGO_TARGET_DIR=target cargo build --manifest-path examples/event/Cargo.toml";
    let backend = Backend::collector();
    let agent = start(example("acme-crash", how), &backend, "");
    let group = Group::new();
    let (_, said) = shell(&format!("sh -c 'echo $$ >{}/cgroup.procs; ulimit -c 0; kill -SEGV $$'; echo $?", group.0));
    assert!(said.starts_with("139"), "it did not crash: {said}");

    let path = format!("/{}", group.0.rsplit('/').next().unwrap());
    let event = agent.wait_event(NAME, timeout(10), |e| e["resource"]["linux.cgroup.path"] == *path);
    assert_eq!(event["attributes"]["acme.signal"], 11, "{event}");
    let ended = event["attributes"]["acme.processes.ended"].as_u64().unwrap();
    assert!(ended >= 1, "the shared probe of the example saw no process end: {event}");
    wait_for("the cgroup's counter", timeout(5), || {
        agent.metric("acme_container_process_crashes_total", &[("container_name", &path)])
    });
    let is_it = |l: &crate::servers::Record| l.text("eventName") == NAME && event["trace_id"] == l.text("traceId");
    let log = backend.record("logs", "the crash", is_it).await;
    assert_eq!(log.resource("linux.cgroup.path"), Some(path));
    assert_eq!(log.attribute("acme.signal").as_deref(), Some("11"));
}

/// A tracer of one's own: files that pile up are an incident, and the table names who holds them.
#[tokio::test(flavor = "multi_thread")]
async fn incident_of_ones_own_tracer() {
    let _place = place!(Need::Agent, Need::Servers);
    let backend = Backend::collector();
    let agent = start(cargo_example("autotracing"), &backend, "[incident]\nquiet = \"2s\"\n");
    // Its first look must come before the files do.
    std::thread::sleep(timeout(3));
    let holder = Process::start("ulimit -n 4096; for i in {1..2000}; do exec {fd}</dev/null; done; exec sleep 600");

    let incident = agent.wait_incident(timeout(15), |i| i.to_string().contains("acme.file.burst"));
    let span = backend.record("traces", "the capture", |s| s.attribute("linux.capture.evidence").is_some()).await;
    assert_eq!(incident["id"], span.text("traceId"));
    let evidence = span.attribute("linux.capture.evidence").unwrap();
    // 64 bits are text in OTLP's JSON.
    let pid = format!("\"{}\"", holder.pid());
    assert!(evidence.contains(&pid), "the holder, pid {pid}, is not in {evidence}");

    // Closed, its own span is the head of the tree, no second capture.
    drop(holder);
    let closed = agent.wait_incident(timeout(20), |i| i["id"] == incident["id"] && i["state"] == "closed");
    let shown = agent.cli(&["show", closed["id"].as_str().unwrap()]);
    let tree = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(tree.lines().filter(|l| l.contains(" capture ")).count(), 1, "{tree}");
}
