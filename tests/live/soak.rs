// SPDX-License-Identifier: Apache-2.0
//! What is seen only by waiting. One minute in `make test`, half an hour in `make soak`.
//!
//! The same on every kernel.

#[path = "../common/smaps.rs"]
mod smaps;

use std::fs;
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Agent, Container, Need, place, shell};

fn length() -> Duration {
    let seconds = std::env::var("BIANQUE_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// On a node where nothing is wrong nothing is reported, memory stays, and the agent sleeps: it wakes as seldom as its
/// readings ask for. CPU time, which depends on machine and build, is for the benchmarks; here it shows a thread that
/// spins.
#[test]
fn quiet_node_stays_quiet() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("[metrics]\ninterval = \"15s\"\n");
    let _quiet: Vec<Container> = (0..3).map(|_| Container::start("soak", &[], &["sleep", "86400"])).collect();
    std::thread::sleep(Duration::from_secs(10));
    let (cpu, memory) = (cpu_seconds(agent.pid()), smaps::kib(agent.pid(), "Pss").unwrap());
    let woken = wakeups(agent.pid());
    std::thread::sleep(length());
    let minutes = length().as_secs_f64() / 60.0;
    let used = (cpu_seconds(agent.pid()) - cpu) / minutes;
    let grown = smaps::kib(agent.pid(), "Pss").unwrap().saturating_sub(memory);
    let woken = (wakeups(agent.pid()) - woken) as f64 / length().as_secs_f64();
    eprintln!("{used:.3} s of CPU a minute; {woken:.1} wakeups a second; memory {memory} KiB, grown by {grown} KiB");
    assert!(woken < 60.0, "{woken} wakeups a second on a quiet node");
    assert!(used < 15.0, "{used} s of CPU a minute on a quiet node");
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
    let named: Vec<Json> = agent
        .json(&["events"])
        .into_iter()
        .filter(|e| e["resource"]["container.name"].as_str().is_some_and(|n| n.starts_with("bq-soak")))
        .collect();
    assert!(named.is_empty(), "false alarms: {named:?}");
}

/// Files written and compressed, many short TCP connections, processes that come and go.
const WORK: &str = "httpd -p 127.0.0.1:8080 -h /tmp; \
     while :; do \
       dd if=/dev/zero of=/tmp/a bs=64k count=16 2>/dev/null; gzip -c /tmp/a > /tmp/b; sync /tmp/b; \
       for i in 1 2 3 4 5; do wget -q -O /dev/null http://127.0.0.1:8080/b; done; \
       sleep 0.2; \
     done";

/// Ordinary work is no trouble: with default limits nothing of WARN or above is said of it.
#[test]
fn ordinary_work_is_no_alarm() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let work = Container::start("work", &[], &["sh", "-c", WORK]);
    std::thread::sleep(length());
    let (running, said) = shell(&format!("tests/containers/podman exec {} ls -l /tmp/b", work.name));
    assert!(running, "the work did not go on: {said}");
    let alarms: Vec<Json> = agent
        .json(&["events"])
        .into_iter()
        .filter(|e| matches!(e["severity"].as_str(), Some("WARN" | "ERROR" | "FATAL")))
        .filter(|e| e.to_string().contains(&work.id))
        .collect();
    assert!(alarms.is_empty(), "false alarms: {alarms:?}");
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // utime and stime, in clock ticks of 10 ms (proc_pid_stat(5)).
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// How often its threads slept and went on (proc_pid_status(5)).
fn wakeups(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.filter_map(|t| fs::read_to_string(t.unwrap().path().join("status")).ok());
    statuses
        .filter_map(|s| s.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok()))
        .sum()
}
