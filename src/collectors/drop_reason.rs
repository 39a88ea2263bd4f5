// SPDX-License-Identifier: Apache-2.0
//! Why the kernel drops packets: names of the running kernel's reasons, and which of them are no loss
//! (include/net/dropreason-core.h says what each means).

use std::collections::HashMap;

use crate::host::Host;
use crate::probe::enums::{Enumerator, kernel_enums};
use crate::probe::shared::net::{Net, REASONS};

/// What a reason is, as the probe knows it (`REASON_…` in `bpf/shared/net/drops.bpf.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Normal = 1,
    /// Normal for multicast, broadcast and what was for others.
    Inspect = 2,
    /// The same, and for a segment without data, one of a closed connection, or what is no TCP or UDP.
    Vague = 3,
    Ignored = 4,
    /// No packet of a network.
    Local = 5,
    // 0 is what the probe has before this is filled in: nothing is counted then, as most drops are no loss.
    Loss = 6,
}

/// What an ordinary close, a duplicate, or a busy segment of a network leaves behind.
const NORMAL: &[&str] = &[
    "CONSUMED",
    "SOCKET_CLOSE",
    "OTHERHOST",
    "UNICAST_IN_L2_MULTICAST",
    "TCP_OLD_DATA",
    "TCP_OFOMERGE",
    "TCP_OLD_SEQUENCE",
    "TCP_OLD_ACK",
    "TCP_TOO_OLD_ACK",
    "TCP_RESET",
    "TCP_CLOSE",
    "TCP_ABORT_ON_DATA",
    "TCP_RFC7323_PAWS_ACK",
    "TCP_RFC7323_TW_PAWS",
    "TCP_FASTOPEN",
    "UNHANDLED_PROTO",
    "QUEUE_PURGE",
    "PACKET_SOCK_ERROR",
    // Its owner put the filter there.
    "SOCKET_FILTER",
    "TAP_FILTER",
    "TAP_TXFILTER",
    "IPV6DISABLED",
    "IPV6_NDISC_NS_OTHERHOST",
    "DUP_FRAG",
    "LOCAL_MAC",
    "ARP_PVLAN_DISABLE",
    "BRIDGE_INGRESS_STP_STATE",
];
const INSPECT: &[&str] =
    &["IP_INNOROUTES", "IP_INADDRERRORS", "IP_INVALID_DEST", "INVALID_PROTO", "IP_NOPROTO", "NO_TX_TARGET"];
/// `NOT_DROPPED_YET` is 0: what the probe says where the kernel gives no reason.
const VAGUE: &[&str] = &["NOT_DROPPED_YET", "NOT_SPECIFIED", "NO_SOCKET"];
const LOCAL: &[&str] = &["UNIX_DISCONNECT", "UNIX_SKIP_OOB"];
/// Bounds of the enum, which are no reasons.
const BOUNDS: &[&str] = &["MAX", "SUBSYS_MASK"];

/// The name where the kernel gives no reason.
pub const NOT_SPECIFIED: &str = "NOT_SPECIFIED";

/// The running kernel's reasons.
#[derive(Debug, Default)]
pub struct Reasons {
    names: HashMap<u32, String>,
}

impl Reasons {
    /// Reads them. A kernel without reasons (before 5.17) has none.
    ///
    /// # Errors
    /// The kernel shows no BTF.
    pub fn of_kernel(host: &Host) -> std::io::Result<Self> {
        Ok(Self::from_enums(&kernel_enums(&host.sys.join("kernel/btf/vmlinux"), "drop_reason")?))
    }

    fn from_enums(all: &[Enumerator]) -> Self {
        let name = |e: &Enumerator| {
            let short = ["SKB_DROP_REASON_", "QDISC_DROP_", "SKB_"].iter().find_map(|p| e.name.strip_prefix(p));
            let short = short.unwrap_or(&e.name).to_owned();
            // Some subsystems have their reasons in enums of their own; they begin with bounds and masks.
            let whole = if e.of == "qdisc_drop_reason" { format!("QDISC_{short}") } else { short };
            (!BOUNDS.contains(&whole.as_str())).then_some((u32::try_from(e.value).ok()?, whole))
        };
        Reasons { names: all.iter().filter_map(name).collect() }
    }

    /// The name of a reason.
    #[must_use]
    pub fn name(&self, reason: u32) -> String {
        match self.names.get(&reason) {
            _ if reason == 0 => NOT_SPECIFIED.to_owned(),
            Some(name) => name.clone(),
            None if reason >> 16 == 0 => format!("reason {reason}"),
            None => format!("subsystem {} reason {}", reason >> 16, reason & 0xffff),
        }
    }

    /// Each reason that is not plainly a loss, with what it is.
    pub fn classes<'a>(&'a self, ignored: &'a [String]) -> impl Iterator<Item = (u32, Class)> + 'a {
        let known = self.names.iter().map(|(n, name)| (*n, class(name, ignored)));
        // Where the kernel has no reasons, the probe says 0.
        [(0, Class::Vague)].into_iter().chain(known.filter(|(n, c)| *n != 0 && *c != Class::Loss))
    }

    /// Configures the probe with the class of each reason; `ignored`: names that make no events.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn configure(&self, net: &Net, ignored: &[String]) -> anyhow::Result<()> {
        let classes: HashMap<u32, Class> = self.classes(ignored).collect();
        // All anew: a reason that is no longer ignored is a loss again.
        (0..REASONS).try_for_each(|n| net.classify(n, classes.get(&n).copied().unwrap_or(Class::Loss) as u32))
    }

    /// Whether the kernel has a reason of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.values().any(|n| n == name)
    }
}

fn class(name: &str, ignored: &[String]) -> Class {
    let of = |list: &[&str]| list.contains(&name);
    if ignored.iter().any(|i| i == name) {
        Class::Ignored
    } else if of(LOCAL) {
        Class::Local
    } else if of(NORMAL) {
        Class::Normal
    } else if of(INSPECT) {
        Class::Inspect
    } else if of(VAGUE) {
        Class::Vague
    } else {
        Class::Loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Reasons {
        let one = |of: &str, name: &str, value| Enumerator { of: of.into(), name: name.into(), value };
        Reasons::from_enums(&[
            one("skb_drop_reason", "SKB_NOT_DROPPED_YET", 0),
            one("skb_drop_reason", "SKB_CONSUMED", 1),
            one("skb_drop_reason", "SKB_DROP_REASON_NOT_SPECIFIED", 2),
            one("skb_drop_reason", "SKB_DROP_REASON_NETFILTER_DROP", 12),
            one("skb_drop_reason", "SKB_DROP_REASON_QUEUE_PURGE", 104),
            one("skb_drop_reason", "SKB_DROP_REASON_MAX", 128),
            one("qdisc_drop_reason", "QDISC_DROP_OVERLIMIT", 0x50002),
        ])
    }

    /// Names are the kernel's without their prefix; a reason without one is a number.
    #[test]
    fn reasons_have_the_kernels_names() {
        let r = kernel();
        assert_eq!((r.name(12).as_str(), r.name(0).as_str()), ("NETFILTER_DROP", "NOT_SPECIFIED"));
        assert_eq!((r.name(0x50002).as_str(), r.name(128).as_str()), ("QDISC_OVERLIMIT", "reason 128"));
        assert_eq!(r.name(0x1_0003), "subsystem 1 reason 3");
    }

    /// What an ordinary close leaves is normal, a filter's drop is not, unless the user says so.
    #[test]
    fn normal_drops_are_distinguished() {
        let r = kernel();
        let classes = |ignored: &[String]| r.classes(ignored).collect::<HashMap<_, _>>();
        let plain = classes(&[]);
        assert_eq!((plain.get(&104), plain.get(&2)), (Some(&Class::Normal), Some(&Class::Vague)));
        assert_eq!((plain.get(&12), plain.get(&0)), (None, Some(&Class::Vague)));
        assert_eq!(classes(&["NETFILTER_DROP".to_owned()]).get(&12), Some(&Class::Ignored));
    }
}
