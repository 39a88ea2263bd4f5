// SPDX-License-Identifier: Apache-2.0
//! Workload lookup with 5,000 cgroups: the lookup itself, the way from a record's bytes to an event, the
//! names of a stack, and the walk at start. The bars: a look-up within 200 ns of CPU time, 200,000 events a second on one core.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a bench")]

use std::hint::black_box;

use bianque::collectors::events::softirq::DELAY;
use bianque::host::{Clock, Host, sys};
use bianque::probe::skeletons::softirq::{Record, Records, SoftirqDelay};
use bianque::probe::stacks::Symbols;
use bianque::probe::{CgroupId, CgroupRef, RecordSet as _};
use bianque::signal::semconv::attr;
use bianque::signal::{Event, Role, Thread};
use bianque::workload::Workloads;
use bianque::zerocopy::{FromZeros as _, IntoBytes as _};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

#[path = "../tests/kubernetes_start.rs"]
mod kubernetes_start;

const CGROUPS: u64 = 5_000;

fn path(i: u64) -> String {
    format!("/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-{i:012x}/{i:064x}")
}

/// A record in a cgroup, with a stack of twelve.
fn record(id: u64) -> SoftirqDelay {
    let mut r = SoftirqDelay::new_zeroed();
    (r.time_ns, r.delay_ns, r.vector) = (1_000_000_000 * id, 20_000_000, 3);
    (r.at.cgroup, r.at.cpu) = (CgroupRef { hierarchy: 4, id, ..CgroupRef::new_zeroed() }, 1);
    (r.at.thread.tgid, r.at.thread.tid) = (4711, 4712);
    r.at.thread.comm[..6].copy_from_slice(b"nginx\0");
    r.at.stack.kernel_bytes = 12 * 8;
    r.at.stack.kernel[..12].fill(0xffff_ffff_8100_0000 + id);
    r
}

/// What the collector does with a record; symbols apart, which it looks up once for a function.
fn event(workloads: &Workloads, clock: &Clock, bytes: &[u8]) -> Event {
    let ring = Records::rings().iter().position(|r| r.name == "softirq_delay").unwrap();
    let Record::SoftirqDelay(r) = Records::decode(ring, bytes).unwrap() else { panic!("another record") };
    let mut e = Event::new(&DELAY, clock.wall(r.time_ns), None, String::new());
    let thread = Thread::from(r.at.thread);
    e.thread = Some(thread.clone());
    e.involve(Role::Culprit, Some(workloads.of_cgroup(r.at.cgroup.into()).unwrap()), thread);
    let name = e.related[0].workload.as_ref().map(|w| w.display_name().to_string()).unwrap_or_default();
    e.message = format!("softirq NET_RX waited {} ms on CPU {}; {name} was running", r.delay_ns / 1_000_000, r.at.cpu);
    e.attributes.set(attr::LINUX_SOFTIRQ_VECTOR, "NET_RX").set(attr::CPU_LOGICAL_NUMBER, r.at.cpu);
    e.attributes.set(attr::LINUX_CPU_STEAL, r.steal_ns);
    e
}

/// Nanoseconds of CPU time that one call takes: of 20 rounds the best, as others run here too.
fn cpu_ns(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 20_000;
    let mut round = || {
        let before = sys::process_cpu_ns();
        (0..CALLS).for_each(|_| call());
        (sys::process_cpu_ns() - before) as f64 / f64::from(CALLS)
    };
    (0..20).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[expect(clippy::print_stdout, reason = "a bench prints its results")]
fn bars(w: &Workloads) {
    let start = kubernetes_start::start();
    let (ms, cpu, kib) = (start.wall.as_millis(), start.cpu.as_millis(), start.bytes >> 10);
    println!("start with 500 pods in 5,000 cgroups, all named: {ms} ms (bar: 1,000), {cpu} ms of CPU time");
    println!("and its memory: {kib} KiB (bar: 8,192)");
    let clock = Clock::default();
    let mut i = 0;
    let mut next = || {
        i = (i + 7919) % CGROUPS;
        i + 2
    };
    let ns = cpu_ns(|| drop(black_box(w.of_cgroup(CgroupId { hierarchy: 4, id: next() }))));
    println!("look-up: {ns:.0} ns of CPU time (bar: 200)");
    let records: Vec<_> = (0..CGROUPS).map(|i| record(i + 2)).collect();
    let each = cpu_ns(|| drop(black_box(event(w, &clock, records[(next() - 2) as usize].as_bytes()))));
    println!("decode and attribute: {each:.0} ns of CPU time, {:.0} a second (bar: 200,000)", 1e9 / each);
}

/// Twelve functions of this kernel, in the middle; none where it does not show them.
fn kernel_stack() -> Vec<u64> {
    let all = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let functions = all.lines().filter(|l| l.contains(" T ")).step_by(500).take(12);
    let addresses = functions.filter_map(|l| u64::from_str_radix(l.split(' ').next()?, 16).ok());
    addresses.filter(|a| *a != 0).map(|a| a + 4).collect()
}

#[expect(clippy::print_stdout, reason = "a bench prints its results")]
fn stacks(stack: &[u64]) {
    let symbols = Symbols::new();
    let again = cpu_ns(|| drop(black_box(symbols.kernel(stack))));
    let mut new = stack.to_vec();
    let first = cpu_ns(|| {
        // More places than are kept.
        new[0] = stack[0] + (new[0] - stack[0] + 1) % 1_000;
        drop(black_box(symbols.kernel(&new)));
    });
    println!("a stack of {}, named: {first:.0} ns of CPU time, one that was seen before {again:.0} ns", stack.len());
}

fn bench(c: &mut Criterion) {
    match kernel_stack() {
        stack if stack.is_empty() => eprintln!("stacks: skipped: this kernel shows no addresses"),
        stack => stacks(&stack),
    }
    let w = Workloads::new(&Host::default(), &Clock::default());
    for i in 0..CGROUPS {
        w.on_mkdir(CgroupId { hierarchy: 4, id: i + 2 }, &path(i));
    }
    bars(&w);
    let mut i = 0;
    c.bench_function("workload/of_cgroup", |b| {
        b.iter(|| {
            i = (i + 7919) % CGROUPS;
            black_box(w.of_cgroup(CgroupId { hierarchy: 4, id: i + 2 })).unwrap()
        });
    });
    c.bench_function("workload/of_cgroup, unknown", |b| {
        b.iter(|| black_box(w.of_cgroup(CgroupId { hierarchy: 3, id: 1 })));
    });

    // A made-up v2 tree: what the walk itself costs, without a kernel's cgroupfs.
    let d = tempfile::tempdir().unwrap();
    let put = |file: &str, text: &str| {
        let file = d.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    put("proc/self/mountinfo", "1 0 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put("proc/self/cgroup", "0::/\n");
    for i in 0..CGROUPS / 2 {
        std::fs::create_dir_all(d.path().join(format!("sys/fs/cgroup{}", path(i)))).unwrap();
    }
    let host = Host::under(d.path());
    let start = || Workloads::new(&host, &Clock::default());
    c.bench_function("workload/start with 5,000", |b| {
        b.iter_batched(start, |w| black_box(w.scan().unwrap()), BatchSize::LargeInput);
    });
    let w = start();
    w.scan().unwrap();
    c.bench_function("workload/walk 5,000 again", |b| b.iter(|| black_box(w.scan().unwrap())));
}

criterion_group!(benches, bench);
criterion_main!(benches);
