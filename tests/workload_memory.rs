// SPDX-License-Identifier: Apache-2.0
//! What the table of workloads costs in memory. Alone in its process, so that nothing else counts.

use bianque::host::{Clock, Host};
use bianque::probe::CgroupId;
use bianque::workload::Workloads;

/// 5,000 cgroups, each in a pod of its own, take no more than 8 MiB; forty thousand that come and go
/// do not add to that without bound.
#[test]
fn five_thousand_cgroups_are_cheap() {
    let host = Host::default();
    let rss = || host.process(std::process::id()).unwrap().rss_bytes;
    let w = Workloads::new(&host, &Clock::default());
    let path = |i: u64| format!("/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-{i:012x}/{i:064x}");
    let before = rss();
    for i in 0..5_000 {
        w.on_mkdir(CgroupId { hierarchy: 0, id: i + 2 }, &path(i));
    }
    let used = rss() - before;
    assert!(used <= 8 << 20, "{used} bytes");
    for i in 10_000..50_000 {
        let id = CgroupId { hierarchy: 0, id: i };
        w.on_mkdir(id, &path(i));
        w.on_rmdir(id);
    }
    let used = rss() - before;
    assert!(used <= 24 << 20, "{used} bytes after churn");
    assert_eq!(w.all().len(), 5_000);
}
