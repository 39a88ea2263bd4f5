// SPDX-License-Identifier: Apache-2.0
//! Counters of the network stack, beside the kernel's own.

use std::fs;
use std::net::UdpSocket;

use crate::support::{Agent, Need, place, shell, timeout, wait_for};

/// A counter of `/proc/net/snmp`.
fn snmp(protocol: &str, name: &str) -> f64 {
    let text = fs::read_to_string("/proc/1/net/snmp").unwrap();
    let mut lines = text.lines().filter(|l| l.starts_with(&format!("{protocol}:")));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|n| n == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// Each counter lies between the kernel's before and after, and moves with what happens.
///
/// On every kernel.
#[test]
fn figures_are_the_kernels() {
    let _place = place!(Need::Agent);
    let names = [("Udp", "NoPorts"), ("Udp", "OutDatagrams"), ("Tcp", "InSegs"), ("Tcp", "PassiveOpens")];
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let seen = |(protocol, name): (&str, &str)| {
        let labels = [("linux_net_protocol", protocol), ("linux_net_counter", name)];
        agent.metric("linux_net_protocol_events_total", &labels)
    };
    let before = names.map(|(p, n)| snmp(p, n));
    // To a port of the loopback that nobody has.
    let (ok, said) = shell("for i in $(seq 50); do echo > /dev/udp/127.0.0.1/9; done 2>/dev/null; true");
    assert!(ok, "{said}");
    wait_for("datagrams for no port", timeout(20), || seen(names[0]).filter(|n| *n >= before[0] + 50.0));
    let seen = names.map(|name| seen(name).unwrap());
    let after = names.map(|(p, n)| snmp(p, n));
    for (i, name) in names.iter().enumerate() {
        assert!(before[i] <= seen[i] && seen[i] <= after[i], "{name:?}: {} {} {}", before[i], seen[i], after[i]);
    }
    assert!(agent.metric("linux_net_softnet_processed_total", &[]).is_some_and(|n| n > 0.0));
    let tcp = [("linux_net_protocol", "TCP"), ("linux_net_socket_state", "inuse")];
    assert!(agent.metric("linux_net_socket_count", &tcp).is_some_and(|n| n > 0.0));
}

/// What waits in the node's UDP sockets of IPv4, by the kernel's own lines.
fn waiting() -> u64 {
    let text = fs::read_to_string("/proc/1/net/udp").unwrap();
    let queue = |l: &str| u64::from_str_radix(l.split_whitespace().nth(4)?.split_once(':')?.1, 16).ok();
    text.lines().filter_map(queue).sum()
}

/// What a program does not read waits in its socket, and is seen there as long as it waits.
///
/// On every kernel.
#[test]
fn datagrams_that_nobody_reads() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let labels = [("linux_net_protocol", "UDP"), ("network_io_direction", "receive")];
    let seen = || agent.metric("linux_net_socket_queue_size_bytes", &labels);
    let (to, from) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for _ in 0..20 {
        from.send_to(&[0; 1000], to.local_addr().unwrap()).unwrap();
    }
    wait_for("20 datagrams", timeout(20), || {
        let n = seen()?;
        (n >= 20_000.0 && n == waiting() as f64).then_some(())
    });
    drop(to);
    wait_for("none of them", timeout(20), || seen().filter(|n| *n < 20_000.0));
}
