// SPDX-License-Identifier: Apache-2.0
//! Counters that the kernel keeps or prints with 32 bits.

/// How much a 32-bit count grew from one reading to the next, over a wrap too. One that falls without having been high
/// began anew.
pub fn growth(last: u32, now: u32) -> u32 {
    if now >= last || wraps(last, now) { now.wrapping_sub(last) } else { now }
}

/// Of a count that fell.
fn wraps(last: u32, now: u32) -> bool {
    const HIGH: u32 = 3 << 30;
    const LOW: u32 = 1 << 30;
    last >= HIGH && now < LOW
}

/// A 32-bit count as a sum that goes on where it wraps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwrapped {
    wraps: u64,
    last: u32,
}

impl Unwrapped {
    /// The sum after the count was read as `now`. One that falls without having been high began anew, as of another
    /// device of the same name.
    pub fn sum(&mut self, now: u32) -> u64 {
        if now < self.last {
            self.wraps = if wraps(self.last, now) { self.wraps + 1 } else { 0 };
        }
        self.last = now;
        self.last_sum()
    }

    /// The sum as it was at the last reading.
    pub fn last_sum(self) -> u64 {
        (self.wraps << 32) + u64::from(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where it wraps the sum goes on; another thing's count begins anew.
    #[test]
    fn wraps_and_restarts() {
        let mut t = Unwrapped::default();
        assert_eq!(t.sum(4_294_617_635), 4_294_617_635);
        assert_eq!(t.sum(1_024_485), 4_295_991_781);
        assert_eq!(t.sum(2_000_000), 4_296_967_296);
        assert_eq!(t.sum(5), 5);
        assert_eq!((growth(7, 9), growth(u32::MAX, 4), growth(9, 7)), (2, 5, 7));
    }
}
