// SPDX-License-Identifier: Apache-2.0
//! A network device as a netlink message describes it: rtnetlink(7), include/uapi/linux/if_link.h.

use netlink_packet_core::{NlaBuffer, NlasIterator};

use super::NsId;
use crate::host::proc::Traffic;
use crate::signal::Hex;

/// One network device, as it stood when the kernel wrote the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    pub ns: NsId,
    pub index: u32,
    pub name: String,
    /// `IFF_*` of netdevice(7).
    pub flags: u32,
    /// Which of them changed; all ones for a device that is new.
    pub changed: u32,
    pub state: Option<&'static str>,
    pub mac: Option<String>,
    /// veth, bond, bridge, …; none for hardware and loopback.
    pub kind: Option<String>,
    /// The bond, bridge, … that it belongs to.
    pub master: Option<u32>,
    /// Its hardware's bus and place there: `pci`, `0000:00:03.0`. Since 5.14.
    pub parent: Option<(String, String)>,
    /// Namespace of its peer or lower device, where that is another one.
    pub peer_ns: Option<i32>,
    /// Where it went, in the notice that it is gone.
    pub moved_to: Option<i32>,
    pub carrier_losses: Option<u32>,
    pub bond: Option<Bond>,
    pub port: Option<BondPort>,
    /// Where the message has them.
    pub counters: Option<Counters>,
}

/// What a device counted since it was made: `struct rtnl_link_stats64`, where each figure is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters([u64; COUNTERS]);

/// Those that all kernels have; the structure grows at its end.
const COUNTERS: usize = 24;

impl Counters {
    /// Of an IFLA_STATS64 attribute. `None`: it is too short.
    fn parse(v: &[u8]) -> Option<Self> {
        let mut all = [0; COUNTERS];
        let words = v.chunks_exact(8).map(|w| w.try_into().map_or(0, u64::from_ne_bytes));
        let n = all.iter_mut().zip(words).map(|(to, from)| *to = from).count();
        (n == COUNTERS).then_some(Counters(all))
    }

    /// What came in, and what went out.
    #[must_use]
    pub fn traffic(&self) -> [Traffic; 2] {
        [0, 1].map(|at| Traffic {
            packets: self.0[at],
            bytes: self.0[2 + at],
            errors: self.0[4 + at],
            dropped: self.0[6 + at],
        })
    }

    #[must_use]
    pub fn multicast(&self) -> u64 {
        self.0[8]
    }

    /// Kinds of errors and drops by way, of which some are among its errors.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        const KINDS: [(usize, &str, &str); 13] = [
            (9, "transmit", "collision"),
            (10, "receive", "length"),
            (11, "receive", "over"),
            (12, "receive", "crc"),
            (13, "receive", "frame"),
            (14, "receive", "fifo"),
            (15, "receive", "missed"),
            (16, "transmit", "aborted"),
            (17, "transmit", "carrier"),
            (18, "transmit", "fifo"),
            (19, "transmit", "heartbeat"),
            (20, "transmit", "window"),
            (23, "receive", "nohandler"),
        ];
        let all = self.0;
        KINDS.into_iter().map(move |(at, way, kind)| (way, kind, all[at]))
    }
}

#[cfg(test)]
impl Counters {
    /// Each figure is its place in the structure.
    pub(crate) fn numbered() -> Self {
        Counters(std::array::from_fn(|i| i as u64))
    }
}

/// What a bond says of its 802.3ad aggregation; other modes have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bond {
    /// 4 is 802.3ad.
    pub mode: u8,
    /// The active aggregator's; `None`: there is none.
    pub aggregation: Option<Aggregation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Aggregation {
    pub id: u16,
    pub ports: u16,
    pub actor_key: u16,
    pub partner_key: u16,
    pub partner: String,
}

/// A bond's port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BondPort {
    /// Not a backup.
    pub active: bool,
    /// 0: up.
    pub mii_status: u8,
    pub failures: u32,
    /// Of 802.3ad: the aggregator, and the states of both sides' ports (IEEE 802.1AX, 6.4.2.3).
    pub aggregator: Option<u16>,
    pub actor_state: Option<u8>,
    pub partner_state: Option<u8>,
}

pub const IFF_UP: u32 = 1;
pub const IFF_LOOPBACK: u32 = 1 << 3;
pub const IFF_LOWER_UP: u32 = 1 << 16;

/// `struct ifinfomsg`.
const HEADER: usize = 16;

/// Attributes of a message, or of one that holds others. What follows a malformed one is left out.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn u8_of(v: &[u8]) -> Option<u8> {
    v.first().copied()
}

fn u16_of(v: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*v.first_chunk()?))
}

pub(super) fn u32_of(v: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*v.first_chunk()?))
}

pub(super) fn i32_of(v: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*v.first_chunk()?))
}

fn text(v: &[u8]) -> String {
    let end = v.iter().position(|b| *b == 0).unwrap_or(v.len());
    String::from_utf8_lossy(v.get(..end).unwrap_or_default()).into_owned()
}

fn mac(v: &[u8]) -> String {
    v.iter().map(|b| Hex(&[*b]).to_string()).collect::<Vec<_>>().join(":")
}

/// RFC 2863, in the kernel's numbers (uapi/linux/if.h).
fn state(n: u8) -> &'static str {
    const STATES: [&str; 7] = ["unknown", "not_present", "down", "lower_layer_down", "testing", "dormant", "up"];
    STATES.get(usize::from(n)).copied().unwrap_or("unknown")
}

impl Link {
    /// The body of an RTM_NEWLINK or RTM_DELLINK message. `None`: not of a device, but of what a bridge
    /// or an address family adds to one, or too short.
    #[must_use]
    pub fn parse(ns: NsId, body: &[u8]) -> Option<Self> {
        if body.first() != Some(&0) {
            return None;
        }
        let word = |at: usize| u32_of(body.get(at..)?);
        let mut link = Link { ns, index: word(4)?, flags: word(8)?, changed: word(12)?, ..Link::default() };
        let mut parent = (None, None);
        for a in attributes(body.get(HEADER..)?) {
            let v = a.value();
            // IFLA_* of if_link.h: ABI.
            match a.kind() {
                1 if !v.is_empty() => link.mac = Some(mac(v)),
                3 => link.name = text(v),
                10 => link.master = u32_of(v),
                16 => link.state = u8_of(v).map(state),
                18 => link.info(v),
                23 => link.counters = Counters::parse(v),
                37 => link.peer_ns = i32_of(v),
                45 => link.moved_to = i32_of(v),
                46 => link.ns = i32_of(v).or(link.ns),
                48 => link.carrier_losses = u32_of(v),
                56 => parent.0 = Some(text(v)),
                57 => parent.1 = Some(text(v)),
                _ => {}
            }
        }
        link.parent = parent.1.zip(parent.0);
        Some(link)
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    #[must_use]
    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }

    /// IFLA_LINKINFO: the kind, and what it and its master's kind add.
    fn info(&mut self, v: &[u8]) {
        let mut port_kind = None;
        for a in attributes(v) {
            let v = a.value();
            match a.kind() {
                1 => self.kind = Some(text(v)),
                2 if self.kind.as_deref() == Some("bond") => self.bond = Some(Bond::parse(v)),
                4 => port_kind = Some(text(v)),
                5 if port_kind.as_deref() == Some("bond") => self.port = Some(BondPort::parse(v)),
                _ => {}
            }
        }
    }
}

impl Bond {
    pub const MODE_8023AD: u8 = 4;

    fn parse(v: &[u8]) -> Self {
        let mut bond = Bond::default();
        for a in attributes(v) {
            // IFLA_BOND_*.
            match a.kind() {
                1 => bond.mode = u8_of(a.value()).unwrap_or_default(),
                23 => bond.aggregation = Some(Aggregation::parse(a.value())),
                _ => {}
            }
        }
        bond
    }
}

impl Aggregation {
    fn parse(v: &[u8]) -> Self {
        let mut info = Aggregation::default();
        for a in attributes(v) {
            let v = a.value();
            let number = u16_of(v).unwrap_or_default();
            // IFLA_BOND_AD_INFO_*.
            match a.kind() {
                1 => info.id = number,
                2 => info.ports = number,
                3 => info.actor_key = number,
                4 => info.partner_key = number,
                5 => info.partner = mac(v),
                _ => {}
            }
        }
        info
    }
}

impl BondPort {
    /// Its link as the bond sees it (BOND_LINK_* in uapi/linux/if_bonding.h).
    #[must_use]
    pub fn link(&self) -> &'static str {
        ["up", "going_down", "down", "going_back"].get(usize::from(self.mii_status)).copied().unwrap_or("unknown")
    }

    fn parse(v: &[u8]) -> Self {
        let mut port = BondPort::default();
        for a in attributes(v) {
            let v = a.value();
            // IFLA_BOND_SLAVE_*; the states are of 8 and, the partner's, of 16 bits.
            match a.kind() {
                1 => port.active = u8_of(v) == Some(0),
                2 => port.mii_status = u8_of(v).unwrap_or_default(),
                3 => port.failures = u32_of(v).unwrap_or_default(),
                6 => port.aggregator = u16_of(v),
                7 => port.actor_state = u8_of(v),
                8 => port.partner_state = u16_of(v).and_then(|s| u8::try_from(s & 0xff).ok()),
                _ => {}
            }
        }
        port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    /// A port of an 802.3ad bond in another namespace, with what the collectors read of it.
    #[test]
    fn a_port_of_a_bond() {
        let port = [nla(1, &[0]), nla(6, &2_u16.to_ne_bytes()), nla(7, &[0x3f]), nla(8, &0x3d_u16.to_ne_bytes())];
        let info = [nla(1, b"veth\0"), nla(4, b"bond\0"), nla(5, &port.concat())].concat();
        let mut body = vec![0; 4];
        body.extend([7_u32, IFF_UP | IFF_LOWER_UP, u32::MAX].iter().flat_map(|w| w.to_ne_bytes()));
        body.extend(
            [nla(3, b"pa0\0"), nla(10, &9_u32.to_ne_bytes()), nla(16, &[6]), nla(18, &info), nla(37, &[1, 0, 0, 0])]
                .concat(),
        );
        let link = Link::parse(Some(4), &body).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.state), (7, "pa0", Some("up")));
        assert_eq!((link.ns, link.master, link.peer_ns), (Some(4), Some(9), Some(1)));
        assert!(link.is_up() && link.has_carrier() && !link.is_loopback());
        let port = link.port.unwrap();
        assert_eq!((port.aggregator, port.actor_state, port.partner_state), (Some(2), Some(0x3f), Some(0x3d)));
        assert!(port.active);
        // AF_BRIDGE: a bridge's word of its port, not of the device.
        body[0] = 7;
        assert_eq!(Link::parse(None, &body), None);
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn never_panics(mut body: Vec<u8>) {
            if let Some(family) = body.first_mut() { *family = 0; }
            let _ = Link::parse(None, &body);
        }
    }
}
