// SPDX-License-Identifier: Apache-2.0
//! Network devices that come, change and go.

use serde_json::Value as Json;

use crate::support::{Agent, Container, Need, place, provoke, shell, timeout, unique, wait_for};

const NAME: &str = "linux.net.link_change";

/// The changes of the device of this name, oldest first.
fn changes(agent: &Agent, device: &str) -> Vec<(String, Json)> {
    let all = agent.json(&["events", "--name", NAME]).into_iter();
    let mut all: Vec<Json> = all.filter(|e| e["attributes"]["network.interface.name"] == device).collect();
    all.sort_by_key(|e| e["id"].as_str().unwrap_or_default().to_owned());
    let change = |e: &Json| e["attributes"]["linux.net.link.change"].as_str().unwrap_or_default().to_owned();
    all.into_iter().map(|e| (change(&e), e)).collect()
}

fn has(all: &[(String, Json)], change: &str) -> Option<Json> {
    all.iter().find(|(c, _)| c == change).map(|(_, e)| e.clone())
}

fn ip(line: &str) {
    let (ok, said) = shell(&format!("ip {line}"));
    assert!(ok, "ip {line}: {said}");
}

/// A veth pair that is made after the agent started: every loss and return of the carrier, each once,
/// as veth's not worth a warning; the pair's coming and going.
#[test]
fn carrier_is_lost_and_found() {
    let _place = place!(Need::Agent, Need::Iproute);
    let agent = Agent::shared("");
    let losses = || {
        let labels = [("linux_net_link_change", "carrier_down")];
        agent.metric("linux_net_link_changes_total", &labels).unwrap_or(0.0)
    };
    let before = losses();
    // A device's name has 15 characters at most.
    let name = format!("bq{}l", std::process::id() % 100_000);
    provoke("linkflap", &["--times", "3", "--name", &name]);
    let device = format!("{name}0");
    let all = wait_for("end of the device", timeout(10), || {
        let all = changes(&agent, &device);
        has(&all, "removed").map(|_| all)
    });
    let kinds: Vec<&str> = all.iter().map(|(c, _)| c.as_str()).collect();
    let flap = ["carrier_up", "carrier_down"];
    let mut want = vec!["added", "admin_up"];
    want.extend(flap.iter().cycle().take(6));
    want.push("removed");
    // Deleting a device sets it down first.
    let kinds: Vec<&str> = kinds.into_iter().filter(|k| *k != "admin_down").collect();
    assert_eq!(kinds, want);
    for (_, e) in &all {
        assert_eq!(e["severity"], "INFO");
        assert_eq!(e["attributes"]["linux.net.device.kind"], "veth");
    }
    let lost = has(&all, "carrier_down").unwrap();
    assert_eq!(lost["attributes"]["linux.net.link.changed_by"], "device");
    assert_eq!(lost["attributes"]["linux.net.link.carrier"], false);
    assert_eq!(lost["attributes"]["linux.net.link.admin"], "up");
    assert_eq!(lost["attributes"]["linux.net.link.speed"], 10_000_000_000_u64);

    // The peer was set down by hand, three times at least, and that has a name.
    let peer = changes(&agent, &format!("{name}1"));
    let down = has(&peer, "admin_down").unwrap();
    assert_eq!(down["attributes"]["linux.net.link.changed_by"], "process", "{down}");
    assert_eq!(down["attributes"]["linux.trigger"]["thread.name"], "ip", "{down}");
    assert!(losses() >= before + 3.0, "{} after {before}", losses());

    // A second fault within minutes is found as the first was.
    let again = format!("bq{}m", std::process::id() % 100_000);
    provoke("linkflap", &["--times", "1", "--name", &again]);
    wait_for("second device's loss", timeout(10), || has(&changes(&agent, &format!("{again}0")), "carrier_down"));
}

/// Renamed, made part of a bridge, and taken from it.
#[test]
fn names_and_masters_are_followed() {
    let _place = place!(Need::Agent, Need::Iproute);
    let agent = Agent::shared("");
    let name = format!("bq{}", std::process::id() % 100_000);
    let (a, b, bridge) = (format!("{name}a"), format!("{name}b"), format!("{name}br"));
    ip(&format!("link add {a} type veth peer name {b}"));
    let (ok, _) = shell(&format!("ip link add {bridge} type bridge"));
    ip(&format!("link set {a} name {a}x"));
    if ok {
        ip(&format!("link set {a}x master {bridge}"));
        ip(&format!("link set {a}x nomaster"));
    }
    ip(&format!("link del {a}x"));
    if ok {
        ip(&format!("link del {bridge}"));
    }
    let all = wait_for("end of the device", timeout(10), || {
        let all = changes(&agent, &format!("{a}x"));
        has(&all, "removed").map(|_| all)
    });
    assert_eq!(has(&all, "renamed").unwrap()["attributes"]["linux.net.link.name.before"], a.as_str());
    if ok {
        assert_eq!(has(&all, "enslaved").unwrap()["attributes"]["linux.net.link.master"], bridge.as_str());
        assert!(has(&all, "released").is_some());
    }
}

/// A bond's ports: who joins it, who carries its traffic and who does not any more, who is taken from it.
#[test]
fn ports_of_a_bond_are_followed() {
    let _place = place!(Need::Agent, Need::Iproute, Need::KernelModule("bonding"));
    let agent = Agent::shared("");
    let _ = shell("modprobe bonding max_bonds=0; modprobe veth");
    ip("link add bqbond type bond mode active-backup miimon 50");
    for port in ["bqp0", "bqp1"] {
        ip(&format!("link add {port} type veth peer name {port}x"));
        ip(&format!("link set {port}x up"));
        ip(&format!("link set {port} master bqbond"));
    }
    ip("link set bqbond up");
    let active = || std::fs::read_to_string("/sys/class/net/bqbond/bonding/active_slave").unwrap_or_default();
    let first = wait_for("an active port", timeout(10), || Some(active().trim().to_owned()).filter(|a| !a.is_empty()));
    let second = if first == "bqp0" { "bqp1" } else { "bqp0" };
    std::thread::sleep(timeout(1));
    ip(&format!("link set bqbond type bond active_slave {second}"));
    let state = |port: &str, state: &str| {
        wait_for(&format!("{port} {state}"), timeout(10), || {
            let all = changes(&agent, port).into_iter();
            let mut all =
                all.filter(|(c, e)| c == "port_state" && e["attributes"]["linux.net.link.port_state"] == state);
            all.next_back().map(|(_, e)| e)
        })
    };
    for (port, state) in [(first.as_str(), state(&first, "backup")), (second, state(second, "active"))] {
        assert_eq!(state["attributes"]["linux.net.link.master"], "bqbond", "{port}: {state}");
    }
    ip(&format!("link set {second} nomaster"));
    let all = wait_for("release", timeout(10), || {
        let all = changes(&agent, second);
        has(&all, "released").map(|_| all)
    });
    ip("link del bqbond");
    ip("link del bqp0");
    ip("link del bqp1");
    assert!(has(&all, "enslaved").is_some(), "{all:?}");
}

/// A device of a container, and the node's end of it, are the container's.
#[test]
fn devices_of_a_container_are_its_own() {
    let _place = place!(Need::Agent, Need::Iproute, Need::Podman);
    let agent = Agent::shared("");
    let container = Container::start("link", &[], &["sleep", "3600"]);
    let (_, pid) = shell(&format!("podman inspect --format '{{{{.State.Pid}}}}' {} 2>/dev/null", container.name));
    let pid = pid.trim().lines().last().unwrap_or_default().to_owned();
    assert!(pid.parse::<u32>().is_ok(), "podman says no pid: {pid}");
    let name = format!("bq{}", std::process::id() % 100_000);
    let (inner, outer) = (format!("{name}in"), format!("{name}out"));
    ip(&format!("link add {outer} type veth peer name {inner}"));
    ip(&format!("link set {inner} netns {pid}"));
    ip(&format!("link set {outer} up"));
    let (ok, said) =
        shell(&format!("nsenter -t {pid} -n ip link set {inner} up && nsenter -t {pid} -n ip link set {inner} down"));
    assert!(ok, "{said}");
    for device in [&inner, &outer] {
        let event = wait_for("loss of the container's link", timeout(10), || {
            let all = changes(&agent, device);
            has(&all, if device == &inner { "admin_down" } else { "carrier_down" })
        });
        assert_eq!(event["resource"]["container.name"], container.name.as_str(), "{event}");
        assert_eq!(event["severity"], "INFO");
    }
    ip(&format!("link del {outer}"));
    let all = wait_for("end of the node's end", timeout(10), || {
        let all = changes(&agent, &outer);
        has(&all, "removed").map(|_| all)
    });
    assert_eq!(has(&all, "removed").unwrap()["resource"]["container.name"], container.name.as_str());
}

/// A namespace that only a mount keeps is heard of too.
#[test]
fn devices_of_a_named_namespace_are_heard_of() {
    let _place = place!(Need::Agent, Need::Iproute);
    let agent = Agent::shared("");
    let ns = unique("ns");
    ip(&format!("netns add {ns}"));
    std::thread::sleep(timeout(1));
    let device = format!("bq{}d", std::process::id() % 100_000);
    let made = shell(&format!("ip -n {ns} link add {device} type veth peer name {device}p"));
    let set = shell(&format!("ip -n {ns} link set {device} up && ip -n {ns} link set {device} down"));
    let found = (0..100).find_map(|_| {
        std::thread::sleep(timeout(1) / 10);
        has(&changes(&agent, &device), "admin_down")
    });
    ip(&format!("netns del {ns}"));
    assert!(made.0 && set.0, "{made:?} {set:?}");
    let event = found.expect("the device was set down");
    assert!(event["attributes"]["linux.net.link.changed_by"] == "process", "{event}");
    assert!(has(&changes(&agent, &device), "added").is_some());
}

/// The machine's own card loses its cable: a warning, with driver and speed as far as it has one.
#[test]
fn card_without_a_cable_is_a_warning() {
    let _place = place!(Need::Agent, Need::Iproute, Need::HardwareEvents);
    let agent = Agent::shared("");
    provoke("linkflap", &["--dev", "nic", "--times", "2"]);
    let all = wait_for("both losses", timeout(10), || {
        let all = changes(&agent, "eth0");
        (all.iter().filter(|(c, _)| c == "carrier_down").count() == 2).then_some(all)
    });
    let lost = has(&all, "carrier_down").unwrap();
    assert_eq!(lost["severity"], "WARN");
    assert_eq!(lost["attributes"]["linux.net.device.kind"], "physical");
    assert_eq!(lost["attributes"]["linux.net.device.driver"], "virtio_net");
    assert_eq!(has(&all, "carrier_up").unwrap()["severity"], "INFO");
}
