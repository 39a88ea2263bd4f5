// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How full the kernel's tables of neighbours are (ARP for IPv4, NDISC for IPv6), and what went wrong with them: no room, and
//! addresses that nobody answered for.
//!
//! # How
//! `/proc/net/stat/arp_cache` and `ndisc_cache` (net/core/neighbour.c), the rows of the CPUs added up, and
//! `neigh/default/gc_thresh3` below `/proc/sys/net`. Once an interval.
//!
//! # Signals
//! `linux.net.neighbor.count` and `.limit` by `linux.net.neighbor.table`; `linux.net.neighbor.events` by the kernel's own names.
//!
//! # Limits
//! One table has the entries of all network namespaces, those of containers too, and its limit is for all of them
//! together. The limit does not count permanent entries, and those that a routing daemon or a bridge learned
//! (Linux 5.0); the count has them.
//!
//! # What to do next
//! `table_fulls`, or a count near the limit: packets to new neighbours are dropped; raise
//! `net.ipv4.neigh.default.gc_thresh3` (`net.ipv6` for NDISC), with `gc_thresh2` below it. `forced_gc_runs` that grow: it is
//! above `gc_thresh2`. `res_failed` and `unresolved_discards`: packets for addresses that nobody answers for;
//! `ip neigh show nud failed` has them. Many `allocs` and `destroys`: neighbours that come and go, as when a network is
//! scanned.

use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc, lost};
use crate::host::{Host, ReadError};
use crate::signal::{Key, MetricDef, Metrics};

const TABLE: Key = Key::new("linux.net.neighbor.table", "arp, ndisc");
const EVENT: Key =
    Key::new("linux.net.neighbor.event", "table_fulls, forced_gc_runs, res_failed, …, as the kernel names it");

static COUNT: MetricDef = MetricDef::up_down_counter(
    "linux.net.neighbor.count",
    "{entry}",
    "Entries of the table, of all network namespaces",
)
.by(&[TABLE]);
static LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.net.neighbor.limit", "{entry}", "As many as the table takes (gc_thresh3)")
        .by(&[TABLE]);
static EVENTS: MetricDef =
    MetricDef::counter("linux.net.neighbor.events", "{event}", "What happened to the table; they have no sum")
        .by(&[TABLE, EVENT]);

/// A table, and the protocol below whose settings its own are.
const TABLES: [(&str, &str); 2] = [("arp", "ipv4"), ("ndisc", "ipv6")];
/// Columns of all kernels since 5.10. Lookups and their hits are left out: they are of packets, and say nothing of trouble.
const REPORTED: [&str; 6] =
    ["allocs", "destroys", "res_failed", "forced_gc_runs", "unresolved_discards", "table_fulls"];

/// Tables of neighbours.
pub struct Neigh {
    host: Host,
}

impl Collector for Neigh {
    const INFO: Info = Info {
        name: "neigh",
        summary: "tables of neighbours (ARP, NDISC), their limits, and what was lost at them",
        doc: head_doc(include_str!("neigh.rs")),
        metrics: &[&COUNT, &LIMIT, &EVENTS],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        let [arp, ndisc] = TABLES.map(|(table, _)| host.neighbors(table));
        if let (Err(e), Err(_)) = (&arp, &ndisc) {
            return Err(Unavailable::because(e.to_string()));
        }
        Ok(lost("neighbours of IPv4", &arp).into_iter().chain(lost("neighbours of IPv6", &ndisc)).collect())
    }

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(Neigh { host: cx.host.clone() })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for Neigh {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let failed = TABLES.map(|(table, protocol)| self.table(table, protocol, out).err());
        match failed.into_iter().flatten().find(|e| !e.is_missing()) {
            Some(e) => Err(e.into()),
            None => Ok(()),
        }
    }
}

impl Neigh {
    fn table(&self, table: &'static str, protocol: &str, out: &mut Metrics) -> Result<(), ReadError> {
        let rows = self.host.neighbors(table)?;
        let by = (TABLE, table.into());
        let of = |row: &Vec<(String, u64)>, name: &str| row.iter().find(|(column, _)| column == name).map(|(_, n)| *n);
        out.count_some(&COUNT, None, std::slice::from_ref(&by), rows.first().and_then(|row| of(row, "entries")));
        let limit = self.host.setting(&format!("net/{protocol}/neigh/default/gc_thresh3"));
        out.count_some(&LIMIT, None, std::slice::from_ref(&by), limit);
        for name in REPORTED {
            let sum = rows.iter().filter_map(|row| of(row, name)).reduce(u64::saturating_add);
            out.count_some(&EVENTS, None, &[by.clone(), (EVENT, name.into())], sum);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    const ARP: &str = "entries  allocs   destroys hash_grows lookups  hits     res_failed forced_gc_runs table_fulls
0000000a 00000010 00000006 00000000   00000001 00000000 00000003   00000001       00000005
0000000a 00000002 00000002 00000000   00000001 00000000 00000001   00000000       00000007
";

    fn collected(rig: &Rig) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<Neigh>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    fn level(out: &Metrics, name: &str, table: &str) -> Option<f64> {
        out.figure(name, None, &[("linux.net.neighbor.table", table)])
    }

    fn event(out: &Metrics, table: &str, name: &str) -> Option<f64> {
        let labels = [("linux.net.neighbor.table", table), ("linux.net.neighbor.event", name)];
        out.figure("linux.net.neighbor.events", None, &labels)
    }

    /// Events are added up over the CPUs, entries are not; each table has its own figures and limit.
    #[test]
    fn figures() {
        let rig = Rig::new().unwrap();
        rig.write("proc/net/stat/arp_cache", ARP).unwrap();
        rig.write("proc/net/stat/ndisc_cache", "entries table_fulls\n00000003 100000000\n").unwrap();
        rig.write("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n").unwrap();
        rig.write("proc/sys/net/ipv6/neigh/default/gc_thresh3", "2048\n").unwrap();
        let out = collected(&rig);
        let levels = |name| [level(&out, name, "arp"), level(&out, name, "ndisc")];
        assert_eq!(levels("linux.net.neighbor.count"), [Some(10.0), Some(3.0)]);
        assert_eq!(levels("linux.net.neighbor.limit"), [Some(1024.0), Some(2048.0)]);
        let of = ["allocs", "destroys", "res_failed", "forced_gc_runs", "table_fulls"].map(|e| event(&out, "arp", e));
        assert_eq!(of, [Some(18.0), Some(8.0), Some(4.0), Some(1.0), Some(12.0)]);
        assert_eq!(event(&out, "ndisc", "table_fulls"), Some(4_294_967_296.0));
        assert_eq!((event(&out, "ndisc", "allocs"), event(&out, "arp", "lookups")), (None, None));
    }

    /// Without IPv6 the other table is whole, and `doctor` says what is lost; without both there is no collector.
    #[test]
    fn without_a_table() {
        let rig = Rig::new().unwrap();
        rig.write("proc/net/stat/arp_cache", ARP).unwrap();
        let out = collected(&rig);
        assert_eq!((level(&out, COUNT.name, "arp"), level(&out, LIMIT.name, "arp")), (Some(10.0), None));
        assert_eq!((level(&out, COUNT.name, "ndisc"), event(&out, "ndisc", "table_fulls")), (None, None));
        assert!(Neigh::survey(rig.host()).unwrap()[0].contains("IPv6"));
        rig.remove("proc/net/stat/arp_cache").unwrap();
        assert!(Neigh::survey(rig.host()).unwrap_err().to_string().contains("arp_cache"));
    }
}
