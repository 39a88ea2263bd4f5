// SPDX-License-Identifier: Apache-2.0
//! Interrupts and softirqs that are held up.

use serde_json::Value as Json;

use crate::support::{Agent, Container, Need, place, program, provoke, shell, timeout};

/// Interrupts off on CPU 0 are reported with how long, on which CPU, and the stack that held it.
///
/// On every kernel.
#[test]
fn cpu_without_interrupts_is_reported() {
    let _place = place!(Need::Agent, Need::Spin);
    let agent = Agent::shared("");
    provoke("irqoff", &["--ms", "300", "--times", "3", "--cpu", "0"]);
    let event = agent
        .wait_event("linux.irq.held_off", timeout(10), |e| ms(e) >= 200 && e["attributes"]["cpu.logical_number"] == 0);
    assert_eq!(event["severity"], "WARN");
    assert!(event["stacks"]["kernel"].as_array().is_some_and(|s| !s.is_empty()), "no stack: {event}");
}

/// The program on the CPU meanwhile is named: its container, and where it was executing.
#[test]
fn program_on_the_cpu_is_named() {
    let _place = place!(Need::Agent, Need::Spin, Need::Podman);
    let agent = Agent::shared("");
    let container = Container::start("culprit", &[], &["sleep", "1000"]);
    // Of two CPUs it stops one, which may be the one of the agent's helper: it goes on for long enough that the helper
    // gets the other before the program is gone. Names of functions may come after the event.
    provoke("irqoff", &["--ms", "200", "--times", "8", "--cpu", "0", "--in", &container.cgroup("cpu")]);
    let is_named = |e: &Json| {
        let innermost = e["stacks"]["user"][0].as_str().unwrap_or_default();
        !innermost.is_empty() && !innermost.starts_with("0x")
    };
    let event = agent.wait_event("linux.irq.held_off", timeout(10), |e| {
        e["attributes"]["linux.culprit"]["container.name"] == container.name.as_str() && is_named(e)
    });
    assert!(event["attributes"]["linux.stack.user_id"].is_string(), "{event}");
}

/// A softirq that was raised and did not run is reported, with its vector.
///
/// On every kernel.
#[test]
fn late_softirq_is_reported() {
    let _place = place!(Need::Agent, Need::Spin);
    let agent = Agent::shared("");
    provoke("softirqdelay", &["--ms", "300", "--times", "3", "--cpu", "0"]);
    let event = agent.wait_event("linux.softirq.delay", timeout(10), |e| ms(e) >= 200);
    assert!(event["attributes"]["linux.softirq.vector"].is_string(), "{event}");
}

/// A limit that is raised by SIGHUP holds from then on, and nothing before it is lost.
#[test]
fn limit_changes_on_reload() {
    let _place = place!(Need::Agent, Need::Spin);
    let agent = Agent::start("[collectors.softirq]\nheld_off_limit = \"100ms\"\ndelay_limit = \"100ms\"\n");
    provoke("irqoff", &["--ms", "300", "--times", "2"]);
    agent.wait_event("linux.irq.held_off", timeout(10), |e| ms(e) >= 200);
    agent.reconfigure(|c| c.replace("\"100ms\"", "\"5s\""));
    agent.signal("HUP");
    std::thread::sleep(timeout(1));
    let before = late(&agent);
    provoke("irqoff", &["--ms", "300", "--times", "2"]);
    std::thread::sleep(timeout(1));
    assert_eq!(late(&agent), before, "reported under the raised limit, or lost");
}

/// A program that arms timers for a moment long past holds nobody up: such timers are late by
/// themselves (`timerfd_settime(2)` with TFD_TIMER_ABSTIME; systemd does so).
#[test]
fn timers_armed_for_the_past_are_no_alarm() {
    let _place = place!(Need::Agent, Need::Compiler);
    let agent = Agent::shared("");
    let name = "bq-past-timers";
    let (program, _dir) = program(name, PAST_TIMERS);
    let (fine, said) = shell(&program.display().to_string());
    assert!(fine && said.contains("fired 1000"), "{said}");
    std::thread::sleep(timeout(1));
    let of_it = agent.json(&["events", "--name", "linux.irq.held_off"]);
    let of_it: Vec<_> = of_it.iter().filter(|e| e["attributes"]["thread.name"] == name).collect();
    assert!(of_it.is_empty(), "false alarms: {of_it:?}");
}

const PAST_TIMERS: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <unistd.h>
int main(void) {
    int fired = 0, fd = timerfd_create(CLOCK_MONOTONIC, 0);
    for (int i = 0; i < 1000; i++) {
        struct itimerspec past = { .it_value = { .tv_nsec = 1 } };
        uint64_t n;
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &past, 0);
        fired += read(fd, &n, sizeof n) == sizeof n;
    }
    printf("fired %d\n", fired);
}
"#;

fn late(agent: &Agent) -> usize {
    agent.json(&["events", "--name", "linux.irq.held_off"]).iter().filter(|e| ms(e) >= 200).count()
}

fn ms(event: &Json) -> u64 {
    event["duration_ns"].as_u64().unwrap_or(0) / 1_000_000
}
