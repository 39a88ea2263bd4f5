// SPDX-License-Identifier: Apache-2.0
//! Frequencies and numbers of CPUs, beside the kernel's files.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Agent, Need, place, timeout, wait_for};

const CPUS: &str = "/sys/devices/system/cpu";

fn file(path: &str) -> Option<String> {
    fs::read_to_string(format!("{CPUS}/{path}")).ok().map(|text| text.trim().to_owned())
}

/// Each CPU's frequency lies within the driver's bounds; where there is no driver, there is no frequency, and lists and
/// `doctor` say why. Cores are those of the kernel.
///
/// On every kernel.
#[test]
fn figures_are_the_kernels() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("");
    let cores: BTreeSet<String> =
        (0..8192).filter_map(|n| file(&format!("cpu{n}/topology/thread_siblings_list"))).collect();
    let seen = wait_for("cores", timeout(20), || agent.metric("system_cpu_physical_count", &[]));
    assert_eq!(seen, cores.len() as f64, "{cores:?}");
    assert!(agent.metric("linux_cpu_offline_count", &[]).is_some());
    let frequency = agent.metric("system_cpu_frequency_hertz", &[("cpu_logical_number", "0")]);
    let hz =
        |name: &str| file(&format!("cpu0/cpufreq/cpuinfo_{name}_freq")).map(|t| t.parse::<f64>().unwrap() * 1000.0);
    match (frequency, hz("min"), hz("max")) {
        // What the CPU did on average may be somewhat beside its bounds.
        (Some(seen), Some(min), Some(max)) => assert!(min * 0.9 <= seen && seen <= max * 1.1, "{min} {seen} {max}"),
        (None, None, None) => {
            for rows in [agent.json(&["list"]), agent.json(&["doctor", "cpufreq"])] {
                let row = rows.iter().find(|r| r["name"] == "cpufreq").unwrap();
                assert!(row.to_string().contains("driver"), "{row}");
                assert!(row["state"] == "running" || row["state"] == "available", "{row}");
            }
        }
        other => panic!("{other:?}"),
    }
}
