// SPDX-License-Identifier: Apache-2.0
//! The kernel, or a network device, dropped packets that somebody wanted.
//!
//! ## What it reports
//! The reason (by the kernel's name), where in the kernel, and which connection or flow: both
//! ends, device, network namespace, the state of the TCP socket, and its owner: the container and
//! the process that holds the socket.
//!
//! ## How
//! `skb:kfree_skb` (include/trace/events/skb.h); packets that were used up go by another tracepoint.
//! Drops are counted in the kernel by reason, place, network namespace and cgroup. The first one after
//! five quiet seconds makes an event, then the second, fourth, eighth …, and at least one a minute
//! while drops go on: a storm of a million makes some twenty events, and starves no other reason.
//! Drops reported by devices (devlink traps) are included. Names of reasons come from the running
//! kernel's BTF.
//!
//! Normal drops are counted separately and make no event: remains of an ordinary close of a connection,
//! duplicates, multicast and broadcast without a listener, frames of unsupported protocols, late
//! segments of closed connections, answers to pings.
//!
//! ## Signals
//! `linux.net.packet_drop`, with how many were suppressed since the last one: WARN, but INFO for
//! `NO_SOCKET`, where the sender gets an immediate answer (connection refused, port unreachable). Exact counts are
//! `linux.net.packet_drops` (node) and `linux.container.net.packet_drops` (workload), by reason and
//! kind (loss, normal, ignored).
//!
//! ## Limits
//! Kernels before 5.17 give no reason: it is `NOT_SPECIFIED`, and only place and stack explain the drop; a lost
//! segment without data then counts as normal. A packet that was dropped before it reached a socket, e.g.
//! by a filter, is attributed to the owner of the network namespace; in the node's own namespace that is
//! the node. Before 6.11 this applies to all packets dropped on receipt, except that for a full UDP
//! socket the event names the only process with its port. On a v1 hierarchy without the unified one beside it the counters are by
//! namespace, the events by the process that holds the socket. That process is searched for among all open files
//! of the node, for a tenth of the time at most; beyond that an event is attributed to who made the socket. What a device drops without reporting it is
//! in the device's own statistics only.
//!
//! ## What to do next
//! `NETFILTER_DROP`: a firewall rule; the stack names the table's hook. `SOCKET_RCVBUFF`: the reader
//! is too slow, or its buffer too small (`net.core.rmem_max`, SO_RCVBUF). `QDISC_…`, `FQ_…`: the
//! device's queue or a rate limit is full: `tc -s qdisc`. `NO_SOCKET`: nobody listens there: is the
//! service up? `NEIGH_FAILED`: the next hop does not answer. `TCP_LISTEN_OVERFLOW`: the accept queue
//! is full. `CPU_BACKLOG`: one CPU gets more than it can take: RPS, `net.core.netdev_max_backlog`.
//! Intended drops, such as those of a firewall towards the internet: list the reason under `ignore`.

use std::collections::HashMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::accumulate::Accumulator;
use crate::collectors::drop_reason::Reasons;
use crate::collectors::network::{Owners, ends, set_flow, set_state};
use crate::collectors::{Collector, Context, EventCollector, Events, Info, Settings, Unavailable, head_doc};
use crate::host::{Clock, Now};
use crate::probe::shared::net::{DropGroup, Net};
use crate::probe::skeletons::net::{PacketDrop, Record, Records, SKELETON};
use crate::probe::stacks::Symbols;
use crate::probe::text;
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Key, MetricDef, Severity, Value, Workload};
use crate::workload::Workloads;

const NET_ETHER_TYPE: Key = Key::new("linux.net.ether_type", "Protocol of the frame, in hexadecimal");
const DROP_SOURCE: Key =
    Key::new("linux.net.drop.source", "software: the kernel; hardware: a device that reports its traps");
const DROP_GROUP: Key = Key::new("linux.net.drop.group", "The hardware trap's group");
const DROP_KIND: Key = Key::new(
    "linux.net.drop.kind",
    "loss: somebody wanted the packet; normal: what an ordinary close or a busy segment of a network leaves; ignored",
);
const DROP_COUNT: Key = Key::new("linux.net.drop.count", "Drops of this reason, place and owner on this CPU so far");

const BY: &[Key] = &[attr::LINUX_DROP_REASON, attr::LINUX_EVENT_SEVERITY];
const COUNTED_BY: &[Key] = &[attr::LINUX_DROP_REASON, DROP_KIND];

static EVENTS: MetricDef =
    MetricDef::counter("linux.net.packet_drop.events", "{event}", "Drops reported in full").by(BY);
static CONTAINER_EVENTS: MetricDef =
    MetricDef::counter("linux.container.net.packet_drop.events", "{event}", "The workload's drops reported in full")
        .by(BY);
static DROPS: MetricDef =
    MetricDef::counter("linux.net.packet_drops", "{packet}", "Packets that were dropped").by(COUNTED_BY);
static CONTAINER_DROPS: MetricDef =
    MetricDef::counter("linux.container.net.packet_drops", "{packet}", "The workload's packets that were dropped")
        .by(COUNTED_BY);

/// Packets were dropped.
pub static PACKET_DROP: EventDef = EventDef {
    name: "linux.net.packet_drop",
    summary: "Packets that somebody wanted were dropped",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[
        attr::LINUX_DROP_REASON,
        attr::LINUX_DROP_LOCATION,
        DROP_SOURCE,
        DROP_GROUP,
        DROP_COUNT,
        attr::NETWORK_TYPE,
        attr::NETWORK_TRANSPORT,
        attr::SOURCE_ADDRESS,
        attr::SOURCE_PORT,
        attr::DESTINATION_ADDRESS,
        attr::DESTINATION_PORT,
        attr::NETWORK_CONNECTION_STATE,
        attr::NETWORK_INTERFACE_NAME,
        attr::LINUX_NET_QUEUE,
        NET_ETHER_TYPE,
        attr::LINUX_NET_PACKET_SIZE,
        attr::LINUX_NET_NAMESPACE,
    ],
    counter: &EVENTS,
    container_counter: Some(&CONTAINER_EVENTS),
};

/// How often the kernel's counts are read.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Nobody listens there: the kernel answers with a reset or an ICMP error.
const REPORTED_TO_SENDER: &str = "NO_SOCKET";
/// How many names of hardware traps are cached.
const MAX_TRAPS: usize = 1024;
/// Labels that the node or a workload may have: a driver names its traps as it likes. The kernel has some 150 reasons.
const MAX_LABELS: usize = 512;
/// The reason under which further ones are counted.
const OTHER: &str = "OTHER";

/// Settings of `dropwatch`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reasons that make no events, e.g. `["NETFILTER_DROP"]`, as this kernel names them; they are still counted.
    pub ignore: Vec<String>,
}

impl Settings for Config {}

/// The collector.
pub struct DropWatch {
    net: Net,
    clock: Clock,
    symbols: Symbols,
    owners: Owners,
    names: Names,
    counts: Counts,
    workloads: Workloads,
}

/// Exact counts, by name of the reason and kind.
type Counts = Accumulator<DropGroup, (String, &'static str), u64>;

/// What reasons are called.
struct Names {
    reasons: Reasons,
    /// Names of hardware traps by the address that the groups have.
    traps: HashMap<u64, String>,
}

impl Collector for DropWatch {
    const INFO: Info = Info {
        name: "dropwatch",
        summary: "dropped packets: reason, place in the kernel, and owner",
        doc: head_doc(include_str!("dropwatch.rs")),
        enabled: true,
        needs: &[Net::DROPS, Net::OWNERS],
        object: Some(&SKELETON),
        optional: &[],
        // CAP_SYSLOG: kernel symbols.
        capabilities: &["CAP_SYSLOG"],
        metrics: &[&DROPS, &CONTAINER_DROPS],
        events: &[&PACKET_DROP],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let net = cx.shared::<Net>()?;
        let reasons = Reasons::of_kernel(cx.host)
            .map_err(|e| Unavailable::because(format!("the kernel's reasons cannot be read from its BTF: {e}")))?;
        let owners = Owners::new(cx)?;
        cx.take_records(&net, "packet_drop")?;
        let mut made = DropWatch {
            net,
            clock: cx.clock.clone(),
            symbols: cx.symbols.clone(),
            owners,
            names: Names { reasons, traps: HashMap::new() },
            counts: Counts::bounded(MAX_LABELS, |(_, kind)| (OTHER.to_owned(), kind)),
            workloads: cx.workloads.clone(),
        };
        made.reload(config).map_err(|e| Unavailable::because(format!("{e:#}")))?;
        Ok(made)
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        for name in config.ignore.iter().filter(|n| !self.names.reasons.has(n)) {
            tracing::warn!("dropwatch: ignore: this kernel has no reason {name}");
        }
        self.names.reasons.configure(&self.net, &config.ignore)
    }
}

impl EventCollector for DropWatch {
    type Records = Records;
    const COUNTS_LIMITED: bool = false;

    fn on_record(&mut self, record: Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        if let Record::PacketDrop(r) = record {
            let e = self.dropped(r);
            out.emit(e);
        }
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        Some(COUNT_EVERY)
    }

    fn tick(&mut self, _: Now, out: &mut Events) -> anyhow::Result<()> {
        let (names, owners) = (&self.names, &self.owners);
        self.counts.feed(
            &self.workloads,
            self.net.drops()?,
            |group| owners.workload(group.cgroup, group.netns),
            |group| (names.of(group.reason, group.hardware.then_some(group.location)), group.kind.name()),
        );
        write(&self.counts, out);
        Ok(())
    }
}

impl DropWatch {
    fn dropped(&mut self, r: &PacketDrop) -> Event {
        let hardware = r.hardware != 0;
        if hardware && self.names.traps.len() < MAX_TRAPS {
            self.names.traps.insert(r.location, text(&r.trap));
        }
        let at = (!hardware).then(|| self.symbols.kernel(&[r.location]).first().map(ToString::to_string)).flatten();
        let attribution = match at.as_deref() {
            Some(at) if r.owner.socket == 0 && is_received_by_udp(at, r) => {
                self.owners.of_udp_port(&r.owner, r.flow.destination_port)
            }
            _ => self.owners.of(&r.owner),
        };
        let reason = self.names.of(r.reason, hardware.then_some(r.location));
        let frames = usize::try_from(r.stack_bytes).unwrap_or(0) / size_of::<u64>();
        let mut e = Event::new(&PACKET_DROP, self.clock.wall(r.time_ns), attribution.workload, String::new());
        e.thread = attribution.thread;
        e.suppressed = r.suppressed;
        if reason == REPORTED_TO_SENDER {
            e.severity = Severity::Info;
        }
        e.kernel_stack = self.symbols.kernel(&r.stack[..frames.min(r.stack.len())]);
        e.message = message(&e, r, &reason, at.as_deref());
        let a = &mut e.attributes;
        a.set(attr::LINUX_DROP_REASON, reason).set_some(attr::LINUX_DROP_LOCATION, at);
        a.set(DROP_SOURCE, if hardware { "hardware" } else { "software" });
        a.set(DROP_COUNT, r.hits);
        if hardware {
            a.set(DROP_GROUP, text(&r.trap_group));
        }
        set_flow(a, &r.flow);
        set_state(a, &r.flow, &r.owner);
        let device = text(&r.device);
        // A packet that waits in a socket has no device any more; what stands there is something else.
        if !device.is_empty() && device.chars().all(|c| c.is_ascii_graphic()) {
            a.set(attr::NETWORK_INTERFACE_NAME, device).set(attr::LINUX_NET_QUEUE, r.queue);
        }
        a.set(NET_ETHER_TYPE, Value::address(r.ether_type.into()));
        a.set(attr::LINUX_NET_PACKET_SIZE, r.length_bytes).set(attr::LINUX_NET_NAMESPACE, r.owner.netns);
        e
    }
}

impl Names {
    /// `trap`: the address of a hardware trap's name.
    fn of(&self, reason: u32, trap: Option<u64>) -> String {
        match trap {
            None => self.reasons.name(reason),
            Some(at) => self.traps.get(&at).cloned().unwrap_or_else(|| "hardware".to_owned()),
        }
    }
}

/// The totals of each reason.
fn write(counts: &Counts, out: &mut Events) {
    let labels = |(reason, kind): &(String, &'static str)| {
        [(attr::LINUX_DROP_REASON, Value::from(reason.clone())), (DROP_KIND, Value::from(*kind))]
    };
    for (label, n) in counts.node() {
        out.metrics.count(&DROPS, None, &labels(label), n.total);
    }
    for (workload, label, n) in counts.workloads() {
        out.metrics.count(&CONTAINER_DROPS, Some(workload), &labels(label), n.total);
    }
}

/// Whether a UDP socket of this node was to have it, by the function that dropped it: udp_queue_rcv_one_skb,
/// udpv6_queue_rcv_one_skb (net/ipv4/udp.c, net/ipv6/udp.c). Not one that is passed on.
fn is_received_by_udp(at: &str, r: &PacketDrop) -> bool {
    at.trim_start_matches('_').starts_with("udp") && r.flow.destination_port != 0
}

/// The event's message: flow, owner, reason and place.
fn message(e: &Event, r: &PacketDrop, reason: &str, at: Option<&str>) -> String {
    let of_workload = Workload::message_suffix(e.workload.as_ref());
    let process = e.thread.as_ref().map(|t| format!(", socket of {} (pid {})", t.comm, t.pid)).unwrap_or_default();
    let place = at.map(|a| format!(" at {a}")).unwrap_or_default();
    let more = if r.suppressed > 0 { format!("; {} more since the last report", r.suppressed) } else { String::new() };
    format!("dropped {}{of_workload}: {reason}{place}{process}{more}", ends(&r.flow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::probe::skeletons::net::{DropKey, Tally};
    use crate::signal::metric::Reading;

    /// IPv4 as the probe has it: mapped.
    fn ipv4(last: u8) -> [u32; 4] {
        [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes([10, 0, 0, last])]
    }

    /// Reason, place and owner; the reason by the kernel's own number.
    #[test]
    fn a_packet_of_a_workload() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        rig.symbol(0xffff_ffff_8100_0000, "nf_hook_slow").unwrap();
        let mut c = rig.run(&crate::collectors::events::<DropWatch>(), "").unwrap();
        let mut r = PacketDrop::new_zeroed();
        (r.location, r.reason, r.hits, r.owner.cgroup.id) = (0xffff_ffff_8100_0010, 8, 1, cgroup.id);
        (r.flow.source, r.flow.destination, r.flow.version, r.flow.protocol) = (ipv4(1), ipv4(2), 4, 17);
        (r.flow.source_port, r.flow.destination_port) = (53, 4711);
        r.device[..4].copy_from_slice(b"eth0");
        let e = c.record("packet_drop", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.net.packet_drop", Severity::Warn));
        let said = "dropped udp 10.0.0.1:53 → 10.0.0.2:4711 of a.service: NETFILTER_DROP at nf_hook_slow";
        assert!(e.message.starts_with(said), "{}", e.message);
        // A drop that the sender was notified of; the probe's other ring belongs to another collector.
        r.reason = 3;
        assert_eq!(c.record("packet_drop", &r).unwrap().pop().unwrap().severity, Severity::Info);
        assert!(c.bytes("tcp_retransmit", &[]).is_err());
    }

    /// Exact counts of the kernel's table, of the node and of the workload; what is ignored is still counted.
    #[test]
    fn counts_grow_with_the_table() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut c = rig.run(&crate::collectors::events::<DropWatch>(), "ignore = [\"NETFILTER_DROP\"]").unwrap();
        let key = DropKey { cgroup: cgroup.id, reason: 8, kind: 2, ..DropKey::new_zeroed() };
        for hits in [3, 5] {
            // One of them was of 44 packets that were joined.
            let last_ns = rig.kernel().monotonic_ns();
            let tally = |hits| Tally { hits, units: hits + 43, last_ns, ..Tally::new_zeroed() };
            rig.kernel().put(&SKELETON, "drops", &key, &[tally(hits), tally(1)]).unwrap();
            c.tick().unwrap();
            let metrics = c.metrics();
            let of = |p: &crate::signal::metric::Point| (p.workload.is_some(), p.reading.clone());
            let points: Vec<_> = metrics.points().iter().map(of).collect();
            assert_eq!(points, [(false, Reading::Int(hits + 87)), (true, Reading::Int(hits + 87))]);
        }
        let classes = rig.kernel().table::<u32, u32>(&SKELETON, "reason_classes").unwrap();
        assert_eq!(classes.get(&8).unwrap(), Some(4));
    }

    /// Without the kernel's names there is a reason, and no events.
    #[test]
    fn without_types_it_is_unavailable() {
        let rig = Rig::new().unwrap();
        rig.remove("sys/kernel/btf/vmlinux").unwrap();
        let e = rig.run(&crate::collectors::events::<DropWatch>(), "").err().unwrap();
        assert!(e.to_string().contains("BTF"), "{e}");
    }
}
