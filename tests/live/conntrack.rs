// SPDX-License-Identifier: Apache-2.0
//! Tracked connections.

use crate::support::{Agent, Need, place, shell, timeout, wait_for};

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Nobody takes them; each is a connection of its own.
const DATAGRAMS: &str = "for p in $(seq 20001 20200); do echo >/dev/udp/127.0.0.1/$p; done 2>/dev/null; true";

/// A column of `/proc/net/stat/nf_conntrack`, over all CPUs.
fn kernels(column: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/net/stat/nf_conntrack").unwrap();
    let at = text.lines().next().unwrap().split_whitespace().position(|name| name == column).unwrap();
    let figure = |row: &str| u64::from_str_radix(row.split_whitespace().nth(at).unwrap(), 16).unwrap();
    text.lines().skip(1).map(figure).sum::<u64>() as f64
}

/// A smaller table for as long as this is there.
struct Small(String);

impl Small {
    fn new(connections: u32) -> Self {
        let usual = std::fs::read_to_string(MAX).unwrap();
        std::fs::write(MAX, connections.to_string()).unwrap();
        Small(usual)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        std::fs::write(MAX, &self.0).unwrap();
    }
}

/// A table that is full takes no more, or takes it in an older one's place: both are counted as the kernel counts them.
///
/// On every kernel.
#[test]
fn a_full_table_is_counted() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::shared("[metrics]\ninterval = \"2s\"\n");
    let track = "nft 'add table inet bqct; add chain inet bqct o { type filter hook output priority 0; }; \
                 add rule inet bqct o ct state new counter'";
    let (tracks, said) = shell(track);
    assert!(tracks, "{said}");
    let of = |event: &str| agent.metric("linux_net_conntrack_events_total", &[("linux_net_conntrack_event", event)]);
    wait_for("a table that is empty", timeout(20), || of("drop"));
    let small = Small::new(8);
    let (sent, said) = shell(&format!("bash -c '{DATAGRAMS}'"));
    assert!(sent, "{said}");
    // Nor are the test's own requests answered before.
    drop(small);
    let [drops, early] = ["drop", "early_drop"].map(kernels);
    assert!(drops + early >= 100.0, "{drops} dropped, {early} gave way");
    wait_for("the kernel's figures", timeout(20), || {
        (of("drop") == Some(drops) && of("early_drop") == Some(early)).then_some(())
    });
    let usual: f64 = std::fs::read_to_string(MAX).unwrap().trim().parse().unwrap();
    assert_eq!(agent.metric("linux_net_conntrack_limit", &[]), Some(usual));
    let used = agent.metric("linux_net_conntrack_count", &[]).unwrap();
    assert!((1.0..=300.0).contains(&used), "{used}");
    shell("nft delete table inet bqct");
}
