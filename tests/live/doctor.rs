// SPDX-License-Identifier: Apache-2.0
//! What `doctor` says is what then happens.

use serde_json::Value as Json;

use crate::support::{Agent, Need, bianque, place, shell};

/// These run on every kernel from 5.10 on, at least in part.
const EVERYWHERE: &[&str] = &[
    "cpu",
    "runqlat",
    "oom",
    "softirq",
    "softlockup",
    "hungtask",
    "memreclaim",
    "dropwatch",
    "tcp_retransmit",
    "netrecvlat",
    "linkwatch",
    "txtimeout",
    "lacp",
    "ras",
    "cpuidle",
];

fn doctor(wrap: &str) -> (bool, Vec<Json>, String) {
    let binary = bianque().get_program().to_string_lossy().into_owned();
    let (ok, text) = shell(&format!(
        "env $(env | sed -n 's/^\\(BIANQUE_[A-Z_]*\\)=.*/-u \\1/p') {} 2>&1",
        wrap.replace("BIANQUE", &binary)
    ));
    let rows = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    (ok, rows, text)
}

fn row<'a>(rows: &'a [Json], name: &str) -> Option<&'a Json> {
    rows.iter().find(|r| r["name"] == name && r["type"] != "node")
}

/// On each kernel that is tested: every built-in collector has a hook, and each that `doctor`
/// says will run does run.
#[test]
fn reports_what_runs_on_this_kernel() {
    let _place = place!(Need::Agent);
    let (ok, rows, text) = doctor("BIANQUE doctor -o json");
    assert!(ok, "doctor finds fault with this kernel:\n{text}");
    for name in EVERYWHERE {
        assert!(row(&rows, name).is_some(), "doctor does not speak of {name}:\n{text}");
    }
    let agent = Agent::start("");
    let list = agent.json(&["list"]);
    for name in EVERYWHERE {
        let said = row(&rows, name).unwrap();
        let state = &row(&list, name).unwrap_or_else(|| panic!("{name} is not listed"))["state"];
        assert!(*state == "running", "{name} is {state}; doctor said {said}\n{}", agent.log());
    }
    eprintln!("{text}");
}

/// A kernel without BTF: every probe is unavailable for that reason, and `doctor` says what to do.
#[test]
fn names_missing_btf() {
    let _place = place!(Need::Agent);
    let hidden = "unshare -m sh -c 'mount -t tmpfs none /sys/kernel/btf && exec BIANQUE doctor -o json'";
    let (_, rows, text) = doctor(hidden);
    let oom = row(&rows, "oom").unwrap_or_else(|| panic!("no row of oom:\n{text}"));
    assert!(oom.to_string().contains("BTF"), "oom's row does not name BTF: {oom}");

    let mut agent = Agent::prepare("");
    agent.wrapped(&["unshare", "-m", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\""]);
    agent.run();
    agent.wait_ready();
    let list = agent.json(&["list"]);
    let oom = row(&list, "oom").expect("oom is listed");
    assert_eq!(oom["state"], "unavailable");
    assert!(oom["reason"].as_str().is_some_and(|r| r.contains("BTF")), "{oom}");
}
