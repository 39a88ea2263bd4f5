// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! What network devices carried, lost and got wrong: of the node, and of each workload that has a network of its
//! own.
//!
//! # How
//! The node's devices and their counters in one answer of rtnetlink(7) (`struct rtnl_link_stats64`, which says what
//! each figure is), their speed from `/sys/class/net`; those of workloads from `/proc/PID/net/dev` of one of their
//! processes, once for each network namespace. Once an interval.
//!
//! # Signals
//! `system.network.io`, `.packet.count`, `.packet.dropped`, `.errors`; `linux.net.device.errors` by kind,
//! `linux.net.device.multicast`, `.carrier`, `.carrier.losses`, `.speed`; `container.network.io`,
//! `linux.container.network.packets`, `.dropped`, `.errors`.
//!
//! # Limits
//! The node's ends of containers' devices (veth, netkit) only with `veth = true`, as each has a new name. A device on
//! top of others (bond, bridge, VLAN) has the same bytes again: do not add them up. What `dropped` and the kinds of
//! errors mean differs by driver; of a workload `dropped` is also what a device had no buffer for. A workload
//! in the node's network has no figures of its own, containers of one pod have the pod's, and its loopback has
//! none. A device that is made anew counts from zero.
//!
//! # What to do next
//! `crc`, `frame`: a cable, a plug or the other end. `missed`, `fifo`, `over`: the device has more packets than the
//! CPU takes from it: larger rings (`ethtool -g`), more queues, spread interrupts. `nohandler`: nobody asked for these.
//! `dropped` when all is well with the hardware: see the `dropwatch` collector for which packets and why. A carrier
//! that is lost again and again: see `linkwatch`.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc};
use crate::host::proc::Device;
use crate::host::rtnl::{Counters, Filter, Link, NsId, Rtnl};
use crate::host::{Cgroups, Host};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value, Workload};
use crate::workload::Workloads;
use crate::workload::netns::common;

const KIND: Key = Key::new("linux.net.device.error", "crc, length, frame, missed, …, as the kernel names them");
const BY: &[Key] = &[attr::NETWORK_INTERFACE_NAME, attr::NETWORK_IO_DIRECTION];
const DEVICE: &[Key] = &[attr::NETWORK_INTERFACE_NAME];

static IO: MetricDef = MetricDef::counter("system.network.io", "By", "Bytes through the device").by(BY);
static PACKETS: MetricDef = MetricDef::counter("system.network.packet.count", "{packet}", "Packets through the device")
    .by(&[attr::SYSTEM_DEVICE, attr::NETWORK_IO_DIRECTION]);
static DROPPED: MetricDef =
    MetricDef::counter("system.network.packet.dropped", "{packet}", "Packets that the device or its driver dropped")
        .by(BY);
static ERRORS: MetricDef = MetricDef::counter("system.network.errors", "{error}", "Packets with errors").by(BY);
static ERRORS_BY_KIND: MetricDef = MetricDef::counter(
    "linux.net.device.errors",
    "{error}",
    "Errors and drops of the device by kind; they have no sum",
)
.by(&[attr::NETWORK_INTERFACE_NAME, attr::NETWORK_IO_DIRECTION, KIND]);
static MULTICAST: MetricDef =
    MetricDef::counter("linux.net.device.multicast", "{packet}", "Multicast packets received").by(DEVICE);
static CARRIER: MetricDef =
    MetricDef::up_down_counter("linux.net.device.carrier", "1", "1: the device has a carrier; 0: it has none")
        .by(DEVICE);
static CARRIER_LOSSES: MetricDef =
    MetricDef::counter("linux.net.device.carrier.losses", "{event}", "Times that the device lost its carrier")
        .by(DEVICE);
static SPEED: MetricDef =
    MetricDef::up_down_counter("linux.net.device.speed", "By/s", "Speed of the device's link").by(DEVICE);
static CONTAINER_IO: MetricDef =
    MetricDef::counter("container.network.io", "By", "Bytes through the workload's device").by(BY);
static CONTAINER_PACKETS: MetricDef =
    MetricDef::counter("linux.container.network.packets", "{packet}", "Packets through the workload's device").by(BY);
static CONTAINER_DROPPED: MetricDef =
    MetricDef::counter("linux.container.network.dropped", "{packet}", "Packets that the workload's device dropped")
        .by(BY);
static CONTAINER_ERRORS: MetricDef =
    MetricDef::counter("linux.container.network.errors", "{error}", "Packets with errors").by(BY);

const WAYS: [&str; 2] = ["receive", "transmit"];
/// Ends of pairs, of which the other is a container's.
const PAIRS: [&str; 2] = ["veth", "netkit"];
/// Processes of a workload of which one is alive and may be looked at.
const PROCESSES: usize = 4;

/// Settings of `netdev`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reports the node's ends of containers' devices, too.
    pub veth: bool,
}

impl Settings for Config {}

/// Network devices.
pub struct NetDev {
    config: Config,
    host: Host,
    cgroups: Cgroups,
    workloads: Workloads,
    rtnl: Rtnl,
    /// The node's namespace, if that is not the agent's.
    node: NsId,
}

impl Collector for NetDev {
    const INFO: Info = Info {
        name: "netdev",
        summary: "what network devices carried, dropped and got wrong, and for which workload",
        doc: head_doc(include_str!("netdev.rs")),
        capabilities: &["CAP_SYS_PTRACE"],
        metrics: &[
            &IO,
            &PACKETS,
            &DROPPED,
            &ERRORS,
            &ERRORS_BY_KIND,
            &MULTICAST,
            &CARRIER,
            &CARRIER_LOSSES,
            &SPEED,
            &CONTAINER_IO,
            &CONTAINER_PACKETS,
            &CONTAINER_DROPPED,
            &CONTAINER_ERRORS,
        ],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let host = cx.host.clone();
        let cgroups = Cgroups::read(&host).map_err(|e| Unavailable::because(e.to_string()))?;
        let mut rtnl = Rtnl::open(&host).map_err(|e| Unavailable::because(format!("netlink: {e}")))?;
        let node = node_namespace(&host, &mut rtnl)?;
        Ok(NetDev { config, host, cgroups, workloads: cx.workloads.clone(), rtnl, node })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

/// Where process 1 may not be looked at, the agent's namespace is taken for the node's.
fn node_namespace(host: &Host, rtnl: &mut Rtnl) -> Result<NsId, Unavailable> {
    if host.has_nodes_network() {
        return Ok(None);
    }
    rtnl.nsid_of_process(1).ok().flatten().map(Some).ok_or_else(|| {
        Unavailable::because("the agent is in a network namespace of its own; it needs the node's (hostNetwork)")
    })
}

impl MetricCollector for NetDev {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        for link in self.rtnl.links(self.node, Filter::All)? {
            let is_pair = link.kind.as_deref().is_some_and(|k| PAIRS.contains(&k));
            if let Some(counters) = link.counters.filter(|_| self.config.veth || !is_pair) {
                write(&link, &counters, out);
                if let Some(speed) = self.speed(&link.name) {
                    out.count(&SPEED, None, &[name(&link.name)], speed);
                }
            }
        }
        for (workload, pid) in self.of_workloads() {
            // It may have ended.
            for device in self.host.devices_of(pid).unwrap_or_default().iter().filter(|d| d.name != "lo") {
                write_workload(&workload, device, out);
            }
        }
        Ok(())
    }
}

impl NetDev {
    /// In bytes a second; `None`: the device has no link, or no speed.
    fn speed(&self, device: &str) -> Option<u64> {
        let text = self.host.read_sys(&format!("class/net/{device}/speed")).ok()?;
        // SPEED_UNKNOWN of include/uapi/linux/ethtool.h, as drivers of all ages write it.
        let megabits = text.trim().parse::<i64>().ok().filter(|n| *n > 0 && ![0xffff, 0xffff_ffff].contains(n))?;
        u64::try_from(megabits).ok().map(|n| n * 125_000)
    }

    /// Who has a network of its own, and a process in it.
    fn of_workloads(&self) -> Vec<(Arc<Workload>, u32)> {
        let node = self.host.nodes_network();
        let mut inside: HashMap<u64, (u32, Vec<Arc<Workload>>)> = HashMap::new();
        for workload in self.workloads.leaves() {
            if let Some((pid, ns)) = self.process_of(&workload).filter(|(_, ns)| Some(*ns) != node) {
                inside.entry(ns).or_insert_with(|| (pid, Vec::new())).1.push(workload);
            }
        }
        let owner = |(pid, who): (u32, Vec<_>)| Some((common(who, &self.workloads)?, pid));
        inside.into_values().filter_map(owner).collect()
    }

    /// A process of a workload and its network namespace.
    fn process_of(&self, workload: &Workload) -> Option<(u32, u64)> {
        let cgroups = self.workloads.cgroups_of(workload.key);
        let pids = |hierarchy| self.cgroups.pids_below(hierarchy, &workload.cgroup, PROCESSES).unwrap_or_default();
        let pids = cgroups.iter().map(|id| pids(id.hierarchy)).find(|pids| !pids.is_empty())?;
        pids.into_iter().find_map(|pid| Some((pid, self.host.network_namespace(pid).ok()?)))
    }
}

fn name(device: &str) -> (Key, Value) {
    (attr::NETWORK_INTERFACE_NAME, device.to_owned().into())
}

fn write(link: &Link, counters: &Counters, out: &mut Metrics) {
    let device = name(&link.name);
    for (way, n) in WAYS.into_iter().zip(counters.traffic()) {
        let direction = (attr::NETWORK_IO_DIRECTION, way.into());
        let attributes = [device.clone(), direction.clone()];
        out.count(&IO, None, &attributes, n.bytes);
        out.count(&PACKETS, None, &[(attr::SYSTEM_DEVICE, link.name.clone().into()), direction], n.packets);
        out.count(&DROPPED, None, &attributes, n.dropped);
        out.count(&ERRORS, None, &attributes, n.errors);
    }
    for (way, kind, n) in counters.kinds() {
        let attributes = [device.clone(), (attr::NETWORK_IO_DIRECTION, way.into()), (KIND, kind.into())];
        out.count(&ERRORS_BY_KIND, None, &attributes, n);
    }
    let device = [device];
    out.count(&MULTICAST, None, &device, counters.multicast());
    out.count(&CARRIER, None, &device, u64::from(link.has_carrier()));
    out.count_some(&CARRIER_LOSSES, None, &device, link.carrier_losses.map(u64::from));
}

fn write_workload(workload: &Arc<Workload>, device: &Device, out: &mut Metrics) {
    for (way, n) in WAYS.into_iter().zip([device.receive, device.transmit]) {
        let attributes = [name(&device.name), (attr::NETWORK_IO_DIRECTION, way.into())];
        out.count(&CONTAINER_IO, Some(workload), &attributes, n.bytes);
        out.count(&CONTAINER_PACKETS, Some(workload), &attributes, n.packets);
        out.count(&CONTAINER_DROPPED, Some(workload), &attributes, n.dropped);
        out.count(&CONTAINER_ERRORS, Some(workload), &attributes, n.errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    const PATH: &str = "/docker/0123456789012345678901234567890123456789012345678901234567890123";
    const DEV: &str = "Inter-|   Receive  |  Transmit\n face |bytes  packets|bytes  packets\n\
                       lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 10 1 2 0 0 0 0 200 20 3 4 0 0 0 0\n";

    fn link(name: &str, kind: Option<&str>) -> Link {
        let counters = Some(Counters::numbered());
        // IFF_LOWER_UP.
        let (flags, kind) = (1 << 16, kind.map(str::to_owned));
        Link { name: name.into(), kind, flags, carrier_losses: Some(5), counters, ..Link::default() }
    }

    fn collected(rig: &Rig, config: &str) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<NetDev>(), config).unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    fn way<'a>(device: &'a str, direction: &'a str) -> [(&'static str, &'a str); 2] {
        [("network.interface.name", device), ("network.io.direction", direction)]
    }

    /// Each figure of the kernel's structure lands under its name; pairs only where they are wanted; what is no speed is
    /// none.
    #[test]
    fn figures_of_the_node() {
        let rig = Rig::new().unwrap();
        rig.host().set_links(vec![link("eth0", None), link("veth1", Some("veth")), link("nk0", Some("netkit"))]);
        rig.write("sys/class/net/eth0/speed", "10000\n").unwrap();
        let out = collected(&rig, "");
        let of = |name, direction| out.figure(name, None, &way("eth0", direction));
        assert_eq!((of("system.network.io", "receive"), of("system.network.io", "transmit")), (Some(2.0), Some(3.0)));
        assert_eq!(
            (of("system.network.errors", "receive"), of("system.network.errors", "transmit")),
            (Some(4.0), Some(5.0))
        );
        assert_eq!(of("system.network.packet.dropped", "transmit"), Some(7.0));
        let packets = [("system.device", "eth0"), ("network.io.direction", "transmit")];
        assert_eq!(out.figure("system.network.packet.count", None, &packets), Some(1.0));
        let missed = [&way("eth0", "receive")[..], &[("linux.net.device.error", "missed")]].concat();
        assert_eq!(out.figure("linux.net.device.errors", None, &missed), Some(15.0));
        let of = |out: &Metrics, name, device| out.figure(name, None, &[("network.interface.name", device)]);
        assert_eq!(of(&out, "linux.net.device.multicast", "eth0"), Some(8.0));
        assert_eq!(of(&out, "linux.net.device.carrier", "eth0"), Some(1.0));
        assert_eq!(of(&out, "linux.net.device.carrier.losses", "eth0"), Some(5.0));
        assert_eq!(of(&out, "linux.net.device.speed", "eth0"), Some(1.25e9));
        assert_eq!(
            (of(&out, "linux.net.device.carrier", "veth1"), of(&out, "linux.net.device.carrier", "nk0")),
            (None, None)
        );
        let all = collected(&rig, "veth = true");
        assert_eq!(of(&all, "linux.net.device.carrier", "veth1"), Some(1.0));
        for none in ["-1\n", "0\n", "65535\n", "4294967295\n", ""] {
            rig.write("sys/class/net/eth0/speed", none).unwrap();
            assert_eq!(of(&collected(&rig, ""), "linux.net.device.speed", "eth0"), None, "{none}");
        }
    }

    /// A container with a network of its own has its devices' figures, without loopback; one in the node's has none.
    #[test]
    fn figures_of_a_workload() {
        let rig = Rig::new().unwrap();
        rig.write("proc/1/ns/net", "").unwrap();
        let is_the_nodes = |pid: &str| {
            let (node, file) = (rig.host().proc.join("1/ns/net"), rig.host().proc.join(pid).join("ns/net"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            // The rig may have one.
            drop(std::fs::remove_file(&file));
            std::fs::hard_link(node, file).unwrap();
        };
        is_the_nodes("self");
        let on_node = PATH.replace("/docker/0", "/docker/1");
        for (path, pid) in [(PATH, 60), (&on_node, 61)] {
            rig.cgroup(path).unwrap();
            rig.write(&format!("sys/fs/cgroup{path}/cgroup.procs"), format!("{pid}\n")).unwrap();
            rig.write(&format!("proc/{pid}/net/dev"), DEV).unwrap();
        }
        rig.write("proc/60/ns/net", "").unwrap();
        is_the_nodes("61");
        let out = collected(&rig, "");
        let of = |name, direction| out.figure(name, Some(PATH), &way("eth0", direction));
        assert_eq!(
            (of("container.network.io", "receive"), of("container.network.io", "transmit")),
            (Some(100.0), Some(200.0))
        );
        assert_eq!(of("linux.container.network.packets", "receive"), Some(10.0));
        assert_eq!(of("linux.container.network.errors", "transmit"), Some(3.0));
        assert_eq!(of("linux.container.network.dropped", "receive"), Some(2.0));
        assert_eq!(out.figure("container.network.io", Some(PATH), &way("lo", "receive")), None);
        assert_eq!(out.figure("container.network.io", Some(&on_node), &way("eth0", "receive")), None);
    }

    /// In a namespace of its own, of which the node's has no number, the agent cannot see the node's devices.
    #[test]
    fn the_agents_own_namespace_is_not_the_nodes() {
        let rig = Rig::new().unwrap();
        rig.write("proc/1/ns/net", "").unwrap();
        rig.write("proc/self/ns/net", "").unwrap();
        let e = rig.run(&crate::collectors::metrics::<NetDev>(), "").err().unwrap();
        assert!(e.to_string().contains("hostNetwork"), "{e}");
    }
}
