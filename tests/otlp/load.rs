// SPDX-License-Identifier: Apache-2.0
//! Delivery under load, by an agent that is a process of its own: killed again and again, and running
//! for long.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "starts itself and is read")]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bianque::exporters::elasticsearch::{self, config::Urls};
use bianque::exporters::otlp::Protocol;
use bianque::pipeline::log::Live;
use bianque::pipeline::{Observer, incident};
use bianque::signal::Stage;
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use crate::agent::Agent;
use crate::server::{Answer, Server};
use crate::{ANY_PORT, bulk, settings, smaps};

/// What the process is to do: `FOLDER ADDRESS RUN RATE SECONDS ELASTICSEARCH`; the last is `-` for none.
const CHILD: &str = "BIANQUE_TEST_LOAD";
/// Events in ten milliseconds are made at once.
const STEP: Duration = Duration::from_millis(10);

/// What happened on the way to the log.
#[derive(Default)]
struct Counts {
    lost: AtomicU64,
}

impl Observer for Counts {
    fn dropped(&self, _stage: Stage<'_>, _reason: &'static str, n: u64) {
        self.lost.fetch_add(n, Ordering::Relaxed);
    }

    fn suppressed(&self, _stage: Stage<'_>, _reason: &'static str, n: u64) {
        self.lost.fetch_add(n, Ordering::Relaxed);
    }
}

/// Makes events at a rate, delivers them, prints which are accepted, and ends when all are delivered.
async fn make_and_deliver(task: &str) {
    let [folder, to, run, rate, seconds, elasticsearch]: [&str; 6] =
        task.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (rate, seconds): (u64, u64) = (rate.parse().unwrap(), seconds.parse().unwrap());
    let counts = Arc::new(Counts::default());
    let mut agent = Agent::with(Path::new(folder), incident::Settings::default(), counts.clone());
    agent.deliver(&settings(Protocol::Http, to.parse().unwrap()));
    if elasticsearch != "-" {
        let url = Urls(vec![format!("http://{elasticsearch}")]);
        agent.deliver_to_elasticsearch(&elasticsearch::Settings { url, ..Default::default() });
    }
    let mut watch = agent.log.watch();
    if run != "soak" {
        tokio::spawn(async move {
            loop {
                match watch.next().await {
                    Live::Entry(s) => {
                        let body = s.entry.log.as_ref().and_then(|l| l.body.as_ref()?.value.as_ref());
                        if let Some(Value::StringValue(text)) = body {
                            println!("accepted {text}");
                        }
                    }
                    // On a busy machine: what was missed is accepted too, it is only not looked for.
                    Live::Named(_) | Live::Missed(_) => {}
                    Live::End => return,
                }
            }
        });
    }
    let (begin, mut made) = (tokio::time::Instant::now(), 0);
    while made < rate * seconds {
        let due = rate * u64::try_from(begin.elapsed().as_millis()).unwrap() / 1000;
        while made < due.min(rate * seconds) {
            agent.kill(&format!("{run}-{made}"));
            made += 1;
        }
        tokio::time::sleep(STEP).await;
    }
    // What waits in the queue is not behind yet: twice nothing.
    let mut done = 0;
    while done < 2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let behind = agent.log.behind().iter().any(|(_, b)| b.events > 0);
        done = if behind { 0 } else { done + 1 };
    }
    println!("made {made} lost {}", counts.lost.load(Ordering::Relaxed));
    agent.stop().await;
}

/// Starts this very test again as such a process.
fn start(test: &str, folder: &Path, (to, bulk): (SocketAddr, &str), run: &str, rate: u64, seconds: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, format!("{} {to} {run} {rate} {seconds} {bulk}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// kill -9 of the agent fifty times under 2,000 events a second: every event that was accepted arrives,
/// and each run's events in their order.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_events_arrive_though_the_agent_is_killed() {
    if let Ok(task) = std::env::var(CHILD) {
        return make_and_deliver(&task).await;
    }
    const NAME: &str = "load::accepted_events_arrive_though_the_agent_is_killed";
    let (server, at) = Server::start(Protocol::Http, ANY_PORT.into(), |_, _| Answer::Accept).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let accepted = tokio::task::spawn_blocking(move || {
        let mut accepted = Vec::new();
        for run in 0..50 {
            let mut child = start(NAME, &path, (at, "-"), &run.to_string(), 2000, 3600);
            let before = accepted.len();
            for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
                // The last line may be cut off by the kill: its event may be another's beginning.
                let Some((_, text)) = line.split_once("accepted ") else { continue };
                accepted.push(text.to_owned());
                if accepted.len() == before + 1000 {
                    child.kill().unwrap();
                }
            }
            child.wait().unwrap();
            let whole = accepted.len().saturating_sub(1);
            assert!(whole >= before + 999, "run {run} ended by itself");
            accepted.truncate(whole);
        }
        // Without new events: what is left goes out.
        let mut last = start(NAME, &path, (at, "-"), "last", 0, 0);
        let lines: Vec<_> = BufReader::new(last.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
        assert!(last.wait().unwrap().success(), "{lines:?}");
        accepted
    })
    .await
    .unwrap();
    let arrived = server.accepted();
    let distinct: HashSet<_> = arrived.iter().map(String::as_str).collect();
    let missing: Vec<_> = accepted.iter().filter(|t| !distinct.contains(t.as_str())).collect();
    assert!(
        missing.is_empty(),
        "{} of {} accepted events did not arrive: {:?}",
        missing.len(),
        accepted.len(),
        missing[0]
    );
    eprintln!(
        "{} accepted, {} arrived, {} of them again",
        accepted.len(),
        arrived.len(),
        arrived.len() - distinct.len()
    );
    in_order(&arrived);
}

/// Each run's events come in the order in which they were made, those left aside that come again.
fn in_order(arrived: &[String]) {
    let mut seen = HashSet::new();
    let mut last = std::collections::HashMap::new();
    for text in arrived.iter().filter(|t| seen.insert(t.as_str())) {
        let (run, n) = text.trim_start_matches("killed ").split_once('-').unwrap();
        let n: u64 = n.parse().unwrap();
        let before = last.insert(run, n);
        assert!(before.is_none_or(|b| b < n), "{text} came after number {before:?}");
    }
}

/// 5,000 events a second with logs, traces and profiles delivered over OTLP, and all to Elasticsearch: as many arrive
/// as were made, each once, and memory does not grow. A minute; ten in `make soak`.
#[tokio::test(flavor = "multi_thread")]
async fn long_load_is_delivered_and_memory_stays() {
    if let Ok(task) = std::env::var(CHILD) {
        return make_and_deliver(&task).await;
    }
    const RATE: u64 = 5000;
    let seconds = std::env::var("BIANQUE_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let (server, at) = Server::start(Protocol::Http, ANY_PORT.into(), |_, _| Answer::Accept).await;
    let (came, bulk) = bulk::start().await;
    let bulk = bulk.to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let (memory, printed) = tokio::task::spawn_blocking(move || {
        let mut child =
            start("load::long_load_is_delivered_and_memory_stays", &path, (at, &bulk), "soak", RATE, seconds);
        let mut memory = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_secs(1));
            memory.extend(smaps::kib(child.id(), "Pss"));
        }
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let printed = lines.filter_map(|l| l.split_once("made ").map(|(_, t)| t.to_owned())).last();
        assert!(child.wait().unwrap().success());
        (memory, printed.unwrap())
    })
    .await
    .unwrap();
    let (made, lost) = printed.split_once(" lost ").unwrap();
    let (made, lost): (u64, u64) = (made.parse().unwrap(), lost.parse().unwrap());
    let arrived = server.accepted();
    assert_eq!(arrived.len() as u64, made - lost, "{lost} of {made} were lost on the way to the log");
    assert_eq!(arrived.iter().collect::<HashSet<_>>().len(), arrived.len(), "some arrived twice");
    in_order(&arrived);
    let came = came.lock().unwrap();
    let logs: Vec<_> = came.iter().filter(|(action, _)| action.contains(r#""logs-"#)).collect();
    assert_eq!(logs.len() as u64, made - lost, "documents in Elasticsearch");
    assert!(came.values().all(|n| *n == 1), "some were sent to Elasticsearch twice");
    let quarter = memory.len() / 4;
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    let (before, after) = (most(&memory[quarter..2 * quarter]), most(&memory[3 * quarter..]));
    eprintln!(
        "{made} made, {lost} lost before the log, {} arrived; memory {before} KiB, then {after} KiB",
        arrived.len()
    );
    assert_eq!(made, RATE * seconds);
    assert!(lost * 10 < made, "{lost} of {made} were lost on the way to the log");
    assert!(after < before + (8 << 10), "memory grew from {before} to {after} KiB: {memory:?}");
}
