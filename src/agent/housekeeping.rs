// SPDX-License-Identifier: Apache-2.0
//! What is looked at once an interval: what probes cost and lost, series of workloads that are gone,
//! symbols that nobody asks for any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::kernel_filter::KernelFilter;
use super::kernel_limits::KernelLimits;
use super::occurrences::Occurrences;
use crate::host::Clock;
use crate::pipeline::metrics::{MetricState, SelfMetrics};
use crate::probe::Object;
use crate::probe::shared::Shared;
use crate::probe::stacks::Symbols;
use crate::signal::Stage;
use crate::workload::Workloads;
use crate::workload::kubernetes::{Facts, Source};

/// Captures that follow each other closer than this share what is kept of processes.
const SYMBOLS_KEPT: Duration = Duration::from_secs(60);

/// The agent's look at itself.
pub(super) struct Housekeeping {
    pub objects: Vec<Object>,
    /// Collectors with a source of their own, and what it could not hand over.
    pub sources: Vec<(&'static str, Arc<AtomicU64>)>,
    /// Probes that can lose figures besides records.
    pub shared: Shared,
    pub kernel_filter: Arc<KernelFilter>,
    pub kernel_limits: KernelLimits,
    pub occurrences: Occurrences,
    /// Name of the object that reports cgroups; its losses make the table incomplete.
    pub births: Option<&'static str>,
    pub workloads: Workloads,
    /// Names that come from elsewhere.
    pub facts: Facts,
    pub state: Arc<MetricState>,
    pub own: SelfMetrics,
    pub symbols: Symbols,
    pub interval: Duration,
    pub clock: Clock,
}

/// Figures of the last look, as the kernel's only grow.
#[derive(Default)]
struct Before {
    lost: HashMap<(usize, usize), u64>,
    runs: HashMap<(usize, &'static str), (u64, f64)>,
    missed: HashMap<(usize, &'static str), u64>,
    overflowed: HashMap<&'static str, u64>,
    figures_lost: HashMap<(&'static str, &'static str), u64>,
}

impl Housekeeping {
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut before = Before::default();
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.check(&mut before),
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    fn check(&self, before: &mut Before) {
        let mut births_lost = false;
        for (i, object) in self.objects.iter().enumerate() {
            births_lost |= self.losses(i, object, before) && self.births == Some(object.name());
            self.costs(i, object, before);
        }
        for (name, lost) in &self.sources {
            self.own.lost(name, "overrun", lost.swap(0, Ordering::Relaxed));
        }
        for (probe, reason, total) in self.shared.lost() {
            let last = before.figures_lost.insert((probe, reason), total).unwrap_or(0);
            self.own.lost(probe, reason, total.saturating_sub(last));
        }
        if births_lost && let Err(e) = self.workloads.scan() {
            tracing::warn!("cgroup creation events were lost and the rescan failed: {e}");
        }
        self.kernel_filter.judge();
        for (collector, n) in self.kernel_filter.counted() {
            self.own.suppressed(Stage::Collector(collector), "filter", n);
        }
        for source in Source::ALL {
            self.own.source_state(source.name(), self.facts.state(source).name());
        }
        self.symbols.trim(SYMBOLS_KEPT);
        let now = self.clock.now().wall;
        self.kernel_limits.check(&self.workloads, &self.state, &self.own, &self.occurrences, now);
        self.state.sweep(now, |key| self.workloads.is_alive(key));
        let mut series = 0;
        for family in self.state.stats() {
            series += family.series;
            let last = before.overflowed.insert(family.name, family.overflowed).unwrap_or(0);
            if family.overflowed > last {
                self.own.series_overflowed(family.name, family.overflowed - last);
            }
        }
        self.own.series(series);
    }

    /// Whether records were lost since the last look.
    fn losses(&self, i: usize, object: &Object, before: &mut Before) -> bool {
        let Ok(lost) = object.lost() else { return false };
        let mut any = false;
        for (ring, total) in lost.into_iter().enumerate() {
            let last = before.lost.insert((i, ring), total).unwrap_or(0);
            if total > last {
                any = true;
                self.own.lost(object.name(), "ring_full", total - last);
            }
        }
        any
    }

    fn costs(&self, i: usize, object: &Object, before: &mut Before) {
        for cost in object.costs().unwrap_or_default() {
            let (runs, ns) = (cost.runs, cost.total_ns());
            let (last_runs, last_ns) = before.runs.insert((i, cost.program.name), (runs, ns)).unwrap_or((0, 0.0));
            // The mean moves, so the product may fall: time is added only as far as it grew.
            let grown = Duration::from_secs_f64((ns - last_ns).max(0.0) / 1e9);
            let hook = cost.program.to_string();
            self.own.probe_cost(object.name(), &hook, runs.saturating_sub(last_runs), grown);
            let last = before.missed.insert((i, cost.program.name), cost.missed).unwrap_or(0);
            if cost.missed > last {
                self.own.probe_missed(object.name(), &hook, cost.missed - last);
            }
        }
    }
}
