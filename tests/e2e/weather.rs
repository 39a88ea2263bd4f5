// SPDX-License-Identifier: Apache-2.0
//! Whatever happens to a server, and on the way to it: nothing that was accepted is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bianque::exporters::elasticsearch::config::Urls;
use bianque::exporters::otlp::{Protocol, Settings};
use bianque::exporters::store::Store;
use bianque::signal::ids::EventId;

use crate::BOTH;
use crate::agent::Agent;
use crate::elastic::{Elasticsearch, apm};
use crate::elasticsearch::{LOGS, arrived as indexed, ids, marks, setup, stored as stored_ids};
use crate::proxy::{Proxy, Weather};
use crate::servers::{Backend, Server, eventually};

const FULL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/full.yaml");

/// Asks a server for the ids of a trace's spans.
type SpansOf<'a> = &'a dyn Fn(&str) -> BTreeSet<String>;

/// Twenty kills; their marks.
fn burst(agent: &Agent, name: &str) -> BTreeSet<String> {
    let all: BTreeSet<_> = (0..20).map(|i| format!("{name}{i}")).collect();
    all.iter().for_each(|m| agent.kill(m));
    all
}

/// Kills go on while the way is bad in each way, and while the server hangs; their marks.
async fn in_bad_weather(agent: &Agent, proxy: &Proxy, server: &Server) -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for weather in Weather::BAD {
        let before = proxy.spoilt();
        proxy.set(weather);
        sent.extend(burst(agent, &format!("{weather:?}")));
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.set(Weather::Fair);
        assert!(proxy.spoilt() > before, "{weather:?} met no answer");
        sent.extend(burst(agent, &format!("after {weather:?}")));
    }
    server.signal("STOP");
    sent.extend(burst(agent, "hung"));
    // Longer than a request may take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.signal("CONT");
    sent
}

/// Settings that lead through the proxy.
fn by_way_of(proxy: &Proxy, protocol: Protocol) -> Settings {
    let endpoint = Some(format!("http://{}", proxy.at));
    let timeout = Duration::from_secs(2).into();
    Settings { endpoint, protocol: Some(protocol), timeout, ..Settings::default() }
}

/// Spans in an agent's store by their trace; the agent has ended.
fn stored(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let store = Store::open_existing(folder).unwrap();
    let all = store.entries_after(EventId([0; 12]), usize::MAX, usize::MAX).unwrap();
    let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut by_trace: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for s in all.iter().flat_map(|s| &s.entry.spans) {
        by_trace.entry(hex(&s.trace_id)).or_default().insert(hex(&s.span_id));
    }
    assert!(!by_trace.is_empty());
    by_trace
}

async fn arrived(backend: &Backend, what: &str, wanted: &BTreeSet<String>) {
    eventually(what, || {
        let got: BTreeSet<_> = backend.received("logs").iter().filter_map(|r| r.attribute("test.mark")).collect();
        wanted.is_subset(&got).then_some(())
    })
    .await;
}

/// The Collector behind a bad way, hung, killed, and with its memory full: every record and span comes
/// out of it.
#[tokio::test(flavor = "multi_thread")]
async fn collector_gets_everything() {
    for protocol in BOTH {
        let limit = "COLLECTOR_LIMIT_MIB";
        let mut backend = Backend::gateway(&["to-files"], &[("COLLECTOR_OVERLAY", FULL), (limit, "512")]);
        let key = if protocol == Protocol::Grpc { "COLLECTOR_OTLP_GRPC" } else { "COLLECTOR_OTLP_HTTP" };
        let proxy = Proxy::start(backend.collector.address(key)).await;
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path());
        agent.deliver(&by_way_of(&proxy, protocol));
        let mut sent = in_bad_weather(&agent, &proxy, &backend.collector).await;
        arrived(&backend, "what was sent in bad weather", &sent).await;

        // What it has taken is in its files by now: it answers before it writes.
        tokio::time::sleep(Duration::from_secs(3)).await;
        backend.collector.signal("KILL");
        sent.extend(burst(&agent, "killed"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        backend.start_collector();
        arrived(&backend, "what happened while it was killed", &sent).await;

        tokio::time::sleep(Duration::from_secs(3)).await;
        backend.collector.start_with(limit, "2");
        let full = burst(&agent, "full");
        tokio::time::sleep(Duration::from_secs(3)).await;
        let got = |r: &crate::servers::Record| r.attribute("test.mark").is_some_and(|m| full.contains(&m));
        assert!(!backend.received("logs").iter().any(got), "it was not full");
        sent.extend(full.clone());
        backend.collector.start_with(limit, "512");
        arrived(&backend, "what came while it was full", &sent).await;
        // The roots, a second after the last event.
        tokio::time::sleep(Duration::from_secs(3)).await;
        agent.stop().await;

        let spans: BTreeSet<_> = stored(folder.path()).into_values().flatten().collect();
        eventually("every span", || {
            let got: BTreeSet<_> = backend.received("traces").iter().map(|r| r.text("spanId").to_owned()).collect();
            spans.is_subset(&got).then_some(())
        })
        .await;
    }
}

/// Jaeger and Tempo, each without a Collector before it.
#[tokio::test(flavor = "multi_thread")]
async fn jaeger_and_tempo_get_every_span() {
    let backend = Backend::with_jaeger_and_tempo();
    let in_jaeger = |trace: &str| backend.spans_in_jaeger(trace);
    let in_tempo = |trace: &str| backend.spans_in_tempo(trace);
    let servers: [(&Server, &str, SpansOf<'_>); 2] =
        [(backend.jaeger(), "JAEGER_OTLP_GRPC", &in_jaeger), (backend.tempo(), "TEMPO_OTLP_GRPC", &in_tempo)];
    for (server, key, spans_of) in servers {
        let proxy = Proxy::start(server.address(key)).await;
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path());
        agent.deliver(&by_way_of(&proxy, Protocol::Grpc));
        in_bad_weather(&agent, &proxy, server).await;
        // The last root, and what is still to be sent again.
        tokio::time::sleep(Duration::from_secs(8)).await;
        agent.stop().await;
        for (trace, spans) in stored(folder.path()) {
            eventually(&format!("every span of {trace} where {key} leads"), || {
                (spans_of(&trace) == spans).then_some(())
            })
            .await;
        }
    }
}

/// Elasticsearch behind a bad way, hung, with little CPU, and with its disk really full: every event is there, once,
/// under the id that it has in the store.
#[tokio::test(flavor = "multi_thread")]
async fn elasticsearch_gets_everything_once() {
    let es = Elasticsearch::on_small_disk(64 << 20);
    assert!(setup(&es, &["--yes"]).contains("Done."));
    let proxy = Proxy::start(es.address()).await;
    let mut settings = es.settings();
    settings.url = Urls(vec![format!("http://{}", proxy.at)]);
    settings.timeout = Duration::from_secs(2).into();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver_to_elasticsearch(&settings);
    let mut sent = in_bad_weather(&agent, &proxy, &es.server).await;
    indexed(&es, "what was sent in bad weather", &sent).await;

    // It runs a tenth of the time.
    for turn in 0..20 {
        es.server.signal("STOP");
        tokio::time::sleep(Duration::from_millis(270)).await;
        es.server.signal("CONT");
        sent.extend((turn % 5 == 0).then(|| burst(&agent, &format!("slow{turn} "))).into_iter().flatten());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    indexed(&es, "what was sent while it was slow", &sent).await;

    let mut full = BTreeSet::new();
    for turn in 0..10 {
        // What it gives back meanwhile by merging is taken, too.
        es.disk().fill();
        full.extend(burst(&agent, &format!("full{turn} ")));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let missing = full.difference(&marks(&es.documents(LOGS))).count();
    eprintln!("{missing} of {} are not there while it is full", full.len());
    assert!(missing > 0, "it was not full");
    sent.extend(full);
    es.disk().make_room();
    // It gives up on a shard after five tries, and on being master for a minute.
    let end = std::time::Instant::now() + Duration::from_secs(180);
    let is_well = || {
        es.ask("POST", "/_cluster/reroute?retry_failed=true", None);
        matches!(es.ask("GET", "/_cluster/health", None)["status"].as_str(), Some("yellow" | "green"))
    };
    while !is_well() {
        assert!(std::time::Instant::now() < end, "Elasticsearch does not recover");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    indexed(&es, "what came while it was full", &sent).await;
    agent.stop().await;
    let logs = es.documents(LOGS);
    assert_eq!((ids(&logs), marks(&logs)), (stored_ids(folder.path()).0, sent));
}

/// Elastic APM behind a bad way, and hung: every event is a log record there.
#[tokio::test(flavor = "multi_thread")]
async fn apm_gets_everything() {
    let (es, run) = (Elasticsearch::start(), tempfile::tempdir().unwrap());
    let server = apm(&es, run.path());
    let proxy = Proxy::start(server.address("APM_OTLP_GRPC")).await;
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver(&by_way_of(&proxy, Protocol::Grpc));
    let sent = in_bad_weather(&agent, &proxy, &server).await;
    let streams = "logs-generic.otel-default";
    eventually("every event", || sent.is_subset(&marks(&es.documents(streams))).then_some(())).await;
    agent.stop().await;
}
