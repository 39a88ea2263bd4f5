// SPDX-License-Identifier: Apache-2.0
//! Connection attempts that a listener of this node dropped. A SYN that finds the accept queue full is used up by TCP
//! (tcp_conn_request, net/ipv4/tcp_input.c), so that no hook of drops sees it; the namespace counts it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::probe::shared::net::Net;

/// How old a walk over the processes may be.
const FRESH: Duration = Duration::from_secs(2);
/// TCP tries again after 1, 3, 7, 15, 31 … s: what was counted within this time may be this attempt.
const RECENT: Duration = Duration::from_secs(64);
/// Namespaces whose count is kept.
const KEPT: usize = 4096;

/// What is known of the namespaces of this node.
pub(super) struct Listeners {
    host: Host,
    net: Net,
    walked: Option<Instant>,
    /// A process of each.
    inside: HashMap<u32, u32>,
    seen: HashMap<u32, Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    drops: u64,
    grew: Option<Instant>,
}

impl Listeners {
    pub fn new(host: &Host, net: &Net) -> Self {
        Listeners { host: host.clone(), net: net.clone(), walked: None, inside: HashMap::new(), seen: HashMap::new() }
    }

    /// Whether a namespace of this node that has the address dropped attempts of late: since the last look, or, where
    /// there was none, ever, and connections wait to be accepted at the port. `from`: the sender's namespace.
    pub fn dropped(&mut self, from: u32, to: IpAddr, port: u16) -> bool {
        self.walk();
        let has_it = |(netns, pid): (&u32, &u32)| {
            // Every namespace has a loopback of its own.
            let may_have = *netns == from || !to.is_loopback();
            (may_have && self.host.has_address(*pid, to)).then_some((*netns, *pid))
        };
        let there: Vec<(u32, u32)> = self.inside.iter().filter_map(has_it).collect();
        there.into_iter().any(|(netns, pid)| self.drops_grew(netns, pid, port))
    }

    fn drops_grew(&mut self, netns: u32, pid: u32, port: u16) -> bool {
        let Ok(drops) = self.host.listen_drops(pid) else { return false };
        if self.seen.len() >= KEPT {
            self.seen.clear();
        }
        let (now, before) = (Instant::now(), self.seen.get(&netns).filter(|s| s.at.elapsed() < RECENT));
        let grew = if before.is_some_and(|s| drops > s.drops) { Some(now) } else { before.and_then(|s| s.grew) };
        self.seen.insert(netns, Seen { at: now, drops, grew });
        // What was looked at just now is of the same attempts.
        grew.is_some_and(|at| at.elapsed() < FRESH) || drops > 0 && self.host.has_waiting(pid, port)
    }

    fn walk(&mut self) {
        if self.walked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        match self.net.netns_members() {
            Ok(members) => self.inside = members.into_iter().map(|m| (m.netns, m.pid)).collect(),
            Err(e) => tracing::debug!("network namespaces: {e:#}"),
        }
        self.walked = Some(Instant::now());
    }
}
