// SPDX-License-Identifier: Apache-2.0
//! The last seconds of the node's samples, kept while somebody wants them, so that a subscription can
//! look at what was before it began.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::HZ;
use super::members::Members;
use super::stacks::{Folded, Place, Taken};

/// What the history may cost. Of several that want one, each gets at least what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySettings {
    /// Samples a second and CPU, at most [`HZ`]; the next rate that divides it.
    pub rate_hz: u32,
    /// How far it reaches back.
    pub window: Duration,
    /// Memory that it may take; the oldest samples go first.
    pub bytes: usize,
}

impl Default for HistorySettings {
    fn default() -> Self {
        HistorySettings { rate_hz: 33, window: Duration::from_secs(30), bytes: 16 << 20 }
    }
}

impl HistorySettings {
    /// One sample of how many is kept.
    fn every(self) -> u32 {
        let hz = u32::try_from(HZ).unwrap_or(u32::MAX);
        (hz / self.rate_hz.clamp(1, hz)).max(1)
    }

    fn union(self, other: Self) -> Self {
        HistorySettings {
            rate_hz: self.rate_hz.max(other.rate_hz),
            window: self.window.max(other.window),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// How much the history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistorySize {
    pub samples: u64,
    pub bytes: usize,
    /// Samples that had to go before the window was over, to stay within the bytes.
    pub cut: u64,
}

struct Past {
    time_ns: u64,
    cgroup: u64,
    place: Arc<Place>,
}

/// The samples, oldest first, and who wants them.
#[derive(Default)]
pub(super) struct History {
    wanted: Vec<(u64, HistorySettings)>,
    samples: VecDeque<Past>,
    /// Each place once, with how many of the samples are of it.
    places: HashMap<Arc<Place>, u32>,
    bytes: usize,
    cut: u64,
    /// What the kernel had lost when it began.
    pub lost_before: u64,
}

impl History {
    /// One sample of so many is wanted; 0: none.
    pub fn every(&self) -> u32 {
        self.settings().map_or(0, HistorySettings::every)
    }

    fn settings(&self) -> Option<HistorySettings> {
        self.wanted.iter().map(|(_, s)| *s).reduce(HistorySettings::union)
    }

    pub fn subscribe(&mut self, number: u64, settings: HistorySettings) {
        self.change(|wanted| wanted.push((number, settings)));
    }

    pub fn end(&mut self, number: u64) {
        self.change(|wanted| wanted.retain(|(n, _)| *n != number));
        self.trim();
    }

    /// At another rate a sample stands for another time: what there is cannot stay.
    fn change(&mut self, f: impl FnOnce(&mut Vec<(u64, HistorySettings)>)) {
        let before = self.every();
        f(&mut self.wanted);
        if self.every() != before {
            *self = History { wanted: std::mem::take(&mut self.wanted), ..History::default() };
        }
    }

    pub fn add(&mut self, time_ns: u64, cgroup: u64, place: &Arc<Place>) {
        if self.wanted.is_empty() {
            return;
        }
        let known = self.places.get_key_value(place).map(|(known, _)| known.clone());
        let place = known.unwrap_or_else(|| {
            self.bytes += place.bytes();
            place.clone()
        });
        *self.places.entry(place.clone()).or_default() += 1;
        self.bytes += size_of::<Past>();
        self.samples.push_back(Past { time_ns, cgroup, place });
        self.trim();
    }

    /// Lets go what is too old, and the oldest of what is too much.
    fn trim(&mut self) {
        let Some(settings) = self.settings() else { return };
        let newest = self.samples.back().map_or(0, |s| s.time_ns);
        let window = u64::try_from(settings.window.as_nanos()).unwrap_or(u64::MAX);
        while let Some(oldest) = self.samples.front() {
            let old = oldest.time_ns.saturating_add(window) < newest;
            if !old && self.bytes <= settings.bytes {
                return;
            }
            self.cut += u64::from(!old);
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(past) = self.samples.pop_front() else { return };
        self.bytes -= size_of::<Past>();
        let Some(uses) = self.places.get_mut(&past.place) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.places.remove(&past.place);
            self.bytes -= past.place.bytes();
        }
    }

    pub fn size(&self) -> HistorySize {
        HistorySize { samples: self.samples.len() as u64, bytes: self.bytes, cut: self.cut }
    }

    /// What it has of these until then; `None`: nobody wants a history.
    pub fn look_back(&self, members: &Members, until_ns: u64, lost: u64) -> Option<Taken> {
        let every = self.every();
        if every == 0 {
            return None;
        }
        let mut folded = Folded::default();
        // In the order of the ring, which is not quite that of time: CPUs take turns.
        let theirs = |s: &&Past| s.time_ns < until_ns && members.has(s.cgroup, s.place.pid);
        self.samples.iter().filter(theirs).for_each(|s| folded.add(&s.place));
        let start = self.samples.front().map_or(until_ns, |s| s.time_ns.min(until_ns));
        Some(folded.taken(lost.saturating_sub(self.lost_before), (start, until_ns), every))
    }
}
