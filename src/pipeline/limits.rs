// SPDX-License-Identifier: Apache-2.0
//! At most so many events of a kind for a workload: a token bucket each. What is over is counted,
//! and told with the next event that gets through.

use std::collections::HashMap;
use std::time::Duration;

use crate::signal::WorkloadKey;

/// Buckets that are kept; full ones are forgotten first, as a new one is full too.
const BUCKETS: usize = 4096;

/// How much one workload may say of one kind.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    /// Events at once.
    pub burst: u32,
    /// Events a second after that.
    pub per_second: f64,
}

impl Default for RateLimit {
    fn default() -> Self {
        RateLimit { burst: 100, per_second: 10.0 }
    }
}

struct Bucket {
    tokens: f64,
    at: Duration,
    suppressed: u64,
}

/// The buckets.
pub struct Limits {
    limit: RateLimit,
    buckets: HashMap<(&'static str, Option<WorkloadKey>), Bucket>,
}

impl Limits {
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        Limits { limit, buckets: HashMap::new() }
    }

    /// Whether an event may pass at `now` (on a clock that is never stepped); with it, how many
    /// were suppressed since the last one that did. `carried`: what the kernel suppressed before it.
    pub fn pass(
        &mut self,
        event: &'static str,
        workload: Option<WorkloadKey>,
        carried: u64,
        now: Duration,
    ) -> Option<u64> {
        let full = f64::from(self.limit.burst);
        let rate = self.limit.per_second;
        let refilled = |b: &Bucket| (b.tokens + now.saturating_sub(b.at).as_secs_f64() * rate).min(full);
        if self.buckets.len() >= BUCKETS {
            self.buckets.retain(|_, b| refilled(b) < full || b.suppressed > 0);
            if self.buckets.len() >= BUCKETS {
                self.buckets.clear();
            }
        }
        let bucket = self.buckets.entry((event, workload)).or_insert(Bucket { tokens: full, at: now, suppressed: 0 });
        bucket.tokens = refilled(bucket);
        bucket.at = now;
        bucket.suppressed += carried;
        if bucket.tokens < 1.0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1.0;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(RateLimit { burst: 2, per_second: 1.0 })
    }

    /// A burst passes, the rest is suppressed, and the next one that passes tells how many.
    #[test]
    fn the_next_event_counts_what_was_suppressed() {
        let mut l = limits();
        let at = Duration::from_secs;
        assert_eq!(l.pass("e", None, 0, at(0)), Some(0));
        assert_eq!(l.pass("e", None, 0, at(0)), Some(0));
        assert_eq!(l.pass("e", None, 0, at(0)), None);
        assert_eq!(l.pass("e", None, 0, at(0)), None);
        assert_eq!(l.pass("e", None, 0, at(1)), Some(2));
        assert_eq!(l.pass("e", None, 0, at(1)), None);
    }

    /// One noisy workload or kind takes nothing from another.
    #[test]
    fn workloads_and_kinds_do_not_share() {
        let mut l = limits();
        for _ in 0..5 {
            l.pass("e", Some(WorkloadKey(1)), 0, Duration::ZERO);
        }
        assert_eq!(l.pass("e", Some(WorkloadKey(2)), 0, Duration::ZERO), Some(0));
        assert_eq!(l.pass("f", Some(WorkloadKey(1)), 0, Duration::ZERO), Some(0));
    }

    /// However many workloads come by, memory stays bounded.
    #[test]
    fn buckets_are_bounded() {
        let mut l = limits();
        for i in 0..3 * BUCKETS as u64 {
            l.pass("e", Some(WorkloadKey(i)), 0, Duration::from_nanos(i));
        }
        assert!(l.buckets.len() <= BUCKETS);
    }
}
