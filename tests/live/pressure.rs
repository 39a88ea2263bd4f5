// SPDX-License-Identifier: Apache-2.0
//! Waiting as the kernel keeps it.

use std::fs;

use crate::support::{Agent, Container, Need, place, timeout, wait_for};

/// `total` of a line of a pressure file, in seconds.
fn total(file: &str, kind: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|l| l.starts_with(kind)).unwrap();
    line.rsplit_once("total=").unwrap().1.parse::<f64>().unwrap() / 1e6
}

/// The node's figure lies between the kernel's before and after; on v2 a container's does, too.
#[test]
fn figures_are_the_kernels() {
    let _place = place!(Need::Agent, Need::Podman, Need::CgroupV2);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let spin = "while :; do :; done & while :; do :; done";
    let container = Container::start("pressed", &["--cpuset-cpus", "0"], &["sh", "-c", spin]);
    let file = format!("{}/cpu.pressure", container.cgroup("cpu"));
    let some = ("system_linux_pressure_stall_type", "some");
    let labels = [("container_name", container.name.as_str()), some];
    let before = [total("/proc/pressure/cpu", "some"), total(&file, "some")];
    let seen = wait_for("pressure of the container", timeout(30), || {
        let own = agent.metric("container_cpu_linux_pressure_seconds_total", &labels)?;
        let node = agent.metric("system_cpu_linux_pressure_seconds_total", &[some])?;
        (own > before[1] + 0.5 && node > before[0]).then_some([node, own])
    });
    let after = [total("/proc/pressure/cpu", "some"), total(&file, "some")];
    assert!(seen[0] <= after[0] && seen[1] <= after[1], "{before:?} {seen:?} {after:?}");
    let full = ("system_linux_pressure_stall_type", "full");
    assert_eq!(agent.metric("system_cpu_linux_pressure_seconds_total", &[full]), None);
    assert!(agent.metric("system_memory_linux_pressure_seconds_total", &[full]).is_some());
}
