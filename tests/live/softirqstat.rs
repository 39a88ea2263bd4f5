// SPDX-License-Identifier: Apache-2.0
//! How long softirqs wait and run, beside the kernel's own counts of them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use std::{fs, thread};

use bianque::probe::Loader;
use bianque::probe::shared::softirq::VECTORS;
use bianque::probe::shared::{Shared, Softirqs};

use crate::support::{Agent, Need, place, provoke, timeout, wait_for};

/// Softirqs of each vector, on all CPUs, as the kernel counts them: it does so just before the entry.
fn kernel() -> Vec<u64> {
    let text = fs::read_to_string("/proc/softirqs").unwrap();
    let lines = text.lines().skip(1).zip(VECTORS).map(|(line, vector)| {
        let (name, counts) = line.split_once(':').unwrap();
        assert_eq!(name.trim(), vector, "{text}");
        counts.split_whitespace().map(|n| n.parse::<u64>().unwrap()).sum()
    });
    lines.collect()
}

fn probe() -> Softirqs {
    Shared::load(&mut Loader::new(), &[Softirqs::LATENCIES]).get().unwrap()
}

fn runs(probe: &Softirqs) -> Vec<u64> {
    probe.latencies().unwrap().iter().map(|of| of.run.count()).collect()
}

fn cpus() -> u64 {
    thread::available_parallelism().unwrap().get() as u64
}

/// CPU time of process 1, all its threads: some hosted kernels run no program while one is on the CPU.
fn process_1() -> u64 {
    let threads = fs::read_dir("/proc/1/task").unwrap().flatten();
    let text = threads.filter_map(|t| fs::read_to_string(t.path().join("schedstat")).ok());
    text.filter_map(|t| t.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

/// Packets one by one and in a stream, to ourselves.
fn traffic() {
    let (to, from) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for _ in 0..2_000 {
        from.send_to(&[0; 32], to.local_addr().unwrap()).unwrap();
        to.recv(&mut [0; 64]).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut receiver = listener.accept().unwrap().0;
    thread::scope(|s| {
        s.spawn(move || (0..100).for_each(|_| sender.write_all(&[0; 65_536]).unwrap()));
        receiver.read_to_end(&mut Vec::new()).unwrap();
    });
}

/// A vector's count by the kernel and by the probe, of a moment in which the kernel's stood still.
fn settled(probe: &Softirqs) -> BTreeMap<&'static str, (u64, u64)> {
    let mut out = BTreeMap::new();
    let end = Instant::now() + timeout(2);
    while out.len() < VECTORS.len() && Instant::now() < end {
        let (before, seen, after) = (kernel(), runs(probe), kernel());
        let still = (0..VECTORS.len()).filter(|v| before[*v] == after[*v]);
        out.extend(still.map(|v| (VECTORS[v], (before[v], seen[v]))));
    }
    out
}

/// The number of runs grows as `/proc/softirqs` does: at any time up to those that a CPU is in the middle of, and
/// to the last one where there was none such at both readings. All of them have a wait, but for a few.
///
/// On every kernel.
#[test]
fn runs_are_those_the_kernel_counts() {
    let _place = place!(Need::Agent);
    let probe = probe();
    let mut exact: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..10 {
        let (unseen, first) = (process_1(), settled(&probe));
        traffic();
        let second = settled(&probe);
        let all_seen = process_1() == unseen;
        for (vector, (kernel, seen)) in second {
            let Some((kernel_before, seen_before)) = first.get(vector) else { continue };
            let (kernel, seen) = (kernel - kernel_before, seen - seen_before);
            let near = seen.abs_diff(kernel) <= cpus();
            assert!(near || !all_seen, "{vector}: {seen} seen, {kernel} by the kernel");
            if seen == kernel && kernel > 0 {
                *exact.entry(vector).or_default() += kernel;
            }
        }
    }
    eprintln!("exactly as many: {exact:?}");
    assert!(exact.get("NET_RX").is_some_and(|n| *n >= 2_000) && exact.contains_key("TIMER"), "{exact:?}");
    for of in probe.latencies().unwrap() {
        let (waits, runs) = (of.wait.count(), of.run.count());
        assert!(waits <= runs + cpus() && waits + cpus() >= runs / 10 * 9, "{}: {waits} waits, {runs} runs", of.vector);
    }
}

/// What the agent says of NET_RX is what happened since it started, in seconds.
#[test]
fn figures_of_a_vector() {
    let _place = place!(Need::Agent);
    let (before, start) = (kernel(), Instant::now());
    let agent = Agent::start("");
    let net_rx = |name: &str| agent.metric(&format!("linux_softirq_{name}"), &[("linux_softirq_vector", "NET_RX")]);
    traffic();
    wait_for("2,000 packets", timeout(20), || net_rx("duration_seconds_count").filter(|n| *n >= 2_000.0));
    let (waits, ran) = (net_rx("latency_seconds_count").unwrap(), net_rx("duration_seconds_sum").unwrap());
    let count = net_rx("duration_seconds_count").unwrap();
    let (after, elapsed) = (kernel(), start.elapsed().as_secs_f64());
    let most = (after[3] - before[3]) as f64;
    assert!(count <= most && waits > 0.9 * 2_000.0 && waits <= most, "{count} runs, {waits} waits of {most}");
    assert!(ran > 0.0 && ran < elapsed * cpus() as f64, "{ran} s in {elapsed} s");
}

/// What is raised again and again while it waits has waited since the first time.
#[test]
fn a_wait_is_from_the_first_raise() {
    let _place = place!(Need::Agent, Need::Spin);
    let probe = probe();
    provoke("softirqdelay", &["--ms", "300", "--times", "3", "--cpu", "0"]);
    // Slot 17 is from 125 ms on.
    let long = |slots: &[u64]| slots[17..].iter().sum::<u64>();
    let waits: Vec<_> = probe.latencies().unwrap().iter().map(|of| (of.vector, long(&of.wait.slots))).collect();
    assert!(waits.iter().any(|(_, n)| *n >= 1), "{waits:?}");
}

/// A softirq that was raised as its CPU went off line did not wait until the CPU was back.
#[test]
fn a_cpu_off_line_is_no_wait() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let probe = probe();
    for _ in 0..3 {
        fs::write("/sys/devices/system/cpu/cpu1/online", "0").unwrap();
        thread::sleep(Duration::from_secs(9));
        fs::write("/sys/devices/system/cpu/cpu1/online", "1").unwrap();
        thread::sleep(timeout(1));
    }
    // Slot 23 is from 8 s on.
    let long: u64 = probe.latencies().unwrap().iter().map(|of| of.wait.slots[23..].iter().sum::<u64>()).sum();
    assert_eq!(long, 0);
}
