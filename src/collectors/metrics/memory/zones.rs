// SPDX-License-Identifier: Apache-2.0
//! Memory by NUMA node and zone.

use super::KIND;
use crate::host::Host;
use crate::signal::{Key, MetricDef, Metrics};

const NODE: Key = Key::new("linux.memory.numa.node", "Number of the NUMA node");
const ZONE: Key = Key::new("linux.memory.zone", "DMA, DMA32, Normal, …");
const ORDER: Key = Key::new("linux.memory.order", "A block has 2 to the power of this pages");
const OUTCOME: Key = Key::new("linux.memory.numa.outcome", "numa_hit, numa_miss, …, as numastat names it");

pub static BLOCKS: MetricDef =
    MetricDef::up_down_counter("linux.memory.free.block.count", "{block}", "Blocks of free memory by zone and order")
        .by(&[NODE, ZONE, ORDER]);
pub static SIZE: MetricDef = MetricDef::up_down_counter(
    "linux.memory.numa.size",
    "By",
    "Memory of a NUMA node by kind; only where there are several",
)
.by(&[NODE, KIND]);
pub static ALLOCATIONS: MetricDef = MetricDef::counter(
    "linux.memory.numa.allocations",
    "{page}",
    "Pages by where they were wanted and taken from; only where there are several nodes",
)
.by(&[NODE, OUTCOME]);

/// Of a node's `meminfo`.
const KINDS: [&str; 8] =
    ["MemTotal", "MemFree", "MemUsed", "FilePages", "AnonPages", "Shmem", "SReclaimable", "SUnreclaim"];

/// What cannot be read has no point.
pub fn write(host: &Host, out: &mut Metrics) {
    for zone in host.zones().unwrap_or_default() {
        for (order, n) in (0_u32..).zip(zone.free) {
            let attributes = [(NODE, zone.node.into()), (ZONE, zone.name.clone().into()), (ORDER, order.into())];
            out.count(&BLOCKS, None, &attributes, n);
        }
    }
    let nodes = host.numa_nodes();
    // Of one node alone all of it is in the node's other figures.
    for node in nodes.iter().filter(|_| nodes.len() > 1) {
        for kind in KINDS {
            let bytes = node.sizes.get(kind);
            out.count_some(&SIZE, None, &[(NODE, node.number.into()), (KIND, kind.into())], bytes);
        }
        for (outcome, pages) in node.allocations.iter() {
            let attributes = [(NODE, node.number.into()), (OUTCOME, outcome.to_owned().into())];
            out.count(&ALLOCATIONS, None, &attributes, pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    /// Free blocks by order; figures of nodes where there are several.
    #[test]
    fn figures() {
        let rig = Rig::new().unwrap();
        rig.write("proc/buddyinfo", "Node 0, zone      DMA      0      3\nNode 1, zone   Normal      7      0\n")
            .unwrap();
        let collected = || {
            let mut out = Metrics::default();
            write(rig.host(), &mut out);
            out
        };
        for n in [0, 1] {
            let folder = format!("sys/devices/system/node/node{n}");
            rig.write(&format!("{folder}/meminfo"), format!("Node {n} MemFree:  4 kB\n")).unwrap();
            rig.write(&format!("{folder}/numastat"), "numa_miss 6\n").unwrap();
            if n == 0 {
                assert!(collected().points().iter().all(|p| p.def.name == "linux.memory.free.block.count"));
            }
        }
        let out = collected();
        let blocks = |node, zone, order| {
            let by = [("linux.memory.numa.node", node), ("linux.memory.zone", zone), ("linux.memory.order", order)];
            out.figure("linux.memory.free.block.count", None, &by)
        };
        assert_eq!((blocks("0", "DMA", "1"), blocks("1", "Normal", "0")), (Some(3.0), Some(7.0)));
        let of = |name, key, value| out.figure(name, None, &[("linux.memory.numa.node", "1"), (key, value)]);
        assert_eq!(of("linux.memory.numa.size", "linux.memory.kind", "MemFree"), Some(4096.0));
        assert_eq!(of("linux.memory.numa.allocations", "linux.memory.numa.outcome", "numa_miss"), Some(6.0));
    }
}
