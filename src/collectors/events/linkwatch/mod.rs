// SPDX-License-Identifier: Apache-2.0
//! Network devices that come, go, change their state or lose their link.
//!
//! ## What it reports
//! Which device changed and how: set up or down and by which process, carrier found or lost, made,
//! removed, renamed, moved to another network namespace, made part of a bond or bridge or taken from
//! it, active or backup in a bond. With its driver, speed and, for a container's device, the container.
//!
//! ## How
//! rtnetlink's notices (RTNLGRP_LINK), compared with what was known of the device: devices that come
//! later are watched like those at start. Other network namespaces are watched through the
//! same socket, as soon as the kernel has a number for one: it has where a device went there or has
//! its peer there, which is so for containers; one that a mount keeps (`ip netns`) is given a number.
//! When notices are lost, all devices are listed and compared. The process is the one in which
//! `__dev_notify_flags` (net/core/dev.c) runs, where the kernel has fentry; else the one in which the
//! device's queues are reset (set down) or first made (set up).
//!
//! ## Signals
//! `linux.net.link_change`, one for each change; WARN where hardware, a bond or a bond's port lost its
//! carrier, was set down or removed, else INFO. A carrier that goes or comes because the device is set
//! down or up is part of that change.
//!
//! ## Limits
//! Other network namespaces are watched where the agent starts with CAP_NET_BROADCAST (root has it).
//! Without fentry, who set a device up for a second time is `unknown`. Two changes between two notices
//! of the kernel are one or none. Speed and duplex are of devices in the agent's own network
//! namespace only. At most 20 events of a device at once, one more each second; what was limited is a
//! number on the next.
//!
//! ## What to do next
//! Carrier of hardware lost: cable, transceiver, switch port; `ethtool DEVICE`, `ethtool -m DEVICE`, and
//! the driver's lines in `dmesg`. Again and again on one device: a bad cable or transceiver. Set down:
//! ask who `linux.trigger` names (a network manager, a script). Of a bond: see `linux.net.lacp_change`.
//! A container's device gone is the container's end.

mod changes;
mod limit;
mod who;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use changes::Change;
use limit::Bucket;
use who::{AdminChanges, By};

use crate::collectors::netns::Owners;
use crate::collectors::sources::{Both, Either, LinkRecords, Links};
use crate::collectors::{
    Collector, Context, EventCollector, Events, Info, NoSettings, Optional, Unavailable, head_doc,
};
use crate::host::device::NetDevice;
use crate::host::rtnl::{Link, LinkNotice, NsId};
use crate::host::{Clock, Host, Now};
use crate::probe::RecordSet;
use crate::probe::skeletons::linkwatch::{Record, Records, SKELETON};
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Key, MetricDef, Role, Severity, Workload};
use crate::workload::Workloads;

const NET_LINK_CHANGE: Key = Key::new(
    "linux.net.link.change",
    "admin_up, admin_down, carrier_up, carrier_down, state, added, removed, renamed, enslaved, released, port_state",
);
const NET_LINK_BY: Key = Key::new(
    "linux.net.link.changed_by",
    "process: see `linux.trigger`; device: the device or its peer; unknown: no hook of this kernel tells",
);
const NET_LINK_STATE: Key = Key::new("linux.net.link.state", "Operational state (RFC 2863)");
const NET_LINK_STATE_BEFORE: Key = Key::new("linux.net.link.state.before", "The one before");
const NET_LINK_ADMIN: Key = Key::new("linux.net.link.admin", "up or down, as it was set");
const NET_LINK_CARRIER: Key = Key::new("linux.net.link.carrier", "Whether there is a carrier");
const NET_LINK_SPEED: Key = Key::new("linux.net.link.speed", "Bits a second; the last known where the carrier is lost");
const NET_LINK_DUPLEX: Key = Key::new("linux.net.link.duplex", "full or half");
const NET_LINK_MAC: Key = Key::new("linux.net.link.mac", "Its hardware address");
const NET_LINK_NAME_BEFORE: Key = Key::new("linux.net.link.name.before", "Its name before");
const NET_LINK_MASTER: Key = Key::new("linux.net.link.master", "The bond, bridge, … that it belongs to");
const NET_LINK_PORT_STATE: Key = Key::new("linux.net.link.port_state", "Of a bond's port: active, or backup");
const NET_LINK_CARRIER_LOSSES: Key =
    Key::new("linux.net.link.carrier_losses", "Times that it lost its carrier since it is there");
const NET_LINK_MOVED: Key = Key::new("linux.net.link.moved", "It went to another network namespace");
const NET_LINK_RELISTED: Key = Key::new(
    "linux.net.link.relisted",
    "Seen when the devices were listed again, as notices were lost: it happened at some time before",
);

const BY: &[Key] = &[NET_LINK_CHANGE, attr::LINUX_EVENT_SEVERITY];
static CHANGES: MetricDef =
    MetricDef::counter("linux.net.link_changes", "{event}", "Changes of network devices").by(BY);
static CONTAINER_CHANGES: MetricDef =
    MetricDef::counter("linux.container.net.link_changes", "{event}", "Changes of the workload's network devices")
        .by(BY);

/// A network device changed.
pub static LINK_CHANGE: EventDef = EventDef {
    name: "linux.net.link_change",
    summary: "A network device came, went, or changed its state",
    severity: Severity::Info,
    worst: Severity::Warn,
    attributes: &[
        NET_LINK_CHANGE,
        attr::NETWORK_INTERFACE_NAME,
        attr::LINUX_NET_IFINDEX,
        attr::LINUX_NET_NAMESPACE,
        attr::LINUX_NET_DEVICE_KIND,
        attr::LINUX_NET_DEVICE_DRIVER,
        NET_LINK_ADMIN,
        NET_LINK_CARRIER,
        NET_LINK_STATE,
        NET_LINK_STATE_BEFORE,
        NET_LINK_SPEED,
        NET_LINK_DUPLEX,
        NET_LINK_MAC,
        NET_LINK_NAME_BEFORE,
        NET_LINK_MASTER,
        NET_LINK_PORT_STATE,
        NET_LINK_CARRIER_LOSSES,
        NET_LINK_MOVED,
        NET_LINK_RELISTED,
        NET_LINK_BY,
        attr::LINUX_TRIGGER,
    ],
    counter: &CHANGES,
    container_counter: Some(&CONTAINER_CHANGES),
};

/// How often the owner of a device is looked up before giving up: a container's processes come
/// after its devices.
const OWNER_TRIES: u8 = 6;
const OWNER_PERIOD: Duration = Duration::from_secs(5);

/// The collector.
pub struct LinkWatch {
    clock: Clock,
    host: Host,
    workloads: Workloads,
    owners: Owners,
    admin: AdminChanges,
    devices: HashMap<DeviceKey, Device>,
    /// Namespaces in which devices were listed once: what is found after that is new.
    listed: Vec<NsId>,
}

type DeviceKey = (NsId, u32);

/// A device as it was last seen.
struct Device {
    link: Link,
    hardware: NetDevice,
    workload: Option<Arc<Workload>>,
    tries: u8,
    /// In the list that is being made.
    seen: bool,
    bucket: Bucket,
}

impl Collector for LinkWatch {
    const INFO: Info = Info {
        name: "linkwatch",
        summary: "network devices: carrier lost or found, set up or down and by whom, added, renamed, removed",
        doc: head_doc(include_str!("mod.rs")),
        object: Some(&SKELETON),
        optional: &[
            Optional { slot: "admin", lost: "which process set a device up or down" },
            Optional { slot: "first_up", lost: "which process set a device up for the first time" },
        ],
        // CAP_NET_ADMIN: lists of other namespaces; CAP_SYS_PTRACE: their owners.
        capabilities: &["CAP_NET_ADMIN", "CAP_SYS_PTRACE"],
        events: &[&LINK_CHANGE],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let owners = Owners::new(cx.host, cx.workloads)?;
        cx.load(SKELETON.options())?;
        cx.listen(Links::HOOK, Links::open(cx.host)?);
        Ok(LinkWatch {
            clock: cx.clock.clone(),
            host: cx.host.clone(),
            workloads: cx.workloads.clone(),
            owners,
            admin: AdminChanges::default(),
            devices: HashMap::new(),
            listed: Vec::new(),
        })
    }

    fn reload(&mut self, _: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl EventCollector for LinkWatch {
    type Records = Both<Records, LinkRecords>;

    fn on_record(&mut self, record: <Self::Records as RecordSet>::Ref<'_>, out: &mut Events) -> anyhow::Result<()> {
        match record {
            Either::Object(Record::AdminChange(r)) => self.admin.note(r),
            Either::Source(None) => {}
            Either::Source(Some(notice)) => self.on_notice(notice, out),
        }
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        self.devices.values().any(Device::wants_owner).then_some(OWNER_PERIOD)
    }

    fn tick(&mut self, _: Now, _: &mut Events) -> anyhow::Result<()> {
        for device in self.devices.values_mut().filter(|d| d.wants_owner()) {
            device.tries += 1;
            device.workload = self.owners.of_link(&device.link);
        }
        Ok(())
    }
}

impl Device {
    fn wants_owner(&self) -> bool {
        let foreign = self.link.ns.is_some() || self.link.peer_ns.is_some();
        foreign && self.workload.is_none() && self.tries < OWNER_TRIES
    }

    fn physical(&self) -> bool {
        self.hardware.physical || self.link.parent.is_some()
    }
}

impl LinkWatch {
    fn on_notice(&mut self, notice: LinkNotice, out: &mut Events) {
        match notice {
            LinkNotice::Is { link, listed } => self.on_link(link, listed, out),
            LinkNotice::Gone(link) => {
                if let Some(mut device) = self.devices.remove(&(link.ns, link.index)) {
                    let change = if link.moved_to.is_some() { Change::Moved } else { Change::Removed };
                    self.emit(change, &mut device, None, false, out);
                }
            }
            LinkNotice::Listing(ns) => {
                self.devices.iter_mut().filter(|(k, _)| k.0 == ns).for_each(|(_, d)| d.seen = false);
            }
            LinkNotice::Listed(ns) => self.on_listed(ns, out),
            LinkNotice::NamespaceGone(id) => {
                // Its devices went with it; the kernel sends no notice for them.
                self.devices.retain(|k, _| k.0 != Some(id));
                self.listed.retain(|ns| *ns != Some(id));
                self.owners.forget(id);
            }
        }
    }

    fn on_link(&mut self, link: Link, listed: bool, out: &mut Events) {
        let key = (link.ns, link.index);
        let known = self.devices.remove(&key);
        let found_later = listed && self.listed.contains(&link.ns);
        let changes = match &known {
            Some(old) => changes::between(&old.link, &link),
            None if found_later => vec![Change::Added],
            None if listed => Vec::new(),
            None => changes::of_unknown(&link),
        };
        let (before, mut device) = self.update(known, link);
        for change in changes {
            // Every namespace has one, and nobody misses it.
            if !device.link.is_loopback() || !matches!(change, Change::Added | Change::AdminUp) {
                self.emit(change, &mut device, before.as_ref(), listed, out);
            }
        }
        self.devices.insert(key, device);
    }

    /// What was known of the device, and what is now.
    fn update(&mut self, known: Option<Device>, link: Link) -> (Option<Link>, Device) {
        let (before, mut device) = match known {
            Some(mut d) => (Some(std::mem::replace(&mut d.link, link)), d),
            None => (None, Device::new(link)),
        };
        device.seen = true;
        let carrier = before.as_ref().is_none_or(|b| b.has_carrier() != device.link.has_carrier());
        if device.link.ns.is_none() && (carrier || before.as_ref().is_some_and(|b| b.name != device.link.name)) {
            let now = self.host.net_device(&device.link.name);
            // Without a carrier there is no speed: the last one is worth more.
            device.hardware = NetDevice {
                speed: now.speed.or(device.hardware.speed),
                duplex: now.duplex.or_else(|| device.hardware.duplex.take()),
                ..now
            };
        }
        if device.hardware.driver.is_none()
            && let Some((bus, name)) = &device.link.parent
        {
            device.hardware.driver = self.host.bus_driver(bus, name);
        }
        (before, device)
    }

    /// What a list did not have is gone.
    fn on_listed(&mut self, ns: NsId, out: &mut Events) {
        let gone: Vec<DeviceKey> = self.devices.iter().filter(|(k, d)| k.0 == ns && !d.seen).map(|(k, _)| *k).collect();
        for key in gone {
            if let Some(mut device) = self.devices.remove(&key) {
                self.emit(Change::Removed, &mut device, None, true, out);
            }
        }
        if !self.listed.contains(&ns) {
            self.listed.push(ns);
        }
    }

    fn emit(&mut self, change: Change, device: &mut Device, before: Option<&Link>, listed: bool, out: &mut Events) {
        let now = self.clock.now();
        // Even if it is not reported: the next notice is of the next record.
        let by = self.by(change, device, listed);
        let Some(suppressed) = device.bucket.take(Duration::from_nanos(now.boot_ns)) else { return };
        if device.workload.is_none() {
            device.workload = self.owners.of_link(&device.link);
        }
        let mut e = Event::new(&LINK_CHANGE, now.wall, device.workload.clone(), String::new());
        e.severity = change.severity(&device.link, device.physical());
        e.suppressed = suppressed;
        describe(&mut e, change, device, before);
        e.attributes.set_some(attr::LINUX_NET_NAMESPACE, self.owners.inode(&device.link));
        if let Some(master) = device.link.master.or(before.and_then(|b| b.master)) {
            let name = self.devices.get(&(device.link.ns, master)).map(|d| d.link.name.clone());
            e.attributes.set_some(NET_LINK_MASTER, name);
        }
        if listed {
            e.attributes.set(NET_LINK_RELISTED, true);
        }
        e.message = format!("{}{}", message(change, device, before), by.words());
        e.attributes.set(NET_LINK_BY, by.name());
        if let By::Process { thread, cgroup } = by {
            e.involve(Role::Trigger, self.workloads.of_process(thread.pid, cgroup), thread);
        }
        out.emit(e);
    }

    fn by(&mut self, change: Change, device: &Device, listed: bool) -> By {
        let up = match change {
            Change::AdminUp => true,
            Change::AdminDown => false,
            Change::CarrierUp | Change::CarrierDown | Change::State | Change::PortState => return By::Device,
            _ => return By::Unknown,
        };
        let inode = self.owners.inode(&device.link);
        self.admin.take(device.link.index, inode, up, listed, self.clock.boot_ns())
    }
}

impl Device {
    fn new(link: Link) -> Self {
        Device { link, hardware: NetDevice::default(), workload: None, tries: 0, seen: true, bucket: Bucket::default() }
    }
}

/// The device as it is, and what it was.
fn describe(e: &mut Event, change: Change, device: &Device, before: Option<&Link>) {
    let (link, hardware) = (&device.link, &device.hardware);
    let kind = match &link.kind {
        Some(kind) => Some(kind.clone()),
        None if device.physical() => Some("physical".to_owned()),
        None => None,
    };
    e.attributes
        .set(NET_LINK_CHANGE, change.name())
        .set(attr::NETWORK_INTERFACE_NAME, link.name.clone())
        .set(attr::LINUX_NET_IFINDEX, link.index)
        .set_some(attr::LINUX_NET_DEVICE_KIND, kind)
        .set_some(attr::LINUX_NET_DEVICE_DRIVER, hardware.driver.clone())
        .set(NET_LINK_ADMIN, if link.is_up() { "up" } else { "down" })
        .set(NET_LINK_CARRIER, link.has_carrier())
        .set_some(NET_LINK_STATE, link.state)
        .set_some(NET_LINK_SPEED, hardware.speed)
        .set_some(NET_LINK_DUPLEX, hardware.duplex.clone())
        .set_some(NET_LINK_PORT_STATE, link.port.as_ref().map(|p| if p.active { "active" } else { "backup" }))
        .set_some(NET_LINK_MAC, link.mac.clone())
        .set_some(NET_LINK_CARRIER_LOSSES, link.carrier_losses);
    if let Some(old) = before {
        e.attributes.set_some(NET_LINK_STATE_BEFORE, old.state.filter(|s| Some(*s) != link.state));
        if old.name != link.name {
            e.attributes.set(NET_LINK_NAME_BEFORE, old.name.clone());
        }
    }
    if change == Change::Moved {
        e.attributes.set(NET_LINK_MOVED, true);
    }
}

/// One line: which device, its owner, and what.
fn message(change: Change, device: &Device, before: Option<&Link>) -> String {
    let link = &device.link;
    let what =
        device.hardware.driver.as_deref().or(link.kind.as_deref()).map(|d| format!(" ({d})")).unwrap_or_default();
    let of_workload = Workload::message_suffix(device.workload.as_ref());
    let did = match change {
        Change::AdminUp => "was set up".to_owned(),
        Change::AdminDown => "was set down".to_owned(),
        Change::CarrierUp => "has a carrier".to_owned(),
        Change::CarrierDown => "lost its carrier".to_owned(),
        Change::State => format!("is {} now", link.state.unwrap_or("unknown")),
        Change::Added => "is new".to_owned(),
        Change::Removed => "was removed".to_owned(),
        Change::Moved => "went to another network namespace".to_owned(),
        Change::Renamed => format!("was {} before", before.map_or("", |b| &b.name)),
        Change::Enslaved => "was made part of another device".to_owned(),
        Change::Released => "was taken from the device that it was part of".to_owned(),
        Change::PortState if link.port.as_ref().is_some_and(|p| p.active) => "is active in its bond".to_owned(),
        Change::PortState => "is a backup in its bond".to_owned(),
    };
    format!("{}{what}{of_workload} {did}", link.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::probe::skeletons::linkwatch::AdminChange;

    /// `IFF_UP`, `IFF_LOWER_UP` of netdevice(7).
    const UP: u32 = 1;
    const CARRIER: u32 = 1 << 16;

    fn is(flags: u32, listed: bool) -> LinkNotice {
        let parent = Some(("pci".to_owned(), "0000:00:03.0".to_owned()));
        LinkNotice::Is { link: Link { index: 2, name: "eth0".into(), flags, parent, ..Link::default() }, listed }
    }

    /// What is there at the start is no change; a card without its carrier is a warning; who set a device down is
    /// what the probe said just before.
    #[test]
    fn a_card_and_who_set_it_down() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut c = rig.make::<LinkWatch>(NoSettings {}).unwrap();
        let mut hear = |notice| {
            let mut out = Events::default();
            c.on_record(Either::Source(Some(notice)), &mut out).unwrap();
            out.drain().map(|e| (e.severity, e.message)).collect::<Vec<_>>()
        };
        assert_eq!(hear(is(UP | CARRIER, true)), []);
        assert_eq!(hear(is(UP, false)), [(Severity::Warn, "eth0 lost its carrier".to_owned())]);
        assert_eq!(hear(is(UP | CARRIER, false)), [(Severity::Info, "eth0 has a carrier".to_owned())]);
        let mut r = AdminChange::new_zeroed();
        (r.time_ns, r.ifindex, r.cgroup.id, r.thread.tgid) = (rig.clock().boot_ns(), 2, cgroup.id, 42);
        r.thread.comm[..2].copy_from_slice(b"ip");
        r.netns = u32::try_from(rig.inode("proc/self/ns/net").unwrap()).unwrap();
        c.on_record(Either::Object(Record::AdminChange(&r)), &mut Events::default()).unwrap();
        let mut out = Events::default();
        c.on_record(Either::Source(Some(is(0, false))), &mut out).unwrap();
        let e = out.drain().next().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.net.link_change", Severity::Warn));
        assert_eq!(e.message, "eth0 was set down by ip (pid 42)");
        assert_eq!(e.related[0].workload.as_ref().map(|w| w.cgroup.as_str()), Some("/a.service"));
    }
}
