// SPDX-License-Identifier: Apache-2.0
//! Received packets that wait.

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Need, attribute, is_about, place, program, provoke, reader_program, shell, timeout,
};

const NAME: &str = "linux.net.receive_delay";

fn ms(event: &Json) -> u64 {
    event["duration_ns"].as_u64().unwrap_or(0) / 1_000_000
}

/// A container that reads its TCP data late is named, with its reader and how late it was.
///
/// On every kernel.
#[test]
fn late_reader_of_a_connection_is_named() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared("");
    let container =
        Container::start("reader", &[], &["sh", "-c", "mkfifo /tmp/none; exec nc -l -p 7003 <> /tmp/none > /dev/null"]);
    let pid = container.pid();
    provoke("netrxlatency", &["--pid", &pid.to_string(), "--net", "31", "--ms", "500"]);
    let event = agent.wait_event(NAME, timeout(20), |e| {
        attribute(e, "destination.address") == "10.77.31.2" && attribute(e, "linux.net.receive.stage") == "user"
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!(event["attributes"]["process.pid"], pid, "{event}");
    assert_eq!((attribute(&event, "network.transport"), &event["severity"]), ("tcp", &"WARN".into()));
    assert!((450..5_000).contains(&ms(&event)), "{event}");
}

/// The same for UDP.
#[test]
fn late_reader_of_datagrams_is_named() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler, Need::Fentry);
    let agent = Agent::shared("");
    let program = reader_program(7003);
    let container = Container::of_program("datagrams", &[], &program, &[]);
    let pid = container.pid();
    provoke("netrxlatency", &["--protocol", "udp", "--pid", &pid.to_string(), "--net", "32", "--ms", "500"]);
    let event = agent.wait_event(NAME, timeout(20), |e| attribute(e, "destination.address") == "10.77.32.2");
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!(event["attributes"]["process.pid"], pid, "{event}");
    assert_eq!((attribute(&event, "network.transport"), attribute(&event, "linux.net.receive.stage")), ("udp", "user"));
    assert!((450..5_000).contains(&ms(&event)), "{event}");
}

/// Data that waits in TCP for a lost segment: the loss is named, and the reader, which could read nothing, is not blamed.
///
/// On every kernel.
#[test]
fn data_behind_a_lost_segment_is_no_late_reader() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    provoke("tcpretransmit", &["--how", "hole", "--net", "36", "--seconds", "5"]);
    let of = |e: &Json, stage: &str| {
        attribute(e, "destination.address") == "10.77.36.1" && attribute(e, "linux.net.receive.stage") == stage
    };
    let event = agent.wait_event(NAME, timeout(20), |e| of(e, "loss"));
    assert_eq!(event["severity"], "INFO", "{event}");
    let ns = |name: &str| event["attributes"][name].as_u64().unwrap_or(0);
    assert!(ns("linux.net.receive.blocked") >= 200_000_000 && ns("linux.tcp.sequence") > 0, "{event}");
    let all = agent.json(&["events", "--name", NAME]);
    let (lost, late) = ["loss", "user"].map(|stage| all.iter().filter(|e| of(e, stage)).count()).into();
    eprintln!("{lost} times data waited for a lost segment, {late} times for its reader");
    assert!(late < lost, "{late} times the reader is blamed, {lost} times the loss: {all:?}");
}

/// Packets that one CPU hands to another wait for the stack while that one's interrupts are off.
///
/// On every kernel.
#[test]
fn packets_that_wait_for_the_stack_are_the_namespaces() {
    let _place = place!(Need::Agent, Need::Podman, Need::Spin);
    let agent = Agent::shared("");
    let container = Container::start("backlog", &[], &["sleep", "3600"]);
    let pid = container.pid().to_string();
    provoke("netrxlatency", &["--stage", "stack", "--pid", &pid, "--net", "34", "--ms", "300"]);
    let event = agent.wait_event(NAME, timeout(20), |e| {
        attribute(e, "destination.address") == "10.77.34.2" && attribute(e, "linux.net.receive.stage") == "stack"
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!((attribute(&event, "network.transport"), attribute(&event, "network.interface.name")), ("udp", "pvb"));
    assert_eq!(attribute(&event, "source.address"), "10.77.34.1", "{event}");
    assert!((50..10_000).contains(&ms(&event)), "{event}");
}

/// A segment for a socket that its process owns waits for TCP: the container and the process are named.
#[test]
fn segment_for_an_owned_socket_waits_for_tcp() {
    const HELD: &str = include_str!("../provoke/heldsocket.c");
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::shared("");
    let held = program("heldsocket", HELD);
    let options = ["--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"];
    let container = Container::of_program("held", &options, &held, &["7003", "500"]);
    let pid = container.pid();
    provoke("netrxlatency", &["--stage", "transport", "--pid", &pid.to_string(), "--net", "35", "--ms", "500"]);
    let event = agent.wait_event(NAME, timeout(20), |e| {
        attribute(e, "destination.address") == "10.77.35.2" && attribute(e, "linux.net.receive.stage") == "transport"
    });
    assert!(is_about(&event, "container.name", &container.name), "{event}");
    assert_eq!(
        (&event["attributes"]["process.pid"], attribute(&event, "network.transport")),
        (&pid.into(), "tcp"),
        "{event}"
    );
    assert_eq!(event["attributes"]["destination.port"], 7003);
    assert!((100..5_000).contains(&ms(&event)), "{event}");
}

/// A clock that is set forward and back makes no event, and what is late afterwards is still found.
#[test]
fn a_step_of_the_clock_is_no_delay() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::start("");
    for step in [30, -30, 3600, -3600] {
        let (ok, said) = shell(&format!(
            "date -s \"@$(($(date +%s) + {step}))\" && for i in 1 2 3 4 5; do echo x > /dev/udp/127.0.0.1/7077; sleep 0.3; done"
        ));
        assert!(ok, "{said}");
    }
    std::thread::sleep(timeout(2));
    // Not what the agent itself read late of its questioner, where programs start slowly.
    let own = agent.pid();
    let events = agent.json(&["events", "--name", NAME, "--since", "1d"]);
    let wrong: Vec<Json> = events.into_iter().filter(|e| e["attributes"]["process.pid"] != own).collect();
    assert_eq!(wrong, [] as [Json; 0]);
    provoke("netrxlatency", &["--net", "33", "--ms", "500"]);
    let event = agent.wait_event(NAME, timeout(20), |e| attribute(e, "destination.address") == "10.77.33.2");
    assert!((450..10_000).contains(&ms(&event)), "{event}");
}
