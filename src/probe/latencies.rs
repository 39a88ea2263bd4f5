// SPDX-License-Identifier: Apache-2.0
//! Latencies as programs count them: in powers of two of a second (`bpf/include/histogram.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::signal::{Growing, Histogram};

/// The last one holds 32 s and all that is longer.
const SLOTS: usize = 26;
/// Slot `i` holds `[2^(i + EXPONENT), 2^(i + 1 + EXPONENT))` seconds.
const EXPONENT: i32 = -20;

/// `struct latencies` of `histogram.h`: how often, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Latencies {
    pub total_ns: u64,
    /// Those below 2^-20 s.
    pub zero: u64,
    pub slots: [u64; SLOTS],
}

impl Latencies {
    /// All of them, those of nothing included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.zero + self.slots.iter().sum::<u64>()
    }

    /// In seconds: the slots are its buckets as they are.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days, then it rounds to a microsecond")]
    pub fn histogram(&self) -> Histogram {
        Histogram {
            zero_count: self.zero,
            offset: EXPONENT,
            counts: self.slots.to_vec(),
            sum: Some(self.total_ns as f64 / 1e9),
        }
    }

    /// Each figure put together with the other's.
    pub(super) fn with(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Latencies {
            total_ns: f(self.total_ns, other.total_ns),
            zero: f(self.zero, other.zero),
            slots: std::array::from_fn(|i| f(self.slots[i], other.slots[i])),
        }
    }
}

impl Growing for Latencies {
    fn continues(&self, earlier: &Self) -> bool {
        self.zero >= earlier.zero
            && self.total_ns >= earlier.total_ns
            && self.slots.iter().zip(&earlier.slots).all(|(now, then)| now >= then)
    }
    fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }
    fn add(&mut self, growth: &Self) {
        *self = self.with(growth, u64::saturating_add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slot 10 is from 2^-10 s on; what is below the first slot is counted as zero.
    #[test]
    fn slots_are_buckets() {
        let mut l = Latencies { total_ns: 3_000_000_000, zero: 9, ..Latencies::default() };
        l.slots[10] = 5;
        let h = l.histogram();
        assert_eq!((h.zero_count, h.offset, h.counts[10], h.sum), (9, -20, 5, Some(3.0)));
        assert_eq!((l.count(), h.count()), (14, 14));
    }
}
