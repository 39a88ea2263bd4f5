// SPDX-License-Identifier: Apache-2.0
//! `/proc/net`: counters of protocols, sockets in use, packets that wait for the network stack.

use crate::host::{Host, Reading};

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

    proptest! {
        /// No bytes make a parser panic.
        #[test]
        fn never_panics(text in "(?s)([A-Za-z6é]{1,6}:? [-0-9a-z ]{0,20}\n){0,6}.{0,40}") {
            let _ = (by_header(&text).count(), by_line(&text), by_pairs(&text), Softnet::parse(&text));
        }
    }
}
