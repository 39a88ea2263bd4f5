// SPDX-License-Identifier: Apache-2.0
//! Counts what became no event, as it was over a limit in the kernel or found no room in a ring: an event's counter
//! is of all occurrences. What is counted is like the last event of the same key, so that it has its labels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::pipeline::metrics::MetricState;
use crate::probe::LimitKey;
use crate::signal::{Attributes, Event, EventDef, Severity, Timestamp, Workload};

/// Keys that are remembered: more than the kernel's map of a usual machine has.
const KEYS: usize = 4096;

/// The last event of each key. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Occurrences(Arc<Mutex<HashMap<(&'static str, LimitKey), Last>>>);

struct Last {
    def: &'static EventDef,
    severity: Severity,
    workload: Option<Arc<Workload>>,
    /// Those that tell the counter's series apart.
    labels: Attributes,
}

impl Occurrences {
    /// An event of this key was handed over.
    pub fn note(&self, collector: &'static str, key: LimitKey, e: &Event) {
        let mut labels = Attributes::new();
        for label in e.def.counter.attributes {
            labels.set_some(*label, e.attributes.get(label.name).cloned());
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The next event of a key brings it back.
        if all.len() >= KEYS && !all.contains_key(&(collector, key)) {
            all.clear();
        }
        all.insert((collector, key), Last { def: e.def, severity: e.severity, workload: e.workload.clone(), labels });
    }

    /// `n` more of this key became no event.
    pub fn count(&self, collector: &'static str, key: &LimitKey, n: u64, state: &MetricState, now: Timestamp) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = all.get(&(collector, *key)).filter(|_| n > 0) {
            state.count_more(last.def, last.severity, last.workload.as_ref(), &last.labels, n, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::metrics::Series;
    use crate::pipeline::testing::{DEF, METRIC, event, workload};
    use crate::probe::CgroupRef;
    use crate::signal::metric::Reading;

    fn key(cgroup: u64) -> LimitKey {
        LimitKey { cgroup: CgroupRef { id: cgroup, hierarchy: 0, reserved: 0 }, reason: 0, netns: 0, ring: 0 }
    }

    /// What the kernel left out is on the counters that its events are on; of a key without any event nothing is
    /// known, and memory stays bounded.
    #[test]
    fn what_was_left_out_is_counted_like_its_events() {
        let state = MetricState::new(10_000, Timestamp(1));
        let occurrences = Occurrences::default();
        let e = event(&DEF, 5, Some(&workload(1)));
        state.count_event(&e, None);
        occurrences.note("test", key(7), &e);
        occurrences.count("test", &key(7), 79_979, &state, Timestamp(6));
        occurrences.count("test", &key(8), 5, &state, Timestamp(6));
        occurrences.count("other", &key(7), 5, &state, Timestamp(6));
        let view = state.read();
        let family = view.families().find(|f| f.def() == &METRIC).unwrap();
        // Node and workload: this event's two counters are one metric.
        let counts: Vec<_> = family.series().map(Series::reading).collect();
        assert_eq!(counts, [&Reading::Int(79_980); 2]);
        for cgroup in 0..2 * KEYS as u64 {
            occurrences.note("test", key(100 + cgroup), &e);
        }
        assert!(occurrences.0.lock().unwrap().len() <= KEYS);
    }
}
