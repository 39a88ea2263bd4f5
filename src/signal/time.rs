// SPDX-License-Identifier: Apache-2.0
//! Points in time as OTLP has them.

/// Nanoseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    #[must_use]
    pub fn minus(self, d: std::time::Duration) -> Self {
        Timestamp(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    #[must_use]
    pub fn plus(self, d: std::time::Duration) -> Self {
        Timestamp(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to here; zero when it is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC with nanoseconds, the one text form of times.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let ns = i128::from(self.0);
        jiff::Timestamp::from_nanosecond(ns).map_or_else(|_| self.0.to_string(), |t| format!("{t:.9}"))
    }
}
