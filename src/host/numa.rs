// SPDX-License-Identifier: Apache-2.0
//! Memory by NUMA node and zone.

use super::proc::{Figures, parse_meminfo};
use super::{Host, Reading, keyed};

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NumaNode {
    pub number: u32,
    /// Of its `meminfo`, in bytes; `HugePages_…` in pages.
    pub sizes: Figures,
    /// Of its `numastat`, in pages: Documentation/admin-guide/numastat.rst.
    pub allocations: Figures,
}

/// Free memory of a zone: how many blocks of 2^order pages, by order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub node: u32,
    pub name: String,
    pub free: Vec<u64>,
}

impl Zone {
    /// `Node 0, zone   Normal      4     10 …`: mm/vmstat.c.
    fn parse(line: &str) -> Option<Self> {
        let (node, rest) = line.strip_prefix("Node ")?.split_once(", zone")?;
        let mut words = rest.split_whitespace();
        let name = words.next()?.to_owned();
        Some(Zone { node: node.trim().parse().ok()?, name, free: words.map_while(|w| w.parse().ok()).collect() })
    }
}

impl Host {
    /// The zones with their free lists.
    ///
    /// # Errors
    /// [`ReadError`](super::ReadError)
    pub fn zones(&self) -> Reading<Vec<Zone>> {
        Ok(self.read_proc("buddyinfo")?.lines().filter_map(Zone::parse).collect())
    }

    /// The NUMA nodes, by number; none without CONFIG_NUMA.
    #[must_use]
    pub fn numa_nodes(&self) -> Vec<NumaNode> {
        let folder = "devices/system/node";
        let entries = std::fs::read_dir(self.sys.join(folder)).into_iter().flatten().flatten();
        let mut numbers: Vec<u32> =
            entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("node")?.parse().ok()).collect();
        numbers.sort_unstable();
        let read =
            |number: u32, file: &str| self.read_sys(&format!("{folder}/node{number}/{file}")).unwrap_or_default();
        let node = |number| NumaNode {
            number,
            sizes: parse_meminfo(&without_node(&read(number, "meminfo"))),
            allocations: Figures::of(keyed(&read(number, "numastat"))),
        };
        numbers.into_iter().map(node).collect()
    }
}

/// Each line of a node's `meminfo` begins with `Node 0 `.
fn without_node(text: &str) -> String {
    let line = |line: &str| Some(line.strip_prefix("Node ")?.split_once(' ')?.1.to_owned() + "\n");
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A zone has as many orders as the kernel; what is no zone is none.
    #[test]
    fn zones() {
        let zone = Zone::parse("Node 1, zone   Normal      4     10      0 ").unwrap();
        assert_eq!((zone.node, zone.name.as_str(), zone.free), (1, "Normal", vec![4, 10, 0]));
        assert_eq!((Zone::parse(""), Zone::parse("Node x, zone DMA 1")), (None, None));
    }

    /// Figures of two nodes, in the order of their numbers.
    #[test]
    fn nodes() {
        let dir = tempfile::tempdir().unwrap();
        for (n, kib) in [(10, 8), (2, 4)] {
            let folder = dir.path().join(format!("sys/devices/system/node/node{n}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("meminfo"), format!("Node {n} MemTotal:  {kib} kB\nodd\n")).unwrap();
            std::fs::write(folder.join("numastat"), "numa_hit 5\nnuma_miss 6\n").unwrap();
        }
        let nodes = Host::under(dir.path()).numa_nodes();
        let found: Vec<_> =
            nodes.iter().map(|n| (n.number, n.sizes.get("MemTotal"), n.allocations.get("numa_miss"))).collect();
        assert_eq!(found, [(2, Some(4096), Some(6)), (10, Some(8192), Some(6))]);
    }

    proptest! {
        /// No bytes make a parser panic.
        #[test]
        fn never_panics(line in "(Node [0-9]{0,12}, ?zone)?.{0,40}") {
            let _ = (Zone::parse(&line), without_node(&line));
        }
    }
}
