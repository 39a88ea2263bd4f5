// SPDX-License-Identifier: Apache-2.0
//! Started with less than root's privileges.

use crate::support::{Agent, Need, place};

/// As nobody, the agent still runs: what it cannot load is unavailable, with the capability named.
#[test]
fn without_privileges_it_says_what_is_missing() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::prepare("");
    agent.as_nobody("");
    agent.run();
    agent.wait_ready();
    let list = agent.json(&["list"]);
    let oom = list.iter().find(|r| r["name"] == "oom").expect("oom is listed");
    assert_eq!(oom["state"], "unavailable", "{oom}");
    assert!(oom["reason"].as_str().is_some_and(|r| r.contains("CAP_BPF")), "names no capability: {oom}");
    assert!(agent.stop().success());
}

/// With the capabilities that the manual names, and no more, all collectors run as nobody.
#[test]
fn named_capabilities_are_enough() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::prepare("");
    agent.as_nobody("+bpf,+perfmon,+sys_ptrace,+dac_read_search,+net_admin,+syslog");
    agent.run();
    agent.wait_ready();
    for row in agent.json(&["list"]) {
        let state = row["state"].as_str().unwrap_or_default();
        assert!(matches!(state, "running" | "idle" | "disabled"), "{row}\n{}", agent.log());
    }
}

/// All that is not needed for life is given up before the first record.
#[test]
fn root_keeps_only_what_collectors_need() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).expect("CapEff");
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    // include/uapi/linux/capability.h
    for (bit, name) in [(21, "CAP_SYS_ADMIN"), (16, "CAP_SYS_MODULE"), (17, "CAP_SYS_RAWIO"), (7, "CAP_SETUID")] {
        assert_eq!(effective >> bit & 1, 0, "{name} is kept");
    }
}
