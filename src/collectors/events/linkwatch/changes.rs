// SPDX-License-Identifier: Apache-2.0
//! What changed between two looks at a network device, and how bad that is.

use crate::host::rtnl::Link;
use crate::signal::Severity;

/// One change of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    AdminUp,
    AdminDown,
    CarrierUp,
    CarrierDown,
    /// Of the operational state alone.
    State,
    Added,
    Removed,
    Moved,
    Renamed,
    Enslaved,
    Released,
    /// Active or backup in its bond.
    PortState,
}

impl Change {
    /// The value of `linux.net.link.change`.
    pub fn name(self) -> &'static str {
        match self {
            Change::AdminUp => "admin_up",
            Change::AdminDown => "admin_down",
            Change::CarrierUp => "carrier_up",
            Change::CarrierDown => "carrier_down",
            Change::State => "state",
            Change::Added => "added",
            Change::Removed | Change::Moved => "removed",
            Change::Renamed => "renamed",
            Change::Enslaved => "enslaved",
            Change::Released => "released",
            Change::PortState => "port_state",
        }
    }

    /// The node's own way out is worth waking somebody; what containers bring and take is not.
    pub fn severity(self, link: &Link, physical: bool) -> Severity {
        let uplink = physical || matches!(link.kind.as_deref(), Some("bond" | "team"));
        let bad = match self {
            Change::CarrierDown => uplink || link.port.is_some(),
            Change::AdminDown | Change::Removed => uplink,
            _ => false,
        };
        if bad { Severity::Warn } else { Severity::Info }
    }
}

/// What is different. The carrier goes with a device that is set down, and may come with one that is
/// set up: that is one change, not two.
pub fn between(old: &Link, new: &Link) -> Vec<Change> {
    let mut all = Vec::new();
    if old.name != new.name {
        all.push(Change::Renamed);
    }
    match (old.is_up(), new.is_up()) {
        (false, true) => all.push(Change::AdminUp),
        (true, false) => all.push(Change::AdminDown),
        (true, true) if old.has_carrier() && !new.has_carrier() => all.push(Change::CarrierDown),
        (true, true) if !old.has_carrier() && new.has_carrier() => all.push(Change::CarrierUp),
        _ => {}
    }
    match (old.master, new.master) {
        (a, b) if a == b => {}
        (_, Some(_)) => all.push(Change::Enslaved),
        (_, None) => all.push(Change::Released),
    }
    if let (Some(a), Some(b)) = (&old.port, &new.port)
        && a.active != b.active
    {
        all.push(Change::PortState);
    }
    // It follows carrier and admin state at its own pace: alone it counts where it says something else.
    let said = |s: Option<&str>| matches!(s, Some("dormant" | "testing" | "lower_layer_down" | "not_present"));
    if all.is_empty() && old.state != new.state && (said(old.state) || said(new.state)) {
        all.push(Change::State);
    }
    all
}

/// The kernel's own word of what changed, for a device that was not known before.
pub fn of_unknown(link: &Link) -> Vec<Change> {
    const IFF_UP: u32 = 1;
    const IFF_LOWER_UP: u32 = 1 << 16;
    if link.changed == u32::MAX {
        return vec![Change::Added];
    }
    let before = Link { flags: link.flags ^ (link.changed & (IFF_UP | IFF_LOWER_UP)), ..link.clone() };
    between(&before, link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::rtnl::BondPort;

    const UP: u32 = 1;
    const CARRIER: u32 = 1 << 16;

    fn link(flags: u32) -> Link {
        Link { index: 3, name: "eth0".into(), flags, state: Some("up"), ..Link::default() }
    }

    /// A cable that is pulled, and a device that is set down, are different changes.
    #[test]
    fn carrier_and_admin_state() {
        assert_eq!(between(&link(UP | CARRIER), &link(UP)), [Change::CarrierDown]);
        assert_eq!(between(&link(UP), &link(UP | CARRIER)), [Change::CarrierUp]);
        assert_eq!(between(&link(UP | CARRIER), &link(0)), [Change::AdminDown]);
        assert_eq!(between(&link(0), &link(UP | CARRIER)), [Change::AdminUp]);
        assert_eq!(between(&link(UP), &link(UP)), []);
        let down = Link { state: Some("down"), ..link(UP) };
        assert_eq!(between(&link(UP), &down), []);
        let waits = Link { state: Some("dormant"), ..link(UP) };
        assert_eq!(between(&link(UP), &waits), [Change::State]);
    }

    /// Names and masters.
    #[test]
    fn names_and_masters() {
        let member = Link { name: "lan0".into(), master: Some(9), ..link(UP) };
        assert_eq!(between(&link(UP), &member), [Change::Renamed, Change::Enslaved]);
        assert_eq!(between(&member, &link(UP)), [Change::Renamed, Change::Released]);
        let port = |active| Link { port: Some(BondPort { active, ..BondPort::default() }), ..link(UP) };
        assert_eq!(between(&port(true), &port(false)), [Change::PortState]);
    }

    /// A device that nobody knew: new, or known by the kernel's word.
    #[test]
    fn devices_not_known_before() {
        assert_eq!(of_unknown(&Link { changed: u32::MAX, ..link(UP) }), [Change::Added]);
        assert_eq!(of_unknown(&Link { changed: CARRIER, ..link(UP) }), [Change::CarrierDown]);
        assert_eq!(of_unknown(&Link { changed: 0, ..link(UP) }), []);
    }

    /// A card's carrier is worth a warning, a container's end of a veth is not.
    #[test]
    fn severity_by_what_it_is() {
        let veth = Link { kind: Some("veth".into()), ..link(UP) };
        let bond = Link { kind: Some("bond".into()), ..link(UP) };
        assert_eq!(Change::CarrierDown.severity(&link(UP), true), Severity::Warn);
        assert_eq!(Change::CarrierDown.severity(&bond, false), Severity::Warn);
        assert_eq!(Change::CarrierDown.severity(&veth, false), Severity::Info);
        assert_eq!(Change::CarrierUp.severity(&link(UP), true), Severity::Info);
        assert_eq!(Change::Moved.severity(&link(UP), true), Severity::Info);
    }
}
