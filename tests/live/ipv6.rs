// SPDX-License-Identifier: Apache-2.0
//! What happens to packets, over IPv6: the same is reported as over IPv4, with its addresses.

use serde_json::Value as Json;

use crate::support::{Agent, Container, Need, attribute, is_about, place, provoke, reader_program, timeout};

/// Sent from one end to the other of the test's own network.
fn is_from_to(e: &Json, from: &str, to: &str) -> bool {
    (attribute(e, "source.address"), attribute(e, "destination.address")) == (from, to)
}

/// A drop, a segment sent again because of one, and data that its reader took late: each with both
/// addresses, and of the container.
#[test]
fn drop_retransmit_and_late_reader_are_named() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared("");
    let does = "mkfifo /tmp/none; (while :; do nc -l -p 7002 < /dev/zero > /dev/null; done) & \
                exec nc -l -p 7003 <> /tmp/none > /dev/null";
    let container = Container::start("six", &[], &["sh", "-c", does]);
    let pid = container.pid().to_string();
    let of_the_container = |e: &Json, transport: &str| {
        assert!(is_about(e, "container.name", &container.name), "{e}");
        assert_eq!((attribute(e, "network.type"), attribute(e, "network.transport")), ("ipv6", transport), "{e}");
    };

    provoke("drops", &["--why", "nft", "--pid", &pid, "--net", "61", "--ip", "6"]);
    let event = agent.wait_event("linux.net.packet_drop", timeout(20), |e| {
        is_from_to(e, "fd77:61::1", "fd77:61::2") && e["attributes"]["destination.port"] == 7001
    });
    of_the_container(&event, "udp");
    provoke("drops", &["--why", "nft", "--pid", &pid, "--net", "65", "--ip", "6", "--options", "yes"]);
    let with_options = agent.wait_event("linux.net.packet_drop", timeout(20), |e| {
        is_from_to(e, "fd77:65::1", "fd77:65::2") && e["attributes"]["destination.port"] == 7001
    });
    of_the_container(&with_options, "udp");
    assert!(event["message"].as_str().is_some_and(|m| m.contains("→ [fd77:61::2]:7001")), "{event}");

    provoke("tcpretransmit", &["--pid", &pid, "--net", "62", "--ip", "6"]);
    let event = agent.wait_event("linux.net.tcp_retransmit", timeout(20), |e| {
        is_from_to(e, "fd77:62::2", "fd77:62::1")
            && attribute(e, "linux.tcp.retransmit.kind") != "syn_ack"
            && attribute(e, "linux.tcp.retransmit.cause") == "dropped_segment"
    });
    of_the_container(&event, "tcp");
    assert_eq!(
        (&event["attributes"]["source.port"], attribute(&event, "thread.name")),
        (&7002.into(), "nc"),
        "{event}"
    );

    provoke("netrxlatency", &["--pid", &pid, "--net", "63", "--ms", "500", "--ip", "6"]);
    let event = agent.wait_event("linux.net.receive_delay", timeout(20), |e| {
        is_from_to(e, "fd77:63::1", "fd77:63::2") && attribute(e, "linux.net.receive.stage") == "user"
    });
    of_the_container(&event, "tcp");
    assert_eq!(event["attributes"]["process.pid"].to_string(), pid, "{event}");
}

/// The same for datagrams that are read late.
#[test]
fn late_reader_of_datagrams_is_named() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler, Need::Fentry);
    let agent = Agent::shared("");
    let program = reader_program(7003);
    let container = Container::of_program("six", &[], &program, &[]);
    let pid = container.pid();
    let args = ["--protocol", "udp", "--pid", &pid.to_string(), "--net", "64", "--ms", "500", "--ip", "6"];
    provoke("netrxlatency", &args);
    let event = agent.wait_event("linux.net.receive_delay", timeout(20), |e| is_from_to(e, "fd77:64::1", "fd77:64::2"));
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!((attribute(&event, "network.type"), attribute(&event, "network.transport")), ("ipv6", "udp"), "{event}");
    assert_eq!(event["attributes"]["process.pid"], pid, "{event}");
}
