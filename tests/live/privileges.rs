// SPDX-License-Identifier: Apache-2.0
//! Started with less than root's privileges.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Agent, Need, assert_all_run, place, shell};

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
///
/// On every kernel.
#[test]
fn named_capabilities_are_enough() {
    let _place = place!(Need::Agent);
    let _level = PerfLevel::of_the_manual();
    let mut agent = Agent::prepare("");
    agent.as_nobody("+bpf,+perfmon,+sys_ptrace,+dac_read_search,+net_admin,+syslog");
    agent.run();
    agent.wait_ready();
    assert_all_run(&agent.json(&["list"]), &agent.log());
}

/// kernel.perf_event_paranoid as the manual wants it for an agent that is not started as root.
struct PerfLevel(String);

const PERF_LEVEL: &str = "/proc/sys/kernel/perf_event_paranoid";

impl PerfLevel {
    fn of_the_manual() -> Self {
        let before = std::fs::read_to_string(PERF_LEVEL).unwrap();
        if before.trim().parse::<i32>().unwrap() > 2 {
            std::fs::write(PERF_LEVEL, "2").unwrap();
        }
        PerfLevel(before)
    }
}

impl Drop for PerfLevel {
    fn drop(&mut self) {
        let _ = std::fs::write(PERF_LEVEL, &self.0);
    }
}

/// All that is not needed for life is given up before the first record.
#[test]
fn root_keeps_only_what_collectors_need() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).expect("CapEff");
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    // include/uapi/linux/capability.h
    for (bit, name) in [(21, "CAP_SYS_ADMIN"), (16, "CAP_SYS_MODULE"), (17, "CAP_SYS_RAWIO"), (7, "CAP_SETUID")] {
        assert_eq!(effective >> bit & 1, 0, "{name} is kept");
    }
}

/// The local socket answers root, the agent's user and its group, by primary or supplementary group;
/// others are refused in words, even where the file's mode would let them in.
#[test]
fn local_socket_knows_who_asks() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    let socket = agent.config_file().with_file_name("api.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let open = |path: &std::path::Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    open(socket.parent().unwrap(), 0o755).unwrap();
    let ask = |who: &str| {
        let curl = "curl -s -m 10 -w %{http_code} -o /dev/null http://localhost/v1/collectors --unix-socket";
        shell(&format!("{who} {curl} {}", socket.display())).1
    };
    let stranger = "setpriv --reuid 65534 --regid 65534";
    assert_eq!(ask(""), "200", "root");
    assert_eq!(ask(&format!("{stranger} --clear-groups")), "000", "the mode keeps strangers out");
    open(&socket, 0o666).unwrap();
    assert_eq!(ask(&format!("{stranger} --clear-groups")), "403", "a stranger");
    assert_eq!(ask(&format!("{stranger} --groups 0")), "200", "a member of the agent's group");
    assert_eq!(ask("setpriv --reuid 65534 --regid 0 --clear-groups"), "200", "one of the agent's group");
}
