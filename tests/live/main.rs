// SPDX-License-Identifier: Apache-2.0
//! The agent on a real kernel: real anomalies, real containers, real faults.
//!
//! Each test causes a real anomaly in a cgroup, container, network or device of its own, and checks only
//! what is reported about that one. Tests run one at a time on a machine. Those of a file share an agent
//! (`Agent::shared`); a test that needs settings of its own, stops its agent, or checks that nothing at
//! all is reported starts one (`Agent::start`). What a test needs stands in its first line, see
//! [`support::place`]: where this machine cannot, `tests/run` runs it in a VM. What else a test is for
//! stands in its doc comment, see `tests/run --help`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests start programs, and may end so"
)]

#[expect(dead_code, reason = "the e2e tests use all of it")]
#[path = "../e2e/elastic.rs"]
mod elastic;
#[expect(dead_code, reason = "the e2e tests use all of it")]
#[path = "../e2e/servers.rs"]
mod servers;
mod support;

// Each file of this folder; `make regen` writes the list.
mod churn;
mod conntrack;
mod containerd;
mod cpu;
mod cpufreq;
mod cpusys;
mod delivered;
mod disk;
mod dload;
mod doctor;
mod dropwatch;
mod examples;
mod faults;
mod filesystem;
mod filters;
mod flood;
mod helper;
mod hungtask;
mod image;
mod interrupts;
mod iolat;
mod ipv6;
mod kubernetes;
mod lacp;
mod linkwatch;
mod load;
mod memory;
mod memreclaim;
mod neigh;
mod netdev;
mod netrecvlat;
mod netstat;
mod oom;
mod package;
mod pressure;
mod privileges;
mod processes;
mod ras;
mod runqlat;
mod schedstat;
mod service;
mod soak;
mod softirq;
mod softirqstat;
mod softlockup;
mod tcp_retransmit;
mod txtimeout;
mod workload;
