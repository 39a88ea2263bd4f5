// SPDX-License-Identifier: Apache-2.0
//! Event, trace, span and profile ids: random-looking, but the same for the same event.

use sha2::{Digest, Sha256};

use super::hex::{self, Hex};

/// 24 hex digits in text: ingest time in nanoseconds, made strictly increasing, then four bytes of
/// the host's hash. Its order is the order of ingest; it is the store's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub [u8; 12]);

/// The incident's id is its trace id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(pub [u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub [u8; 8]);

/// Equal stacks have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub [u8; 8]);

/// Under which the names of one stack come, after the event that has the stack. No two stacks have one, though
/// they be equal: a process may run another program by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StackKey(pub u64);

macro_rules! hex_display {
    ($($t:ty),*) => {$(
        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                Hex(&self.0).fmt(f)
            }
        }
    )*};
}
hex_display!(EventId, TraceId, SpanId, StackId);

/// The beginning of a hash.
pub(super) fn first<const N: usize>(h: Sha256) -> [u8; N] {
    let full: [u8; 32] = h.finalize().into();
    let mut out = [0; N];
    out.copy_from_slice(&full[..N]);
    out
}

fn digest<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut h = Sha256::new();
    for p in parts {
        h.update(p);
    }
    first(h)
}

impl EventId {
    #[must_use]
    pub fn time_ns(self) -> u64 {
        let mut b = [0; 8];
        b.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(b)
    }

    /// What would come right before it; the first of all has nothing before it but itself.
    #[must_use]
    pub fn previous(self) -> EventId {
        let mut wide = [0; 16];
        wide[4..].copy_from_slice(&self.0);
        let before = u128::from_be_bytes(wide).saturating_sub(1).to_be_bytes();
        let mut b = [0; 12];
        b.copy_from_slice(&before[4..]);
        EventId(b)
    }

    /// Below all ids of that time and later.
    #[must_use]
    pub fn before(ns: u64) -> Self {
        let mut b = [0; 12];
        b[..8].copy_from_slice(&ns.to_be_bytes());
        EventId(b)
    }

    /// Reads the text form: 24 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::parse(text).map(EventId)
    }
}

/// Makes event ids: one per agent.
#[derive(Debug)]
pub struct EventIds {
    last: u64,
    host: [u8; 4],
}

impl EventIds {
    #[must_use]
    pub fn new(host_id: &str, last: u64) -> Self {
        EventIds { last, host: digest(&[host_id.as_bytes()]) }
    }

    /// The next id; `now_ns` may stand still or step back, the id never does.
    pub fn next(&mut self, now_ns: u64) -> EventId {
        self.last = now_ns.max(self.last + 1);
        let mut b = [0; 12];
        b[..8].copy_from_slice(&self.last.to_be_bytes());
        b[8..].copy_from_slice(&self.host);
        EventId(b)
    }
}

/// `host_id`, `boot_id` and the id of the event that opened the incident.
#[must_use]
pub fn trace_id(host_id: &str, boot_id: &str, opening: EventId) -> TraceId {
    TraceId(digest(&[host_id.as_bytes(), boot_id.as_bytes(), &opening.0]))
}

/// `child` is the event's id, or a capture's or other child's own id.
#[must_use]
pub fn span_id(trace: TraceId, child: &[u8]) -> SpanId {
    SpanId(digest(&[&trace.0, child]))
}

#[must_use]
pub fn profile_id(trace: TraceId, capture: &[u8]) -> [u8; 16] {
    digest(&[&trace.0, capture])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is no id between one and what is before it.
    #[test]
    fn previous_is_next_below() {
        let below = EventId([0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(EventId([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).previous(), below);
        assert_eq!(EventId([7; 12]).previous().0[11], 6);
        assert_eq!(EventId([0; 12]).previous(), EventId([0; 12]));
    }
}
