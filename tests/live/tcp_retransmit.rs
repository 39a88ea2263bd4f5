// SPDX-License-Identifier: Apache-2.0
//! Segments that TCP sends again.

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Need, attribute, has_drop_reasons, is_about, place, program, provoke, shell, timeout, wait_for,
};

const NAME: &str = "linux.net.tcp_retransmit";
const KINDS: [&str; 6] = ["rto", "loss_recovery", "fast", "tlp", "syn", "syn_ack"];

/// What the kernel says of the network namespace of a process: `Tcp: … RetransSegs …` of `/proc/PID/net/snmp`.
fn retransmitted_segments(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|l| l.starts_with("Tcp:")).map(|l| l.split_whitespace().collect()).collect();
    let at = lines[0].iter().position(|name| *name == "RetransSegs").unwrap();
    lines[1][at].parse().unwrap()
}

/// A container's segments are dropped where they arrive, on this node: the sender is named, its
/// process too, and the drop that explains it. Segments are counted as the kernel counts them, many at once too.
#[test]
fn sender_is_named_and_the_drop_explains_it() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared("");
    let container =
        Container::start("sender", &[], &["sh", "-c", "while :; do nc -l -p 7002 < /dev/zero > /dev/null; done"]);
    let pid = container.pid().to_string();
    provoke("tcpretransmit", &["--pid", &pid, "--net", "21", "--gso", "40"]);
    // A SYN-ACK sent again is the listener's, which nc has closed by the time one looks for its holder.
    let of_the_test = |e: &Json| {
        attribute(e, "source.address") == "10.77.21.2" && attribute(e, "linux.tcp.retransmit.kind") != "syn_ack"
    };
    let event = agent.wait_event(NAME, timeout(20), |e| {
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
    let counted = |kind: &str| {
        let labels = [("container_name", container.name.as_str()), ("linux_tcp_retransmit_kind", kind)];
        agent.metric("linux_container_net_tcp_retransmits_total", &labels).unwrap_or(0.0)
    };
    // Of those that were lost, at least one was found missing by those that came after it.
    wait_for("fast retransmits of the container", timeout(20), || Some(()).filter(|()| counted("fast") >= 1.0));
    let kernels = || retransmitted_segments(container.pid());
    let (kernels, ours) = wait_for("as many segments as the kernel counts", timeout(20), || {
        let (kernels, ours) = (kernels(), KINDS.iter().map(|k| counted(k)).sum::<f64>());
        Some((kernels, ours)).filter(|_| (ours - kernels).abs() <= kernels * 0.02)
    });
    eprintln!("{kernels} segments sent again, {ours} counted");
}

/// A connection that does not come up is a warning, of whoever tries.
#[test]
fn connection_that_does_not_come_up_is_a_warning() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared("");
    let container = Container::start(
        "caller",
        &[],
        &["sh", "-c", "while :; do nc -w 8 10.77.22.1 7009 < /dev/null; sleep 0.5; done"],
    );
    provoke("tcpretransmit", &["--how", "syn", "--pid", &container.pid().to_string(), "--net", "22"]);
    let event = agent.wait_event(NAME, timeout(20), |e| {
        attribute(e, "destination.address") == "10.77.22.1" && attribute(e, "linux.tcp.retransmit.kind") == "syn"
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!((&event["severity"], attribute(&event, "network.connection.state")), (&"WARN".into(), "syn_sent"));
    assert_eq!(event["attributes"]["destination.port"], 7009);
    assert_eq!(attribute(&event, "linux.tcp.retransmit.cause"), "dropped_segment", "{event}");
    // One that finds a full accept queue of this node is dropped without a trace, but for a count.
    let full = "socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(7012, INADDR_LOOPBACK)) or die; listen(S, 1); \
                for (1..6) { socket($c[$_], PF_INET, SOCK_STREAM | 2048, 0); connect($c[$_], sockaddr_in(7012, INADDR_LOOPBACK)) } \
                sleep 8";
    let (ok, said) = shell(&format!("perl -MSocket -e '{full}'"));
    assert!(ok, "{said}");
    let event = agent.wait_event(NAME, timeout(20), |e| {
        e["attributes"]["destination.port"] == 7012 && attribute(e, "linux.tcp.retransmit.kind") == "syn"
    });
    assert_eq!(attribute(&event, "linux.tcp.retransmit.cause"), "dropped_by_listener", "{event}");
}

/// A listener whose answer is lost has to give it again: the container and the process that listens are
/// named, and the drop that explains it, which lies back as long as TCP waited.
#[test]
fn answer_to_a_connection_that_is_lost_is_the_listeners() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared("");
    let container =
        Container::start("listener", &[], &["sh", "-c", "while :; do nc -l -p 7002 < /dev/null > /dev/null; done"]);
    let pid = container.pid().to_string();
    provoke("tcpretransmit", &["--how", "synack", "--pid", &pid, "--net", "24"]);
    let event = agent.wait_event(NAME, timeout(20), |e| {
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

/// Segments that the sender's own queue loses: what is sent again is explained by that.
#[test]
fn loss_in_the_senders_queue_explains_retransmits() {
    let _place = place!(Need::Agent, Need::Podman, Need::KernelModule("sch_netem"));
    let agent = Agent::shared("");
    let container =
        Container::start("netem", &[], &["sh", "-c", "while :; do nc -l -p 7002 < /dev/zero > /dev/null; done"]);
    let pid = container.pid().to_string();
    let seconds = timeout(4).as_secs().to_string();
    provoke("tcpretransmit", &["--how", "netem", "--pid", &pid, "--net", "25", "--seconds", &seconds]);
    let of_the_test = |e: &Json| attribute(e, "source.address") == "10.77.25.2";
    agent.wait_event(NAME, timeout(20), |e| of_the_test(e) && attribute(e, "linux.tcp.retransmit.kind") == "rto");
    // Records are read every 100 ms: all have arrived.
    std::thread::sleep(timeout(2));
    let mut events = agent.json(&["events", "--name", NAME]);
    events.retain(of_the_test);
    eprintln!("{} retransmits were reported", events.len());
    assert!(events.len() >= 3, "{events:?}");
    let (explained, others): (Vec<Json>, Vec<Json>) =
        events.into_iter().partition(|e| attribute(e, "linux.tcp.retransmit.cause").starts_with("dropped"));
    // After a timeout all that is under way is sent again, lost or not.
    assert!(others.iter().all(|e| attribute(e, "linux.tcp.retransmit.kind") == "loss_recovery"), "{others:?}");
    assert!(others.len() * 5 <= explained.len(), "{} explained, not {others:?}", explained.len());
    for event in &explained {
        assert!(is_about(event, "container.name", &container.name), "{event}");
        assert!(!has_drop_reasons() || attribute(event, "linux.net.drop.reason") == "QDISC_DROP", "{event}");
    }
}

/// Thousands a second: no kind of event is lost, and reported + suppressed + lost + missed is what the
/// kernel's own statistics of the sender's namespace say, to the last segment.
#[test]
fn a_storm_is_counted_exactly() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::start("");
    let (streams, dir) = program("streams", include_str!("../provoke/streams.c"));
    let mount = format!("{}:/test:ro", dir.path().display());
    // The slow kind: a connection that does not come up, beside thousands that do.
    let inside = format!(
        "(while :; do nc -w 8 10.77.23.1 7009 < /dev/null; sleep 0.5; done) & exec /test/{} serve 7002",
        streams.file_name().unwrap().to_string_lossy()
    );
    let container = Container::start("storm", &["--volume", &mount], &["sh", "-c", &inside]);
    let said = provoke("retransmitstorm", &["--pid", &container.pid().to_string(), "--net", "23", "--seconds", "10"]);
    let figure = |name: &str| -> u64 {
        let line = said.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    let (happened, rate, on_init) = (figure("happened "), figure("rate "), figure("on_init "));
    assert!(rate >= 2_000 / timeout(1).as_secs(), "only {rate} a second is no storm");

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers, far below 2^53")]
    let metric = |name: &str, labels: &[(&str, &str)]| agent.metric(name, labels).unwrap_or(0.0) as u64;
    let counted = |kind: &str| {
        let labels = [("container_name", container.name.as_str()), ("linux_tcp_retransmit_kind", kind)];
        metric("linux_container_net_tcp_retransmits_total", &labels)
    };
    // The kernel leaves a program out that it interrupted in the middle of a run, and counts that.
    let missed = || {
        let hooks = ["tp_btf/tcp_retransmit_skb", "tp_btf/tcp_retransmit_synack"];
        hooks.iter().map(|hook| metric("bianque_probe_missed_total", &[("probe", "net"), ("hook", hook)])).sum::<u64>()
    };
    let sum = || KINDS.iter().map(|k| counted(k)).sum::<u64>() + missed();
    let settled = wait_for("counts that stand still", timeout(40), || {
        let before = sum();
        std::thread::sleep(timeout(3));
        Some(before).filter(|n| *n == sum() && *n + on_init >= happened)
    });
    eprintln!(
        "{happened} segments sent again, {rate} a second; {settled} accounted for, {} of them missed; {on_init} on process 1",
        missed()
    );
    // Where the kernel hides process 1 from programs that it does not own, it hides what interrupts it, too.
    assert!(settled == happened || settled + on_init == happened, "{settled} of {happened}, {on_init} on process 1");

    let events = agent.json(&["events", "--name", NAME]);
    let of_the_storm = |e: &&Json| is_about(e, "container.name", &container.name);
    for kind in KINDS {
        let of = events.iter().filter(of_the_storm).filter(|e| attribute(e, "linux.tcp.retransmit.kind") == kind);
        let reported: Vec<u64> = of.map(|e| 1 + e["attributes"]["linux.suppressed"].as_u64().unwrap_or(0)).collect();
        let (happened, spoken_of) = (counted(kind), reported.iter().sum::<u64>());
        eprintln!("{kind}: {happened} happened, {} events account for {spoken_of}", reported.len());
        assert_eq!(happened > 0, !reported.is_empty(), "{kind}: {happened} happened, {} were reported", reported.len());
        assert!(reported.len() <= 100, "{} events of {kind}", reported.len());
        assert!(
            spoken_of <= happened && spoken_of * 4 >= happened,
            "{kind}: {spoken_of} of {happened} accounted for by events"
        );
    }
    for kind in ["rto", "syn", "syn_ack"] {
        assert!(counted(kind) >= 1, "{kind} did not happen");
    }
    assert_eq!(metric("bianque_records_lost_total", &[("probe", "net")]), 0);
}
