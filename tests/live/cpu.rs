// SPDX-License-Identifier: Apache-2.0
//! CPU time, waiting for a CPU, and the flame graph of who is busy.

use crate::support::{
    Agent, Container, Need, events_of, is_about, place, program, provoke, shell, timeout, unique, wait_for,
};

const SHORT: &str = "[collectors.cpuidle]\nwindow = \"3s\"\ncapture = \"2s\"\nhistory.window = \"20s\"\n";

/// Uses a little for some seconds, then all it can get.
const SUDDEN: &str = r"
#include <time.h>
#include <unistd.h>
static volatile long turns;
__attribute__((noinline)) void calm_before_the_storm(void)
{
    for (long i = 0; i < 3000000; i++)
        turns++;
}
__attribute__((noinline)) void burn_the_midnight_oil(void)
{
    for (;;)
        turns++;
}
int main(void)
{
    for (time_t end = time(0) + 6; time(0) < end;) {
        calm_before_the_storm();
        usleep(50000);
    }
    burn_the_midnight_oil();
}
";

/// A busy container's CPU time and waiting are its own series, under its name; a quiet one beside
/// it uses none.
///
/// On every kernel.
#[test]
fn container_has_its_cpu_time_and_waiting() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared(SHORT);
    let spin = "while :; do :; done & while :; do :; done";
    let busy = Container::start("busy", &["--cpuset-cpus", "0"], &["sh", "-c", spin]);
    let quiet = Container::start("quiet", &[], &["sleep", "3600"]);
    let of =
        |c: &Container, metric: &str| agent.metric(metric, &[("container_name", &c.name), ("container_id", &c.id)]);

    let first = wait_for("CPU time", timeout(20), || of(&busy, "container_cpu_time_seconds_total"));
    std::thread::sleep(timeout(4));
    let used = of(&busy, "container_cpu_time_seconds_total").unwrap() - first;
    assert!(used > 0.5, "two loops on one CPU used only {used} s in 4 s");
    assert!(of(&quiet, "container_cpu_time_seconds_total").unwrap_or(0.0) < 1.0, "a sleeping container used CPU");

    // Two loops share one CPU: one of them waits at any time.
    let waited = of(&busy, "linux_container_sched_runqueue_latency_seconds_sum").expect("run queue latency");
    assert!(waited > 0.5, "two loops on one CPU waited only {waited} s");
    assert!(of(&busy, "linux_container_sched_runqueue_latency_seconds_count").is_some_and(|n| n >= 1.0));
}

/// A container at its own limit opens an incident that shows which function burns the CPU, and what it did before; of
/// a quiet one nothing is said.
///
/// On every kernel.
#[test]
fn busy_container_shows_its_function() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::shared(SHORT);
    let sudden = program("sudden", SUDDEN);
    let quiet = Container::start("quiet", &["--cpus", "0.5"], &["sleep", "3600"]);
    let busy = Container::of_program("busy", &["--cpus", "0.5"], &sudden, &[]);

    let incident = agent.wait_incident(timeout(40), |i| {
        is_about(i, "container.name", &busy.name) && i["captures"].as_u64().is_some_and(|n| n >= 1)
    });
    assert_eq!(incident["name"], "linux.autotracing.cpuidle");
    let shown = agent.cli(&["show", incident["id"].as_str().unwrap()]);
    let tree = String::from_utf8_lossy(&shown.stdout);
    for function in ["burn_the_midnight_oil", "calm_before_the_storm", "cpu_profile_before"] {
        assert!(tree.contains(function), "the flame graphs do not name {function}:\n{tree}");
    }
    assert!(tree.contains(&busy.name), "{tree}");
    assert_eq!(events_of(agent.json(&["incidents"]), "container.name", &quiet.name).len(), 0);
}

/// Prometheus' own tool finds nothing to say about a live agent's page, with an incident on it.
///
/// The same on every kernel.
#[test]
fn promtool_finds_nothing() {
    let _place = place!(Need::Agent, Need::Promtool);
    let agent = Agent::shared(SHORT);
    let group = unique("promtool");
    provoke("oom-memcg", &["--cgroup", &group]);
    wait_for("the kill on the page", timeout(10), || {
        agent.metric("linux_container_memory_oom_kills_total", &[("container_name", &format!("/{group}"))])
    });
    let page = agent.get("/metrics");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page");
    std::fs::write(&file, &page).unwrap();
    let (_, said) = shell(&format!("promtool check metrics < {} 2>&1", file.display()));
    // The semantic conventions' names of counts end so, and their translation adds nothing.
    let said: Vec<&str> = said.lines().filter(|l| !l.contains("should not have \"_count\" suffix")).collect();
    assert!(said.is_empty(), "{said:?}");
}
