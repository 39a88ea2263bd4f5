// SPDX-License-Identifier: Apache-2.0
//! Network devices of the node and of containers.

use crate::support::{Agent, Container, Need, place, shell, timeout, wait_for};

const SETTINGS: &str = "[metrics]\ninterval = \"2s\"\n";

/// A file of sysfs or procfs with one figure.
fn figure(path: &str) -> f64 {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// The bytes that a container's device has received, as its own namespace says.
fn received(pid: u32, device: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = text.lines().find_map(|l| l.trim().strip_prefix(&format!("{device}:"))).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a container receives is in its own figures, those of its namespace, and not in those of another container; what
/// the node's loopback carries is in the node's, as the kernel counts it. The node's end of the pair has none.
///
/// On every kernel.
#[test]
fn traffic_is_the_devices_and_the_containers() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared(SETTINGS);
    let busy = Container::start("talks", &[], &["sleep", "3600"]);
    let quiet = Container::start("listens", &[], &["sleep", "3600"]);
    let pid = busy.pid();
    let end = format!("bqv{pid}");
    let pair = format!(
        "ip link add {end} type veth peer name eth9 netns {pid} && ip addr add 10.77.44.1/24 dev {end} && \
         ip link set {end} up && nsenter -t {pid} -n sh -c 'ip addr add 10.77.44.2/24 dev eth9; ip link set eth9 up'"
    );
    let (made, said) = shell(&pair);
    assert!(made, "{said}");
    // Nobody takes them.
    let send = "for i in $(seq 50); do printf %01000d 0 >/dev/udp/10.77.44.2/9; printf x >/dev/udp/127.0.0.1/9; done";
    shell(&format!("bash -c '{send}' 2>/dev/null"));
    let of = |c: &Container, direction: &str| {
        let who = [("container_name", c.name.as_str()), ("network_interface_name", "eth9")];
        agent.metric("container_network_io_bytes_total", &[&who[..], &[("network_io_direction", direction)]].concat())
    };
    // 50 datagrams, with the headers of UDP, IP and Ethernet.
    let enough = wait_for("the container's bytes", timeout(20), || of(&busy, "receive").filter(|n| *n >= 52_100.0));
    assert!(enough <= received(pid, "eth9"), "{enough}");
    assert!(of(&busy, "transmit").is_some_and(|n| n > 0.0));
    assert_eq!(of(&quiet, "receive"), None);

    let statistics = "/sys/class/net/lo/statistics/rx_bytes";
    let before = figure(statistics);
    let lo = [("network_interface_name", "lo"), ("network_io_direction", "receive")];
    let node = |labels: &[(&str, &str)]| agent.metric("system_network_io_bytes_total", labels);
    let counted = wait_for("the node's loopback", timeout(20), || node(&lo).filter(|n| *n >= before));
    assert!(counted <= figure(statistics), "{counted}");
    assert_eq!(node(&[("network_interface_name", &end), ("network_io_direction", "receive")]), None);
    shell(&format!("ip link del {end}"));
}
