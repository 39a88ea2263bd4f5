// SPDX-License-Identifier: Apache-2.0
//! Hardware errors, as far as they can be pretended.

use serde_json::Value as Json;

use crate::support::{Agent, Need, is_about, place, provoke, timeout, unique, wait_for};

const NAME: &str = "linux.hw.error";

fn from(source: &str) -> impl Fn(&Json) -> bool {
    move |e| e["attributes"]["linux.hw.error.source"] == source
}

fn count(agent: &Agent, source: &str) -> usize {
    let of_source = from(source);
    agent.json(&["events", "--name", NAME]).iter().filter(|e| of_source(e)).count()
}

/// Provokes twice: the event of the first, and there is a second.
fn twice(agent: &Agent, source: &str, provocation: &str, args: &[&str]) -> Json {
    assert_eq!(count(agent, source), 0, "an error that nobody made");
    provoke(provocation, args);
    let event = agent.wait_event(NAME, timeout(10), from(source));
    assert_eq!(event["collector"], "ras");
    let before = count(agent, source);
    provoke(provocation, args);
    wait_for("second error", timeout(10), || (count(agent, source) > before).then_some(()));
    event
}

/// What is missing is missing because the kernel has no such tracepoint, never because its verifier
/// refuses the program.
///
/// On every kernel.
#[test]
fn no_program_is_refused() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    let list = agent.json(&["list"]);
    let ras = list.iter().find(|r| r["name"] == "ras").expect("ras is listed");
    if ras["state"] == "running" {
        assert!(!ras["reason"].to_string().contains("verifier"), "{ras}");
    } else {
        assert!(ras["reason"].to_string().contains("none of the tracepoints"), "{ras}");
    }
}

/// A corrected read error of a memory controller, injected as a machine check.
///
/// On every kernel.
#[test]
fn machine_check_is_decoded() {
    let _place = place!(Need::Agent, Need::KernelModule("mce-inject"));
    let agent = Agent::shared("");
    let event = twice(&agent, "mce", "mce", &[]);
    let attributes = &event["attributes"];
    assert_eq!(event["severity"], "WARN");
    assert_eq!(attributes["linux.hw.error.severity"], "corrected");
    assert_eq!(attributes["linux.hw.error.kind"], "memory controller: read, channel 0");
    assert_eq!(attributes["hw.type"], "memory");
    assert_eq!(attributes["linux.hw.error.address"], "0x12345000");
    assert_eq!(attributes["linux.hw.error.status"], "0x9c00004000010090");
    assert_eq!(attributes["cpu.logical_number"], 0);
    assert!([1, 4].contains(&attributes["linux.hw.error.bank"].as_u64().unwrap()), "{event}");
}

/// EDAC's report names the DIMM, and firmware's that nobody decodes is kept as it is.
#[test]
fn reports_of_edac_and_firmware_name_the_part() {
    let _place = place!(Need::Agent, Need::Module);
    let agent = Agent::shared("");
    let event = twice(&agent, "edac", "ras", &["--event", "mc_event"]);
    let attributes = &event["attributes"];
    assert_eq!(event["severity"], "WARN");
    assert_eq!(attributes["hw.name"], "DIMM_A1");
    assert_eq!(attributes["linux.hw.error.kind"], "provoked");
    assert_eq!(attributes["linux.hw.error.severity"], "corrected");
    assert_eq!(attributes["linux.hw.error.address"], "0x12345000");
    assert_eq!(attributes["linux.hw.error.grain"], 4096);
    assert_eq!(attributes["linux.hw.error.syndrome"], "0xabcd");
    assert_eq!(attributes["linux.hw.error.count"], 1);
    assert_eq!(attributes["linux.hw.error.detail"], "memory read error");
    assert_eq!(attributes["linux.hw.error.layers"], serde_json::json!([0, 0, -1]));

    let event = twice(&agent, "ghes", "ras", &["--event", "non_standard_event"]);
    let attributes = &event["attributes"];
    assert_eq!(attributes["linux.hw.error.severity"], "uncorrected");
    assert_eq!(event["severity"], "ERROR");
    assert_eq!(attributes["linux.hw.error.section"], "61ec04fc-48e6-d813-25c9-8daa44750b12");
    assert_eq!(attributes["linux.hw.error.kind"], "platform memory section");
    assert_eq!(attributes["linux.hw.error.data"], "0102030405060708");
    assert_eq!(attributes["linux.hw.error.length"], 8);
    assert_eq!(attributes["hw.name"], "provoked");
}

/// A corrected PCI Express error, of the device that it was injected for.
#[test]
fn pcie_error_names_the_device() {
    let _place = place!(Need::Agent, Need::KernelModule("aer_inject"), Need::HardwareEvents);
    let agent = Agent::shared("");
    let event = twice(&agent, "aer", "ras", &["--event", "aer_event"]);
    let attributes = &event["attributes"];
    assert_eq!(event["severity"], "WARN");
    assert_eq!(attributes["linux.hw.error.severity"], "corrected");
    assert_eq!(attributes["linux.hw.error.flags"], serde_json::json!(["bad TLP"]));
    let device = attributes["hw.name"].as_str().unwrap();
    assert!(std::path::Path::new("/sys/bus/pci/devices").join(device).exists(), "{event}");
}

/// A page that memory_failure() takes, and its owner, though its process is dead by then.
#[test]
fn lost_page_names_who_had_it() {
    let _place = place!(Need::Agent, Need::PageFailure);
    let agent = Agent::shared("");
    for group in [unique("page"), unique("page")] {
        provoke("ras", &["--event", "memory_failure_event", "--cgroup", &group]);
        let path = format!("/{group}");
        let event = agent.wait_event(NAME, timeout(10), |e| is_about(e, "linux.cgroup.path", &path));
        assert_eq!(event["severity"], "ERROR");
        assert_eq!(event["attributes"]["linux.hw.error.source"], "memory_failure");
        assert_eq!(event["attributes"]["linux.hw.error.severity"], "uncorrected");
        assert_eq!(event["attributes"]["thread.name"], "perl", "{event}");
        assert!(event["attributes"]["linux.hw.error.virtual_address"].is_string(), "{event}");
    }
    let all = agent.json(&["events", "--name", NAME]);
    let pages: Vec<_> = all.iter().filter(|e| e["attributes"]["linux.hw.error.outcome"] == "recovered").collect();
    assert_eq!(pages.len(), 2, "{all:?}");
    for page in pages {
        let kind = page["attributes"]["linux.hw.error.kind"].as_str().unwrap_or_default();
        assert!(kind.contains("LRU page"), "{page}");
        assert!(page["attributes"]["linux.hw.error.address"].is_string(), "{page}");
    }
}
