// SPDX-License-Identifier: Apache-2.0
//! TCP had to send a segment again.
//!
//! ## What it reports
//! Which connection, of which container and process, by which mechanism (`rto`: the retransmission
//! timer expired; `fast`: later segments were acknowledged; `tlp`: tail loss probe; `syn`, `syn_ack`: the
//! handshake is not complete), the state of the connection (round-trip time, congestion window), and
//! whether this node itself dropped the segment.
//!
//! ## How
//! `tcp:tcp_retransmit_skb` and `tcp:tcp_retransmit_synack` (include/trace/events/tcp.h). The BPF
//! program remembers the last drop of each connection and direction, to explain retransmits. A SYN that finds a
//! listener's accept queue full is used up without such a drop: of a SYN, the namespace of this node that has the
//! destination is asked whether its listeners dropped attempts (`ListenDrops` of `/proc/PID/net/netstat`). Segments are counted
//! by kind, network namespace and cgroup; as with `dropwatch`, events are made of the
//! first after five quiet seconds, the second, fourth, eighth …, at least one a minute.
//!
//! ## Signals
//! `linux.net.tcp_retransmit`: WARN where the delay is noticeable (a connection that is not
//! established, the second timeout in a row, eight or more since the last event), else INFO. Exact counts
//! are `linux.net.tcp_retransmits` (node) and `linux.container.net.tcp_retransmits` (workload), by kind.
//!
//! ## Limits
//! `linux.tcp.retransmit.cause` covers drops on this node only. With `not_seen_here` the segment may
//! have been lost on the way, at the other end, in a device that does not report drops, or not at all
//! (its acknowledgement was late); with a SYN to an address that is translated (a Service's), also in a full accept queue
//! of this node. The last drops of 4,096 connections are remembered; a newer one in the
//! same slot replaces an older one. A drop of another segment counts for one second, twice that with each
//! timeout in a row. Before and after a NAT, a connection counts as two. A connection whose process has closed it names no process.
//!
//! ## What to do next
//! Dropped here: see `linux.net.drop.reason`. `dropped_by_listener`: the process does not accept fast enough, or its
//! backlog (listen(2), `net.core.somaxconn`) is too small: `ss -ltn`. Not seen here, many destinations: this
//! node's uplink, a bond, a cable: `ethtool -S`. One destination: that host, or the path to it. `syn` to
//! one port: no answer from there: a firewall, or a full accept queue. `rto` with a small window and a
//! normal round-trip time: single losses at the end of short responses, which fast retransmit cannot repair.

mod listeners;

use std::time::Duration;

use crate::collectors::accumulate::Accumulator;
use crate::collectors::drop_reason::Reasons;
use crate::collectors::network::{Owners, address, ends, set_flow, set_state};
use crate::collectors::{Collector, Context, EventCollector, Events, Info, NoSettings, Unavailable, head_doc};
use crate::host::{Clock, Now};
use crate::probe::shared::net::{Net, RetransmitGroup};
use crate::probe::skeletons::net::{self, Record, Records, RetransmitKind};
use crate::probe::stacks::Symbols;
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Key, MetricDef, Severity, Value, Workload};
use crate::workload::Workloads;
use listeners::Listeners;

const RETRANSMIT_KIND: Key = Key::new(
    "linux.tcp.retransmit.kind",
    "rto, loss_recovery (more segments after an rto), fast, tlp (a probe of the tail), syn, syn_ack",
);
const RETRANSMIT_CAUSE: Key = Key::new(
    "linux.tcp.retransmit.cause",
    "dropped_segment, dropped_connection (another segment of it), dropped_return (what came back): seen here to be dropped; dropped_by_listener: a SYN, by a listener of this node; not_seen_here",
);
const RETRANSMIT_DROP_AGE: Key =
    Key::new("linux.tcp.retransmit.drop.age", "Nanoseconds between that drop and the retransmit");
const RETRANSMIT_ATTEMPT: Key =
    Key::new("linux.tcp.retransmit.attempt", "Timeouts in a row without an answer; 0: none");
const RETRANSMIT_COUNT: Key =
    Key::new("linux.tcp.retransmit.count", "Retransmits of this kind and owner on this CPU so far");
const TCP_RETRANSMITS: Key = Key::new("linux.tcp.retransmits", "Retransmits of the connection so far");
const TCP_RTT: Key = Key::new("linux.tcp.rtt", "Smoothed round-trip time in nanoseconds");
const TCP_RTT_VARIANCE: Key = Key::new("linux.tcp.rtt.variance", "Its variance in nanoseconds");
const TCP_CWND: Key = Key::new("linux.tcp.cwnd", "Congestion window in segments");
const TCP_SSTHRESH: Key = Key::new("linux.tcp.ssthresh", "Slow-start threshold in segments");
const TCP_MSS: Key = Key::new("linux.tcp.mss", "Bytes of a full segment");
const TCP_IN_FLIGHT: Key = Key::new("linux.tcp.in_flight", "Segments sent and not acknowledged");
const TCP_LOST: Key = Key::new("linux.tcp.lost", "Segments of them that TCP takes for lost");

const BY: &[Key] = &[RETRANSMIT_KIND];
const EVENTS_BY: &[Key] = &[RETRANSMIT_KIND, attr::LINUX_EVENT_SEVERITY];

static EVENTS: MetricDef =
    MetricDef::counter("linux.net.tcp_retransmit.events", "{event}", "Retransmits reported in full").by(EVENTS_BY);
static CONTAINER_EVENTS: MetricDef =
    MetricDef::counter("linux.container.net.tcp_retransmit.events", "{event}", "The workload's reported retransmits")
        .by(EVENTS_BY);
static RETRANSMITS: MetricDef =
    MetricDef::counter("linux.net.tcp_retransmits", "{segment}", "Segments that TCP sent again").by(BY);
static CONTAINER_RETRANSMITS: MetricDef =
    MetricDef::counter("linux.container.net.tcp_retransmits", "{segment}", "The workload's segments sent again").by(BY);

/// TCP sent segments again.
pub static RETRANSMIT: EventDef = EventDef {
    name: "linux.net.tcp_retransmit",
    summary: "TCP had to send segments again",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[
        RETRANSMIT_KIND,
        RETRANSMIT_CAUSE,
        attr::LINUX_DROP_REASON,
        attr::LINUX_DROP_LOCATION,
        RETRANSMIT_DROP_AGE,
        RETRANSMIT_ATTEMPT,
        RETRANSMIT_COUNT,
        TCP_RETRANSMITS,
        TCP_RTT,
        TCP_RTT_VARIANCE,
        TCP_CWND,
        TCP_SSTHRESH,
        TCP_MSS,
        TCP_IN_FLIGHT,
        TCP_LOST,
        attr::LINUX_TCP_SEQUENCE,
        attr::LINUX_NET_PACKET_SIZE,
        attr::NETWORK_TYPE,
        attr::NETWORK_TRANSPORT,
        attr::SOURCE_ADDRESS,
        attr::SOURCE_PORT,
        attr::DESTINATION_ADDRESS,
        attr::DESTINATION_PORT,
        attr::NETWORK_CONNECTION_STATE,
        attr::LINUX_NET_NAMESPACE,
    ],
    counter: &EVENTS,
    container_counter: Some(&CONTAINER_EVENTS),
};

/// In the order of the probe's numbers.
const KINDS: [(RetransmitKind, &str); 6] = [
    (RetransmitKind::RETRANSMIT_RTO, "rto"),
    (RetransmitKind::RETRANSMIT_LOSS_RECOVERY, "loss_recovery"),
    (RetransmitKind::RETRANSMIT_FAST, "fast"),
    (RetransmitKind::RETRANSMIT_TLP, "tlp"),
    (RetransmitKind::RETRANSMIT_SYN, "syn"),
    (RetransmitKind::RETRANSMIT_SYN_ACK, "syn_ack"),
];
/// What `drop_of` of the record says.
const CAUSES: [&str; 4] = ["not_seen_here", "dropped_segment", "dropped_connection", "dropped_return"];
/// What TCP of this node dropped without a hook.
const BY_LISTENER: &str = "dropped_by_listener";
/// This many since the last event are a warning.
const MANY: u64 = 8;
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// The collector.
pub struct TcpRetransmit {
    net: Net,
    clock: Clock,
    symbols: Symbols,
    owners: Owners,
    listeners: Listeners,
    reasons: Reasons,
    counts: Counts,
    workloads: Workloads,
}

/// Exact counts, by name of the kind.
type Counts = Accumulator<RetransmitGroup, &'static str, u64>;

/// All kinds of the node are there from the start.
fn counts() -> Counts {
    Counts::default().with_labels(KINDS.map(|(_, name)| name))
}

impl Collector for TcpRetransmit {
    const INFO: Info = Info {
        name: "tcp_retransmit",
        summary: "TCP retransmits: kind, owner, and whether this node dropped the segment",
        doc: head_doc(include_str!("tcp_retransmit.rs")),
        enabled: true,
        needs: &[Net::RETRANSMITS, Net::OWNERS],
        object: None,
        optional: &[],
        capabilities: &["CAP_SYSLOG"],
        metrics: &[&RETRANSMITS, &CONTAINER_RETRANSMITS],
        events: &[&RETRANSMIT],
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let net = cx.shared::<Net>()?;
        let owners = Owners::new(cx)?;
        let reasons = Reasons::of_kernel(cx.host)
            .map_err(|e| Unavailable::because(format!("the kernel's reasons cannot be read from its BTF: {e}")))?;
        // Without dropwatch nobody else says which drops are none.
        let classified = net.is_classified().and_then(|done| if done { Ok(()) } else { reasons.configure(&net, &[]) });
        classified.map_err(|e| Unavailable::because(format!("{e:#}")))?;
        cx.take_records(&net, "tcp_retransmit")?;
        Ok(TcpRetransmit {
            listeners: Listeners::new(cx.host, &net),
            net,
            clock: cx.clock.clone(),
            symbols: cx.symbols.clone(),
            owners,
            reasons,
            counts: counts(),
            workloads: cx.workloads.clone(),
        })
    }

    fn reload(&mut self, _: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl EventCollector for TcpRetransmit {
    type Records = Records;
    const COUNTS_LIMITED: bool = false;

    fn on_record(&mut self, record: Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        if let Record::TcpRetransmit(r) = record {
            let e = self.retransmitted(r);
            out.emit(e);
        }
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        Some(COUNT_EVERY)
    }

    fn tick(&mut self, _: Now, out: &mut Events) -> anyhow::Result<()> {
        let owner = |group: RetransmitGroup| self.owners.workload(group.cgroup, group.netns);
        let label = |group: RetransmitGroup| kind(RetransmitKind(group.kind));
        self.counts.feed(&self.workloads, self.net.retransmits()?, owner, label);
        write(&self.counts, out);
        Ok(())
    }
}

impl TcpRetransmit {
    fn retransmitted(&mut self, r: &net::TcpRetransmit) -> Event {
        let attribution = self.owners.of(&r.owner);
        let mut e = Event::new(&RETRANSMIT, self.clock.wall(r.time_ns), attribution.workload, String::new());
        e.thread = attribution.thread;
        e.suppressed = r.suppressed;
        e.severity = severity(r);
        self.say_connection(&mut e, r);
        let by_listener = r.drop_of == 0 && r.kind == RetransmitKind::RETRANSMIT_SYN && {
            let to = address(&r.flow.destination);
            self.listeners.dropped(r.owner.netns, to, r.flow.destination_port)
        };
        let a = &mut e.attributes;
        let of_record = CAUSES.get(r.drop_of as usize).copied().unwrap_or(CAUSES[0]);
        let cause = if by_listener { BY_LISTENER } else { of_record };
        a.set(RETRANSMIT_CAUSE, cause);
        let reason = (r.drop_of != 0).then(|| self.reasons.name(r.drop_reason));
        if let Some(reason) = &reason {
            let at = self.symbols.kernel(&[r.drop_location]).first().map(ToString::to_string);
            a.set(attr::LINUX_DROP_REASON, reason.clone()).set_some(attr::LINUX_DROP_LOCATION, at);
            a.set(RETRANSMIT_DROP_AGE, r.time_ns.saturating_sub(r.drop_time_ns));
        }
        e.message = message(&e, r, reason.as_deref(), by_listener);
        e
    }

    fn say_connection(&self, e: &mut Event, r: &net::TcpRetransmit) {
        let a = &mut e.attributes;
        a.set(RETRANSMIT_KIND, kind(r.kind)).set(RETRANSMIT_COUNT, r.hits);
        a.set(RETRANSMIT_ATTEMPT, r.attempt).set(attr::LINUX_NET_NAMESPACE, r.owner.netns);
        set_flow(a, &r.flow);
        set_state(a, &r.flow, &r.owner);
        // A half-open connection has none of this yet.
        if r.mss_bytes == 0 {
            return;
        }
        a.set(TCP_RETRANSMITS, r.total).set(attr::LINUX_TCP_SEQUENCE, r.seq);
        a.set(attr::LINUX_NET_PACKET_SIZE, r.end_seq.wrapping_sub(r.seq));
        a.set(TCP_RTT, u64::from(r.srtt_us) * 1000);
        a.set(TCP_RTT_VARIANCE, u64::from(r.rttvar_us) * 1000);
        a.set(TCP_CWND, r.cwnd).set(TCP_SSTHRESH, r.ssthresh);
        a.set(TCP_MSS, r.mss_bytes).set(TCP_IN_FLIGHT, r.in_flight);
        a.set(TCP_LOST, r.lost_packets);
    }
}

fn kind(number: RetransmitKind) -> &'static str {
    KINDS.iter().find(|(k, _)| *k == number).map_or("unknown", |(_, name)| name)
}

/// A single lost segment is normal; a warning is for noticeable delay.
fn severity(r: &net::TcpRetransmit) -> Severity {
    let opening = matches!(r.kind, RetransmitKind::RETRANSMIT_SYN | RetransmitKind::RETRANSMIT_SYN_ACK);
    // Nobody holds the socket any more: its last words to a peer that may be gone.
    let abandoned = r.owner.socket == 0 && !opening;
    let noticeable = opening || r.attempt >= 2 || r.suppressed >= MANY - 1;
    if noticeable && !abandoned { Severity::Warn } else { Severity::Info }
}

/// The totals of each kind.
fn write(counts: &Counts, out: &mut Events) {
    let label = |name: &'static str| [(RETRANSMIT_KIND, Value::from(name))];
    for (name, n) in counts.node() {
        out.metrics.count(&RETRANSMITS, None, &label(name), n.total);
    }
    for (workload, name, n) in counts.workloads() {
        out.metrics.count(&CONTAINER_RETRANSMITS, Some(workload), &label(name), n.total);
    }
}

/// The event's message: connection, kind, owner and cause.
fn message(e: &Event, r: &net::TcpRetransmit, reason: Option<&str>, by_listener: bool) -> String {
    let of_workload = Workload::message_suffix(e.workload.as_ref());
    let process = e.thread.as_ref().map(|t| format!(", {} (pid {})", t.comm, t.pid)).unwrap_or_default();
    let more = if r.suppressed > 0 { format!("; {} more since the last report", r.suppressed) } else { String::new() };
    let why = match (reason, r.drop_of) {
        (Some(reason), 1) => format!("dropped on this node: {reason}"),
        (Some(reason), 2) => format!("this node dropped segments of the connection: {reason}"),
        (Some(reason), _) => format!("this node dropped what came back: {reason}"),
        (None, _) if by_listener => "dropped by its listener on this node, whose accept queue is full".to_owned(),
        (None, _) => "no drop of it was seen on this node".to_owned(),
    };
    format!("{} sent again ({}){of_workload}{process}: {why}{more}", ends(&r.flow), kind(r.kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;
    use crate::host::Host;
    use crate::probe::CgroupId;
    use crate::signal::metric::Reading;
    use crate::signal::{Point, Timestamp, Total};
    use zerocopy::FromZeros as _;

    fn record(kind: RetransmitKind, socket: u64, attempt: u32, suppressed: u64) -> net::TcpRetransmit {
        let mut r = net::TcpRetransmit::new_zeroed();
        (r.kind, r.owner.socket, r.attempt, r.suppressed) = (kind, socket, attempt, suppressed);
        r
    }

    /// A single loss and the last segments of a closed connection are no warning; a stall is.
    #[test]
    fn severity_follows_who_waits() {
        let of = |r: net::TcpRetransmit| severity(&r);
        assert_eq!(of(record(RetransmitKind::RETRANSMIT_RTO, 7, 1, 0)), Severity::Info);
        assert_eq!(of(record(RetransmitKind::RETRANSMIT_RTO, 7, 2, 0)), Severity::Warn);
        assert_eq!(of(record(RetransmitKind::RETRANSMIT_RTO, 0, 5, 0)), Severity::Info);
        assert_eq!(of(record(RetransmitKind::RETRANSMIT_FAST, 7, 0, 20)), Severity::Warn);
        assert_eq!(of(record(RetransmitKind::RETRANSMIT_SYN, 7, 1, 0)), Severity::Warn);
    }

    /// Every kind is there from the start, at zero; a workload has those that it had.
    #[test]
    fn counts_start_at_zero() {
        let workloads = Workloads::new(&Host::under("/nowhere"), &Clock::fixed(Timestamp(1), 1));
        workloads.on_mkdir(CgroupId { hierarchy: 0, id: 7 }, "/job");
        let mut counts = counts();
        let mut out = Events::default();
        write(&counts, &mut out);
        assert_eq!(out.metrics.drain().count(), KINDS.len());
        let group = RetransmitGroup { cgroup: 7, netns: 1, kind: 2 };
        let owner = |g: RetransmitGroup| workloads.of_cgroup(CgroupId { hierarchy: 0, id: g.cgroup });
        for n in [3, 6] {
            let reading = [Total::new(group, 1, n)];
            counts.feed(&workloads, reading, owner, |g| kind(RetransmitKind(g.kind)));
        }
        write(&counts, &mut out);
        let kind_of = |p: &Point| p.attributes.get(RETRANSMIT_KIND.name).and_then(Value::as_str).map(str::to_owned);
        let fast = out.metrics.points().iter().filter(|p| kind_of(p).as_deref() == Some("fast"));
        let fast: Vec<_> = fast.map(|p| (p.def.name, &p.reading)).collect();
        assert_eq!(fast, [(RETRANSMITS.name, &Reading::Int(6)), (CONTAINER_RETRANSMITS.name, &Reading::Int(6))]);
        assert_eq!(out.metrics.points().len(), KINDS.len() + 1);
    }

    /// A SYN whose packet this node itself dropped, by the process that holds the socket; and the counts.
    #[test]
    fn a_retransmit_of_what_was_dropped_here() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut c = rig.run(&crate::collectors::events::<TcpRetransmit>(), "").unwrap();
        let mut holder = net::SocketHolder::new_zeroed();
        (holder.cgroup.id, holder.thread.tgid, holder.thread.tid) = (cgroup.id, 42, 42);
        holder.thread.comm[..6].copy_from_slice(b"client");
        rig.kernel().iterates(&net::SKELETON, "holders", &[holder]);
        let mut r = record(RetransmitKind::RETRANSMIT_SYN, 7, 1, 2);
        (r.time_ns, r.drop_time_ns, r.drop_of, r.drop_reason) = (rig.clock().boot_ns(), 5, 1, 8);
        (r.flow.version, r.flow.protocol, r.hits) = (6, 6, 3);
        let e = c.record("tcp_retransmit", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity, e.suppressed), ("linux.net.tcp_retransmit", Severity::Warn, 2));
        let said = "sent again (syn) of a.service, client (pid 42): dropped on this node: NETFILTER_DROP";
        assert!(e.message.contains(said), "{}", e.message);
        let key = net::RetransmitKey { cgroup: cgroup.id, kind: 4, ..net::RetransmitKey::new_zeroed() };
        let tally = net::Tally { hits: 2, units: 60, last_ns: rig.kernel().monotonic_ns(), ..net::Tally::new_zeroed() };
        rig.kernel().put(&net::SKELETON, "retransmits", &key, &[tally; 2]).unwrap();
        c.tick().unwrap();
        let metrics = c.metrics();
        let own: Vec<_> = metrics.points().iter().filter(|p| p.workload.is_some()).collect();
        assert_eq!((own.len(), &own[0].reading), (1, &crate::signal::metric::Reading::Int(120)));
    }

    /// A SYN that a listener of this node has no room for is not said to be lost elsewhere; one to another node is.
    #[test]
    fn a_full_accept_queue_of_this_node_is_named() {
        let rig = Rig::new().unwrap();
        let mut c = rig.run(&crate::collectors::events::<TcpRetransmit>(), "").unwrap();
        let member = |netns, tgid| net::NetnsMember { netns, tgid, ..net::NetnsMember::new_zeroed() };
        rig.kernel().iterates(&net::SKELETON, "members", &[member(10, 60), member(11, 61)]);
        for (pid, address) in [(60, "10.0.0.1"), (61, "10.0.0.2")] {
            rig.write(&format!("proc/{pid}/net/fib_trie"), format!("|-- {address}\n/32 host LOCAL\n")).unwrap();
            rig.write(&format!("proc/{pid}/net/netstat"), "TcpExt: ListenDrops\nTcpExt: 0\n").unwrap();
        }
        let mut r = record(RetransmitKind::RETRANSMIT_SYN, 7, 1, 0);
        (r.flow.version, r.flow.protocol, r.flow.destination_port, r.owner.netns) = (4, 6, 8080, 10);
        let ipv4 = |last: u8| [0, 0, u32::from_ne_bytes([0, 0, 255, 255]), u32::from_ne_bytes([10, 0, 0, last])];
        let mut cause = |to: u8| {
            r.flow.destination = ipv4(to);
            let e = c.record("tcp_retransmit", &r).unwrap().pop().unwrap();
            let cause = e.attributes.get(RETRANSMIT_CAUSE.name).and_then(Value::as_str).map(str::to_owned);
            (cause.unwrap(), e.message.contains("no drop of it was seen"))
        };
        assert_eq!(cause(2), ("not_seen_here".to_owned(), true), "nothing was dropped there");
        rig.write("proc/61/net/netstat", "TcpExt: ListenDrops\nTcpExt: 3\n").unwrap();
        rig.write("proc/60/net/netstat", "TcpExt: ListenDrops\nTcpExt: 9\n").unwrap();
        assert_eq!(cause(3), ("not_seen_here".to_owned(), true), "not of this node");
        assert_eq!(cause(2), ("dropped_by_listener".to_owned(), false));
        let full = "   0: 0200000A:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000\n";
        // The first look at that namespace: what was dropped before may be of long ago, but for the queue.
        assert_eq!(cause(1), ("not_seen_here".to_owned(), true));
        rig.write("proc/60/net/tcp", full).unwrap();
        assert_eq!(cause(1), ("dropped_by_listener".to_owned(), false));
    }
}
