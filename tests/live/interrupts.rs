// SPDX-License-Identifier: Apache-2.0
//! Interrupts and softirqs by kind, beside the kernel's own figures.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;

use crate::support::{Agent, Need, place, timeout, wait_for};

/// Lines of a file, by what stands before the colon: the sum over the CPUs.
fn kernel(file: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(format!("/proc/{file}")).unwrap();
    let cpus = text.lines().next().unwrap().split_whitespace().count();
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let counts = rest.split_whitespace().take(cpus).map_while(|n| n.parse::<u64>().ok());
        Some((name.trim().to_owned(), counts.reduce(|a, b| a + b)?))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The architecture's own: each line is a kind.
fn own() -> BTreeMap<String, u64> {
    kernel("interrupts").into_iter().filter(|(name, _)| name.parse::<u32>().is_err()).collect()
}

fn seen(agent: &Agent, kind: &str) -> Option<f64> {
    agent.metric("linux_interrupt_handled_total", &[("linux_interrupt_kind", kind)])
}

fn softirqs(agent: &Agent, vector: &str) -> Option<f64> {
    agent.metric("linux_softirq_handled_total", &[("linux_softirq_vector", vector)])
}

/// Packets to ourselves, each of which is a softirq or two.
fn traffic() {
    let (to, from) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for _ in 0..2_000 {
        from.send_to(&[0; 32], to.local_addr().unwrap()).unwrap();
        to.recv(&mut [0; 64]).unwrap();
    }
}

/// Each kind lies between the kernel's figures before and after, none is missing, and packets are seen as NET_RX; what
/// devices interrupted is, with the architecture's own, what the kernel counts in all.
///
/// On every kernel.
#[test]
fn figures_are_the_kernels() {
    let _place = place!(Need::Agent);
    let (own_before, softirqs_before) = (own(), kernel("softirqs"));
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let packets = softirqs_before["NET_RX"] as f64 + 2_000.0;
    traffic();
    wait_for("softirqs of 2,000 packets", timeout(20), || softirqs(&agent, "NET_RX").filter(|n| *n >= packets));
    let own_seen: BTreeMap<&str, Option<f64>> = own_before.keys().map(|k| (k.as_str(), seen(&agent, k))).collect();
    let vectors: BTreeMap<&str, Option<f64>> =
        softirqs_before.keys().map(|v| (v.as_str(), softirqs(&agent, v))).collect();
    let (own_after, softirqs_after) = (own(), kernel("softirqs"));
    for (before, found, after) in
        [(own_before.clone(), own_seen, own_after), (softirqs_before.clone(), vectors, softirqs_after)]
    {
        for (kind, n) in found {
            let n = n.unwrap_or_else(|| panic!("no {kind}"));
            assert!(
                before[kind] as f64 <= n && n <= after[kind] as f64,
                "{kind}: {} {n} {}",
                before[kind],
                after[kind]
            );
        }
    }
    assert!(seen(&agent, "LOC").is_none_or(|n| n > 0.0));
    assert_eq!(agent.metric("linux_interrupt_left_out_count", &[]), Some(0.0));
    let page = agent.get("/metrics");
    let of_devices = page.lines().filter(|l| l.starts_with("linux_interrupt_handled_total{")).filter_map(|l| {
        let kind = l.split("linux_interrupt_kind=\"").nth(1)?.split('"').next()?;
        (!own_before.contains_key(kind)).then(|| l.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    let of_devices: f64 = of_devices.sum();
    let lines: u64 = kernel("interrupts").iter().filter(|(name, _)| name.parse::<u32>().is_ok()).map(|(_, n)| n).sum();
    assert!(of_devices <= lines as f64 && of_devices >= lines as f64 * 0.99, "{of_devices} of {lines}");
}

/// What a CPU counted is kept while it is off line, and is not counted twice when it is back.
#[test]
fn a_cpu_that_goes_off_line_takes_nothing_away() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n[collectors.cpufreq]\ninterval = \"1s\"\n");
    let timer = || seen(&agent, "LOC");
    let offline = |n| {
        wait_for("CPUs that are off line", timeout(30), || {
            (agent.metric("linux_cpu_offline_count", &[]) == Some(n)).then_some(())
        })
    };
    offline(0.0);
    let before = wait_for("timer interrupts", timeout(20), timer);
    fs::write("/sys/devices/system/cpu/cpu1/online", "0").unwrap();
    offline(1.0);
    let without = wait_for("timer interrupts", timeout(20), timer);
    fs::write("/sys/devices/system/cpu/cpu1/online", "1").unwrap();
    offline(0.0);
    // Two readings of all CPUs.
    let kernels = own()["LOC"] as f64;
    let after = wait_for("timer interrupts of both", timeout(20), || timer().filter(|n| *n >= kernels));
    assert!(before <= without && without <= after, "{before} {without} {after}");
    assert!(after <= own()["LOC"] as f64, "{after}");
}
