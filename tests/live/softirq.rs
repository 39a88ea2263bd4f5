// SPDX-License-Identifier: Apache-2.0
//! Interrupts and softirqs that are held up.

use serde_json::Value as Json;

use crate::support::{Agent, Need, patience, place, provoke};

/// Interrupts off on CPU 0 are reported with how long, on which CPU, and the stack that held it.
#[test]
fn cpu_without_interrupts_is_reported() {
    let _place = place!(Need::Agent, Need::Spin);
    let agent = Agent::start("");
    provoke("irqoff", &["--ms", "300", "--times", "3", "--cpu", "0"]);
    let event = agent
        .wait_event("linux.irq.held_off", patience(10), |e| ms(e) >= 200 && e["attributes"]["cpu.logical_number"] == 0);
    assert_eq!(event["severity"], "WARN");
    assert!(event["stacks"]["kernel"].as_array().is_some_and(|s| !s.is_empty()), "no stack: {event}");
}

/// A softirq that was raised and did not run is reported, with its vector.
#[test]
fn late_softirq_is_reported() {
    let _place = place!(Need::Agent, Need::Spin);
    let agent = Agent::start("");
    provoke("softirqdelay", &["--ms", "300", "--times", "3", "--cpu", "0"]);
    let event = agent.wait_event("linux.softirq.delay", patience(10), |e| ms(e) >= 200);
    assert!(event["attributes"]["linux.softirq.vector"].is_string(), "{event}");
}

/// A limit that is raised by SIGHUP holds from then on, and nothing before it is lost.
#[test]
fn limit_changes_on_reload() {
    let _place = place!(Need::Agent, Need::Spin);
    let agent = Agent::start("[collectors.softirq]\nheld_off_limit = \"100ms\"\ndelay_limit = \"100ms\"\n");
    provoke("irqoff", &["--ms", "300", "--times", "2"]);
    agent.wait_event("linux.irq.held_off", patience(10), |e| ms(e) >= 200);
    agent.reconfigure(|c| c.replace("\"100ms\"", "\"5s\""));
    agent.signal("HUP");
    std::thread::sleep(patience(1));
    let before = late(&agent);
    provoke("irqoff", &["--ms", "300", "--times", "2"]);
    std::thread::sleep(patience(1));
    assert_eq!(late(&agent), before, "reported under the raised limit, or lost");
}

fn late(agent: &Agent) -> usize {
    agent.json(&["events", "--name", "linux.irq.held_off"]).iter().filter(|e| ms(e) >= 200).count()
}

fn ms(event: &Json) -> u64 {
    event["duration_ns"].as_u64().unwrap_or(0) / 1_000_000
}
