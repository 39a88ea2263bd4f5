// SPDX-License-Identifier: Apache-2.0
//! Counts the events that probes did not hand over (`bpf/include/limit.h`): those over a workload's
//! limit, and those that found no room in a ring, each under the workload whose they were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::collectors::Built;
use super::occurrences::Occurrences;
use crate::collectors::Kind;
use crate::pipeline::metrics::own::{COLLECTOR, WORKLOAD_LOST, WORKLOAD_SUPPRESSED};
use crate::pipeline::metrics::{MetricState, SelfMetrics};
use crate::probe::{Limits, Missing, Object};
use crate::signal::semconv::AGENT;
use crate::signal::{Metrics, Stage, Timestamp, Value, Workload, WorkloadKey};
use crate::workload::Workloads;

/// Why a probe's event was given up: neither its key nor all those without an entry had a token.
const CROWDED: &str = "limits_full";

/// The probes with rings of events, and what became of workloads' events there.
pub(super) struct KernelLimits {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    probes: Vec<Probe>,
    counts: BTreeMap<(WorkloadKey, &'static str), Count>,
    points: Metrics,
}

struct Probe {
    name: &'static str,
    limits: Limits,
    /// Who takes a ring's records, by the ring's index.
    collectors: Vec<Option<&'static str>>,
}

struct Count {
    workload: Arc<Workload>,
    suppressed: u64,
    lost: u64,
}

impl KernelLimits {
    pub fn new(built: &[Built]) -> Self {
        let mut inner = Inner::default();
        for b in built.iter().filter(|b| b.running.kind() == Kind::Events) {
            for object in &b.objects {
                inner.reads(object, None, b.name);
            }
            for taken in &b.rings {
                inner.reads(&taken.object, Some(taken.ring), b.name);
            }
        }
        KernelLimits { inner: Mutex::new(inner) }
    }

    /// Counts what was not handed over since the last look.
    pub fn check(
        &self,
        workloads: &Workloads,
        state: &MetricState,
        own: &SelfMetrics,
        occurrences: &Occurrences,
        now: Timestamp,
    ) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { probes, counts, points } = &mut *inner;
        for p in probes {
            let all = p.limits.check().inspect_err(|e| tracing::warn!("limits of {} cannot be read: {e:#}", p.name));
            for m in all.unwrap_or_default() {
                let collector = p.collectors.get(m.ring).copied().flatten().unwrap_or(p.name);
                own.suppressed(Stage::Collector(collector), "limit", m.suppressed);
                if m.crowded > 0 {
                    own.lost(p.name, CROWDED, m.crowded);
                }
                let Some(key) = m.key else { continue };
                occurrences.count(collector, &key, m.suppressed + m.lost, state, now);
                if let Some(w) = workloads.of_cgroup(key.cgroup.into()) {
                    count(counts, w, collector, &m);
                }
            }
        }
        counts.retain(|(key, _), _| workloads.is_alive(*key));
        for ((_, collector), c) in counts.iter() {
            for (def, n) in
                [(&WORKLOAD_SUPPRESSED, c.suppressed), (&WORKLOAD_LOST, c.lost)].into_iter().filter(|(_, n)| *n > 0)
            {
                points.count(def, Some(&c.workload), &[(COLLECTOR, Value::from(*collector))], n);
            }
        }
        state.update(AGENT, points, now);
    }
}

impl Inner {
    /// `only`: the one ring that the collector takes; else all.
    fn reads(&mut self, object: &Object, only: Option<usize>, collector: &'static str) {
        let at = self.probes.iter().position(|p| p.name == object.name());
        let Some(at) = at.or_else(|| {
            self.probes.push(Probe::new(object)?);
            Some(self.probes.len() - 1)
        }) else {
            return;
        };
        for (ring, taker) in self.probes[at].collectors.iter_mut().enumerate() {
            if only.is_none_or(|o| o == ring) {
                *taker = Some(collector);
            }
        }
    }
}

impl Probe {
    /// `None`: it has no ring of events, or its limits cannot be read.
    fn new(object: &Object) -> Option<Self> {
        let limits = Limits::of(object).inspect_err(|e| tracing::warn!("{}: {e:#}", object.name())).ok()??;
        Some(Probe { name: object.name(), limits, collectors: vec![None; object.skeleton().rings.len()] })
    }
}

fn count(
    counts: &mut BTreeMap<(WorkloadKey, &'static str), Count>,
    workload: Arc<Workload>,
    collector: &'static str,
    m: &Missing,
) {
    let fresh = || Count { workload: workload.clone(), suppressed: 0, lost: 0 };
    let c = counts.entry((workload.key, collector)).or_insert_with(fresh);
    c.suppressed += m.suppressed;
    c.lost += m.lost;
    // Its name may have become known.
    c.workload = workload;
}
