// SPDX-License-Identifier: Apache-2.0
//! Bonds that lose a port.

use serde_json::Value as Json;

use crate::support::{Agent, Need, place, provoke, shell, timeout, unique};

const NAME: &str = "linux.net.lacp_change";

/// Bonds made after the agent started, in network namespaces of their own: coming up warns of
/// nothing, each loss of a port is one warning for each side, with aggregator and partner before and
/// after.
#[test]
fn lost_port_is_reported_each_time() {
    let _place = place!(Need::Agent, Need::Iproute, Need::KernelModule("bonding"));
    let agent = Agent::start("");
    let name = unique("lacp");
    provoke("lacp", &["--times", "2", "--name", &name]);
    let lost = |agent: &Agent, port: &str| -> Vec<Json> {
        let all = agent.json(&["events", "--name", NAME]);
        all.into_iter().filter(|e| change(e) == "port_down" && e["attributes"]["linux.net.lacp.port"] == port).collect()
    };
    let events = crate::support::wait_for("both losses of pa1", timeout(10), || {
        let events = lost(&agent, "pa1");
        (events.len() == 2).then_some(events)
    });
    for event in events.iter().chain(&lost(&agent, "pb1")) {
        let attributes = &event["attributes"];
        assert_eq!(event["severity"], "WARN");
        assert_eq!(event["collector"], "lacp");
        assert_eq!(attributes["network.interface.name"], "bond0");
        let states = |key: &str| attributes[key].as_array().cloned().unwrap_or_default();
        assert!(states("linux.net.lacp.actor.state.before").contains(&"distributing".into()), "{event}");
        let carries = states("linux.net.lacp.actor.state").contains(&"distributing".into());
        assert!(!carries || attributes["linux.net.lacp.link"] == "down", "{event}");
        assert_eq!(attributes["linux.net.lacp.ports.before"], 2, "{event}");
        assert!(attributes["linux.net.lacp.aggregator"].is_u64(), "{event}");
        assert!(attributes["linux.net.lacp.aggregator.before"].is_u64(), "{event}");
        assert!(attributes["linux.net.lacp.partner.before"].as_str().is_some_and(|p| !p.starts_with("00:00:00:00:00")));
    }
    assert_eq!(lost(&agent, "pb1").len(), 2);
    // Of the ports that stayed, and of the bonds' coming up, nothing is a warning; of their end,
    // when the provocation takes its devices away, there may be.
    let all = agent.json(&["events", "--name", NAME]);
    let others = all.iter().filter(|e| e["severity"] == "WARN" && change(e) != "port_down");
    let others: Vec<_> = others.filter(|e| !matches!(change(e), "partner" | "port_removed")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(lost(&agent, "pa0").len() + lost(&agent, "pb0").len(), 0);
    assert!(all.iter().any(|e| change(e) == "port_up"), "no port came up: {all:?}");
}

/// A node without a bond is not looked at.
#[test]
fn quiet_without_a_bond() {
    let _place = place!(Need::Agent, Need::Iproute);
    let agent = Agent::start("");
    let name = unique("quiet");
    let (ok, said) =
        shell(&format!("ip link add {name:.12}a type veth peer name {name:.12}b && ip link del {name:.12}a"));
    assert!(ok, "{said}");
    std::thread::sleep(timeout(1));
    assert_eq!(agent.json(&["events", "--name", NAME]), [] as [Json; 0]);
    assert_eq!(agent.metric("linux_net_lacp_changes_total", &[]), Some(0.0));
}

fn change(event: &Json) -> &str {
    event["attributes"]["linux.net.lacp.change"].as_str().unwrap_or_default()
}
