// SPDX-License-Identifier: Apache-2.0
//! At most so many events of a kind for a workload: a token bucket each. What is over is counted,
//! and reported with the next event that gets through.

use std::collections::HashMap;
use std::time::Duration;

use crate::signal::WorkloadKey;

/// Buckets that are kept; full ones are forgotten first, as a new one is full too, then those that are out of use for
/// longest.
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

impl Bucket {
    fn refilled(&self, limit: RateLimit, now: Duration) -> f64 {
        (self.tokens + now.saturating_sub(self.at).as_secs_f64() * limit.per_second).min(f64::from(limit.burst))
    }
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
        if self.buckets.len() >= BUCKETS {
            self.make_room(now);
        }
        let limit = self.limit;
        let full = f64::from(limit.burst);
        let bucket = self.buckets.entry((event, workload)).or_insert(Bucket { tokens: full, at: now, suppressed: 0 });
        bucket.tokens = bucket.refilled(limit, now);
        bucket.at = now;
        bucket.suppressed += carried;
        if bucket.tokens < 1.0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1.0;
        Some(std::mem::take(&mut bucket.suppressed))
    }

    fn make_room(&mut self, now: Duration) {
        let limit = self.limit;
        self.buckets.retain(|_, b| b.refilled(limit, now) < f64::from(limit.burst) || b.suppressed > 0);
        if self.buckets.len() >= BUCKETS {
            let mut used: Vec<Duration> = self.buckets.values().map(|b| b.at).collect();
            let (_, middle, _) = used.select_nth_unstable(BUCKETS / 2);
            self.buckets.retain(|_, b| b.at > *middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(RateLimit { burst: 2, per_second: 1.0 })
    }

    /// A burst passes, the rest is suppressed, and the next one that passes says how many.
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

    /// However many workloads come by, memory stays bounded, and a noisy one among them is limited as ever.
    #[test]
    fn buckets_are_bounded() {
        let mut l = limits();
        let (mut passed, mut suppressed) = (0, 0);
        for i in 1..3 * BUCKETS as u64 {
            let now = Duration::from_nanos(i);
            l.pass("e", Some(WorkloadKey(i)), 0, now);
            match l.pass("e", Some(WorkloadKey(0)), 0, now) {
                Some(_) => passed += 1,
                None => suppressed += 1,
            }
            assert!(l.buckets.len() <= BUCKETS);
        }
        assert_eq!(passed, 2);
        assert_eq!(l.pass("e", Some(WorkloadKey(0)), 0, Duration::from_secs(2)), Some(suppressed));
    }
}
