// SPDX-License-Identifier: Apache-2.0
//! What the collectors of network events share: whose a packet or connection is, and how its ends are
//! told.

mod holders;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use holders::Holders;

use super::{Context, Unavailable};
use crate::probe::CgroupId;
use crate::probe::shared::net::{Holder, Net, Sought};
use crate::probe::skeletons::net::{Flow, NetOwner};
use crate::signal::semconv::attr;
use crate::signal::{Attributes, Thread, Workload};
use crate::workload::Workloads;
use crate::workload::netns::Namespaces;

/// The unit of a service manager, which makes sockets for others (`man systemd.socket`).
const SERVICE_MANAGER: &str = "init.scope";

/// States of a TCP connection (include/net/tcp_states.h), as OTel's `network.connection.state` has them.
const STATES: [&str; 13] = [
    "",
    "established",
    "syn_sent",
    "syn_received",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "closed",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "syn_received",
];

/// The workload and process that a packet or connection belongs to.
#[derive(Debug, Clone, Default)]
pub struct Attribution {
    pub workload: Option<Arc<Workload>>,
    /// The process that holds the socket.
    pub thread: Option<Thread>,
}

/// Attributes packets and connections to workloads: by the process that holds the socket, else by the
/// socket's cgroup, which is its maker's, else by the network namespace. Never by the task on the CPU.
pub struct Owners {
    workloads: Workloads,
    namespaces: Namespaces,
    holders: Holders,
}

impl Owners {
    /// # Errors
    /// The shared probe is not loaded.
    pub fn new(cx: &Context<'_>) -> Result<Self, Unavailable> {
        let net = cx.shared::<Net>()?;
        let namespaces = Namespaces::new(&net, cx.workloads);
        Ok(Owners { workloads: cx.workloads.clone(), namespaces, holders: Holders::new(net) })
    }

    /// The owner of the socket in a record.
    pub fn of(&mut self, owner: &NetOwner) -> Attribution {
        let holder = if owner.socket == 0 { None } else { self.holders.find(Sought::Inode(owner.socket)) };
        self.attribution(owner, holder)
    }

    /// The owner of a UDP packet's destination port, where the record names no socket.
    pub fn of_udp_port(&mut self, owner: &NetOwner, port: u16) -> Attribution {
        let holder = self.holders.find(Sought::UdpPort { netns: owner.netns, port });
        self.attribution(owner, holder)
    }

    fn attribution(&self, owner: &NetOwner, holder: Option<Holder>) -> Attribution {
        let workload = holder.as_ref().and_then(|h| self.workloads.of_process(h.thread.pid, h.cgroup));
        let workload = workload.or_else(|| self.workload(owner.cgroup.id, owner.netns));
        Attribution { workload, thread: holder.map(|h| h.thread) }
    }

    /// The workload of a socket's cgroup, else of a network namespace; zeros are not known.
    #[must_use]
    pub fn workload(&self, cgroup: u64, netns: u32) -> Option<Arc<Workload>> {
        self.by_cgroup(cgroup).or_else(|| if netns == 0 { None } else { self.namespaces.owner(netns) })
    }

    fn by_cgroup(&self, id: u64) -> Option<Arc<Workload>> {
        if id == 0 {
            return None;
        }
        let maker = self.workloads.of_cgroup(CgroupId { hierarchy: 0, id })?;
        (maker.unit.as_deref() != Some(SERVICE_MANAGER)).then_some(maker)
    }
}

/// An address as the probe has it.
#[must_use]
pub fn address(words: &[u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (to, word) in octets.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Sets the ends of a packet, as far as there are any.
pub fn set_flow(a: &mut Attributes, flow: &Flow) {
    if flow.version == 0 {
        return;
    }
    a.set(attr::NETWORK_TYPE, if flow.version == 4 { "ipv4" } else { "ipv6" });
    a.set(attr::NETWORK_TRANSPORT, transport(flow.protocol));
    a.set(attr::SOURCE_ADDRESS, address(&flow.source).to_string());
    a.set(attr::DESTINATION_ADDRESS, address(&flow.destination).to_string());
    if flow.destination_port != 0 {
        a.set(attr::SOURCE_PORT, flow.source_port).set(attr::DESTINATION_PORT, flow.destination_port);
    }
}

/// Sets the state of a TCP socket, if it is one.
pub fn set_state(a: &mut Attributes, flow: &Flow, owner: &NetOwner) {
    const TCP: u8 = 6;
    let state = STATES.get(usize::from(owner.state)).copied().filter(|s| !s.is_empty() && flow.protocol == TCP);
    a.set_some(attr::NETWORK_CONNECTION_STATE, state);
}

/// `udp 10.0.0.1:53 → 10.0.0.2:4711`, for messages.
#[must_use]
pub fn ends(flow: &Flow) -> String {
    if flow.version == 0 {
        return "frame".to_owned();
    }
    let (from, to) = (address(&flow.source), address(&flow.destination));
    let end = |a: IpAddr, port: u16| match a {
        _ if port == 0 => a.to_string(),
        IpAddr::V4(_) => format!("{a}:{port}"),
        IpAddr::V6(_) => format!("[{a}]:{port}"),
    };
    let name = transport(flow.protocol);
    format!("{name} {} → {}", end(from, flow.source_port), end(to, flow.destination_port))
}

/// A protocol by its number (IANA).
fn transport(protocol: u8) -> String {
    let name = match protocol {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        58 => "icmpv6",
        132 => "sctp",
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::events::{dropwatch::DropWatch, netrecvlat::NetRecvLat, tcp_retransmit::TcpRetransmit};
    use crate::collectors::testing::Rig;
    use crate::probe::skeletons::net;
    use crate::probe::skeletons::netrecvlat::ReceiveDelay;
    use crate::signal::Event;

    /// Who holds the socket comes before who made it, for each of the collectors; a service manager that made
    /// it for others is nobody.
    #[test]
    fn a_sockets_holder_comes_before_its_maker() {
        let rig = Rig::new().unwrap();
        let (user, maker) = (rig.cgroup("/sshd.service").unwrap(), rig.cgroup("/maker.service").unwrap());
        let manager = rig.cgroup("/init.scope").unwrap();
        let mut holder = net::SocketHolder::new_zeroed();
        (holder.cgroup.id, holder.thread.tgid, holder.thread.tid) = (user.id, 42, 42);
        holder.thread.comm[..4].copy_from_slice(b"sshd");
        rig.kernel().iterates(&net::SKELETON, "holders", &[holder]);
        let of = |e: Event| e.workload.map(|w| w.display_name().to_owned());
        for (socket, cgroup, expected) in [
            (7, maker, Some("sshd.service")),
            (7, manager, Some("sshd.service")),
            (0, maker, Some("maker.service")),
            (0, manager, None),
        ] {
            let mut drop = net::PacketDrop::new_zeroed();
            (drop.owner.socket, drop.owner.cgroup.id) = (socket, cgroup.id);
            let mut again = net::TcpRetransmit::new_zeroed();
            again.owner = drop.owner;
            let mut late = ReceiveDelay::new_zeroed();
            (late.owner.socket, late.owner.cgroup.id) = (socket, cgroup.id);
            (late.time_ns, late.entered_ns) = (rig.clock().boot_ns(), rig.clock().boot_ns());
            let mut c = rig.run(&crate::collectors::events::<DropWatch>(), "").unwrap();
            let mut found = c.record("packet_drop", &drop).unwrap();
            let mut c = rig.run(&crate::collectors::events::<TcpRetransmit>(), "").unwrap();
            found.extend(c.record("tcp_retransmit", &again).unwrap());
            let mut c = rig.run(&crate::collectors::events::<NetRecvLat>(), "").unwrap();
            found.extend(c.record("receive_delay", &late).unwrap());
            let found: Vec<_> = found.into_iter().map(of).collect();
            assert_eq!(found, vec![expected.map(str::to_owned); 3], "socket {socket}");
        }
    }

    fn flow(source: Ipv6Addr, protocol: u8) -> Flow {
        let words = |a: Ipv6Addr| {
            let o = a.octets();
            std::array::from_fn(|i| u32::from_ne_bytes([o[i * 4], o[i * 4 + 1], o[i * 4 + 2], o[i * 4 + 3]]))
        };
        let version = if source.to_ipv4_mapped().is_some() { 4 } else { 6 };
        let (source, destination) = (words(source), words("2001:db8::2".parse().unwrap()));
        Flow { source, destination, source_port: 7, destination_port: 80, version, protocol, tcp_flags: 0, reserved: 0 }
    }

    /// Mapped addresses are IPv4's; ports stand behind brackets for IPv6.
    #[test]
    fn ends_are_readable() {
        let four = flow("::ffff:10.0.0.1".parse().unwrap(), 17);
        assert!(ends(&four).starts_with("udp 10.0.0.1:7 → "), "{}", ends(&four));
        let six = flow("2001:db8::1".parse().unwrap(), 6);
        assert_eq!(ends(&six), "tcp [2001:db8::1]:7 → [2001:db8::2]:80");
        let mut a = Attributes::new();
        set_flow(&mut a, &six);
        let source = a.get("source.address").and_then(crate::signal::Value::as_str).map(str::to_owned);
        assert_eq!(source.as_deref(), Some("2001:db8::1"));
    }
}
