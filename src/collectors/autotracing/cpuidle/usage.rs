// SPDX-License-Identifier: Apache-2.0
//! From readings of cgroups' CPU time to what is to be done about each workload.

use std::collections::HashMap;
use std::sync::Arc;

use super::Config;
use crate::collectors::accumulate::Accumulator;
use crate::collectors::detect::{Detector, Reading, Rules, Step};
use crate::host::Now;
use crate::host::cgroup::ancestors;
use crate::probe::CgroupId;
use crate::signal::{Total, Workload, WorkloadKey, WorkloadKind};
use crate::workload::Workloads;

/// Below this many CPUs nothing is too much: the kernel knows no smaller limit than 1 ms of 100.
const LEAST_CPUS: f64 = 0.008;
/// Below this many only a limit that is used up is: any start-up is a jump against a limit of 0.1 CPUs.
const LEAST_JUMP_CPUS: f64 = 0.05;
/// Who uses less than this share of an equal part of what is used below a limit does not use it up.
const LEAST_PART: f64 = 0.5;
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

/// What a workload may use, in CPUs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Capacity {
    /// By itself: the tightest of all limits.
    pub cpus: f64,
    /// Limits of cgroups above it, which it shares with all that is below them.
    pub shared: Vec<(String, f64)>,
}

impl Default for Capacity {
    /// Not read yet; unlimited, so that use is a negligible share of it.
    fn default() -> Self {
        Capacity { cpus: f64::INFINITY, shared: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Limit {
    capacity: Capacity,
    read_ns: Option<u64>,
}

/// A limit that several share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shared {
    /// The cgroup that has it.
    pub path: String,
    pub limit: f64,
    /// What all below it use.
    pub cpus: f64,
}

/// What is used below a cgroup with a limit, and by how many.
#[derive(Default)]
struct Pool {
    cpus: f64,
    users: f64,
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
    /// A limit above it that is used up, and not by others alone.
    pub shared: Option<Shared>,
    /// The usual share of the capacity, where that is known.
    pub usual: Option<f64>,
    pub wanted: bool,
}

/// What a reading is judged by.
pub(super) struct Judge<'a> {
    pub config: &'a Config,
    pub workloads: &'a Workloads,
    /// The capacity of a workload, in CPUs.
    pub capacity: &'a dyn Fn(&Workload) -> Capacity,
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
        let used: Vec<(Arc<Workload>, f64)> =
            self.times.workloads().map(|(w, (), time)| (w.clone(), time.growth as f64 / elapsed_ns as f64)).collect();
        let counts = |w: &Workload| judge.counts(w.kind);
        for (workload, _) in used.iter().filter(|(w, cpus)| *cpus >= LEAST_CPUS && counts(w)) {
            judge.read_limit(workload, self.limits.entry(workload.key).or_default());
        }
        let pools = self.pools(&used);
        let mut verdicts = Vec::new();
        for (workload, cpus) in used.iter().filter(|(w, _)| counts(w)) {
            let capacity = &self.limits.entry(workload.key).or_default().capacity;
            let mut figures = judge.figures(workload, *cpus, capacity, &pools);
            figures.usual = self.detector.usual(workload.key);
            let step = self.detector.step(&rules, workload.key, figures.reading(judge.config), judge.now);
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

    /// What is used below each limit that is shared, by whoever it is.
    fn pools(&self, used: &[(Arc<Workload>, f64)]) -> HashMap<String, Pool> {
        let shared = self.limits.values().flat_map(|l| &l.capacity.shared);
        let mut pools: HashMap<String, Pool> = shared.map(|(path, _)| (path.clone(), Pool::default())).collect();
        if pools.is_empty() {
            return pools;
        }
        for (workload, cpus) in used {
            for path in ancestors(&workload.cgroup) {
                if let Some(pool) = pools.get_mut(path) {
                    pool.cpus += cpus;
                    pool.users += f64::from(*cpus >= LEAST_CPUS);
                }
            }
        }
        pools
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

    fn read_limit(&self, workload: &Workload, limit: &mut Limit) {
        let now_ns = self.now.boot_ns;
        if limit.read_ns.is_none_or(|at| now_ns.saturating_sub(at) > LIMIT_AGE_NS) {
            *limit = Limit { capacity: (self.capacity)(workload), read_ns: Some(now_ns) };
        }
    }

    fn figures(
        &self,
        workload: &Arc<Workload>,
        cpus: f64,
        capacity: &Capacity,
        pools: &HashMap<String, Pool>,
    ) -> Figures {
        let used_up = |(path, limit): &(String, f64)| {
            let pool = pools.get(path)?;
            let takes_part = cpus * pool.users >= LEAST_PART * pool.cpus;
            let is_used_up = pool.cpus >= self.config.usage_limit * limit;
            let shared = Shared { path: path.clone(), limit: *limit, cpus: pool.cpus };
            (takes_part && is_used_up && pool.users > 1.0).then_some(shared)
        };
        Figures {
            workload: workload.clone(),
            cgroups: Vec::new(),
            cpus,
            capacity: capacity.cpus,
            shared: capacity.shared.iter().find_map(used_up),
            usual: None,
            wanted: cpus >= LEAST_CPUS && (self.wanted)(workload),
        }
    }
}

impl Figures {
    /// As a share of the capacity, or of the limit that is used up together with others.
    pub fn share(&self) -> f64 {
        self.shared.as_ref().map_or(self.cpus / self.capacity, |s| s.cpus / s.limit)
    }

    fn reading(&self, config: &Config) -> Reading {
        let value = self.share();
        let is_small = self.cpus < LEAST_JUMP_CPUS && value < config.usage_limit;
        Reading { value, negligible: self.cpus < LEAST_CPUS || is_small, wanted: self.wanted }
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
