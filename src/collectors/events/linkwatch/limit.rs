// SPDX-License-Identifier: Apache-2.0
//! A limit on events of one device: what is over is counted, and is a number on the next.

use std::time::Duration;

/// As the kernel's side has it for other events (bpf/include/limit.h).
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(1);

/// Tokens of one device.
#[derive(Debug)]
pub struct Bucket {
    tokens: u32,
    refilled: Duration,
    suppressed: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket { tokens: BURST, refilled: Duration::ZERO, suppressed: 0 }
    }
}

impl Bucket {
    /// May an event be made now (since boot)? If so, how many were not since the last one.
    pub fn take(&mut self, now: Duration) -> Option<u64> {
        let since = now.saturating_sub(self.refilled).as_secs() / REFILL.as_secs();
        if since > 0 {
            self.tokens = u32::try_from(since).unwrap_or(BURST).saturating_add(self.tokens).min(BURST);
            self.refilled = now;
        }
        if self.tokens == 0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst passes, what follows at once does not and is counted, a second later one passes.
    #[test]
    fn limits_and_counts() {
        let mut bucket = Bucket::default();
        let start = Duration::from_secs(100);
        assert!((0..20).all(|_| bucket.take(start) == Some(0)));
        assert!((0..7).all(|_| bucket.take(start).is_none()));
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Some(7));
        assert_eq!(bucket.take(start + Duration::from_secs(1)), None);
    }
}
