// SPDX-License-Identifier: Apache-2.0
//! The agent on a real kernel: real anomalies, real containers, real faults.
//!
//! Each test makes the real thing happen in a cgroup or container of its own, and looks only at
//! what is said of that one. Tests run one at a time on a machine; each starts an agent with a
//! port, socket and store of its own. What a test needs stands in its first line, see
//! [`support::place`]: where this machine cannot, `tests/run` runs it in a VM.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests start programs, and may end so"
)]

#[expect(dead_code, reason = "the e2e tests use all of it")]
#[path = "../e2e/servers.rs"]
mod servers;
mod support;

mod cpu;
mod delivered;
mod doctor;
mod dropwatch;
mod examples;
mod faults;
mod netrecvlat;
mod oom;
mod privileges;
mod soak;
mod softirq;
mod tcp_retransmit;
mod workload;
