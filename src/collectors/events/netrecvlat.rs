// SPDX-License-Identifier: Apache-2.0
//! Received packets that waited too long on the way to their reader.
//!
//! ## What it reports
//! How long, and how far the packet had come: `stack`: it waited for the network stack (the backlog
//! of a CPU: loopback, veth, receive packet steering); `transport`: for TCP to take it, e.g. as the
//! socket was busy with its owner; `user`: for the process to read it; `loss`: TCP had it, but a segment
//! before it was lost (head-of-line blocking). With both ends, and the container and process that it was for.
//! A packet is reported once, however often it is looked at and in however many pieces it is read.
//!
//! ## How
//! The kernel stamps each packet as it enters the stack, while anybody asks for stamps
//! (net/core/dev.c); the collector holds a socket that does. Each stage looks at the packet's own
//! stamp: `net:netif_receive_skb`, `tcp:tcp_probe`, `skb:skb_copy_datagram_iovec`, and fentry of
//! `skb_consume_udp` (net/ipv4/udp.c) for datagrams that are copied in one piece. The limits are
//! compared in the kernel, before anything is limited. A segment that fills a gap in front of TCP's
//! out-of-order queue is noted (`tcp:tcp_probe`): data behind it could not be read earlier, so the
//! reader is blamed for what followed only, and for less than `user_limit` not at all.
//!
//! ## Signals
//! `linux.net.receive_delay`, with the time that it waited at this stage as its duration. At the stages `user` and
//! `loss` the thread is the one that read. `loss` is INFO, one event a lost segment; `linux.tcp.sequence` is that
//! segment's, as in the sender's `linux.net.tcp_retransmit`, if that is on a node with the agent.
//!
//! ## Limits
//! Stamps are of the wall clock. After a step of it, what came before is not judged. A driver that
//! hands packets over late is not seen here but as `linux.softirq.delay` (NET_RX). Stages add up: what
//! was late for the stack is late for the reader too. For UDP there is no hook between the stack and
//! the reader. Where this end has closed its direction of a connection (FIN_WAIT) and segments came out of order,
//! nothing is said of the reader. Segments that TCP joins in its queue have the stamp of the last. A process that does not
//! want to read yet (a pool of connections, a paused consumer) is as late as one that cannot. At most
//! 20 events of a stage and workload at once, one more each second.
//!
//! ## What to do next
//! `stack`: which CPU, and what kept it from its softirqs: look at `linux.softirq.delay` and at its
//! neighbours. `transport`: the process holds its socket for long: large writes, low CPU limit.
//! `loss`: the network, or a drop at either end: look at `linux.net.tcp_retransmit` and `linux.net.packet_drop`.
//! `user`: the reader: was it throttled (`linux.container.cpu.throttled.time`), did it wait for a CPU
//! (`linux.container.sched.runqueue.latency`), or was it busy with something else?

use std::net::UdpSocket;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::network::{Attribution, Owners, ends, set_flow, set_state};
use crate::collectors::{
    Collector, Context, EventCollector, Events, Info, Invalid, Optional, Settings, Unavailable, head_doc,
};
use crate::host::{Clock, Now, sys};
use crate::probe::shared::Net;
use crate::probe::skeletons::net;
use crate::probe::skeletons::netrecvlat::{ReceiveDelay, ReceiveStage, Record, Records, SKELETON, setting};
use crate::probe::stacks::Symbols;
use crate::probe::{Object, text};
use crate::signal::semconv::attr;
use crate::signal::units::HumanDuration;
use crate::signal::{Event, EventDef, Key, MetricDef, Severity, Stack, Thread, Workload};
use crate::workload::Workloads;

const RECEIVE_STAGE: Key = Key::new(
    "linux.net.receive.stage",
    "What it waited for: stack (entry of the network stack), transport (TCP), user (its reader), loss (a segment before it that was lost)",
);
const RECEIVE_BLOCKED: Key = Key::new(
    "linux.net.receive.blocked",
    "Nanoseconds that the data waited for the lost segment before anybody could read it",
);

const BY: &[Key] = &[RECEIVE_STAGE, attr::LINUX_EVENT_SEVERITY];

static DELAYS: MetricDef =
    MetricDef::counter("linux.net.receive_delays", "{event}", "Received packets that waited too long").by(BY);
static CONTAINER_DELAYS: MetricDef =
    MetricDef::counter("linux.container.net.receive_delays", "{event}", "The workload's packets that waited too long")
        .by(BY);

/// A packet waited too long.
pub static DELAY: EventDef = EventDef {
    name: "linux.net.receive_delay",
    summary: "A received packet waited longer than the limit",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[
        RECEIVE_STAGE,
        RECEIVE_BLOCKED,
        attr::LINUX_TCP_SEQUENCE,
        attr::NETWORK_TYPE,
        attr::NETWORK_TRANSPORT,
        attr::SOURCE_ADDRESS,
        attr::SOURCE_PORT,
        attr::DESTINATION_ADDRESS,
        attr::DESTINATION_PORT,
        attr::NETWORK_CONNECTION_STATE,
        attr::NETWORK_INTERFACE_NAME,
        attr::LINUX_NET_IFINDEX,
        attr::LINUX_NET_PACKET_SIZE,
        attr::LINUX_NET_NAMESPACE,
    ],
    counter: &DELAYS,
    container_counter: Some(&CONTAINER_DELAYS),
};

/// How often the offset of the wall clock is checked; NTP slews it by 0.5 ms a second at most (adjtimex(2)).
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// What moves it more is a step.
const STEP_NS: u64 = 5_000_000;

/// Settings of `netrecvlat`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Report a packet that waited longer than this for the network stack. From 1ms to 60s.
    pub stack_limit: HumanDuration,
    /// Report a segment that TCP took later than this. From 1ms to 60s.
    pub transport_limit: HumanDuration,
    /// Report data that its reader read later than this. From 1ms to 60s.
    pub user_limit: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        let ms = HumanDuration::from_millis;
        Config { stack_limit: ms(50), transport_limit: ms(50), user_limit: ms(200) }
    }
}

impl Config {
    fn limits(&self) -> [(&'static str, crate::probe::Setting<u64>, HumanDuration); 3] {
        [
            ("stack_limit", setting::STACK_LIMIT_NS, self.stack_limit),
            ("transport_limit", setting::TRANSPORT_LIMIT_NS, self.transport_limit),
            ("user_limit", setting::USER_LIMIT_NS, self.user_limit),
        ]
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        let valid = Duration::from_millis(1)..=Duration::from_secs(60);
        let check = |(key, _, value)| Invalid::unless_within(valid.clone(), key, value, "from 1ms to 60s");
        self.limits().into_iter().try_for_each(check)
    }
}

/// The collector.
pub struct NetRecvLat {
    object: Object,
    clock: Clock,
    symbols: Symbols,
    owners: Owners,
    workloads: Workloads,
    offset: Offset,
    /// What was received before is not judged.
    since_ns: u64,
    /// While it is open, the kernel stamps packets.
    _stamps: UdpSocket,
}

/// Wall time minus boot time, as the probe has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offset(i64);

impl Offset {
    fn at(now: Now) -> Self {
        let difference = i128::from(now.wall.0) - i128::from(now.boot_ns);
        Offset(i64::try_from(difference).unwrap_or(0))
    }

    /// Whether the clock was stepped between the two, rather than slewed.
    fn is_step_from(self, before: Offset) -> bool {
        self.0.abs_diff(before.0) > STEP_NS
    }
}

impl Collector for NetRecvLat {
    const INFO: Info = Info {
        name: "netrecvlat",
        summary: "received packets that waited: for the network stack, for TCP, for their reader",
        doc: head_doc(include_str!("netrecvlat.rs")),
        enabled: true,
        needs: &[Net::OWNERS],
        object: Some(&SKELETON),
        optional: &[Optional { slot: "datagram", lost: "datagrams (UDP) that were read late; only fentry shows them" }],
        // CAP_SYSLOG: kernel symbols.
        capabilities: &["CAP_SYSLOG"],
        metrics: &[],
        events: &[&DELAY],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let stamps = sys::stamping_socket()
            .map_err(|e| Unavailable::because(format!("no socket that has packets stamped (SO_TIMESTAMPNS): {e}")))?;
        cx.clock.refresh();
        let now = cx.clock.now();
        let mut options = SKELETON.options();
        for (_, setting, value) in config.limits() {
            options = options.setting(setting, value.ns());
        }
        options = options.setting(setting::WALL_OFFSET_NS, Offset::at(now).0).setting(setting::SINCE_NS, now.boot_ns);
        Ok(NetRecvLat {
            object: cx.load(options)?,
            clock: cx.clock.clone(),
            symbols: cx.symbols.clone(),
            owners: Owners::new(cx)?,
            workloads: cx.workloads.clone(),
            offset: Offset::at(now),
            since_ns: now.boot_ns,
            _stamps: stamps,
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        config.limits().into_iter().try_for_each(|(_, setting, value)| self.object.set(setting, value.ns()))
    }
}

impl EventCollector for NetRecvLat {
    type Records = Records;

    fn on_record(&mut self, Record::ReceiveDelay(r): Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        self.follow_clock()?;
        // What was stamped before a step of the clock looks late by the step. The probe knows of it only now, so that
        // whole batches of records may be older.
        if r.entered_ns < self.since_ns {
            return Ok(());
        }
        let frames = usize::try_from(r.stack_bytes).unwrap_or(0) / size_of::<u64>();
        let stack = self.symbols.kernel(&r.stack[..frames.min(r.stack.len())]);
        let e = self.delayed(r, stack);
        out.emit(e);
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        Some(CLOCK_CHECK_INTERVAL)
    }

    fn tick(&mut self, _: Now, _: &mut Events) -> anyhow::Result<()> {
        self.follow_clock()
    }
}

impl NetRecvLat {
    /// Hands the probe the wall clock's offset as it is now; after a step nothing older is judged.
    fn follow_clock(&mut self) -> anyhow::Result<()> {
        self.clock.refresh();
        let now = self.clock.now();
        let offset = Offset::at(now);
        if offset.is_step_from(self.offset) {
            tracing::debug!("netrecvlat: the clock was set; what was received before is not judged");
            self.since_ns = now.boot_ns;
            self.object.set(setting::SINCE_NS, now.boot_ns)?;
        }
        if offset != self.offset {
            self.object.set(setting::WALL_OFFSET_NS, offset.0)?;
        }
        self.offset = offset;
        Ok(())
    }

    fn delayed(&mut self, r: &ReceiveDelay, stack: Stack) -> Event {
        let delay = Duration::from_nanos(r.delay_ns);
        let owner = net::NetOwner {
            cgroup: r.owner.cgroup,
            socket: r.owner.socket,
            netns: r.owner.netns,
            state: r.owner.state,
            family: r.owner.family,
            reserved: 0,
        };
        let attribution = self.attribution(r, &owner);
        let flow = flow_of(r);
        let mut e = Event::new(&DELAY, self.clock.wall(r.time_ns), attribution.workload, String::new());
        e.thread = attribution.thread;
        e.duration = Some(delay);
        e.kernel_stack = stack;
        let (stage, waited_for) = stage(r.stage);
        let of_workload = Workload::message_suffix(e.workload.as_ref());
        let reader = e.thread.as_ref().map(|t| format!(", {} (pid {})", t.comm, t.pid)).unwrap_or_default();
        e.message = format!("{}{of_workload} waited {} ms for {waited_for}{reader}", ends(&flow), delay.as_millis());
        if r.stage == ReceiveStage::STAGE_LOSS {
            // Whoever sent it reports the retransmit; the reader could do nothing.
            e.severity = Severity::Info;
            e.message += &format!("; its sequence number is {}", r.lost_seq);
        }
        let a = &mut e.attributes;
        a.set(RECEIVE_STAGE, stage);
        if r.blocked_ns != 0 {
            a.set(RECEIVE_BLOCKED, r.blocked_ns).set(attr::LINUX_TCP_SEQUENCE, r.lost_seq);
        }
        set_flow(a, &flow);
        set_state(a, &flow, &owner);
        let device = text(&r.device);
        a.set_some(attr::NETWORK_INTERFACE_NAME, Some(device).filter(|d| !d.is_empty()));
        a.set(attr::LINUX_NET_IFINDEX, r.ifindex);
        a.set(attr::LINUX_NET_PACKET_SIZE, r.length_bytes).set(attr::LINUX_NET_NAMESPACE, r.owner.netns);
        e
    }
}

impl NetRecvLat {
    fn attribution(&mut self, r: &ReceiveDelay, owner: &net::NetOwner) -> Attribution {
        if r.thread.tgid == 0 {
            return self.owners.of(owner);
        }
        let workload = self.workloads.of_process(r.thread.tgid, r.cgroup.into());
        Attribution { workload, thread: Some(Thread::from(r.thread)) }
    }
}

/// Each object has a type of its own for the same struct.
fn flow_of(r: &ReceiveDelay) -> net::Flow {
    net::Flow {
        source: r.flow.source,
        destination: r.flow.destination,
        source_port: r.flow.source_port,
        destination_port: r.flow.destination_port,
        version: r.flow.version,
        protocol: r.flow.protocol,
        tcp_flags: r.flow.tcp_flags,
        reserved: 0,
    }
}

fn stage(stage: ReceiveStage) -> (&'static str, &'static str) {
    match stage {
        ReceiveStage::STAGE_STACK => ("stack", "the network stack"),
        ReceiveStage::STAGE_TRANSPORT => ("transport", "TCP"),
        ReceiveStage::STAGE_USER => ("user", "its reader"),
        ReceiveStage::STAGE_LOSS => ("loss", "a segment before it that was lost"),
        _ => ("unknown", "something"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::signal::Timestamp;

    /// Limits that would flood, or never fire, are refused with what would be valid.
    #[test]
    fn limits_are_checked() {
        let mut c = Config::default();
        assert_eq!(c.validate(), Ok(()));
        c.user_limit = HumanDuration::from_micros(1);
        let e = c.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("user_limit", "from 1ms to 60s"));
    }

    /// A slewed clock is followed; a step in either direction is recognised.
    #[test]
    fn steps_are_distinguished_from_slewing() {
        let clock = Clock::fixed(Timestamp(1_000_000_000_000), 500);
        let before = Offset::at(clock.now());
        clock.advance(Duration::from_secs(1));
        clock.step(500_000);
        assert!(!Offset::at(clock.now()).is_step_from(before));
        for step in [3_600_000_000_000, -7_200_000_000_000] {
            let before = Offset::at(clock.now());
            clock.step(step);
            assert!(Offset::at(clock.now()).is_step_from(before));
        }
    }

    /// Data that its reader read late; and none of it when the clock was set meanwhile.
    #[test]
    fn late_data_and_a_clock_that_is_set() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut c = rig.run(&crate::collectors::events::<NetRecvLat>(), "user_limit = \"300ms\"").unwrap();
        let object = rig.kernel().object(&SKELETON).unwrap();
        assert_eq!(object.get(setting::USER_LIMIT_NS).unwrap(), 300_000_000);
        rig.advance(Duration::from_secs(1));
        let mut r = ReceiveDelay::new_zeroed();
        (r.time_ns, r.delay_ns, r.stage) = (rig.clock().boot_ns(), 400_000_000, ReceiveStage::STAGE_USER);
        r.entered_ns = r.time_ns - r.delay_ns;
        (r.cgroup.id, r.thread.tgid, r.thread.tid, r.flow.version) = (cgroup.id, 42, 42, 6);
        r.thread.comm[..3].copy_from_slice(b"app");
        let e = c.record("receive_delay", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.net.receive_delay", Severity::Warn));
        assert!(e.message.ends_with(" of a.service waited 400 ms for its reader, app (pid 42)"), "{}", e.message);
        for step in [3_600_000_000_000, -3_600_000_000_000] {
            rig.clock().step(step);
            for _ in 0..3 {
                assert!(c.record("receive_delay", &r).unwrap().is_empty(), "received before the step");
            }
            assert_eq!(object.get(setting::SINCE_NS).unwrap(), rig.clock().boot_ns());
            rig.advance(Duration::from_secs(1));
            r.time_ns = rig.clock().boot_ns();
            r.entered_ns = r.time_ns - r.delay_ns;
            assert_eq!(c.record("receive_delay", &r).unwrap().len(), 1);
        }
    }

    /// Data that waited for a lost segment is no fault of its reader: which segment it was, and no warning. Of a reader
    /// that was late as well, only its own part.
    #[test]
    fn head_of_line_blocking_is_no_late_reader() {
        let rig = Rig::new().unwrap();
        let mut c = rig.run(&crate::collectors::events::<NetRecvLat>(), "").unwrap();
        let mut r = ReceiveDelay::new_zeroed();
        (r.time_ns, r.entered_ns, r.stage) = (rig.clock().boot_ns(), rig.clock().boot_ns(), ReceiveStage::STAGE_LOSS);
        (r.delay_ns, r.blocked_ns, r.lost_seq, r.thread.tgid) = (208_000_000, 208_000_000, 4711, 42);
        r.thread.comm[..2].copy_from_slice(b"nc");
        let e = c.record("receive_delay", &r).unwrap().pop().unwrap();
        assert_eq!(e.severity, Severity::Info);
        let said = "waited 208 ms for a segment before it that was lost, nc (pid 42); its sequence number is 4711";
        assert!(e.message.ends_with(said), "{}", e.message);
        let int = |e: &Event, key: Key| e.attributes.get(key.name).and_then(crate::signal::Value::as_int);
        assert_eq!(int(&e, attr::LINUX_TCP_SEQUENCE), Some(4711));
        (r.stage, r.delay_ns) = (ReceiveStage::STAGE_USER, 300_000_000);
        let e = c.record("receive_delay", &r).unwrap().pop().unwrap();
        assert_eq!((e.severity, e.duration), (Severity::Warn, Some(Duration::from_millis(300))));
        assert_eq!(int(&e, RECEIVE_BLOCKED), Some(208_000_000));
        assert!(e.message.contains("waited 300 ms for its reader"), "{}", e.message);
    }
}
