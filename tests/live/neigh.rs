// SPDX-License-Identifier: Apache-2.0
//! Tables of neighbours.

use std::fs;

use crate::support::{Agent, Need, Process, place, shell, timeout, wait_for};

/// A column of the table of IPv4, over all CPUs; `entries` is the same for each.
fn kernel(column: &str) -> f64 {
    let text = fs::read_to_string("/proc/net/stat/arp_cache").unwrap();
    let at = text.lines().next().unwrap().split_whitespace().position(|name| name == column).unwrap();
    let figure = |row: &str| u64::from_str_radix(row.split_whitespace().nth(at).unwrap(), 16).unwrap();
    let rows = text.lines().skip(1).take(if column == "entries" { 1 } else { usize::MAX });
    rows.map(figure).sum::<u64>() as f64
}

const ARP: (&str, &str) = ("linux_net_neighbor_table", "arp");

fn event(agent: &Agent, name: &str) -> Option<f64> {
    agent.metric("linux_net_neighbor_events_total", &[ARP, ("linux_net_neighbor_event", name)])
}

/// A network of its own with a device and this in it.
fn network(then: &str) -> Process {
    Process::start(&format!(
        "exec unshare -n bash -c 'ip link add d0 type veth peer name d1 && ip link set d1 up && ip address add 10.99.0.1/16 dev d0 && ip link set d0 up && {{ {then}; }}; \
         exec sleep 1000'"
    ))
}

/// Neighbours of another network namespace are entries of the one table; one that nobody answers for is a failure. Both as
/// the kernel counts them.
///
/// On every kernel.
#[test]
fn entries_and_failures_are_the_kernels() {
    let _place = place!(Need::Agent, Need::Iproute);
    let before = ["entries", "res_failed"].map(kernel);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let _network = network(
        "for n in $(seq 2 101); do ip neigh add 10.99.1.$n lladdr 02:00:00:00:00:01 dev d0; done; echo x >/dev/udp/10.99.2.1/9",
    );
    wait_for("a neighbour that does not answer", timeout(30), || {
        event(&agent, "res_failed").filter(|n| *n > before[1])
    });
    wait_for("100 neighbours", timeout(20), || {
        let seen = agent.metric("linux_net_neighbor_count", &[ARP])?;
        (seen >= before[0] + 100.0 && seen == kernel("entries")).then_some(())
    });
    for name in ["allocs", "destroys", "res_failed", "table_fulls"] {
        wait_for(name, timeout(20), || (event(&agent, name)? == kernel(name)).then_some(()));
    }
    let limit = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").unwrap();
    assert_eq!(agent.metric("linux_net_neighbor_limit", &[ARP]), limit.trim().parse().ok());
}

/// A table that is full refuses further neighbours, and so it is reported.
#[test]
fn a_full_table_is_counted() {
    let _place = place!(Need::Agent, Need::Iproute, Need::OwnMachine);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let set = "for n in 1 2 3; do echo 8 > /proc/sys/net/ipv4/neigh/default/gc_thresh$n; done";
    let (ok, said) = shell(set);
    assert!(ok, "{said}");
    let before = kernel("table_fulls");
    let _network = network(
        "for n in $(seq 2 101); do ip neigh add 10.99.1.$n lladdr 02:00:00:00:00:01 dev d0 nud reachable; done",
    );
    let seen = wait_for("a full table", timeout(30), || event(&agent, "table_fulls").filter(|n| *n >= before + 50.0));
    assert!(seen <= kernel("table_fulls"), "{seen}");
    assert_eq!(agent.metric("linux_net_neighbor_limit", &[ARP]), Some(8.0));
}
