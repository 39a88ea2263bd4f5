// SPDX-License-Identifier: Apache-2.0
//! What a process's network namespace says of its addresses and listeners: proc_pid_net(5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::net::by_header;
use crate::host::{Host, ReadError, Reading};

/// State LISTEN of a socket in `/proc/PID/net/tcp` (include/net/tcp_states.h).
const LISTEN: &str = "0A";

impl Host {
    /// Whether the address is one of the namespace's own.
    #[must_use]
    pub fn has_address(&self, pid: u32, address: IpAddr) -> bool {
        let file = if address.is_ipv4() { "fib_trie" } else { "if_inet6" };
        let Ok(text) = self.read_proc(&format!("{pid}/net/{file}")) else { return false };
        match address {
            IpAddr::V4(four) => local_ipv4(&text).any(|a| a == four),
            IpAddr::V6(six) => text.lines().filter_map(own_ipv6).any(|a| a == six),
        }
    }

    /// Connection attempts that listeners of the namespace dropped so far, for a full accept queue or another reason
    /// (`ListenDrops`).
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn listen_drops(&self, pid: u32) -> Reading<u64> {
        let file = format!("{pid}/net/netstat");
        let text = self.read_proc(&file)?;
        listen_drops(&text).ok_or_else(|| ReadError::malformed(&self.proc.join(file), "no ListenDrops"))
    }

    /// Whether connections wait to be accepted at the port.
    #[must_use]
    pub fn has_waiting(&self, pid: u32, port: u16) -> bool {
        let files = ["tcp", "tcp6"].map(|file| self.read_proc(&format!("{pid}/net/{file}")).unwrap_or_default());
        files.iter().flat_map(|text| text.lines()).any(|line| waiting(line, port).is_some_and(|n| n > 0))
    }
}

/// Of `fib_trie`: `|-- 10.0.0.1`, and below it `/32 host LOCAL`.
fn local_ipv4(text: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut last = None;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        }
        (line == "/32 host LOCAL").then_some(last).flatten()
    })
}

/// A line of `if_inet6` begins with the address in 32 hexadecimal digits.
fn own_ipv6(line: &str) -> Option<Ipv6Addr> {
    let digits = line.split_ascii_whitespace().next().filter(|d| d.len() == 32)?;
    Some(Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?))
}

/// Of `netstat`.
fn listen_drops(text: &str) -> Option<u64> {
    let (.., drops) = by_header(text).find(|(protocol, name, _)| (*protocol, *name) == ("TcpExt", "ListenDrops"))?;
    drops.try_into().ok()
}

/// `sl local rem st tx:rx …`: of a listener, `rx` is how many wait to be accepted. `None`: it is none of this port.
fn waiting(line: &str, port: u16) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (_, at) = words.next()?.split_once(':')?;
    let (_, state, queues) = (words.next()?, words.next()?, words.next()?);
    let is_it = state == LISTEN && u16::from_str_radix(at, 16).is_ok_and(|p| p == port);
    is_it.then(|| u32::from_str_radix(queues.split_once(':')?.1, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as the kernel writes them.
    #[test]
    fn texts_of_the_kernel() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.77.1.0\n        /24 link UNICAST\n     |-- 10.77.1.2\n        /32 host LOCAL\n     |-- 10.77.1.255\n        /32 link BROADCAST\n";
        assert_eq!(local_ipv4(trie).collect::<Vec<_>>(), [Ipv4Addr::new(10, 77, 1, 2)]);
        let six = "fd770001000000000000000000000002 02 40 00 80     pvb";
        assert_eq!(own_ipv6(six), "fd77:1::2".parse().ok());
        assert_eq!(own_ipv6("none"), None);
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 72 73\nIpExt: InNoRoutes\nIpExt: 9\n";
        assert_eq!(listen_drops(netstat), Some(73));
        let of = |state: &str, queue: &str| {
            waiting(&format!("   0: 0100007F:1F90 00000000:0000 {state} 00000000:{queue} 00:00000000 00000000"), 8080)
        };
        assert_eq!([of("0A", "00000002"), of("0A", "00000000"), of("01", "00000002")], [Some(2), Some(0), None]);
    }
}
