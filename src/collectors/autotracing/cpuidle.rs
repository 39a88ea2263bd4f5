// SPDX-License-Identifier: Apache-2.0
//! A container's CPU use jumps, or stays high against its own limit.
//!
//! ## What it reports
//! Which container left too little CPU idle for itself, since when, how much it used of what it may
//! use, and in which functions it spent it: a flame graph with user and kernel frames, taken while it
//! lasted.
//!
//! ## How
//! Once a second the CPU time of every workload comes from the shared scheduler probe in one batch
//! read. A workload is over its limit when it uses `usage_limit` of what it may use (the tightest
//! quota of its cgroup and ancestors, its cpuset, the node), or `jump_limit` more than its usual. After one second over the limit
//! sampling starts, in memory only. If that holds for `window`, the incident is opened with that first
//! second as its onset and the samples in it; else the samples are dropped and counted. A slow ramp
//! ends at the same limit, so it counts too. Whom the collector's filter denies is not sampled.
//!
//! ## Signals
//! `linux.autotracing.cpuidle` with the figures, an incident, a CPU profile.
//!
//! ## Limits
//! User frames need frame pointers. A process that ends before the capture does leaves addresses only.
//! Systemd units are looked at only with `units = true`.
//!
//! ## What to do next
//! `bianque show ID` has the flame graph. Wide kernel frames: the container asks for system calls or
//! page faults; wide user frames: its own code. Throttled meanwhile (`linux.container.cpu.throttled.time`)
//! means that the limit is what it feels.

mod limit;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::suspects::Suspects;
use crate::collectors::{
    AutoTracer, Collector, Context, Info, Invalid, Limits, Parts, Settings, Unavailable, head_doc,
};
use crate::host::Now;
use crate::host::cgroup::Cgroups;
use crate::probe::CgroupId;
use crate::probe::shared::Feature;
use crate::probe::shared::cpu_sample::{Scope, Subscription};
use crate::probe::shared::sched::Sched;
use crate::probe::stacks::Symbols;
use crate::signal::event::counter;
use crate::signal::semconv::{attr, event, metric};
use crate::signal::units::HumanDuration;
use crate::signal::{
    Capture, Change, EventDef, Evidence, Links, MetricDef, Profile, ProfileKind, Severity, StackSample, Target,
    Timestamp, Trigger, Workload, WorkloadKey, WorkloadKind,
};
use crate::workload::{Filters, Workloads};
use limit::{LEAST_CPUS, Limit, Step};

static INCIDENTS: MetricDef =
    counter(metric::CPUIDLE_INCIDENTS, "Workloads that used too much CPU, on this node", &[attr::LINUX_CPUIDLE_REASON]);
static CONTAINER_INCIDENTS: MetricDef = counter(
    metric::CONTAINER_CPUIDLE_INCIDENTS,
    "Times that this workload used too much CPU",
    &[attr::LINUX_CPUIDLE_REASON],
);

/// The workload is over its limit.
pub static CPUIDLE: EventDef = EventDef {
    name: event::AUTOTRACING_CPUIDLE,
    summary: "A workload's CPU use jumped, or stays high against its own limit",
    severity: Severity::Warn,
    attributes: &[
        attr::LINUX_CPUIDLE_REASON,
        attr::LINUX_CPU_USAGE,
        attr::LINUX_CPU_CAPACITY,
        attr::LINUX_CPU_UTILIZATION,
        attr::LINUX_CPU_USUAL,
    ],
    counter: &INCIDENTS,
    container_counter: Some(&CONTAINER_INCIDENTS),
};

/// Settings of `cpuidle`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Share of what the workload may use that is too much; from 0.1 to 1.
    pub usage_limit: f64,
    /// How much more than usual, as a share of what it may use, is too much; from 0.1 to 1.
    pub jump_limit: f64,
    /// How long it must hold before an incident is opened; from 2s to 5m.
    pub window: HumanDuration,
    /// How long sampling goes on after the incident was opened; from 1s to 5m.
    pub capture: HumanDuration,
    /// Time after a capture in which no other is taken of the same workload.
    pub cool_down: HumanDuration,
    /// Whether systemd units count, besides containers and plain cgroups.
    pub units: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            usage_limit: 0.9,
            jump_limit: 0.4,
            window: HumanDuration::from_secs(10),
            capture: HumanDuration::from_secs(10),
            cool_down: HumanDuration::from_secs(60),
            units: false,
        }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        for (key, share) in [("usage_limit", self.usage_limit), ("jump_limit", self.jump_limit)] {
            if !(0.1..=1.0).contains(&share) {
                return Err(Invalid { key, value: share.to_string(), expected: "from 0.1 to 1".to_owned() });
            }
        }
        for (key, d, least) in [("window", self.window, 2), ("capture", self.capture, 1)] {
            if d.get() < Duration::from_secs(least) || d.get() > Duration::from_secs(300) {
                return Err(Invalid { key, value: d.to_string(), expected: format!("from {least}s to 5m") });
            }
        }
        Ok(())
    }
}

/// A limit is read again after this long.
const LIMIT_AGE_NS: u64 = 30_000_000_000;

/// What is known of one workload.
struct Watched {
    workload: Arc<Workload>,
    used_ns: u64,
    capacity_read_ns: u64,
    limit: Limit,
    seen_ns: u64,
}

/// The collector.
pub struct CpuIdle {
    config: Config,
    workloads: Workloads,
    filters: Filters,
    sched: Sched,
    samples: Suspects<WorkloadKey>,
    symbols: Symbols,
    cgroups: Cgroups,
    online: f64,
    watched: HashMap<WorkloadKey, Watched>,
    last_ns: Option<u64>,
}

impl Collector for CpuIdle {
    const INFO: Info = Info {
        name: "cpuidle",
        summary: "containers whose CPU use jumps or stays high, with a flame graph",
        doc: head_doc(include_str!("cpuidle.rs")),
        enabled: true,
        needs: &[Feature::SchedCpuTime, Feature::CpuSample],
        object: None,
        optional: &[],
        capabilities: &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYSLOG"],
        metrics: &[],
        events: &[&CPUIDLE],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        let online = cx.host.stat().map_err(|e| Unavailable::because(e.to_string()))?.cpus.len();
        Ok(CpuIdle {
            config,
            workloads: cx.workloads.clone(),
            filters: cx.filters.clone(),
            sched: cx.shared.sched()?.clone(),
            samples: Suspects::new(cx.shared.cpu_sample()?.sampler().clone()),
            symbols: cx.symbols.clone(),
            cgroups,
            online: online as f64,
            watched: HashMap::new(),
            last_ns: None,
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl AutoTracer for CpuIdle {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        self.samples.begin_check();
        let used = self.used_by_workload()?;
        let elapsed = self.last_ns.replace(now.boot_ns).map(|last| now.boot_ns.saturating_sub(last));
        let mut changes = Vec::new();
        for (key, (workload, cgroups, used_ns)) in used {
            let before = self.remember(key, &workload, used_ns, now);
            let Some(elapsed) = elapsed.filter(|e| *e > 0) else { continue };
            let cpus = used_ns.saturating_sub(before) as f64 / elapsed as f64;
            self.judge(key, cpus, &cgroups, now, &mut changes)?;
        }
        self.forget_gone(now, &mut changes);
        Ok(changes)
    }

    fn capture(
        &mut self,
        trigger: &Trigger,
        limits: Limits,
        _parts: Parts,
    ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static {
        let samples = trigger.target.workload.and_then(|key| self.samples.hand_over(&key));
        let (symbols, target, start) = (self.symbols.clone(), trigger.target.clone(), trigger.onset);
        let lasts = self.config.capture.get().min(limits.duration);
        async move {
            let samples = samples.context("its samples are gone")?;
            // Ends early when the agent stops: what was sampled by then is the capture.
            drop(tokio::time::timeout(lasts, samples.stopped()).await);
            Ok(tokio::task::block_in_place(|| profile(&samples, &symbols, target, start, limits)))
        }
    }
}

fn profile(samples: &Subscription, symbols: &Symbols, target: Target, start: Timestamp, limits: Limits) -> Capture {
    let mut taken = samples.take();
    taken.stacks.sort_by_key(|s| std::cmp::Reverse(s.count));
    taken.stacks.truncate(limits.stacks);
    let end = start.plus(taken.lasted());
    let stacks = taken
        .stacks
        .into_iter()
        .map(|s| StackSample {
            kernel: symbols.kernel(&s.kernel),
            user: symbols.user(s.thread.pid, &s.user),
            thread: s.thread,
            value: s.count,
        })
        .collect();
    let profile = Profile { kind: ProfileKind::CPU, stacks, period: taken.period_ns, lost: taken.lost };
    Capture { evidence: vec![Evidence::Profile(profile)], ..Capture::new("cpu_profile", target, start, end) }
}

type Used = HashMap<WorkloadKey, (Arc<Workload>, Vec<CgroupId>, u64)>;

impl CpuIdle {
    fn used_by_workload(&self) -> anyhow::Result<Used> {
        let mut used: Used = HashMap::new();
        for (cgroup, ns) in self.sched.cpu_time()? {
            let Some(w) = self.workloads.of_cgroup(cgroup).filter(|w| self.counts(w.kind)) else { continue };
            let entry = used.entry(w.key).or_insert_with(|| (w, Vec::new(), 0));
            entry.1.push(cgroup);
            entry.2 += ns;
        }
        Ok(used)
    }

    fn counts(&self, kind: WorkloadKind) -> bool {
        match kind {
            WorkloadKind::Container | WorkloadKind::Cgroup => true,
            WorkloadKind::Unit => self.config.units,
            WorkloadKind::Own => false,
        }
    }

    /// Keeps the new reading and gives the one before it. A workload that was not in it had used nothing.
    fn remember(&mut self, key: WorkloadKey, workload: &Arc<Workload>, used_ns: u64, now: Now) -> u64 {
        let w = self.watched.entry(key).or_insert_with(|| Watched {
            workload: workload.clone(),
            used_ns: 0,
            capacity_read_ns: 0,
            limit: Limit::new(self.online),
            seen_ns: now.boot_ns,
        });
        w.workload = workload.clone();
        w.seen_ns = now.boot_ns;
        std::mem::replace(&mut w.used_ns, used_ns)
    }

    fn judge(
        &mut self,
        key: WorkloadKey,
        cpus: f64,
        cgroups: &[CgroupId],
        now: Now,
        changes: &mut Vec<Change>,
    ) -> anyhow::Result<()> {
        let Some(w) = self.watched.get_mut(&key) else { return Ok(()) };
        // A workload that uses next to nothing of anything needs no limit read.
        if cpus >= LEAST_CPUS && now.boot_ns.saturating_sub(w.capacity_read_ns) > LIMIT_AGE_NS {
            w.limit.capacity = capacity(&self.cgroups, &w.workload.cgroup, self.online);
            w.capacity_read_ns = now.boot_ns;
        }
        let wanted = cpus >= LEAST_CPUS && self.filters.pass(Self::INFO.name, Some(&w.workload));
        match w.limit.step(&self.config, cpus, wanted, now) {
            Step::Nothing => {}
            Step::Sample => self.samples.watch(key, &Scope::Cgroups(cgroups.to_vec()))?,
            // It may have got cgroups since.
            Step::Wait => self.samples.extend(&key, &Scope::Cgroups(cgroups.to_vec()))?,
            Step::Drop => changes.push(Change::Discarded(target(key), self.samples.discard(&key))),
            Step::Open { since, reason, sampled } => {
                let mut trigger = trigger(w, key, reason, cpus, since, now);
                trigger.capture = sampled && wanted;
                if trigger.capture {
                    self.samples.offer(&key);
                } else {
                    self.samples.discard(&key);
                }
                changes.push(Change::Onset(trigger));
            }
            Step::Recover => {
                self.samples.stop(&key);
                changes.push(Change::Recovered(target(key), now.wall));
            }
        }
        Ok(())
    }

    /// Workloads that are gone: what was open has recovered.
    fn forget_gone(&mut self, now: Now, changes: &mut Vec<Change>) {
        self.watched.retain(|key, w| {
            let gone = now.boot_ns.saturating_sub(w.seen_ns) > LIMIT_AGE_NS;
            if gone {
                self.samples.stop(key);
            }
            if gone && w.limit.is_open() {
                changes.push(Change::Recovered(target(*key), now.wall));
            }
            !gone
        });
    }
}

/// What a cgroup may use, in CPUs: the tightest quota of it and its ancestors, its cpuset, the node.
fn capacity(cgroups: &Cgroups, path: &str, online: f64) -> f64 {
    let quota = cgroups.cpus_allowed(path).unwrap_or(online);
    let cpuset = cgroups.cpuset_cpus(path).map_or(online, f64::from);
    quota.min(cpuset).min(online).max(f64::MIN_POSITIVE)
}

fn target(key: WorkloadKey) -> Target {
    Target { collector: CpuIdle::INFO.name, workload: Some(key), detail: None }
}

fn trigger(w: &Watched, key: WorkloadKey, reason: &'static str, cpus: f64, since: Now, now: Now) -> Trigger {
    let mut attributes = crate::signal::Attributes::new();
    let Limit { capacity, usual, .. } = w.limit;
    let share = cpus / capacity;
    attributes.set(attr::LINUX_CPUIDLE_REASON, reason).set(attr::LINUX_CPU_USAGE, cpus);
    attributes.set(attr::LINUX_CPU_CAPACITY, capacity).set(attr::LINUX_CPU_UTILIZATION, share);
    attributes.set(attr::LINUX_CPU_USUAL, usual);
    let name = w.workload.display_name();
    let message = match reason {
        "usage" => format!("{name} uses {cpus:.2} of its {capacity:.2} CPUs ({:.0} %)", share * 100.0),
        _ => format!(
            "{name} uses {cpus:.2} CPUs ({:.0} % of what it may use), usually {:.0} %",
            share * 100.0,
            usual * 100.0
        ),
    };
    Trigger {
        target: target(key),
        def: &CPUIDLE,
        severity: CPUIDLE.severity,
        onset: since.wall,
        detected: now.wall,
        workload: Some(w.workload.clone()),
        message,
        attributes,
        links: Links::default(),
        capture: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings out of range are refused with what would be valid.
    #[test]
    fn settings_are_checked() {
        assert_eq!(Config::default().validate(), Ok(()));
        let e = Config { usage_limit: 1.5, ..Config::default() }.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("usage_limit", "from 0.1 to 1"));
        let e = Config { window: HumanDuration::from_secs(1), ..Config::default() }.validate().unwrap_err();
        assert_eq!(e.key, "window");
    }
}
