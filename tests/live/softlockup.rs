// SPDX-License-Identifier: Apache-2.0
//! CPUs that a task keeps in the kernel.

use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Agent, Group, Need, Process, place, provoke, timeout};

const NAME: &str = "linux.cpu.soft_lockup";

/// With the kernel's watchdog off, a CPU that spins in the kernel is found while it does: the task, its
/// cgroup, its stack, what the other CPU did; and its end. A second one is no less.
#[test]
fn stuck_cpu_is_found_without_the_watchdog() {
    let _place = place!(Need::Agent, Need::Spin, Need::OwnMachine);
    let agent = Agent::start("");
    for round in 1..=2 {
        let group = Group::new("stuck");
        provoke("softlockup", &["--seconds", "8", "--watchdog", "0", "--cpu", "1", "--in", &group.dir()]);
        let of = |phase: &'static str| {
            let path = group.path();
            move |e: &Json| {
                e["attributes"]["linux.culprit"]["linux.cgroup.path"] == path.as_str()
                    && e["attributes"]["linux.phase"] == phase
            }
        };
        let begun = agent.wait_event(NAME, timeout(10), of("begun"));
        assert_eq!((&begun["severity"], &begun["attributes"]["cpu.logical_number"]), (&"ERROR".into(), &1.into()));
        assert!((4_000..6_500).contains(&ms(&begun)), "round {round}: {begun}");
        assert!(begun["stacks"]["kernel"].as_array().is_some_and(|s| s.len() > 1), "no stack: {begun}");
        // It came by a system call, as far as its program can be unwound.
        assert!(begun["stacks"]["user"][0].as_str().is_some_and(|f| !f.starts_with("0x")), "no user frame: {begun}");
        let others = begun["attributes"]["linux.lockup.cpus"].as_array().cloned().unwrap_or_default();
        assert!(others.iter().any(|o| o["cpu.logical_number"] == 0 && o["cpu.mode"].is_string()), "{begun}");
        assert_eq!(begun["attributes"]["linux.lockup.reported_by_kernel"], false, "{begun}");
        let ended = agent.wait_event(NAME, timeout(10), of("ended"));
        assert!((6_000..9_000).contains(&ms(&ended)), "not all of its time: {ended}");
    }
}

/// Where the kernel's watchdog speaks first, it is heard, with the stack that it takes a look for.
#[test]
fn watchdog_that_speaks_first_is_heard() {
    let _place = place!(Need::Agent, Need::Spin, Need::OwnMachine);
    let agent = Agent::start("[collectors.softlockup]\nlimit = \"60s\"\n");
    provoke("softlockup", &["--seconds", "9", "--watchdog", "1", "--cpu", "1"]);
    let event = agent.wait_event(NAME, timeout(20), |e| e["attributes"]["linux.lockup.reported_by_kernel"] == true);
    assert_eq!(
        (&event["attributes"]["linux.phase"], &event["attributes"]["cpu.logical_number"]),
        (&"begun".into(), &1.into())
    );
    assert!(event["stacks"]["kernel"].as_array().is_some_and(|s| s.len() > 1), "no stack: {event}");
}

/// Programs that never sleep, two on a CPU, and one that is in the kernel nearly all of the time: busy
/// is not stuck.
#[test]
fn busy_programs_are_no_lockup() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("[collectors.softlockup]\nlimit = \"2s\"\n");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = |cpu: usize| Process::start(&format!("exec taskset -c {cpu} sh -c 'while :; do :; done'"));
    let call = |cpu: usize| {
        Process::start(&format!("exec taskset -c {cpu} dd if=/dev/zero of=/dev/null bs=64M count=1000000000"))
    };
    let _busy: Vec<Process> = (0..cpus).flat_map(|cpu| [spin(cpu), call(cpu)]).collect();
    std::thread::sleep(Duration::from_secs(12));
    let list = agent.json(&["list"]);
    assert!(list.iter().any(|c| c["name"] == "softlockup" && c["state"] == "running"), "{list:?}");
    assert_eq!(agent.json(&["events", "--name", NAME]), [] as [Json; 0]);
}

fn ms(event: &Json) -> u64 {
    event["duration_ns"].as_u64().unwrap_or(0) / 1_000_000
}
