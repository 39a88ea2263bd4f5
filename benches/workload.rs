// SPDX-License-Identifier: Apache-2.0
//! Whose is this, with 5,000 cgroups: the look-up, and the walk at start.
#![expect(clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use bianque::host::{Clock, Host};
use bianque::probe::CgroupId;
use bianque::workload::Workloads;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const CGROUPS: u64 = 5_000;

fn path(i: u64) -> String {
    format!("/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-{i:012x}/{i:064x}")
}

fn bench(c: &mut Criterion) {
    let w = Workloads::new(&Host::default(), &Clock::default());
    for i in 0..CGROUPS {
        w.on_mkdir(CgroupId { hierarchy: 4, id: i + 2 }, &path(i));
    }
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
