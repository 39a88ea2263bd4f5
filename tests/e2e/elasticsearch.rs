// SPDX-License-Identifier: Apache-2.0
//! What the agent sends, as it is in a real Elasticsearch, and in Elastic APM.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bianque::exporters::elasticsearch::config::Urls;
use bianque::exporters::otlp::{Protocol, Settings as Otlp};
use bianque::exporters::settings::Secret;
use bianque::exporters::store::Store;
use bianque::signal::ids::EventId;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::elastic::{Elasticsearch, apm};
use crate::proxy::{Proxy, Weather};
use crate::servers::eventually;

pub const LOGS: &str = "logs-bianque.events-default";
const TRACES: &str = "traces-bianque.incidents-default";

/// `bianque setup elasticsearch`, and what it said.
pub fn setup(es: &Elasticsearch, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bianque"));
    command.args(["setup", "elasticsearch"]).args(more);
    command.env("BIANQUE_EXPORTERS__ELASTICSEARCH__URL", es.url());
    if let Some(user) = es.settings().username {
        command.env("BIANQUE_EXPORTERS__ELASTICSEARCH__USERNAME", user);
        command.env("BIANQUE_EXPORTERS__ELASTICSEARCH__PASSWORD", es.at("ELASTICSEARCH_PASSWORD"));
        command.env("BIANQUE_EXPORTERS__ELASTICSEARCH__CA_FILE", es.at("ELASTICSEARCH_CA"));
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Ids of the events and of the spans in an agent's store, whose agent has ended.
pub fn stored(folder: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let store = Store::open_existing(folder).unwrap();
    let all = store.entries_after(EventId([0; 12]), usize::MAX, usize::MAX).unwrap();
    let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let events = all.iter().filter(|s| s.entry.log.is_some()).map(|s| s.entry.id().to_string());
    let spans = all.iter().flat_map(|s| &s.entry.spans).map(|s| hex(&s.span_id));
    (events.collect(), spans.collect())
}

pub fn ids(documents: &BTreeMap<String, Value>) -> BTreeSet<String> {
    documents.keys().cloned().collect()
}

pub fn marks(documents: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mark = |d: &Value| d["attributes"]["test.mark"].as_str().map(str::to_owned);
    documents.values().filter_map(mark).collect()
}

/// Waits until what is marked so is there.
pub async fn arrived(es: &Elasticsearch, what: &str, wanted: &BTreeSet<String>) {
    eventually(what, || wanted.is_subset(&marks(&es.documents(LOGS))).then_some(())).await;
}

/// Without templates nothing is made; setup says what it would do, does it, and then has nothing to
/// do. Then, whatever happens to server, network and agent: every event and span is there, once,
/// under the id that it has in the store, and is found by its attributes.
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_there_once_whatever_happens() {
    let es = Elasticsearch::start();
    let proxy = Proxy::start(es.address()).await;
    let mut settings = es.settings();
    settings.url = Urls(vec![format!("http://{}", proxy.at)]);
    settings.timeout = Duration::from_secs(5).into();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver_to_elasticsearch(&settings);
    let mut sent = BTreeSet::new();
    let burst = |agent: &Agent, name: &str, sent: &mut BTreeSet<String>| {
        for i in 0..50 {
            let mark = format!("{name}{i}");
            agent.kill(&mark);
            sent.insert(mark);
        }
    };
    burst(&agent, "early", &mut sent);
    let output = setup(&es, &[]);
    assert!(output.contains("logs-bianque.events ") && output.contains("Nothing was changed"), "{output}");
    assert!(output.contains("neither ILM nor data stream lifecycles"), "{output}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(es.ask("GET", "/_resolve/index/*", None)["indices"], json!([]), "an index that nobody made");
    assert_eq!(es.ask("GET", "/_index_template/logs-bianque.events", None)["status"], 404);
    assert!(setup(&es, &["--yes"]).contains("Done."));
    assert!(setup(&es, &["--yes"]).contains("Nothing is to be done."));
    arrived(&es, "what waited for the templates", &sent).await;

    for weather in Weather::BAD {
        proxy.set(weather);
        burst(&agent, &format!("{weather:?}"), &mut sent);
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.set(Weather::Fair);
        arrived(&es, &format!("what was sent in {weather:?}"), &sent).await;
    }
    // Flood stage, then an index closed by hand.
    for block in ["read_only_allow_delete", "write"] {
        let name = format!("index.blocks.{block}");
        let set = es.ask("PUT", &format!("/{LOGS}/_settings"), Some(&json!({ &name: true })));
        assert_eq!(set["acknowledged"], true, "{set}");
        burst(&agent, block, &mut sent);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!sent.is_subset(&marks(&es.documents(LOGS))), "{block} blocked nothing");
        es.ask("PUT", &format!("/{LOGS}/_settings"), Some(&json!({ &name: null })));
        arrived(&es, &format!("what {block} has held up"), &sent).await;
    }
    // Stopped, with an agent that is started anew meanwhile; then killed in the middle of it.
    es.stop();
    burst(&agent, "stopped", &mut sent);
    tokio::time::sleep(Duration::from_secs(1)).await;
    agent.stop().await;
    let mut agent = Agent::start(folder.path());
    agent.deliver_to_elasticsearch(&settings);
    es.start_again();
    arrived(&es, "what happened while it was stopped", &sent).await;
    burst(&agent, "before", &mut sent);
    tokio::time::sleep(Duration::from_millis(550)).await;
    es.kill();
    burst(&agent, "killed", &mut sent);
    es.start_again();
    arrived(&es, "what happened while it was killed", &sent).await;
    // The incident's end, a second after its last event.
    eventually("the root spans", || {
        let roots = es.documents(TRACES).values().filter(|d| d["parent_span_id"].is_null()).count();
        (roots > 0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    agent.stop().await;

    let (events, spans) = stored(folder.path());
    let (logs, traces) = (es.documents(LOGS), es.documents(TRACES));
    assert_eq!(marks(&logs), sent);
    assert_eq!((ids(&logs), ids(&traces)), (events, spans));
    let (id, log) = logs.iter().next().unwrap();
    assert_eq!(log["event_name"], "linux.memory.oom_kill");
    assert_eq!(log["resource"]["attributes"]["container.name"], "shop");
    assert_eq!(log["data_stream"], json!({"type": "logs", "dataset": "bianque.events", "namespace": "default"}));
    let span = &traces[log["span_id"].as_str().unwrap()];
    assert_eq!(span["trace_id"], log["trace_id"], "{id}");
    assert!(traces.contains_key(span["parent_span_id"].as_str().unwrap()), "the span hangs in the air");
    // Attributes are found under their own names, the message and stacks by their words.
    let n = logs.len() as u64;
    assert_eq!(es.found(LOGS, "container.name", "shop"), n);
    assert_eq!(es.found(LOGS, "test.mark", "early7"), 1);
    assert!(es.found(LOGS, "trace_id", log["trace_id"].as_str().unwrap()) > 0);
    assert_eq!(es.found(LOGS, "linux.stack.kernel", "oom_kill_process"), n);
}

/// TLS with a CA of one's own is verified, users and API keys are asked for, and a key that may do
/// nothing but make documents in our streams is enough.
#[tokio::test(flavor = "multi_thread")]
async fn security_is_kept() {
    let es = Elasticsearch::secured();
    let mut role = json!({"names": ["logs-bianque.*", "traces-bianque.*", "profiles-bianque.*"]});
    role["privileges"] = json!(["create_doc", "auto_configure"]);
    let key = es.ask(
        "POST",
        "/_security/api_key",
        Some(&json!({"name": "agent", "role_descriptors": {"agent": {"cluster": [], "indices": [role]}}})),
    );
    assert!(setup(&es, &["--yes"]).contains("Done."));
    let mut stranger = es.settings();
    stranger.ca_file = None;
    let mut wrong = es.settings();
    wrong.password = Some(Secret::new("wrong"));
    let mut by_key = es.settings();
    (by_key.username, by_key.password) = (None, None);
    by_key.api_key = Some(Secret::new(key["encoded"].as_str().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    for (settings, mark) in [(stranger, "stranger"), (wrong, "wrong")] {
        let mut agent = Agent::start(folder.path());
        agent.kill(mark);
        agent.deliver_to_elasticsearch(&settings);
        tokio::time::sleep(Duration::from_secs(2)).await;
        agent.stop().await;
    }
    assert_eq!(marks(&es.documents(LOGS)), BTreeSet::new());
    for (settings, mark) in [(by_key, "by_key"), (es.settings(), "by_user")] {
        let mut agent = Agent::start(folder.path());
        agent.kill(mark);
        agent.deliver_to_elasticsearch(&settings);
        arrived(&es, mark, &BTreeSet::from([mark.to_owned()])).await;
        agent.stop().await;
    }
    assert_eq!(marks(&es.documents(LOGS)), ["stranger", "wrong", "by_key", "by_user"].map(str::to_owned).into());
}

/// Through Elastic's own components: an incident is a transaction of the workload's service, what
/// happened in it spans, and an event of severity ERROR an error with its stack; all by one trace.
#[tokio::test(flavor = "multi_thread")]
async fn incident_is_a_transaction_with_errors_in_apm() {
    let es = Elasticsearch::start();
    let run = tempfile::tempdir().unwrap();
    let apm = apm(&es, run.path());
    let endpoint = format!("http://{}", apm.at["APM_OTLP_GRPC"]);
    let otlp = Otlp { endpoint: Some(endpoint), protocol: Some(Protocol::Grpc), ..Otlp::default() };
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    agent.deliver(&otlp);
    agent.kill("one");

    let is = |d: &Value, what: &str| d["attributes"]["processor.event"] == what;
    let (transaction, span) = eventually("the transaction and its span", || {
        let all = es.documents("traces-generic.otel-default");
        let one = |what: &str| all.values().find(|d| is(d, what)).cloned();
        Some((one("transaction")?, one("span")?))
    })
    .await;
    let trace = &transaction["trace_id"];
    assert_eq!(transaction["name"], "linux.memory.oom_kill");
    assert_eq!(transaction["attributes"]["event.outcome"], "failure");
    assert_eq!(transaction["resource"]["attributes"]["service.name"], "shop-api");
    assert_eq!((&span["trace_id"], &span["parent_span_id"]), (trace, &transaction["span_id"]));
    let (error, log) = eventually("the error and the log record", || {
        let all = es.documents("logs-generic.otel-default");
        let error = all.values().find(|d| is(d, "error")).cloned()?;
        let log = all.values().find(|d| d["event_name"] == "linux.memory.oom_kill").cloned()?;
        Some((error, log))
    })
    .await;
    assert_eq!((&error["trace_id"], &error["span_id"]), (trace, &span["span_id"]));
    assert_eq!(error["resource"]["attributes"]["service.name"], "shop-api");
    let of = |name: &str| error["attributes"][name].clone();
    assert_eq!((of("exception.type"), of("exception.message")), ("linux.memory.oom_kill".into(), "killed one".into()));
    assert_eq!(of("exception.stacktrace"), "oom_kill_process+0x0");
    assert_eq!(of("error.grouping_name"), "killed one");
    assert_eq!((&log["trace_id"], &log["span_id"]), (trace, &span["span_id"]));
    agent.stop().await;
}
