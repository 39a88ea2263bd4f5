// SPDX-License-Identifier: Apache-2.0
//! The kernel takes the node's CPU time.

use crate::support::{Agent, Container, Need, place, timeout};

const SHORT: &str = "[collectors.cpusys]\nwindow = \"3s\"\ncapture = \"2s\"\n";
/// On each CPU one that has the kernel make random numbers.
const ASK: &str = "for i in $(seq $(nproc)); do dd if=/dev/urandom of=/dev/null bs=64k & done; wait";

/// Who makes the kernel work, by which system call, and in which of its functions.
///
/// On every kernel.
#[test]
fn who_makes_the_kernel_work() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start(SHORT);
    let container = Container::start("asking", &[], &["sh", "-c", ASK]);
    let incident = agent.wait_incident(timeout(40), |i| {
        i["name"] == "linux.autotracing.cpusys" && i["captures"].as_u64().is_some_and(|n| n >= 1)
    });
    let shown = agent.cli(&["show", incident["id"].as_str().unwrap()]);
    let text = String::from_utf8_lossy(&shown.stdout);
    let row = |table: &str, words: &[&str]| {
        let lines = text.lines().skip_while(|l| !l.contains(table)).skip(1);
        let found = lines.take(30).any(|l| words.iter().all(|w| l.contains(w)));
        assert!(found, "{table} has no row of {words:?}:\n{text}");
    };
    row("kernel_entries", &["read"]);
    row("callers", &[&container.name, "dd"]);
    assert!(text.contains("chacha"), "{text}");
}
