// SPDX-License-Identifier: Apache-2.0
//! What becomes of groups that are many.

use zerocopy::FromZeros;

use super::*;
use crate::probe::shared::Shared;
use crate::probe::{Loader, Memory};

/// A probe whose maps hold these groups of drops: namespaces, and how long ago each was hit.
fn with_drops(kernel: &Memory, groups: impl Iterator<Item = (u32, u64)>) -> Net {
    kernel.advance(std::time::Duration::from_secs(1000));
    let now = kernel.monotonic_ns();
    for (netns, age_ns) in groups {
        let key = DropKey { location: 1, cgroup: 0, netns, reason: 2, kind: 0, hardware: 0 };
        let tally = Tally { hits: 3, units: 3, last_ns: now - age_ns, ..FromZeros::new_zeroed() };
        kernel.put(&net::SKELETON, "drops", &key, &[tally]).unwrap();
    }
    let shared = Shared::load(&mut Loader::in_memory(kernel), &[Net::DROPS]);
    shared.get::<Net>().unwrap()
}

fn netns_of(all: &[Total<DropGroup, u64>]) -> Vec<u32> {
    let mut netns: Vec<u32> = all.iter().map(|t| t.key.netns).collect();
    netns.sort_unstable();
    netns
}

/// Where the map fills, those that are idle the longest make room, each reported once more; those that
/// are hit stay, however many others come.
#[test]
fn a_crowd_makes_room_for_those_that_are_hit() {
    let kernel = Memory::new("/proc", 1);
    let net = with_drops(&kernel, (1..=2000).map(|n| (n, u64::from(n) * 1_000_000)));
    assert_eq!(net.drops().unwrap().len(), 2000);
    let left = net.drops().unwrap();
    assert_eq!(netns_of(&left), (1..=1024).collect::<Vec<_>>());
    assert!(left.iter().all(|t| t.total == 3));
    assert_eq!(net.drops().unwrap().len(), 1024, "and there is room now");
}

/// What finds no room is counted under its reason and what it is, and as what is not known of owners.
#[test]
fn a_crowd_is_classed_rightly() {
    let kernel = Memory::new("/proc", 2);
    let net = with_drops(&kernel, std::iter::empty());
    let tally = |hits| Tally { hits, units: hits, ..FromZeros::new_zeroed() };
    kernel.put(&net::SKELETON, "crowded_drops", &(5_u32 << 2 | 1), &[tally(4), tally(2)]).unwrap();
    kernel.put(&net::SKELETON, "crowded_drops", &(5_u32 << 2), &[tally(1), tally(0)]).unwrap();
    let mut all: Vec<_> = net.drops().unwrap().iter().map(|t| (t.key.reason, t.key.kind.name(), t.total)).collect();
    all.sort_unstable();
    assert_eq!(all, [(5, "loss", 1), (5, "normal", 6)]);
    assert_eq!(net.lost(), 7);
}
