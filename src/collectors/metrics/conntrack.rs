// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How full the node's table of tracked connections is, and what was lost when it could not take one.
//!
//! # How
//! `/proc/sys/net/netfilter/nf_conntrack_count` and `nf_conntrack_max`, and the rows of each CPU in
//! `/proc/net/stat/nf_conntrack` (net/netfilter/nf_conntrack_standalone.c), added up. Once an interval.
//!
//! # Signals
//! `linux.net.conntrack.count`, `.limit`; `linux.net.conntrack.events` by the kernel's own names.
//!
//! # Limits
//! Nothing while `nf_conntrack` is not loaded. The count is of the node's network namespace; each container with a network
//! of its own has a table of its own, with the same limit.
//!
//! # What to do next
//! `drop`, or `count` near `limit`: raise `net.netfilter.nf_conntrack_max`, or find who opens so many:
//! `conntrack -L`. `early_drop`: the table was full, and a connection without an answer gave way. `insert_failed` with
//! `clashres`: two packets of one new flow at once, as DNS over UDP sends them. `invalid`: packets that belong to no
//! connection, often after a failover or with asymmetric routes.

use std::collections::HashMap;

use crate::collectors::unwrapped::Unwrapped;
use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc};
use crate::host::Host;
use crate::signal::{Key, MetricDef, Metrics};

const EVENT: Key = Key::new("linux.net.conntrack.event", "drop, early_drop, insert_failed, …, as the kernel names it");

static COUNT: MetricDef =
    MetricDef::up_down_counter("linux.net.conntrack.count", "{connection}", "Connections in the node's table");
static LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.net.conntrack.limit", "{connection}", "As many as a table takes");
static EVENTS: MetricDef =
    MetricDef::counter("linux.net.conntrack.events", "{event}", "What happened to the node's table; they have no sum")
        .by(&[EVENT]);

/// Columns that all kernels since 5.10 fill, where something did not go as it should.
const REPORTED: [&str; 8] =
    ["clashres", "drop", "early_drop", "found", "icmp_error", "insert_failed", "invalid", "search_restart"];

/// Tracked connections.
pub struct Conntrack {
    host: Host,
    /// By row and column: each is of 32 bits.
    sums: HashMap<(usize, &'static str), Unwrapped>,
}

impl Collector for Conntrack {
    const INFO: Info = Info {
        name: "conntrack",
        summary: "tracked connections, their limit, and what was lost at it",
        doc: head_doc(include_str!("conntrack.rs")),
        metrics: &[&COUNT, &LIMIT, &EVENTS],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        if !host.has_nodes_network() {
            return Err(Unavailable::because("the agent is not in the node's network namespace (hostNetwork)"));
        }
        let loaded = host.conntrack("count").is_some();
        Ok((!loaded).then(|| "all, until nf_conntrack is loaded".to_owned()).into_iter().collect())
    }

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(Conntrack { host: cx.host.clone(), sums: HashMap::new() })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for Conntrack {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        out.count_some(&COUNT, None, &[], self.host.conntrack("count"));
        out.count_some(&LIMIT, None, &[], self.host.conntrack("max"));
        let rows = self.host.conntrack_events().unwrap_or_default();
        for name in REPORTED {
            let mut sum = None;
            for (row, columns) in rows.iter().enumerate() {
                if let Some((_, n)) = columns.iter().find(|(column, _)| column == name) {
                    *sum.get_or_insert(0) += self.sums.entry((row, name)).or_default().sum(*n);
                }
            }
            out.count_some(&EVENTS, None, &[(EVENT, name.into())], sum);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    fn collected(rig: &Rig) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<Conntrack>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    fn event(out: &Metrics, name: &str) -> Option<f64> {
        out.figure("linux.net.conntrack.events", None, &[("linux.net.conntrack.event", name)])
    }

    /// Rows of CPUs are added up, by the names of their columns; each wraps for itself.
    #[test]
    fn figures() {
        let rig = Rig::new().unwrap();
        rig.write("proc/sys/net/netfilter/nf_conntrack_count", "42\n").unwrap();
        rig.write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n").unwrap();
        let rows = |drop: &str| {
            format!(
                "entries  clashres drop early_drop\n0000002a  00000001 {drop} 00000000\n0000002a  00000002 00000010 00000000\n"
            )
        };
        rig.write("proc/net/stat/nf_conntrack", rows("fffffff0")).unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Conntrack>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        let of = |name| out.figure(name, None, &[]);
        assert_eq!((of("linux.net.conntrack.count"), of("linux.net.conntrack.limit")), (Some(42.0), Some(262_144.0)));
        assert_eq!((event(&out, "clashres"), event(&out, "drop")), (Some(3.0), Some(4_294_967_296.0)));
        assert_eq!((event(&out, "early_drop"), event(&out, "invalid")), (Some(0.0), None));
        rig.write("proc/net/stat/nf_conntrack", rows("00000004")).unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!(event(&out, "drop"), Some(4_294_967_316.0));
    }

    /// Where it is not loaded there is nothing, and no zero; each file for itself.
    #[test]
    fn without_the_module() {
        let rig = Rig::new().unwrap();
        assert!(collected(&rig).points().is_empty());
        rig.write("proc/sys/net/netfilter/nf_conntrack_count", "0\n").unwrap();
        assert_eq!(collected(&rig).points().len(), 1);
    }
}
