// SPDX-License-Identifier: Apache-2.0
//! The scheduler's own sums, beside the kernel's file.

use std::fs;

use crate::support::{Agent, Need, Process, place, timeout, wait_for};

const FILE: &str = "/proc/schedstat";
const NAMES: [&str; 3] =
    ["linux_sched_run_time_seconds_total", "linux_sched_wait_time_seconds_total", "linux_sched_timeslices_total"];

/// Seconds that threads ran and waited, and how often one ran, over the CPUs.
fn kernel() -> [f64; 3] {
    let text = fs::read_to_string(FILE).unwrap();
    let lines = text.lines().filter(|l| l.starts_with("cpu"));
    let figures = lines.map(|l| l.split(' ').skip(7).map(|n| n.parse::<f64>().unwrap()).collect::<Vec<_>>());
    figures.fold([0.0; 3], |sum, n| [sum[0] + n[0] / 1e9, sum[1] + n[1] / 1e9, sum[2] + n[2]])
}

/// Threads that share a CPU wait as long as they run: it is seen, between the kernel's figures before and after. Where the
/// kernel keeps none, the collector says what it would need, and there is no figure.
///
/// On every kernel.
#[test]
fn figures_are_the_kernels() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let seen = || NAMES.map(|name| agent.metric(name, &[]));
    if !fs::exists(FILE).unwrap() {
        for rows in [agent.json(&["list"]), agent.json(&["doctor", "schedstat"])] {
            let row = rows.iter().find(|r| r["name"] == "schedstat").unwrap();
            assert!(row["state"] == "unavailable" && row.to_string().contains("CONFIG_SCHEDSTATS"), "{row}");
        }
        assert_eq!(seen(), [None; 3]);
        return;
    }
    let before = kernel();
    let _spinning: Vec<_> = (0..3).map(|_| Process::start("exec taskset -c 0 sh -c 'while :; do :; done'")).collect();
    wait_for("threads that wait", timeout(30), || seen()[1].filter(|n| *n >= before[1] + 4.0));
    let seen = seen().map(Option::unwrap);
    let after = kernel();
    for (i, name) in NAMES.iter().enumerate() {
        assert!(before[i] < seen[i] && seen[i] <= after[i] + 1e-6, "{name}: {} {} {}", before[i], seen[i], after[i]);
    }
}
