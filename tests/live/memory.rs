// SPDX-License-Identifier: Apache-2.0
//! Memory of the node and of a container, beside what the kernel has and what the program took.

use std::fs;

use crate::support::{Agent, Container, Need, place, program, timeout, wait_for};

const MIB: f64 = 1024.0 * 1024.0;

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

/// What a container's program takes is its anonymous memory, within 2 %; its limit is the one it was given;
/// the node's sizes are the kernel's.
///
/// On every kernel.
#[test]
fn what_a_program_takes_is_its_containers() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let taker = program("taker", TAKER);
    let container = Container::of_program("memory", &["--memory", "700m"], &taker, &[]);
    let of = |name: &str| agent.metric(name, &[("container_name", &container.name)]);
    let rss = wait_for("512 MiB of anonymous memory", timeout(60), || {
        of("container_memory_rss_bytes").filter(|rss| *rss >= 512.0 * MIB)
    });
    assert!(rss <= 512.0 * MIB * 1.02, "{rss}");
    let used = of("container_memory_usage_bytes").unwrap();
    assert!(rss <= used && used <= 700.0 * MIB, "{used}");
    assert_eq!(of("linux_container_memory_limit_bytes"), Some(700.0 * MIB));
    let available = of("container_memory_available_bytes").unwrap();
    assert!((150.0 * MIB..=188.0 * MIB).contains(&available), "{available}");

    assert_eq!(agent.metric("system_memory_limit_bytes", &[]), Some(meminfo("MemTotal")));
    let seen = agent.metric("linux_memory_size_bytes", &[("linux_memory_kind", "AnonPages")]).unwrap();
    assert!((seen / meminfo("AnonPages") - 1.0).abs() < 0.1, "{seen}");
    let minor = [("system_paging_fault_type", "minor")];
    let faults = agent.metric("container_paging_faults_total", &[("container_name", &container.name), minor[0]]);
    assert!(faults.is_some_and(|n| n >= 256.0), "{faults:?}");
    assert!(agent.metric("system_paging_faults_total", &minor) > faults);
}

const TAKER: &str = r"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    size_t n = 512UL << 20;
    char *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 1, n);
    for (;;) pause();
}
";
