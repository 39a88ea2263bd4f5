// SPDX-License-Identifier: Apache-2.0
//! How fast a figure changes.

use std::collections::VecDeque;

use super::{Approach, ns, seconds_between};

/// Readings that are kept at most: fewer than come in where the stretch of time is long.
const KEPT: u64 = 32;
/// Fewer are no trend.
const LEAST: usize = 4;

/// The latest readings, and the straight line through them.
#[derive(Debug, Default)]
pub(super) struct Trend {
    readings: VecDeque<(u64, f64)>,
}

impl Trend {
    /// Takes in a reading; seconds until the limit is met if it goes on like this. `None`: never, or it is not known
    /// yet, as no more than half of the stretch was seen.
    pub fn seconds_to_limit(&mut self, rule: &Approach, value: f64, now_ns: u64) -> Option<f64> {
        let over = ns(rule.over);
        while self.readings.front().is_some_and(|(at, _)| now_ns.saturating_sub(*at) > over) {
            self.readings.pop_front();
        }
        if self.readings.back().is_none_or(|(at, _)| now_ns.saturating_sub(*at) >= over / KEPT) {
            self.readings.push_back((now_ns, value));
        }
        let first = self.readings.front()?.0;
        if self.readings.len() < LEAST || now_ns.saturating_sub(first) < over / 2 {
            return None;
        }
        let rate = self.per_second(first)?;
        (rate > 0.0).then(|| ((rule.limit - value) / rate).max(0.0))
    }

    /// Slope of the least squares.
    fn per_second(&self, first_ns: u64) -> Option<f64> {
        let points = || self.readings.iter().map(|(at, value)| (seconds_between(first_ns, *at), *value));
        let n = points().map(|_| 1.0).sum::<f64>();
        let (mean_t, mean_v) = (points().map(|(t, _)| t).sum::<f64>() / n, points().map(|(_, v)| v).sum::<f64>() / n);
        let spread: f64 = points().map(|(t, _)| (t - mean_t).powi(2)).sum();
        let common: f64 = points().map(|(t, v)| (t - mean_t) * (v - mean_v)).sum();
        (spread > 0.0).then(|| common / spread)
    }
}
