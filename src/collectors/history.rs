// SPDX-License-Identifier: Apache-2.0
//! Settings of tracers that show what was before: stacks that are sampled all the time.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::Invalid;
use crate::probe::shared::cpu_sample::{HZ, HistorySettings, HistorySubscription, Sampler};
use crate::signal::{ByteSize, HumanDuration};

/// What came before is sampled on all CPUs all the time, for all that ask for it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// How far before the first doubt it reaches; at most 5m. With 0s nothing is sampled before that.
    pub window: HumanDuration,
    /// Samples a second and CPU; from 1 to 99, of which it takes the next that divides 99.
    pub rate: u32,
    /// Memory that the samples may take, of which the oldest go first; from 1MiB to 256MiB.
    pub size: ByteSize,
}

impl Default for History {
    fn default() -> Self {
        let HistorySettings { rate_hz, bytes, .. } = HistorySettings::default();
        History { window: HumanDuration::from_secs(0), rate: rate_hz, size: ByteSize(bytes as u64) }
    }
}

impl History {
    /// # Errors
    /// A setting out of its range.
    pub fn validate(&self) -> Result<(), Invalid> {
        let windows = Duration::ZERO..=Duration::from_secs(300);
        Invalid::unless_within(windows, "history.window", self.window, "from 0s to 5m")?;
        let rates = 1..=u32::try_from(HZ).unwrap_or(u32::MAX);
        Invalid::unless(rates.contains(&self.rate), "history.rate", self.rate, "from 1 to 99")?;
        let sizes = ByteSize::mib(1)..=ByteSize::mib(256);
        Invalid::unless(sizes.contains(&self.size), "history.size", self.size, "from 1MiB to 256MiB")
    }

    fn wanted(&self, later: Duration) -> Option<HistorySettings> {
        let window = Some(self.window.get()).filter(|w| !w.is_zero())? + later;
        let bytes = usize::try_from(self.size.bytes()).unwrap_or(usize::MAX);
        Some(HistorySettings { rate_hz: self.rate, window, bytes })
    }
}

/// The history that a tracer keeps, as its settings want it.
pub struct Kept {
    sampler: Sampler,
    kept: Option<(HistorySettings, HistorySubscription)>,
}

impl Kept {
    #[must_use]
    pub fn new(sampler: Sampler) -> Self {
        Kept { sampler, kept: None }
    }

    /// Begins, changes or ends it. It reaches back for the window from the first doubt also when it is looked into
    /// so much later.
    ///
    /// # Errors
    /// The sampling does not start.
    pub fn set(&mut self, settings: &History, later: Duration) -> anyhow::Result<()> {
        let wanted = settings.wanted(later);
        if wanted != self.kept.as_ref().map(|(settings, _)| *settings) {
            // The old one ends once the new one has begun: what both want stays.
            self.kept = wanted.map(|w| anyhow::Ok((w, self.sampler.subscribe_history(w)?))).transpose()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::shared::cpu_sample::testing::Fake;

    /// Settings out of range are refused with what would be valid.
    #[test]
    fn settings_are_checked() {
        assert_eq!(History::default().validate(), Ok(()));
        let refused = |h: History| h.validate().map_err(|e| (e.key, e.expected)).unwrap_err();
        let long = History { window: HumanDuration::from_secs(301), ..History::default() };
        assert_eq!(refused(long), ("history.window", "from 0s to 5m".to_owned()));
        assert_eq!(refused(History { rate: 100, ..History::default() }).0, "history.rate");
        assert_eq!(refused(History { size: ByteSize(1), ..History::default() }).0, "history.size");
    }

    /// Nothing is sampled by default.
    #[test]
    fn off_until_it_is_wanted() {
        let (_, sampler) = Fake::new();
        let mut kept = Kept::new(sampler.clone());
        let wanted = History { window: HumanDuration::from_secs(30), ..History::default() };
        for (settings, runs) in
            [(History::default(), false), (wanted, true), (wanted, true), (History::default(), false)]
        {
            kept.set(&settings, Duration::from_secs(10)).unwrap();
            assert_eq!(sampler.is_running(), runs);
        }
    }
}
