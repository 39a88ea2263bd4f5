// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! What the node's network stack did and where it lost something: counters of IP, ICMP, TCP and UDP, sockets in
//! use, their memory and what waits in them, packets that CPUs took from devices.
//!
//! # How
//! `/proc/net/snmp`, `netstat`, `snmp6`, `sockstat`, `sockstat6` and `softnet_stat` of the node's network namespace
//! (Documentation/networking/snmp_counter.rst), `tcp_mem` and `udp_mem`; `udp` and `udp6`, which have a line for each socket.
//! Once an interval.
//!
//! # Signals
//! `linux.net.protocol.events` (each counter under the kernel's own name), `linux.net.tcp.connection.count`,
//! `linux.net.socket.count`, `linux.net.socket.memory.usage`, `linux.net.socket.queue.size`, `linux.net.tcp.memory.limit`,
//! `linux.net.udp.memory.limit`, `linux.net.softnet.*`.
//!
//! # Limits
//! Some hundred of the kernel's four hundred counters; more with `counters`. The node's own namespace: what
//! containers do with networks of their own is not in it, but for `orphan`, `alloc` and the memory of sockets, which
//! are of the whole node. Queues of UDP are read while it has 10,000 sockets or fewer.
//!
//! # What to do next
//! `TcpExt`'s `ListenOverflows`: a program does not accept fast enough, or its backlog is small. `RcvbufErrors`: one
//! does not read fast enough, and its socket's queue is long; see the `netrecvlat` collector. `linux.net.softnet.dropped`: raise
//! `net.core.netdev_max_backlog`, or spread interrupts; `squeezed`: `net.core.netdev_budget`. Socket memory near its limit:
//! TCP is about to shrink buffers. Which packets: see `dropwatch`.

mod udp;

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::unwrapped::Unwrapped;
use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc, lost};
use crate::host::Host;
use crate::host::proc::{SocketFigure, Softnet};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value};
use crate::workload::filter::Glob;

const PROTOCOL: Key =
    Key::new("linux.net.protocol", "The protocol, as the kernel's file names it: Tcp, TcpExt, Udp6, …");
const COUNTER: Key = Key::new("linux.net.counter", "The counter, as the kernel's file names it");
const SOCKET_STATE: Key = Key::new(
    "linux.net.socket.state",
    "inuse; of TCP orphan (no program has it), tw (TIME-WAIT), alloc; of sockets used",
);
const THRESHOLD: Key = Key::new(
    "linux.net.memory.threshold",
    "low: no pressure below; pressure: buffers are kept small from here on; high: no more is given",
);

static COUNTERS: MetricDef = MetricDef::counter(
    "linux.net.protocol.events",
    "{event}",
    "Counters of the node's protocols; each for itself, they have no sum",
)
.by(&[PROTOCOL, COUNTER]);
static CONNECTIONS: MetricDef = MetricDef::up_down_counter(
    "linux.net.tcp.connection.count",
    "{connection}",
    "TCP connections that are ESTABLISHED or CLOSE-WAIT",
);
static SOCKETS: MetricDef =
    MetricDef::up_down_counter("linux.net.socket.count", "{socket}", "Sockets").by(&[PROTOCOL, SOCKET_STATE]);
static MEMORY: MetricDef =
    MetricDef::up_down_counter("linux.net.socket.memory.usage", "By", "Memory of buffers, of the whole node")
        .by(&[PROTOCOL]);
static TCP_LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.net.tcp.memory.limit", "By", "Limits of TCP's memory (net.ipv4.tcp_mem)")
        .by(&[THRESHOLD]);
static UDP_LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.net.udp.memory.limit", "By", "Limits of UDP's memory (net.ipv4.udp_mem)")
        .by(&[THRESHOLD]);
const CPU: &[Key] = &[attr::CPU_LOGICAL_NUMBER];
static SOFTNET: [MetricDef; 5] = [
    MetricDef::counter("linux.net.softnet.processed", "{packet}", "Packets that CPUs took from their queues").by(CPU),
    MetricDef::counter("linux.net.softnet.dropped", "{packet}", "Packets for which a CPU's backlog had no room")
        .by(CPU),
    MetricDef::counter("linux.net.softnet.squeezed", "{event}", "Times that a CPU's budget ended before its queue")
        .by(CPU),
    MetricDef::counter("linux.net.softnet.received_rps", "{event}", "Times that a CPU was woken for another's packets")
        .by(CPU),
    MetricDef::counter("linux.net.softnet.flow_limited", "{packet}", "Packets dropped as their flow had too many")
        .by(CPU),
];

/// What `counters` takes where it is not set: where something was lost or repeated, and how much there was.
const CURATED: &[&str] = &[
    "*.InErrors",
    "*.InErrs",
    "*.InCsumErrors",
    "Ip.InReceives",
    "Ip.OutRequests",
    "Ip.ForwDatagrams",
    "Ip.InDiscards",
    "Ip.OutDiscards",
    "Ip.OutNoRoutes",
    "Ip.Reasm*",
    "Ip.FragFails",
    "Ip6.InReceives",
    "Ip6.OutRequests",
    "Ip6.InDiscards",
    "Ip6.OutDiscards",
    "Ip*.InOctets",
    "Ip*.OutOctets",
    "Icmp*.InMsgs",
    "Icmp*.OutMsgs",
    "Icmp*.InDestUnreachs",
    "Tcp.ActiveOpens",
    "Tcp.PassiveOpens",
    "Tcp.AttemptFails",
    "Tcp.EstabResets",
    "Tcp.InSegs",
    "Tcp.OutSegs",
    "Tcp.OutRsts",
    "Tcp.RetransSegs",
    "TcpExt.Listen*",
    "TcpExt.Syncookies*",
    "TcpExt.TCPSynRetrans",
    "TcpExt.TCPTimeouts",
    "TcpExt.TCPLostRetransmit",
    "TcpExt.TCPFastRetrans",
    "TcpExt.TCPSlowStartRetrans",
    "TcpExt.TCPOFOQueue",
    "TcpExt.TCPOFODrop",
    "TcpExt.TCPRcvQDrop",
    "TcpExt.TCPBacklogDrop",
    "TcpExt.TCPZeroWindowDrop",
    "TcpExt.TCPToZeroWindowAdv",
    "TcpExt.TCPReqQFullDrop",
    "TcpExt.TCPMemoryPressures*",
    "TcpExt.TCPAbortOn*",
    "TcpExt.PruneCalled",
    "TcpExt.RcvPruned",
    "TcpExt.TW",
    "TcpExt.PAWS*",
    "Udp*.InDatagrams",
    "Udp*.OutDatagrams",
    "Udp*.NoPorts",
    "Udp*.RcvbufErrors",
    "Udp*.SndbufErrors",
    "Udp*.MemErrors",
];

/// They rise and fall, or are settings.
const NO_COUNTERS: &[(&str, &str)] = &[
    ("Ip", "Forwarding"),
    ("Ip", "DefaultTTL"),
    ("Tcp", "RtoAlgorithm"),
    ("Tcp", "RtoMin"),
    ("Tcp", "RtoMax"),
    ("Tcp", "MaxConn"),
    ("Tcp", "CurrEstab"),
];

/// Settings of `netstat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Counters to report, as `Protocol.Name`; `*` stands for any text. `["*"]`: all of them.
    pub counters: Vec<String>,
    /// Reports `linux.net.softnet.*` for each CPU, instead of for all together.
    pub per_cpu: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { counters: CURATED.iter().map(|&c| c.to_owned()).collect(), per_cpu: false }
    }
}

impl Settings for Config {}

/// The node's network stack.
pub struct Netstat {
    counters: Vec<Glob>,
    per_cpu: bool,
    host: Host,
    softnet: HashMap<u32, [Unwrapped; 5]>,
}

impl Collector for Netstat {
    const INFO: Info = Info {
        name: "netstat",
        summary: "counters of the network protocols, sockets and their memory, packets taken by each CPU",
        doc: head_doc(include_str!("netstat.rs")),
        metrics: &[
            &COUNTERS,
            &CONNECTIONS,
            &SOCKETS,
            &MEMORY,
            &udp::QUEUE,
            &TCP_LIMIT,
            &UDP_LIMIT,
            &SOFTNET[0],
            &SOFTNET[1],
            &SOFTNET[2],
            &SOFTNET[3],
            &SOFTNET[4],
        ],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        let lost = [
            lost("counters of protocols", &host.protocol_counters()),
            lost("sockets", &host.sockets()),
            lost("packets of each CPU", &host.softnet()),
            host.sockets().ok().and_then(|all| udp::too_many(&all)),
        ];
        Ok(lost.into_iter().flatten().collect())
    }

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let counters = globs(&config);
        let host = cx.host.clone();
        Ok(Netstat { counters, per_cpu: config.per_cpu, host, softnet: HashMap::new() })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        (self.counters, self.per_cpu) = (globs(&config), config.per_cpu);
        Ok(())
    }
}

fn globs(config: &Config) -> Vec<Glob> {
    config.counters.iter().map(|c| Glob::new(c.clone())).collect()
}

impl MetricCollector for Netstat {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        // One file that cannot be read costs no other's figures.
        let counters = self.host.protocol_counters().map(|all| self.protocols(&all, out));
        let sockets = self.host.sockets().map(|all| {
            sockets(&all, out);
            udp::queues(&self.host, &all, out);
        });
        self.limits(&TCP_LIMIT, "tcp_mem", out);
        self.limits(&UDP_LIMIT, "udp_mem", out);
        let softnet = self.host.softnet().map(|rows| self.softnet(&rows, out));
        counters.and(sockets).and(softnet)?;
        Ok(())
    }
}

impl Netstat {
    fn protocols(&self, all: &[(String, String, i64)], out: &mut Metrics) {
        for (protocol, name, value) in all {
            let Ok(value) = u64::try_from(*value) else { continue };
            if (protocol.as_str(), name.as_str()) == ("Tcp", "CurrEstab") {
                out.count(&CONNECTIONS, None, &[], value);
            }
            let text = format!("{protocol}.{name}");
            let is_counter = !NO_COUNTERS.contains(&(protocol, name));
            if is_counter && self.counters.iter().any(|glob| glob.fits(Some(&text))) {
                let attributes = [(PROTOCOL, protocol.clone().into()), (COUNTER, name.clone().into())];
                out.count(&COUNTERS, None, &attributes, value);
            }
        }
    }

    fn limits(&self, def: &'static MetricDef, setting: &str, out: &mut Metrics) {
        let Ok(text) = self.host.read_proc(&format!("sys/net/ipv4/{setting}")) else { return };
        for (threshold, pages) in ["low", "pressure", "high"].into_iter().zip(text.split_whitespace()) {
            if let Ok(pages) = pages.parse::<u64>() {
                out.count(def, None, &[(THRESHOLD, threshold.into())], in_bytes(pages));
            }
        }
    }

    fn softnet(&mut self, rows: &[Softnet], out: &mut Metrics) {
        let mut all = [0; 5];
        let mut online = Vec::new();
        for (cpu, row) in (0..).zip(rows).map(|(place, row)| (row.cpu.unwrap_or(place), row)) {
            let now = [row.processed, row.dropped, row.squeezed, row.received_rps, row.flow_limited];
            let sums = self.softnet.entry(cpu).or_default();
            online.push(cpu);
            for (i, def) in SOFTNET.iter().enumerate() {
                let sum = sums[i].sum(now[i]);
                all[i] += sum;
                if self.per_cpu {
                    out.count(def, None, &[(attr::CPU_LOGICAL_NUMBER, Value::from(cpu))], sum);
                }
            }
        }
        // The file has no line for a CPU that is offline, and its counts again when it is back.
        for (_, sums) in self.softnet.iter().filter(|(cpu, _)| !online.contains(cpu)) {
            for (all, sum) in all.iter_mut().zip(sums) {
                *all += sum.last_sum();
            }
        }
        if !self.per_cpu {
            for (def, sum) in SOFTNET.iter().zip(all) {
                out.count(def, None, &[], sum);
            }
        }
    }
}

fn sockets(all: &[(String, SocketFigure)], out: &mut Metrics) {
    for (protocol, figure) in all {
        let by = (PROTOCOL, Value::from(protocol.clone()));
        match figure {
            SocketFigure::Pages(n) => out.count(&MEMORY, None, &[by], in_bytes(*n)),
            SocketFigure::Bytes(n) => out.count(&MEMORY, None, &[by], *n),
            SocketFigure::Sockets(state, n) => {
                out.count(&SOCKETS, None, &[by, (SOCKET_STATE, state.clone().into())], *n);
            }
        }
    }
}

fn in_bytes(pages: u64) -> u64 {
    pages.saturating_mul(crate::host::sys::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    fn rig() -> Rig {
        let rig = Rig::new().unwrap();
        rig.write("proc/net/snmp", "Tcp: MaxConn CurrEstab InSegs RetransSegs\nTcp: -1 4 5 6\n").unwrap();
        rig.write("proc/net/netstat", "TcpExt: ListenDrops DelayedACKs\nTcpExt: 7 8\n").unwrap();
        rig.write("proc/net/snmp6", "Udp6RcvbufErrors 9\n").unwrap();
        rig.write("proc/net/sockstat", "sockets: used 10\nTCP: inuse 11 tw 12 mem 13\nFRAG: inuse 0 memory 14\n")
            .unwrap();
        rig.write("proc/net/sockstat6", "TCP6: inuse 15\n").unwrap();
        rig.write("proc/net/softnet_stat", "10 1 2 0 0 0 0 0 0 3 4 0 0\n20 0 0 0 0 0 0 0 0 0 0 0 2\n").unwrap();
        rig.write("proc/sys/net/ipv4/tcp_mem", "16\t17\t18\n").unwrap();
        rig.write("proc/sys/net/ipv4/udp_mem", "26\t27\t28\n").unwrap();
        rig
    }

    fn collected(rig: &Rig, config: &str) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<Netstat>(), config).unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    fn counter(out: &Metrics, protocol: &str, name: &str) -> Option<f64> {
        let labels = [("linux.net.protocol", protocol), ("linux.net.counter", name)];
        out.figure("linux.net.protocol.events", None, &labels)
    }

    /// Counters by the kernel's names, those that rise and fall apart; pages are bytes.
    #[test]
    fn figures() {
        let out = collected(&rig(), "");
        assert_eq!(counter(&out, "Tcp", "RetransSegs"), Some(6.0));
        assert_eq!(counter(&out, "TcpExt", "ListenDrops"), Some(7.0));
        assert_eq!(counter(&out, "Udp6", "RcvbufErrors"), Some(9.0));
        assert_eq!((counter(&out, "TcpExt", "DelayedACKs"), counter(&out, "Tcp", "CurrEstab")), (None, None));
        assert_eq!(out.figure("linux.net.tcp.connection.count", None, &[]), Some(4.0));
        let of = |protocol, state| {
            let labels = [("linux.net.protocol", protocol), ("linux.net.socket.state", state)];
            out.figure("linux.net.socket.count", None, &labels)
        };
        assert_eq!((of("sockets", "used"), of("TCP", "tw"), of("TCP6", "inuse")), (Some(10.0), Some(12.0), Some(15.0)));
        let page = crate::host::sys::page_size() as f64;
        let memory = |p| out.figure("linux.net.socket.memory.usage", None, &[("linux.net.protocol", p)]);
        assert_eq!((memory("TCP"), memory("FRAG")), (Some(13.0 * page), Some(14.0)));
        let limit = [("linux.net.memory.threshold", "high")];
        assert_eq!(out.figure("linux.net.tcp.memory.limit", None, &limit), Some(18.0 * page));
        assert_eq!(out.figure("linux.net.udp.memory.limit", None, &limit), Some(28.0 * page));
        assert_eq!(out.figure("linux.net.softnet.processed", None, &[]), Some(48.0));
        let all = collected(&rig(), "counters = [\"*\"]");
        assert_eq!((counter(&all, "TcpExt", "DelayedACKs"), counter(&all, "Tcp", "MaxConn")), (Some(8.0), None));
    }

    /// What a CPU did stays counted while it is offline; a count that wraps goes on.
    #[test]
    fn cpus_that_are_offline_and_counts_that_wrap() {
        let rig = rig();
        let mut c = rig.run(&crate::collectors::metrics::<Netstat>(), "").unwrap();
        let mut after = |text: &str| {
            rig.write("proc/net/softnet_stat", text).unwrap();
            let mut out = Metrics::default();
            c.collect(&mut out).unwrap();
            out.figure("linux.net.softnet.processed", None, &[])
        };
        let row = |n: &str, cpu: &str| format!("{n} 0 0 0 0 0 0 0 0 0 0 0 {cpu}\n");
        assert_eq!(after(&(row("fffffff0", "0") + &row("20", "1"))), Some(4_294_967_312.0));
        assert_eq!(after(&row("fffffff0", "0")), Some(4_294_967_312.0));
        assert_eq!(after(&(row("10", "0") + &row("21", "1"))), Some(4_294_967_345.0));
    }

    /// A broken file leaves the others whole.
    #[test]
    fn without_a_file() {
        let rig = rig();
        rig.remove("proc/net/sockstat").unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Netstat>(), "").unwrap();
        let mut out = Metrics::default();
        assert!(c.collect(&mut out).unwrap_err().to_string().contains("sockstat"));
        assert_eq!(counter(&out, "Tcp", "InSegs"), Some(5.0));
        assert_eq!(out.figure("linux.net.softnet.processed", None, &[]), Some(48.0));
    }
}
