// SPDX-License-Identifier: Apache-2.0
//! Packets that are dropped.

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Need, attribute, has_drop_reasons, is_about, place, provoke, reader_program, shell, timeout,
    unique, wait_for,
};

const NAME: &str = "linux.net.packet_drop";

/// Whether it was sent to this address of the test's own network.
fn is_to(e: &Json, address: &str) -> bool {
    attribute(e, "destination.address") == address
}

/// What a filter drops on its way into a container is that container's, with reason and both ends; a
/// second time a few seconds later too.
///
/// On every kernel.
#[test]
fn filtered_packets_name_the_container() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared("");
    let container = Container::start("drops", &[], &["sleep", "3600"]);
    let pid = container.pid().to_string();
    let mut last = String::new();
    for round in 0..2 {
        if round > 0 {
            // Quiet for more than five seconds, so that the next is news.
            std::thread::sleep(std::time::Duration::from_secs(6));
        }
        provoke("drops", &["--why", "nft", "--pid", &pid, "--net", "11"]);
        let event = agent.wait_event(NAME, timeout(20), |e| {
            is_to(e, "10.77.11.2")
                && e["time"].as_str() > Some(&last)
                && (!has_drop_reasons() || attribute(e, "linux.net.drop.reason") == "NETFILTER_DROP")
        });
        assert!(is_about(&event, "container.name", &container.name), "{event}");
        assert_eq!(event["severity"], "WARN");
        assert_eq!(attribute(&event, "network.transport"), "udp");
        assert_eq!(attribute(&event, "source.address"), "10.77.11.1");
        assert_eq!(event["attributes"]["destination.port"], 7001);
        assert_eq!(attribute(&event, "network.interface.name"), "pvb");
        assert!(attribute(&event, "linux.net.drop.location").contains('+'), "not symbolised: {event}");
        assert!(event["stacks"]["kernel"].as_array().is_some_and(|s| s.len() > 3), "no stack: {event}");
        last = agent
            .json(&["events", "--name", NAME])
            .iter()
            .filter_map(|e| e["time"].as_str().map(str::to_owned))
            .max()
            .unwrap_or_default();
    }
}

/// A UDP socket without room: the process that holds it is named, which is never the one on the CPU.
#[test]
fn full_socket_names_its_process() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::shared("");
    let program = reader_program(7001);
    let container = Container::of_program("rcvbuf", &[], &program, &[]);
    let pid = container.pid();
    provoke("drops", &["--why", "rcvbuf", "--pid", &pid.to_string(), "--net", "12"]);
    let event = agent.wait_event(NAME, timeout(20), |e| {
        is_to(e, "10.77.12.2") && (!has_drop_reasons() || attribute(e, "linux.net.drop.reason") == "SOCKET_RCVBUFF")
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!(event["attributes"]["process.pid"], pid, "{event}");
}

/// A full queue drops what a local socket sends: the sender is named, not the receiver.
///
/// On every kernel.
#[test]
fn full_queue_and_closed_port_are_seen() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    provoke("drops", &["--why", "queue", "--net", "13"]);
    let event = agent
        .wait_event(NAME, timeout(20), |e| is_to(e, "10.77.13.2") && attribute(e, "network.interface.name") == "pva");
    assert!(!has_drop_reasons() || attribute(&event, "linux.net.drop.reason").starts_with("QDISC"), "{event}");
    provoke("drops", &["--why", "nosocket", "--net", "14"]);
    let event = agent.wait_event(NAME, timeout(20), |e| is_to(e, "10.77.14.2"));
    if has_drop_reasons() {
        assert_eq!(attribute(&event, "linux.net.drop.reason"), "NO_SOCKET", "{event}");
    }
}

/// Connections that are opened, used and closed as usual make no event; what they leave behind is
/// counted as normal at most.
#[test]
fn an_ordinary_close_is_no_drop() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("");
    let name = unique("close");
    let script = format!(
        "set -e; ip netns add {name}; trap 'ip netns del {name}' EXIT; ip -n {name} link set lo up\n\
         for how in client server; do for i in $(seq 15); do\n\
           ip netns exec {name} sh -c \"echo answer | busybox nc -l -p 7010 >/dev/null\" & server=$!\n\
           for n in $(seq 50); do ip netns exec {name} ss -ltn | grep -q :7010 && break; sleep 0.05; done\n\
           if [ $how = client ]; then ip netns exec {name} sh -c 'echo question | busybox nc 127.0.0.1 7010' >/dev/null\n\
           else ip netns exec {name} sh -c 'sleep 0.1 | busybox nc 127.0.0.1 7010' >/dev/null; fi\n\
           wait $server || true\n\
         done; done"
    );
    let (ok, said) = shell(&script);
    assert!(ok, "{said}");
    // Marks the end: when this is there, all before it is.
    provoke("drops", &["--why", "nft", "--net", "15"]);
    agent.wait_event(NAME, timeout(20), |e| is_to(e, "10.77.15.2"));
    let of_the_test = |e: &Json| e["attributes"]["destination.port"] == 7010 || e["attributes"]["source.port"] == 7010;
    let drops: Vec<Json> = agent.json(&["events", "--name", NAME]).into_iter().filter(of_the_test).collect();
    assert_eq!(drops, [] as [Json; 0]);
}

/// A storm: few events, none of another kind is lost, and the counts add up.
#[test]
fn a_storm_is_counted_exactly() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::start("");
    let container = Container::start("storm", &[], &["sleep", "3600"]);
    let said = provoke("dropstorm", &["--pid", &container.pid().to_string(), "--net", "16", "--seconds", "10"]);
    let figure = |name: &str| -> u64 {
        let line = said.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    let (happened, rate) = (figure("dropped "), figure("rate "));
    eprintln!("{happened} drops, {rate} a second");

    let counted = |reason: &str| {
        let of = ("container_name", container.name.as_str());
        let labels = [of, ("linux_net_drop_reason", reason), ("linux_net_drop_kind", "loss")];
        agent.metric("linux_container_net_packet_drops_total", &labels)
    };
    let reason = if has_drop_reasons() { "NETFILTER_DROP" } else { "NOT_SPECIFIED" };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    wait_for("the exact count", timeout(20), || counted(reason).filter(|n| *n >= happened as f64));
    // Without reasons, the slow kind is under the same name.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    if has_drop_reasons() {
        assert_eq!(counted(reason), Some(happened as f64), "reported + suppressed + lost = happened");
        assert!(counted("NO_SOCKET").is_some_and(|n| n >= 3.0), "the slow kind was not counted");
    }
    let events = agent.json(&["events", "--name", NAME]);
    let of = |port: u64| {
        let is = move |e: &&Json| is_to(e, "10.77.16.2") && e["attributes"]["destination.port"] == port;
        events.iter().filter(is).collect::<Vec<_>>()
    };
    let (storm, slow) = (of(7001), of(7006));
    assert!(!slow.is_empty(), "a reason was starved");
    assert!((5..=100).contains(&storm.len()), "{} events of a storm", storm.len());
    let reported: u64 = storm.iter().map(|e| 1 + e["attributes"]["linux.suppressed"].as_u64().unwrap_or(0)).sum();
    assert!(reported <= happened && reported * 4 >= happened, "{reported} of {happened} are accounted for by events");
    assert_eq!(agent.metric("bianque_records_lost_total", &[("probe", "net")]).unwrap_or(0.0), 0.0);
}
