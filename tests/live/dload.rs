// SPDX-License-Identifier: Apache-2.0
//! Blocked tasks pile up.

use crate::support::{Agent, Container, Need, is_about, place, provoke_in_background, timeout};

const SHORT: &str = "[collectors.dload]\nwindow = \"2s\"\n";

/// Writers of a container to a frozen file system: whose they are, how many, what they wait for, and their stacks.
///
/// On every kernel.
#[test]
fn pile_of_a_container_is_named() {
    let _place = place!(Need::Agent, Need::Freeze, Need::Podman);
    let agent = Agent::start(SHORT);
    let container = Container::start("pile", &[], &["sleep", "1000"]);
    let pile = ["--seconds", "8", "--writers", "12", "--in", &container.cgroup("cpu")];
    let pile = provoke_in_background("hungtask", &pile);
    let incident = agent.wait_incident(timeout(40), |i| {
        is_about(i, "container.name", &container.name)
            && i["name"] == "linux.autotracing.dload"
            && i["captures"].as_u64().is_some_and(|n| n >= 1)
    });
    let shown = agent.cli(&["show", incident["id"].as_str().unwrap()]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("12 tasks of") && text.contains("a frozen file system"), "{text}");
    for part in ["percpu_rwsem_wait", "waits", "frozen_filesystem", "blocked_tasks"] {
        assert!(text.contains(part), "no {part}:\n{text}");
    }
    pile.wait();
}
