// SPDX-License-Identifier: Apache-2.0
//! Network devices as rtnetlink has them: [`LinkListener`] hears of every change, here and in other
//! network namespaces; [`Rtnl`] asks.
//!
//! The kernel numbers the namespaces that one knows of (nsid). It gives such a number by itself when a
//! device goes there or has its peer there, so that a container's is known from its start; one that
//! only a mount keeps (`ip netns`) is given a number when the mount is seen. A listener hears all of
//! them through one socket (NETLINK_LISTEN_ALL_NSID in netlink(7)) and enters none.

mod link;
mod listener;
mod message;
mod namespaces;

pub use link::{Aggregation, Bond, BondPort, Counters, Link};
pub use listener::{LinkListener, LinkNotice};
pub use message::{Filter, Rtnl};
pub use namespaces::{Namespace, Namespaces};

/// A network namespace as this one's kernel numbers it; `None`: this one.
pub type NsId = Option<i32>;
