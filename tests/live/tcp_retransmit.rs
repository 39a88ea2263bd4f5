// SPDX-License-Identifier: Apache-2.0
//! Segments that TCP sends again.

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Need, attribute, has_drop_reasons, is_about, patience, place, provoke, wait_for,
};

const NAME: &str = "linux.net.tcp_retransmit";

/// A container's segments are dropped where they arrive, on this node: the sender is named, its
/// process too, and the drop that explains it.
#[test]
fn sender_is_named_and_the_drop_explains_it() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let container =
        Container::start("sender", &[], &["sh", "-c", "while :; do nc -l -p 7002 < /dev/zero > /dev/null; done"]);
    let pid = container.pid().to_string();
    provoke("tcpretransmit", &["--pid", &pid, "--net", "21"]);
    // A SYN-ACK sent again is the listener's, which nc has closed by the time one looks for its holder.
    let of_the_test = |e: &Json| {
        attribute(e, "source.address") == "10.77.21.2" && attribute(e, "linux.tcp.retransmit.kind") != "syn_ack"
    };
    let event = agent.wait_event(NAME, patience(20), |e| {
        of_the_test(e) && attribute(e, "linux.tcp.retransmit.cause").starts_with("dropped")
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!(attribute(&event, "thread.name"), "nc", "{event}");
    assert_eq!(
        (attribute(&event, "destination.address"), attribute(&event, "network.transport")),
        ("10.77.21.1", "tcp")
    );
    assert!(event["attributes"]["linux.tcp.rtt"].as_u64().is_some_and(|ns| ns > 0), "{event}");
    assert!(event["attributes"]["linux.tcp.cwnd"].as_u64().is_some_and(|n| n > 0), "{event}");
    assert!(attribute(&event, "linux.net.drop.location").contains('+'), "{event}");
    // Half of the segments, at least one was found missing by those that came after it.
    wait_for("fast retransmits of the container", patience(20), || {
        let labels = [("container_name", container.name.as_str()), ("linux_tcp_retransmit_kind", "fast")];
        agent.metric("linux_container_net_tcp_retransmits_total", &labels).filter(|n| *n >= 1.0)
    });
}

/// A connection that does not come up is a warning, of whoever tries.
#[test]
fn connection_that_does_not_come_up_is_a_warning() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let container = Container::start(
        "caller",
        &[],
        &["sh", "-c", "while :; do nc -w 8 10.77.22.1 7009 < /dev/null; sleep 0.5; done"],
    );
    provoke("tcpretransmit", &["--how", "syn", "--pid", &container.pid().to_string(), "--net", "22"]);
    let event = agent.wait_event(NAME, patience(20), |e| {
        attribute(e, "destination.address") == "10.77.22.1" && attribute(e, "linux.tcp.retransmit.kind") == "syn"
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!((&event["severity"], attribute(&event, "network.connection.state")), (&"WARN".into(), "syn_sent"));
    assert_eq!(event["attributes"]["destination.port"], 7009);
    assert_eq!(attribute(&event, "linux.tcp.retransmit.cause"), "dropped_segment", "{event}");
}

/// A listener whose answer is lost has to give it again: the container and the process that listens are
/// named, and the drop that explains it, which lies back as long as TCP waited.
#[test]
fn answer_to_a_connection_that_is_lost_is_the_listeners() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let container =
        Container::start("listener", &[], &["sh", "-c", "while :; do nc -l -p 7002 < /dev/null > /dev/null; done"]);
    let pid = container.pid().to_string();
    provoke("tcpretransmit", &["--how", "synack", "--pid", &pid, "--net", "24"]);
    let event = agent.wait_event(NAME, patience(20), |e| {
        attribute(e, "source.address") == "10.77.24.2" && attribute(e, "linux.tcp.retransmit.kind") == "syn_ack"
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!((&event["severity"], attribute(&event, "thread.name")), (&"WARN".into(), "nc"), "{event}");
    assert_eq!(attribute(&event, "network.connection.state"), "syn_received", "{event}");
    assert_eq!(
        (attribute(&event, "destination.address"), &event["attributes"]["source.port"]),
        ("10.77.24.1", &7002.into())
    );
    assert_eq!(attribute(&event, "linux.tcp.retransmit.cause"), "dropped_segment", "{event}");
    assert!(!has_drop_reasons() || attribute(&event, "linux.net.drop.reason") == "NETFILTER_DROP", "{event}");
}
