// SPDX-License-Identifier: Apache-2.0
//! What waits in UDP sockets.

use super::PROTOCOL;
use crate::host::Host;
use crate::host::proc::SocketFigure;
use crate::signal::semconv::attr;
use crate::signal::{MetricDef, Metrics};

/// The kernel writes a line for each socket, and looks through its table for it: so many take some ten milliseconds.
const MOST: u64 = 10_000;

pub(super) static QUEUE: MetricDef = MetricDef::up_down_counter(
    "linux.net.socket.queue.size",
    "By",
    "Memory of what waits in sockets: received, for their programs; sent, for the device",
)
.by(&[PROTOCOL, attr::NETWORK_IO_DIRECTION]);

/// Why the queues are not read, where these sockets are.
pub(super) fn too_many(sockets: &[(String, SocketFigure)]) -> Option<String> {
    let in_use = |(protocol, figure): &(String, SocketFigure)| match figure {
        SocketFigure::Sockets(state, n) if state == "inuse" && ["UDP", "UDP6"].contains(&protocol.as_str()) => *n,
        _ => 0,
    };
    let n: u64 = sockets.iter().map(in_use).fold(0, u64::saturating_add);
    (n > MOST).then(|| format!("queues of UDP ({n} sockets are too many to look at, {MOST} would not be)"))
}

/// Writes what waits in the node's UDP sockets, of which there are as many as `sockets` has.
pub(super) fn queues(host: &Host, sockets: &[(String, SocketFigure)], out: &mut Metrics) {
    if too_many(sockets).is_some() {
        return;
    }
    for (protocol, file) in [("UDP", "udp"), ("UDP6", "udp6")] {
        // Without IPv6 there is no second file.
        let Ok(queues) = host.udp_queues(file) else { continue };
        for (direction, bytes) in [("receive", queues.receive), ("transmit", queues.transmit)] {
            out.count(
                &QUEUE,
                None,
                &[(PROTOCOL, protocol.into()), (attr::NETWORK_IO_DIRECTION, direction.into())],
                bytes,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Netstat;
    use super::*;
    use crate::collectors::Collector as _;
    use crate::collectors::testing::Rig;

    fn size(out: &Metrics, protocol: &str, direction: &str) -> Option<f64> {
        let labels = [("linux.net.protocol", protocol), ("network.io.direction", direction)];
        out.figure("linux.net.socket.queue.size", None, &labels)
    }

    /// What waits in all sockets of a protocol; where there are too many it is not looked at, and said so.
    #[test]
    fn figures_and_bound() {
        let rig = Rig::new().unwrap();
        let line = |tx, rx| {
            format!("  1: 0100007F:0202 00000000:0000 07 {tx:08X}:{rx:08X} 00:00000000 00000000 0 0 1 2 0 0\n")
        };
        rig.write(
            "proc/net/udp",
            format!("  sl  local_address rem_address   st tx_queue\n{}{}", line(1, 768), line(16, 0)),
        )
        .unwrap();
        let host = rig.host();
        let sockets = |n| vec![("UDP".to_owned(), SocketFigure::Sockets("inuse".to_owned(), n))];
        let mut out = Metrics::default();
        queues(host, &sockets(MOST), &mut out);
        assert_eq!((size(&out, "UDP", "receive"), size(&out, "UDP", "transmit")), (Some(768.0), Some(17.0)));
        assert_eq!(size(&out, "UDP6", "receive"), None);
        let mut out = Metrics::default();
        queues(host, &sockets(MOST + 1), &mut out);
        assert!(out.points().is_empty());
        rig.write("proc/net/sockstat", "UDP: inuse 6000 mem 1\n").unwrap();
        rig.write("proc/net/sockstat6", "UDP6: inuse 4001\n").unwrap();
        assert!(Netstat::survey(host).unwrap().iter().any(|lost| lost.contains("10001 sockets")));
    }
}
