// SPDX-License-Identifier: Apache-2.0
//! An 802.3ad bond as it stands, and what changed between two looks.

use std::collections::BTreeMap;

use crate::host::rtnl::{Aggregation, Bond, BondPort, Link};
use crate::signal::Severity;

/// Bits of a port's state (IEEE 802.1AX, 6.4.2.3; AD_STATE_* in include/net/bond_3ad.h).
const STATES: [&str; 8] =
    ["activity", "timeout", "aggregation", "synchronization", "collecting", "distributing", "defaulted", "expired"];
const COLLECTING: u8 = 1 << 4;
const DISTRIBUTING: u8 = 1 << 5;
/// State bits that mean trouble when they change; the others are configuration, or change with these.
const SIGNIFICANT: u8 = 0b1111_1000;

/// Names of the bits that are set.
pub fn state_names(state: u8) -> Vec<&'static str> {
    STATES.iter().enumerate().filter(|(bit, _)| state >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

/// One port of a bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub link: BondPort,
}

impl Port {
    /// Carries traffic: its link is up, and it collects and distributes. The state follows a lost link
    /// only when the bond's next timer runs.
    fn carries(&self) -> bool {
        self.link.mii_status == 0 && self.link.actor_state.is_some_and(|s| s & COLLECTING != 0 && s & DISTRIBUTING != 0)
    }

    fn significant(&self) -> (Option<u16>, Option<u8>, Option<u8>) {
        let bits = |s: Option<u8>| s.map(|s| s & SIGNIFICANT);
        (self.link.aggregator, bits(self.link.actor_state), bits(self.link.partner_state))
    }
}

/// A bond and its ports, by their indexes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub name: String,
    pub aggregation: Aggregation,
    pub ports: BTreeMap<u32, Port>,
}

impl State {
    /// `None`: no bond of this mode.
    pub fn of(bond: &Link, ports: Vec<Link>) -> Option<Self> {
        let info = bond.bond.as_ref().filter(|b| b.mode == Bond::MODE_8023AD)?;
        let ports = ports.into_iter().filter(|l| l.master == Some(bond.index));
        Some(State {
            name: bond.name.clone(),
            aggregation: info.aggregation.clone().unwrap_or_default(),
            ports: ports.filter_map(|l| Some((l.index, Port { name: l.name, link: l.port? }))).collect(),
        })
    }
}

/// One change of a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    PortUp(u32),
    PortDown(u32),
    /// Of a port that carries as much as before.
    PortState(u32),
    PortAdded(u32),
    PortRemoved(u32),
    /// Of the bond: another partner, or another active aggregator.
    Partner,
}

impl Change {
    /// The value of `linux.net.lacp.change`.
    pub fn name(self) -> &'static str {
        match self {
            Change::PortUp(_) => "port_up",
            Change::PortDown(_) => "port_down",
            Change::PortState(_) => "port_state",
            Change::PortAdded(_) => "port_added",
            Change::PortRemoved(_) => "port_removed",
            Change::Partner => "partner",
        }
    }

    pub fn port(self) -> Option<u32> {
        match self {
            Change::PortUp(i)
            | Change::PortDown(i)
            | Change::PortState(i)
            | Change::PortAdded(i)
            | Change::PortRemoved(i) => Some(i),
            Change::Partner => None,
        }
    }

    pub fn severity(self, before: &State) -> Severity {
        let worse = match self {
            Change::PortDown(_) => true,
            Change::PortRemoved(i) => before.ports.get(&i).is_some_and(Port::carries),
            // A partner found is no fault, another one or none is.
            Change::Partner => before.has_partner(),
            Change::PortUp(_) | Change::PortState(_) | Change::PortAdded(_) => false,
        };
        if worse { Severity::Warn } else { Severity::Info }
    }
}

impl State {
    fn has_partner(&self) -> bool {
        self.aggregation.partner.bytes().any(|b| !matches!(b, b'0' | b':'))
    }
}

/// What is different.
pub fn between(old: &State, new: &State) -> Vec<Change> {
    let mut all = Vec::new();
    for (index, port) in &new.ports {
        match old.ports.get(index) {
            None => all.push(Change::PortAdded(*index)),
            Some(before) => match (before.carries(), port.carries()) {
                (false, true) => all.push(Change::PortUp(*index)),
                (true, false) => all.push(Change::PortDown(*index)),
                _ if before.significant() != port.significant() => all.push(Change::PortState(*index)),
                _ => {}
            },
        }
    }
    let gone = old.ports.keys().filter(|i| !new.ports.contains_key(i));
    all.extend(gone.map(|i| Change::PortRemoved(*i)));
    let of = |s: &State| (s.aggregation.id, s.aggregation.partner.clone(), s.aggregation.partner_key);
    if of(old) != of(new) {
        all.push(Change::Partner);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, aggregator: u16, actor: u8, partner: u8) -> Port {
        let link = BondPort {
            active: true,
            aggregator: Some(aggregator),
            actor_state: Some(actor),
            partner_state: Some(partner),
            ..BondPort::default()
        };
        Port { name: name.into(), link }
    }

    fn bond(ports: [Port; 2], partner: &str) -> State {
        let aggregation = Aggregation { id: 1, ports: 2, partner: partner.into(), ..Aggregation::default() };
        State { name: "bond0".into(), aggregation, ports: [4, 5].into_iter().zip(ports).collect() }
    }

    const MAC: &str = "02:00:00:00:00:01";
    const NOBODY: &str = "00:00:00:00:00:00";

    /// A port that falls out of a bond that carries is a warning, the others' part in it is not.
    #[test]
    fn a_port_is_lost() {
        let before = bond([port("a0", 1, 0x3f, 0x3f), port("a1", 1, 0x3f, 0x3f)], MAC);
        let after = bond([port("a0", 1, 0x3f, 0x3f), port("a1", 2, 0x47, 0x02)], MAC);
        assert_eq!(between(&before, &after), [Change::PortDown(5)]);
        assert_eq!(Change::PortDown(5).severity(&before), Severity::Warn);
        assert_eq!(between(&before, &before), []);
        let mut unplugged = before.clone();
        unplugged.ports.get_mut(&5).unwrap().link.mii_status = 2;
        assert_eq!(between(&before, &unplugged), [Change::PortDown(5)]);
    }

    /// A bond that comes up warns of nothing; one whose partner goes does.
    #[test]
    fn partners() {
        let before = bond([port("a0", 1, 0x47, 2), port("a1", 2, 0x47, 2)], NOBODY);
        let up = bond([port("a0", 1, 0x3f, 0x3f), port("a1", 1, 0x3f, 0x3f)], MAC);
        let changes = between(&before, &up);
        assert_eq!(changes, [Change::PortUp(4), Change::PortUp(5), Change::Partner]);
        assert!(changes.iter().all(|c| c.severity(&before) == Severity::Info));
        assert_eq!(Change::Partner.severity(&up), Severity::Warn);
    }

    /// 0x3f is what a healthy port with a short timeout has.
    #[test]
    fn names_of_states() {
        let healthy = ["activity", "timeout", "aggregation", "synchronization", "collecting", "distributing"];
        assert_eq!(state_names(0x3f), healthy);
        assert_eq!(state_names(0xc0), ["defaulted", "expired"]);
    }
}
