// SPDX-License-Identifier: Apache-2.0
//! Link aggregation (802.3ad, LACP): ports that fall out of a bond, and partners that change.
//!
//! ## What it reports
//! Which bond and port, what changed (a port carries traffic or does not any more, its state or its
//! partner's, another partner or aggregator), and aggregator, partner, number of ports and both
//! sides' port states before and after.
//!
//! ## How
//! rtnetlink notifies when a bond or a port changes, also of bonds that are made later and of those in
//! other network namespaces (see `linkwatch`); then the bond and its ports are asked for and compared
//! with the last look. As the kernel gives no notice of some changes of a partner, bonds are looked
//! at every five seconds too. A node without such a bond is not asked at all.
//!
//! ## Signals
//! `linux.net.lacp_change`, one for each port or bond that changed; WARN where a port that carried
//! traffic does not any more or a partner was lost or replaced, else INFO: a bond that comes up warns
//! of nothing.
//!
//! ## Limits
//! Bonds in other network namespaces are seen where the agent starts with CAP_NET_BROADCAST.
//! What comes and goes between two looks (50 ms after a notice) is not seen. The kernel names the
//! partner of the active aggregator only.
//!
//! ## What to do next
//! `port_down` with `defaulted` or `expired`: the other end sends no LACP any more: cable, switch port,
//! or the switch's configuration (`cat /proc/net/bonding/BOND`). Another aggregator than its bond's:
//! the port is cabled to another switch, or its key differs (speed, duplex). Another partner: a switch
//! was replaced, or a stack of switches was split. With a carrier that was lost see
//! `linux.net.link_change`.

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use state::{Change, State, between, state_names};

use crate::collectors::netns::Owners;
use crate::collectors::sources::{LinkRecords, Links};
use crate::collectors::{Collector, Context, EventCollector, Events, Info, NoSettings, Unavailable, head_doc};
use crate::host::rtnl::{Bond, Filter, Link, LinkNotice, NsId, Rtnl};
use crate::host::{Clock, Now};
use crate::probe::RecordSet;
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Key, MetricDef, Severity};

const NET_LACP_CHANGE: Key = Key::new(
    "linux.net.lacp.change",
    "port_up, port_down (in or out of the aggregation), port_state, port_added, port_removed, partner",
);
const NET_LACP_PORT: Key = Key::new("linux.net.lacp.port", "The bond's port");
const NET_LACP_AGGREGATOR: Key =
    Key::new("linux.net.lacp.aggregator", "Aggregator of the port, else the bond's active one");
const NET_LACP_AGGREGATOR_BEFORE: Key = Key::new("linux.net.lacp.aggregator.before", "The one before");
const NET_LACP_PARTNER: Key = Key::new("linux.net.lacp.partner", "System (MAC) at the other end; zeros: there is none");
const NET_LACP_PARTNER_BEFORE: Key = Key::new("linux.net.lacp.partner.before", "The one before");
const NET_LACP_PORTS: Key = Key::new("linux.net.lacp.ports", "Ports that the bond's active aggregator has");
const NET_LACP_PORTS_BEFORE: Key = Key::new("linux.net.lacp.ports.before", "The number before");
const NET_LACP_ACTOR_STATE: Key = Key::new("linux.net.lacp.actor.state", "State of the port (IEEE 802.1AX, 6.4.2.3)");
const NET_LACP_ACTOR_STATE_BEFORE: Key = Key::new("linux.net.lacp.actor.state.before", "The one before");
const NET_LACP_PARTNER_STATE: Key =
    Key::new("linux.net.lacp.partner.state", "State of the port at the other end, as it says");
const NET_LACP_PARTNER_STATE_BEFORE: Key = Key::new("linux.net.lacp.partner.state.before", "The one before");
const NET_LACP_LINK: Key =
    Key::new("linux.net.lacp.link", "Link of the port as the bond sees it: up, going_down, down, going_back");
const NET_LACP_FAILURES: Key =
    Key::new("linux.net.lacp.link_failures", "Times that the bond saw this port's link fail");

const BY: &[Key] = &[NET_LACP_CHANGE, attr::LINUX_EVENT_SEVERITY];

static CHANGES: MetricDef = MetricDef::counter("linux.net.lacp_changes", "{event}", "Changes of 802.3ad bonds").by(BY);

/// A bond changed.
pub static LACP_CHANGE: EventDef = EventDef {
    name: "linux.net.lacp_change",
    summary: "An 802.3ad bond lost or found a port or its partner",
    severity: Severity::Info,
    worst: Severity::Warn,
    attributes: &[
        NET_LACP_CHANGE,
        attr::NETWORK_INTERFACE_NAME,
        attr::LINUX_NET_IFINDEX,
        attr::LINUX_NET_NAMESPACE,
        NET_LACP_PORT,
        NET_LACP_AGGREGATOR,
        NET_LACP_AGGREGATOR_BEFORE,
        NET_LACP_PARTNER,
        NET_LACP_PARTNER_BEFORE,
        NET_LACP_PORTS,
        NET_LACP_PORTS_BEFORE,
        NET_LACP_ACTOR_STATE,
        NET_LACP_ACTOR_STATE_BEFORE,
        NET_LACP_PARTNER_STATE,
        NET_LACP_PARTNER_STATE_BEFORE,
        NET_LACP_LINK,
        NET_LACP_FAILURES,
    ],
    counter: &CHANGES,
    container_counter: None,
};

/// Notices of one change come close together.
const SETTLE: Duration = Duration::from_millis(50);
/// For what the kernel gives no notice of.
const PERIOD: Duration = Duration::from_secs(5);

/// The collector.
pub struct Lacp {
    clock: Clock,
    owners: Owners,
    rtnl: Rtnl,
    /// As they were when a change was last reported.
    bonds: BTreeMap<(NsId, u32), State>,
    /// Namespaces in which something of a bond changed since the last look.
    changed: BTreeSet<NsId>,
}

impl Collector for Lacp {
    const INFO: Info = Info {
        name: "lacp",
        summary: "802.3ad bonds: ports and partners lost and found",
        doc: head_doc(include_str!("mod.rs")),
        // CAP_NET_ADMIN: the partner, and other namespaces; CAP_SYS_PTRACE: their owners.
        capabilities: &["CAP_NET_ADMIN", "CAP_SYS_PTRACE"],
        events: &[&LACP_CHANGE],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let rtnl = Rtnl::open(cx.host).map_err(|e| Unavailable::because(format!("rtnetlink: {e}")))?;
        let owners = Owners::new(cx.host, cx.workloads)?;
        cx.listen(Links::HOOK, Links::open(cx.host)?);
        Ok(Lacp { clock: cx.clock.clone(), owners, rtnl, bonds: BTreeMap::new(), changed: BTreeSet::new() })
    }

    fn reload(&mut self, _: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl EventCollector for Lacp {
    type Records = LinkRecords;

    fn on_record(&mut self, notice: <LinkRecords as RecordSet>::Ref<'_>, _: &mut Events) -> anyhow::Result<()> {
        match notice {
            Some(LinkNotice::Is { link, .. }) if self.concerns(&link) => drop(self.changed.insert(link.ns)),
            Some(LinkNotice::Gone(link)) if self.concerns(&link) => {
                self.bonds.remove(&(link.ns, link.index));
                self.changed.insert(link.ns);
            }
            Some(LinkNotice::NamespaceGone(id)) => {
                self.bonds.retain(|k, _| k.0 != Some(id));
                self.changed.remove(&Some(id));
                self.owners.forget(id);
            }
            _ => {}
        }
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        if !self.changed.is_empty() {
            return Some(SETTLE);
        }
        (!self.bonds.is_empty()).then_some(PERIOD)
    }

    fn tick(&mut self, _: Now, out: &mut Events) -> anyhow::Result<()> {
        let mut namespaces = std::mem::take(&mut self.changed);
        namespaces.extend(self.bonds.keys().map(|k| k.0));
        let mut failed = None;
        for ns in namespaces {
            if let Err(e) = self.read_state(ns, out) {
                failed = Some(e);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Lacp {
    /// Is it such a bond, or a port of one, or was it?
    fn concerns(&self, link: &Link) -> bool {
        let bond = link.bond.as_ref().is_some_and(|b| b.mode == Bond::MODE_8023AD);
        let port = link.port.as_ref().is_some_and(|p| p.aggregator.is_some());
        let known =
            |k: &(NsId, u32), s: &State| k.0 == link.ns && (k.1 == link.index || s.ports.contains_key(&link.index));
        bond || port || self.bonds.iter().any(|(k, s)| known(k, s))
    }

    /// Looks at all bonds of a namespace.
    fn read_state(&mut self, ns: NsId, out: &mut Events) -> anyhow::Result<()> {
        let bonds = self.rtnl.links(ns, Filter::Kind("bond"))?;
        self.bonds.retain(|k, _| k.0 != ns || bonds.iter().any(|b| b.index == k.1));
        for bond in bonds.into_iter().filter(|b| b.bond.is_some()) {
            let ports = self.rtnl.links(ns, Filter::Master(bond.index))?;
            let Some(now) = State::of(&bond, ports) else { continue };
            let key = (ns, bond.index);
            // What is seen for the first time has not changed.
            let before = self.bonds.get(&key).unwrap_or(&now).clone();
            let changes = between(&before, &now);
            for change in &changes {
                self.emit(*change, &bond, &before, &now, out);
            }
            // The number of ports runs ahead of the ports' states: what was not reported stays "before".
            let last = if changes.is_empty() { State { name: now.name, ..before } } else { now };
            self.bonds.insert(key, last);
        }
        Ok(())
    }

    fn emit(&mut self, change: Change, bond: &Link, before: &State, now: &State, out: &mut Events) {
        let workload = self.owners.of_link(bond);
        let mut e = Event::new(&LACP_CHANGE, self.clock.now().wall, workload, message(change, before, now));
        e.severity = change.severity(before);
        let (old, new) = (&before.aggregation, &now.aggregation);
        e.attributes
            .set(NET_LACP_CHANGE, change.name())
            .set(attr::NETWORK_INTERFACE_NAME, now.name.clone())
            .set(attr::LINUX_NET_IFINDEX, bond.index)
            .set_some(attr::LINUX_NET_NAMESPACE, self.owners.inode(bond))
            .set(NET_LACP_PARTNER, new.partner.clone())
            .set(NET_LACP_PARTNER_BEFORE, old.partner.clone())
            .set(NET_LACP_PORTS, new.ports)
            .set(NET_LACP_PORTS_BEFORE, old.ports);
        match change.port() {
            None => {
                e.attributes.set(NET_LACP_AGGREGATOR, new.id).set(NET_LACP_AGGREGATOR_BEFORE, old.id);
            }
            Some(index) => describe_port(&mut e, index, before, now),
        }
        out.emit(e);
    }
}

fn describe_port(e: &mut Event, index: u32, before: &State, now: &State) {
    let (old, new) = (before.ports.get(&index), now.ports.get(&index));
    let name = new.or(old).map(|p| p.name.clone());
    e.attributes.set_some(NET_LACP_PORT, name);
    if let Some(p) = new.map(|p| &p.link) {
        e.attributes
            .set_some(NET_LACP_AGGREGATOR, p.aggregator)
            .set_some(NET_LACP_ACTOR_STATE, p.actor_state.map(state_names))
            .set_some(NET_LACP_PARTNER_STATE, p.partner_state.map(state_names))
            .set(NET_LACP_LINK, p.link())
            .set(NET_LACP_FAILURES, p.failures);
    }
    if let Some(p) = old.map(|p| &p.link) {
        e.attributes
            .set_some(NET_LACP_AGGREGATOR_BEFORE, p.aggregator)
            .set_some(NET_LACP_ACTOR_STATE_BEFORE, p.actor_state.map(state_names))
            .set_some(NET_LACP_PARTNER_STATE_BEFORE, p.partner_state.map(state_names));
    }
}

/// One line: which bond and port, and what.
fn message(change: Change, before: &State, now: &State) -> String {
    let port = |i: u32| now.ports.get(&i).or(before.ports.get(&i)).map_or("", |p| p.name.as_str());
    let ports = format!("{} of {} ports are aggregated", now.aggregation.ports, now.ports.len());
    match change {
        Change::PortUp(i) => format!("{}: port {} carries traffic; {ports}", now.name, port(i)),
        Change::PortDown(i) => format!("{}: port {} carries no traffic any more; {ports}", now.name, port(i)),
        Change::PortState(i) => format!("{}: port {} or its partner changed its state; {ports}", now.name, port(i)),
        Change::PortAdded(i) => format!("{}: port {} is new", now.name, port(i)),
        Change::PortRemoved(i) => format!("{}: port {} was removed; {ports}", now.name, port(i)),
        Change::Partner => {
            let (old, new) = (&before.aggregation, &now.aggregation);
            format!(
                "{}: partner {} by aggregator {}, before {} by aggregator {}",
                now.name, new.partner, new.id, old.partner, old.id
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;
    use crate::host::rtnl::{Aggregation, BondPort};

    fn bond(ports: u16) -> Link {
        let aggregation = Aggregation { id: 1, ports, partner: "02:00:00:00:00:09".into(), ..Aggregation::default() };
        let bond = Some(Bond { mode: Bond::MODE_8023AD, aggregation: Some(aggregation) });
        Link { index: 9, name: "bond0".into(), kind: Some("bond".into()), bond, ..Link::default() }
    }

    fn port(index: u32, actor_state: u8) -> Link {
        let port =
            BondPort { active: true, aggregator: Some(1), actor_state: Some(actor_state), ..BondPort::default() };
        Link { index, name: format!("eth{index}"), master: Some(9), port: Some(port), ..Link::default() }
    }

    /// What is seen first has not changed; a port that no longer collects and distributes is one that was lost.
    #[test]
    fn a_port_that_is_lost() {
        let rig = Rig::new().unwrap();
        let mut c = rig.make::<Lacp>(NoSettings {}).unwrap();
        assert_eq!(EventCollector::period(&c), None);
        let mut look = |links: Vec<Link>| {
            let link = links[0].clone();
            rig.set_links(links);
            let mut out = Events::default();
            c.on_record(Some(LinkNotice::Is { link, listed: false }), &mut out).unwrap();
            assert_eq!(EventCollector::period(&c), Some(SETTLE));
            c.tick(rig.clock().now(), &mut out).unwrap();
            out.drain().collect::<Vec<_>>()
        };
        assert!(look(vec![bond(2), port(1, 0x3d), port(2, 0x3d)]).is_empty());
        let e = look(vec![bond(1), port(1, 0x3d), port(2, 0x45)]).remove(0);
        assert_eq!((e.def.name, e.severity), ("linux.net.lacp_change", Severity::Warn));
        assert_eq!(e.message, "bond0: port eth2 carries no traffic any more; 1 of 2 ports are aggregated");
        assert!(look(vec![bond(1), port(1, 0x3d), port(2, 0x45)]).is_empty());
    }
}
