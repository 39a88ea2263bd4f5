// SPDX-License-Identifier: Apache-2.0
//! From readings of cgroups' CPU time to what is to be done about each workload.

use std::collections::HashMap;
use std::sync::Arc;

use super::Config;
use crate::collectors::accumulate::Accumulator;
use crate::collectors::detect::{Detector, Reading, Rules, Step};
use crate::host::Now;
use crate::probe::CgroupId;
use crate::signal::{Total, Workload, WorkloadKey, WorkloadKind};
use crate::workload::Workloads;

/// Below this many CPUs no limit applies: any start-up exceeds a limit of 0.1 CPU.
const LEAST_CPUS: f64 = 0.05;
/// A limit is read again after this long.
const LIMIT_AGE_NS: u64 = 30_000_000_000;

/// The CPU use of all workloads.
#[derive(Default)]
pub(super) struct Usage {
    times: Accumulator<CgroupId, (), u64>,
    detector: Detector<WorkloadKey>,
    limits: HashMap<WorkloadKey, Limit>,
    last_ns: Option<u64>,
}

/// The capacity of a workload, in CPUs.
#[derive(Debug, Clone, Copy)]
struct Limit {
    cpus: f64,
    read_ns: Option<u64>,
}

impl Default for Limit {
    /// Not read yet; unlimited, so that use is a negligible share of it.
    fn default() -> Self {
        Limit { cpus: f64::INFINITY, read_ns: None }
    }
}

/// The decision about a workload, and its figures.
pub(super) struct Verdict {
    pub key: WorkloadKey,
    pub step: Step,
    /// `None`: it has no reading any more.
    pub figures: Option<Figures>,
}

/// One workload's second.
pub(super) struct Figures {
    pub workload: Arc<Workload>,
    /// Those that ran.
    pub cgroups: Vec<CgroupId>,
    /// Use and capacity.
    pub cpus: f64,
    pub capacity: f64,
    /// The usual share of the capacity, where that is known.
    pub usual: Option<f64>,
    pub wanted: bool,
}

/// What a reading is judged by.
pub(super) struct Judge<'a> {
    pub config: &'a Config,
    pub workloads: &'a Workloads,
    /// The capacity of a workload, in CPUs.
    pub capacity: &'a dyn Fn(&Workload) -> f64,
    /// Whether its profile is wanted.
    pub wanted: &'a dyn Fn(&Arc<Workload>) -> bool,
    pub now: Now,
}

impl Usage {
    /// Takes in a reading.
    pub fn step(&mut self, reading: Vec<Total<CgroupId, u64>>, judge: &Judge<'_>) -> Vec<Verdict> {
        let (workloads, now_ns) = (judge.workloads, judge.now.boot_ns);
        let mut ran: HashMap<WorkloadKey, Vec<CgroupId>> = HashMap::new();
        let owner = |cgroup| {
            let workload = workloads.of_cgroup(cgroup)?;
            ran.entry(workload.key).or_default().push(cgroup);
            Some(workload)
        };
        self.times.feed(workloads, reading, owner, |_| ());
        let rules = rules(judge.config);
        let Some(last) = self.last_ns.replace(now_ns) else {
            workloads.all().iter().for_each(|w| self.detector.was_there(&rules, w.key, judge.now));
            return Vec::new();
        };
        let elapsed_ns = now_ns.saturating_sub(last);
        if elapsed_ns == 0 {
            return Vec::new();
        }
        let mut verdicts = Vec::new();
        for (workload, (), time) in self.times.workloads().filter(|(w, ..)| judge.counts(w.kind)) {
            let cpus = time.growth as f64 / elapsed_ns as f64;
            let mut figures = judge.figures(workload, cpus, self.limits.entry(workload.key).or_default());
            figures.usual = self.detector.usual(workload.key);
            let step = self.detector.step(&rules, workload.key, figures.reading(), judge.now);
            if !matches!(step, Step::Nothing) {
                figures.cgroups = ran.remove(&workload.key).unwrap_or_default();
                verdicts.push(Verdict { key: workload.key, step, figures: Some(figures) });
            }
        }
        let absent = self.detector.end_round(&rules, judge.now);
        verdicts.extend(absent.into_iter().map(|(key, step)| Verdict { key, step, figures: None }));
        self.limits.retain(|key, _| self.detector.watches(*key));
        verdicts
    }

    /// Who counts may have changed: of those that are there now, nothing is known but what was learnt.
    pub fn begin_again(&mut self) {
        self.last_ns = None;
    }

    /// Ends all that was begun.
    pub fn end(&mut self) -> Vec<(WorkloadKey, Step)> {
        self.detector.end()
    }
}

impl Judge<'_> {
    fn counts(&self, kind: WorkloadKind) -> bool {
        match kind {
            WorkloadKind::Container | WorkloadKind::Cgroup => true,
            WorkloadKind::Unit => self.config.units,
            WorkloadKind::Own => false,
        }
    }

    fn figures(&self, workload: &Arc<Workload>, cpus: f64, limit: &mut Limit) -> Figures {
        // A workload that uses next to nothing of anything needs no limit read.
        let negligible = cpus < LEAST_CPUS;
        let now_ns = self.now.boot_ns;
        if !negligible && limit.read_ns.is_none_or(|at| now_ns.saturating_sub(at) > LIMIT_AGE_NS) {
            *limit = Limit { cpus: (self.capacity)(workload), read_ns: Some(now_ns) };
        }
        Figures {
            workload: workload.clone(),
            cgroups: Vec::new(),
            cpus,
            capacity: limit.cpus,
            usual: None,
            wanted: !negligible && (self.wanted)(workload),
        }
    }
}

impl Figures {
    /// As a share of the capacity.
    pub fn share(&self) -> f64 {
        self.cpus / self.capacity
    }

    fn reading(&self) -> Reading {
        Reading { value: self.share(), negligible: self.cpus < LEAST_CPUS, wanted: self.wanted }
    }
}

fn rules(config: &Config) -> Rules {
    Rules {
        level: Some(config.usage_limit),
        jump: Some(config.jump_limit),
        window: config.window.get(),
        cool_down: config.cool_down.get(),
        ..Rules::default()
    }
}

#[cfg(test)]
mod tests;
