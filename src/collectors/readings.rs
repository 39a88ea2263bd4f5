// SPDX-License-Identifier: Apache-2.0
//! What a tracer read before its incident.

use std::collections::VecDeque;

use crate::host::Now;
use crate::signal::{Evidence, Series, Timestamp};

/// A minute, at a reading a second.
const KEPT: usize = 60;

/// The last minute's readings of one figure.
#[derive(Debug, Default)]
pub struct Readings(VecDeque<(Timestamp, f64)>);

impl Readings {
    pub fn push(&mut self, now: Now, value: f64) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now.wall, value));
    }

    /// As a piece of evidence of that name, in that unit.
    #[must_use]
    pub fn evidence(&self, name: &'static str, unit: &'static str) -> Evidence {
        let mut series = Series::new(name, unit);
        self.0.iter().for_each(|(time, value)| series.point(*time, *value));
        Evidence::Series(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The latest stay, oldest first.
    #[test]
    fn a_minute_is_kept() {
        let mut readings = Readings::default();
        for n in 0..100_u32 {
            readings.push(Now { wall: Timestamp(n.into()), boot_ns: 0 }, n.into());
        }
        let mut expected = Series::new("n", "1");
        (40..100_u32).for_each(|n| expected.point(Timestamp(n.into()), n.into()));
        assert_eq!(readings.evidence("n", "1"), Evidence::Series(expected));
    }
}
