// SPDX-License-Identifier: Apache-2.0
//! Tasks that sleep and cannot be woken.

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Group, Need, Process, is_about, place, provoke, provoke_in_background, timeout, wait_for,
};

const NAME: &str = "linux.task.hung";
const FAST: &str = "[collectors.hungtask]\nlimit = \"3s\"\n";

/// A writer to a frozen file system is named while it hangs, with its cgroup, where it sleeps and for
/// how long, and again when it goes on; a second one minutes later is no less. Who sleeps as tasks do,
/// and who keeps a CPU busy, is not named.
#[test]
fn hung_writer_is_named_and_others_are_not() {
    let _place = place!(Need::Agent, Need::Freeze);
    let agent = Agent::shared(FAST);
    let others = Group::new("others");
    let _sleeper = Process::start(&format!("echo $$ > {}/cgroup.procs; exec sleep 1000", others.dir()));
    let _spinner = Process::start(&format!("echo $$ > {}/cgroup.procs; while :; do :; done", others.dir()));
    let _io = Process::start(&format!(
        "echo $$ > {}/cgroup.procs; while :; do dd if=/dev/zero of=/tmp/bq-io.$$ bs=1M count=8 conv=fsync 2>/dev/null; rm -f /tmp/bq-io.$$; done",
        others.dir()
    ));
    for round in 0..2 {
        let group = Group::new("hung");
        let hang = provoke_in_background("hungtask", &["--seconds", "8", "--in", &group.dir()]);
        let found = |phase: &'static str| {
            let path = group.path();
            move |e: &Json| is_about(e, "linux.cgroup.path", &path) && e["attributes"]["linux.phase"] == phase
        };
        let begun = agent.wait_event(NAME, timeout(30), found("begun"));
        assert_eq!(begun["severity"], "WARN", "round {round}");
        assert_eq!(begun["attributes"]["thread.name"], "touch", "{begun}");
        assert!((3_000..8_000).contains(&ms(&begun)), "not found while it lasted: {begun}");
        assert_eq!(begun["attributes"]["linux.hung.wait"], "frozen_filesystem", "{begun}");
        assert!(begun["stacks"]["kernel"].to_string().contains("percpu"), "{begun}");
        hang.wait();
        let ended = agent.wait_event(NAME, timeout(20), found("ended"));
        assert!((8_000..20_000).contains(&ms(&ended)), "not all of its time: {ended}");
        let incident = agent.wait_incident(timeout(10), |i| is_about(i, "linux.cgroup.path", &group.path()));
        assert_eq!(incident["id"], begun["trace_id"]);
    }
    let wrong: Vec<Json> = agent
        .json(&["events", "--name", NAME])
        .into_iter()
        .filter(|e| is_about(e, "linux.cgroup.path", &others.path()))
        .collect();
    assert!(wrong.is_empty(), "false alarms: {wrong:?}");
}

/// The process of a container that hangs is the container's.
///
/// On every kernel.
#[test]
fn hung_container_is_named() {
    let _place = place!(Need::Agent, Need::Freeze, Need::Podman);
    let agent = Agent::shared(FAST);
    let container = Container::start("hung", &[], &["sleep", "1000"]);
    let group = container.cgroup("cpu");
    let hang = provoke_in_background("hungtask", &["--seconds", "6", "--in", &group]);
    let event = agent.wait_event(NAME, timeout(30), |e| is_about(e, "container.name", &container.name));
    assert_eq!(event["resource"]["container.id"], container.id.as_str());
    hang.wait();
    wait_for("counter of the container's hangs", timeout(10), || {
        let labels = [("container_name", container.name.as_str()), ("linux_phase", "begun")];
        agent.metric("linux_container_task_hangs_total", &labels).filter(|n| *n >= 1.0)
    });
}

/// What the kernel's own detector says is heard, though our own limit is far off.
#[test]
fn kernels_word_is_heard() {
    let _place = place!(Need::Agent, Need::Freeze);
    let agent = Agent::start("[collectors.hungtask]\nlimit = \"10m\"\n");
    let group = Group::new("kernels");
    provoke("hungtask", &["--seconds", "2", "--kernel", "2", "--in", &group.dir()]);
    let event = agent.wait_event(NAME, timeout(20), |e| is_about(e, "linux.cgroup.path", &group.path()));
    assert_eq!(event["attributes"]["linux.hung.reported_by_kernel"], true, "{event}");
    assert!((1_000..600_000).contains(&ms(&event)), "{event}");
}

fn ms(event: &Json) -> u64 {
    event["duration_ns"].as_u64().unwrap_or(0) / 1_000_000
}
