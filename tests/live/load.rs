// SPDX-License-Identifier: Apache-2.0
//! What the node has to do, beside the kernel's own figures.

use std::fs;

use crate::support::{Agent, Need, Process, place, timeout, wait_for};

/// A word of a line of `/proc/stat`.
fn stat(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap()
}

/// Counters lie between the kernel's figures before and after; threads that spin are runnable; the load average
/// is the kernel's.
#[test]
fn figures_are_the_kernels() {
    let _place = place!(Need::Agent);
    let before = ["processes ", "ctxt ", "intr "].map(stat);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let _spinning: Vec<_> = (0..4).map(|_| Process::start("while :; do :; done")).collect();
    wait_for("threads that are runnable", timeout(20), || {
        agent.metric("linux_thread_runnable_count", &[]).filter(|n| *n >= 4.0)
    });
    let names = ["linux_thread_created_total", "linux_cpu_context_switches_total", "linux_cpu_interrupts_total"];
    let seen = names.map(|name| agent.metric(name, &[]).unwrap());
    let after = ["processes ", "ctxt ", "intr "].map(stat);
    for (i, name) in names.iter().enumerate() {
        assert!(before[i] < seen[i] && seen[i] <= after[i], "{name}: {} {} {}", before[i], seen[i], after[i]);
    }
    let load = |name: &str| agent.metric(name, &[]);
    wait_for("the kernel's load average", timeout(20), || {
        let kernel = fs::read_to_string("/proc/loadavg").unwrap();
        let kernel: Vec<f64> = kernel.split(' ').take(3).map(|w| w.parse().unwrap()).collect();
        let seen = ["1m", "5m", "15m"].map(|over| load(&format!("system_cpu_load_average_{over}")));
        (seen.iter().flatten().eq(kernel.iter())).then_some(())
    });
}
