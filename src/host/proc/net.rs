// SPDX-License-Identifier: Apache-2.0
//! `/proc/net`: counters of protocols, sockets in use, packets that wait for the network stack; and `/proc/PID/net/dev`.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt as _;

use crate::host::{Host, ReadError, Reading};

/// Counters of `/proc/net/snmp` and `netstat`, or of `snmp6`: protocol, name, value.
pub type Counters = Vec<(String, String, i64)>;

/// A figure of `/proc/net/sockstat` or `sockstat6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketFigure {
    /// Sockets that are so: inuse, orphan, …
    Sockets(String, u64),
    /// Memory of buffers, in pages.
    Pages(u64),
    /// The same in bytes, as fragments have it.
    Bytes(u64),
}

/// A line of `/proc/net/softnet_stat` (net/core/net-procfs.c): counts of 32 bits, which wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softnet {
    /// `None` before Linux 5.10, whose lines name no CPU.
    pub cpu: Option<u32>,
    pub processed: u32,
    /// The backlog was full.
    pub dropped: u32,
    /// The budget of packets or time was spent before the queue was empty.
    pub squeezed: u32,
    /// Woken for packets that another CPU took in.
    pub received_rps: u32,
    pub flow_limited: u32,
}

/// A network device of a process's namespace: a line of `/proc/PID/net/dev` (net/core/net-procfs.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub receive: Traffic,
    pub transmit: Traffic,
}

/// What waits in sockets, in bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queues {
    /// For the program that has the socket.
    pub receive: u64,
    /// For the device.
    pub transmit: u64,
}

/// What a device counted in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    /// In `/proc/PID/net/dev`, of what it received, also what it had no buffer for.
    pub dropped: u64,
}

impl Device {
    fn parse(line: &str) -> Option<Self> {
        // A name may have colons itself.
        let (name, figures) = line.rsplit_once(':')?;
        let n: Vec<u64> = figures.split_whitespace().map_while(|w| w.parse().ok()).collect();
        let traffic = |at: usize| match n.get(at..at + 4) {
            Some(&[bytes, packets, errors, dropped]) => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        Some(Device { name: name.trim().to_owned(), receive: traffic(0)?, transmit: traffic(8)? })
    }
}

impl Queues {
    /// A line of `/proc/net/udp` (udp4_format_sock in net/ipv4/udp.c).
    fn parse(line: &str) -> Option<Self> {
        let (transmit, receive) = line.split_whitespace().nth(4)?.split_once(':')?;
        let bytes = |hex| u64::from_str_radix(hex, 16).ok();
        Some(Queues { receive: bytes(receive)?, transmit: bytes(transmit)? })
    }

    fn and(self, other: Self) -> Self {
        let (receive, transmit) = (self.receive, self.transmit);
        Queues { receive: receive.saturating_add(other.receive), transmit: transmit.saturating_add(other.transmit) }
    }
}

impl Softnet {
    fn parse(line: &str) -> Option<Self> {
        let n: Vec<u32> = line.split_whitespace().map_while(|w| u32::from_str_radix(w, 16).ok()).collect();
        let at = |i: usize| n.get(i).copied().unwrap_or(0);
        (n.len() >= 9).then(|| Softnet {
            cpu: n.get(12).copied(),
            processed: at(0),
            dropped: at(1),
            squeezed: at(2),
            received_rps: at(9),
            flow_limited: at(10),
        })
    }
}

impl Host {
    /// A file of the node's own network namespace, which that of the agent need not be.
    fn read_net(&self, file: &str) -> Reading<String> {
        match self.read_proc(&format!("1/net/{file}")) {
            Err(_) => self.read_proc(&format!("net/{file}")),
            found => found,
        }
    }

    /// Inode number of the network namespace of a process, or of `self`. Another user's takes CAP_SYS_PTRACE.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn network_namespace(&self, pid: impl Display) -> Reading<u64> {
        let path = self.proc.join(format!("{pid}/ns/net"));
        std::fs::metadata(&path).map(|m| m.ino()).map_err(|e| ReadError::io(&path, e))
    }

    /// The node's network namespace; where process 1 may not be looked at, that of this process is taken for it.
    #[must_use]
    pub fn nodes_network(&self) -> Option<u64> {
        self.network_namespace(1).or_else(|_| self.network_namespace("self")).ok()
    }

    /// Whether this process is in the node's network namespace, as far as it can be known.
    #[must_use]
    pub fn has_nodes_network(&self) -> bool {
        self.network_namespace("self").map_or(true, |own| self.nodes_network() == Some(own))
    }

    /// `count` or `max` of the tracked connections; `None`: nf_conntrack is not loaded.
    #[must_use]
    pub fn conntrack(&self, figure: &str) -> Option<u64> {
        self.setting(&format!("net/netfilter/nf_conntrack_{figure}"))
    }

    /// What happened to tracked connections, by CPU and column.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn conntrack_events(&self) -> Reading<Vec<Vec<(String, u32)>>> {
        let row = |row: Vec<(String, u64)>| row.into_iter().filter_map(|(name, n)| Some((name, n.try_into().ok()?)));
        Ok(by_column(&self.read_net("stat/nf_conntrack")?).into_iter().map(|all| row(all).collect()).collect())
    }

    /// What happened to a table of neighbours, `arp` or `ndisc`, by CPU and column; `entries` is the same in each row. One
    /// table has the entries of all network namespaces (net/core/neighbour.c).
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn neighbors(&self, table: &str) -> Reading<Vec<Vec<(String, u64)>>> {
        Ok(by_column(&self.read_net(&format!("stat/{table}_cache"))?))
    }

    /// What waits in all UDP sockets of the node's network namespace, those of IPv4 (`udp`) or of IPv6 (`udp6`). The kernel
    /// writes a line for each.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn udp_queues(&self, file: &str) -> Reading<Queues> {
        Ok(self.read_net(file)?.lines().filter_map(Queues::parse).fold(Queues::default(), Queues::and))
    }

    /// The network devices of a process's namespace.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn devices_of(&self, pid: u32) -> Reading<Vec<Device>> {
        Ok(self.read_proc(&format!("{pid}/net/dev"))?.lines().filter_map(Device::parse).collect())
    }

    /// The node's counters by protocol (`Tcp`, `TcpExt`, `Ip6`, …). A file that a kernel lacks, as `snmp6` without IPv6,
    /// is left out.
    ///
    /// # Errors
    /// [`ReadError`](crate::host::ReadError): not even `snmp` can be read.
    pub fn protocol_counters(&self) -> Reading<Counters> {
        let mut all = owned(by_header(&self.read_net("snmp")?));
        all.extend(self.read_net("netstat").map(|text| owned(by_header(&text))).unwrap_or_default());
        all.extend(self.read_net("snmp6").map(|text| by_line(&text)).unwrap_or_default());
        Ok(all)
    }

    /// Sockets in use and their memory, by protocol as the file names it.
    ///
    /// # Errors
    /// [`ReadError`](crate::host::ReadError)
    pub fn sockets(&self) -> Reading<Vec<(String, SocketFigure)>> {
        let mut all = by_pairs(&self.read_net("sockstat")?);
        all.extend(self.read_net("sockstat6").map(|text| by_pairs(&text)).unwrap_or_default());
        Ok(all)
    }

    /// What each online CPU took from its network devices; the same in each network namespace.
    ///
    /// # Errors
    /// [`ReadError`](crate::host::ReadError)
    pub fn softnet(&self) -> Reading<Vec<Softnet>> {
        Ok(self.read_net("softnet_stat")?.lines().filter_map(Softnet::parse).collect())
    }
}

/// Pairs of lines: `Tcp: InSegs …` and `Tcp: 5 …`, as protocol, name, value. Fields are found by name, as kernels
/// insert some in between.
pub(super) fn by_header(text: &str) -> impl Iterator<Item = (&str, &str, i64)> {
    let mut lines = text.lines();
    let pairs = std::iter::from_fn(move || Some((lines.next()?, lines.next()?)));
    pairs.flat_map(|(header, values)| {
        let (protocol, names) = header.split_once(':').unwrap_or_default();
        let (same, values) = values.split_once(':').unwrap_or_default();
        let values = if protocol == same { values } else { "" };
        let fields = names.split_whitespace().zip(values.split_whitespace());
        fields.filter_map(move |(name, value)| Some((protocol, name, value.parse().ok()?)))
    })
}

fn owned<'a>(fields: impl Iterator<Item = (&'a str, &'a str, i64)>) -> Counters {
    fields.map(|(protocol, name, value)| (protocol.to_owned(), name.to_owned(), value)).collect()
}

/// A line of names, then rows of figures in hexadecimal.
fn by_column(text: &str) -> Vec<Vec<(String, u64)>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let figure = |(name, word): (&&str, &str)| Some(((*name).to_owned(), u64::from_str_radix(word, 16).ok()?));
    lines.map(|row| names.iter().zip(row.split_whitespace()).filter_map(figure).collect()).collect()
}

/// Lines `Tcp6InSegs 5`, whose protocols end with a 6.
fn by_line(text: &str) -> Counters {
    let line = |line: &str| {
        let (name, value) = line.split_once(|c: char| c.is_ascii_whitespace())?;
        let (protocol, rest) = name.split_at(name.find('6')? + 1);
        Some((protocol.to_owned(), rest.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Lines `TCP: inuse 4 orphan 0`.
fn by_pairs(text: &str) -> Vec<(String, SocketFigure)> {
    let mut out = Vec::new();
    for (protocol, rest) in text.lines().filter_map(|l| l.split_once(':')) {
        let mut words = rest.split_whitespace();
        while let (Some(what), Some(n)) = (words.next(), words.next()) {
            let Ok(n) = n.parse() else { continue };
            let figure = match what {
                "mem" => SocketFigure::Pages(n),
                "memory" => SocketFigure::Bytes(n),
                state => SocketFigure::Sockets(state.to_owned(), n),
            };
            out.push((protocol.to_owned(), figure));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(protocol: &str, name: &str, n: i64) -> (String, String, i64) {
        (protocol.into(), name.into(), n)
    }

    /// Of both header lines and of a line that is cut there is no device; an alias of old tools has a colon.
    #[test]
    fn devices() {
        let lines = [
            "Inter-|   Receive  |  Transmit",
            " face |bytes    packets|bytes",
            "  lo: 1 2 3 4 5 6 7 8 9 10 11",
            "eth0:1:1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0",
        ];
        let devices: Vec<Device> = lines.into_iter().filter_map(Device::parse).collect();
        let [eth] = &devices[..] else { panic!("{devices:?}") };
        assert_eq!((eth.name.as_str(), eth.receive.packets, eth.transmit.dropped), ("eth0:1", 2, 8));
    }

    /// Fields are known by their names; one value may be negative; lines that do not belong together are passed over.
    #[test]
    fn counters() {
        let text = "Ip: Forwarding InReceives OutTransmits\nIp: 2 7 8\nTcp: MaxConn InSegs\nTcp: -1 5\nA: x\nB: 1\n";
        let all = owned(by_header(text));
        let expected = [("Ip", "Forwarding", 2), ("Ip", "InReceives", 7), ("Ip", "OutTransmits", 8)];
        let expected = expected.into_iter().chain([("Tcp", "MaxConn", -1), ("Tcp", "InSegs", 5)]);
        assert_eq!(all, expected.map(|(p, n, v)| row(p, n, v)).collect::<Vec<_>>());
        let all = by_line("Ip6InReceives                   \t3\nUdpLite6InErrors\t4\nodd 5\n");
        assert_eq!(all, [row("Ip6", "InReceives", 3), row("UdpLite6", "InErrors", 4)]);
        let all = by_pairs("sockets: used 9\nTCP: inuse 4 mem 3 odd\nFRAG: memory 7\n");
        let sockets = |protocol: &str, state: &str, n| (protocol.to_owned(), SocketFigure::Sockets(state.into(), n));
        let memory = [("TCP".to_owned(), SocketFigure::Pages(3)), ("FRAG".to_owned(), SocketFigure::Bytes(7))];
        let expected = [sockets("sockets", "used", 9), sockets("TCP", "inuse", 4)];
        assert_eq!(all, expected.into_iter().chain(memory).collect::<Vec<_>>());
    }

    /// Hexadecimal; the CPU is the thirteenth column; longer rows are taken, shorter ones not.
    #[test]
    fn softnet() {
        let row = |cpu: &str| format!("000000ff 00000002 00000003 0 0 0 0 0 0 00000004 00000005 0 {cpu} 0 0");
        let found = Softnet::parse(&row("0000000a")).unwrap();
        let expected =
            Softnet { cpu: Some(10), processed: 255, dropped: 2, squeezed: 3, received_rps: 4, flow_limited: 5 };
        assert_eq!(found, expected);
        assert_eq!(Softnet::parse("1 2 3 0 0 0 0 0 0 4").unwrap().cpu, None);
        assert_eq!(Softnet::parse("1 2 3"), None);
    }

    /// Hexadecimal, the transmit queue first, in the form of IPv4 and of IPv6; the header is no socket.
    #[test]
    fn udp_queues() {
        let lines = [
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops",
            "  512: 0100007F:0202 00000000:0000 07 00000000:00000340 00:00000000 00000000     0        0 1 2 0 0",
            "  513: 00000000000000000000000000000000:0203 00000000000000000000000000000000:0000 07 00000010:00000001 00:0 0 0 0",
        ];
        let queues = |line| Queues::parse(line).map(|q| (q.receive, q.transmit));
        assert_eq!(lines.map(queues), [None, Some((0x340, 0)), Some((1, 0x10))]);
    }

    /// Columns by their names; figures may have more than 32 bits.
    #[test]
    fn columns() {
        let all = by_column("entries  allocs\n00000002 100000000\n00000002 odd\n");
        let entries = || ("entries".to_owned(), 2);
        assert_eq!(all, [vec![entries(), ("allocs".to_owned(), 1 << 32)], vec![entries()]]);
    }

    proptest! {
        /// No bytes make a parser panic.
        #[test]
        fn never_panics(text in "(?s)([A-Za-z6é]{1,6}:? [-0-9a-z ]{0,20}\n){0,6}.{0,40}") {
            let _ = (by_header(&text).count(), by_line(&text), by_pairs(&text), by_column(&text));
            let _ = (Softnet::parse(&text), Device::parse(&text), Queues::parse(&text));
        }
    }
}
