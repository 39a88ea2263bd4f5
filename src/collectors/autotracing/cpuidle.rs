// SPDX-License-Identifier: Apache-2.0
//! A container's CPU use jumps, or stays high against its own limit.
//!
//! ## What it reports
//! Which container ran out of CPU, since when, how much of its limit it used, and in which functions: a
//! flame graph with user and kernel frames, captured while it lasted.
//!
//! ## How
//! Once a second the CPU time of every workload comes from the shared scheduler probe in one batch
//! read. A workload is over its limit when it uses `usage_limit` of its capacity (the tightest
//! quota of its cgroup and ancestors, its cpuset, the node), or `jump_limit` more than usual; or when all below an ancestor
//! together use `usage_limit` of its quota, and the workload at least half of an equal part of that. After one second over the limit
//! sampling starts, in memory only. If that holds for `window`, the incident is opened with that first
//! second as its onset and the samples in it; else the samples are dropped and counted. A slow ramp
//! reaches the same limit, so it is detected as well. The usual use of a workload that ran before the
//! agent is learned during the agent's first five seconds, in which only `usage_limit` counts. Workloads
//! that the collector's filter denies are not sampled.
//!
//! With `history.window` the node's stacks are sampled at a low rate all the time, and an incident has what
//! the workload did before it as a part of its own, `cpu_profile_before`.
//!
//! ## Signals
//! `linux.autotracing.cpuidle` with the figures, an incident, a CPU profile; with a history one more.
//!
//! ## Limits
//! A workload that uses less than 0.05 CPUs is reported only when its limit is used up, one below 0.008 CPUs never.
//! User frames need frame pointers. A process that ends before the capture does leaves addresses only.
//! Systemd units are monitored only with `units = true`.
//!
//! ## What to do next
//! `bianque show ID` has the flame graph. Wide kernel frames: the container asks for system calls or
//! page faults; wide user frames: its own code. Throttled meanwhile (`linux.container.cpu.throttled.time`)
//! means that the limit is too low for its load.

mod usage;

use std::future::Future;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::collectors::cpu_profile::cpu_profile;
use crate::collectors::detect::{Reason, Step, check_limits};
use crate::collectors::history::{History, Kept};
use crate::collectors::suspects::Suspects;
use crate::collectors::{
    AutoTracer, Collector, Context, Info, Invalid, Limits, Parts, Settings, Unavailable, head_doc,
};
use crate::host::Now;
use crate::host::cgroup::Cgroups;
use crate::probe::shared::cpu_sample::{CpuSample, Scope};
use crate::probe::shared::sched::Sched;
use crate::probe::stacks::Symbols;
use crate::signal::units::HumanDuration;
use crate::signal::{Capture, Change, EventDef, Key, Links, MetricDef, Severity, Target, Trigger, WorkloadKey};
use crate::workload::{Filters, Workloads};
use usage::{Capacity, Figures, Judge, Usage, Verdict};

const CPUIDLE_REASON: Key =
    Key::new("linux.cpuidle.reason", "usage: high against its limit; jump: far more than usual");
const CPU_USAGE: Key = Key::new("linux.cpu.usage", "CPUs in use");
const CPU_CAPACITY: Key = Key::new("linux.cpu.capacity", "CPUs that the workload may use");
const CPU_UTILIZATION: Key = Key::new("linux.cpu.utilization", "Share of that in use");
const CPU_LIMIT_CGROUP: Key =
    Key::new("linux.cpu.limit.cgroup.path", "The cgroup above it that has the limit, which others below it share");
const CPU_USUAL: Key = Key::new("linux.cpu.usual", "Share of that usually in use");

const BY: &[Key] = &[CPUIDLE_REASON];

static INCIDENTS: MetricDef =
    MetricDef::counter("linux.autotracing.cpuidle.incidents", "{event}", "Workloads that used too much CPU").by(BY);
static CONTAINER_INCIDENTS: MetricDef =
    MetricDef::counter("linux.container.autotracing.cpuidle.incidents", "{event}", "Times the workload used too much")
        .by(BY);

/// The workload is over its limit.
pub static CPUIDLE: EventDef = EventDef {
    name: "linux.autotracing.cpuidle",
    summary: "A workload's CPU use jumped, or stays high against its own limit",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[CPUIDLE_REASON, CPU_USAGE, CPU_CAPACITY, CPU_UTILIZATION, CPU_LIMIT_CGROUP, CPU_USUAL],
    counter: &INCIDENTS,
    container_counter: Some(&CONTAINER_INCIDENTS),
};

/// Settings of `cpuidle`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Limit of CPU use as a share of the workload's capacity; from 0.1 to 1.
    pub usage_limit: f64,
    /// Limit of a jump above the usual use, as a share of the capacity; from 0.1 to 1.
    pub jump_limit: f64,
    /// How long a limit must be exceeded before an incident is opened; from 2s to 5m.
    pub window: HumanDuration,
    /// How long sampling continues after the incident was opened; from 1s to 5m.
    pub capture: HumanDuration,
    /// Minimum time between two captures of the same workload.
    pub cool_down: HumanDuration,
    /// Whether systemd units count, besides containers and plain cgroups.
    pub units: bool,
    /// What each workload did before its incident, as a flame graph of its own.
    pub history: History,
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
            history: History::default(),
        }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        check_limits((self.usage_limit, self.jump_limit), self.window, self.capture)?;
        self.history.validate()
    }
}

/// The collector.
pub struct CpuIdle {
    config: Config,
    workloads: Workloads,
    filters: Filters,
    sched: Sched,
    samples: Suspects<WorkloadKey>,
    history: Kept,
    symbols: Symbols,
    cgroups: Cgroups,
    online: f64,
    usage: Usage,
}

impl Collector for CpuIdle {
    const INFO: Info = Info {
        name: "cpuidle",
        summary: "containers with a jump in CPU use or near their limit, with a flame graph",
        doc: head_doc(include_str!("cpuidle.rs")),
        enabled: true,
        needs: &[Sched::CPU_TIME, CpuSample::STACKS],
        object: None,
        optional: &[],
        capabilities: &["CAP_SYS_PTRACE", "CAP_SYSLOG"],
        metrics: &[],
        events: &[&CPUIDLE],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        let online = cx.host.stat().map_err(|e| Unavailable::because(e.to_string()))?.cpus.len();
        let sampler = cx.shared::<CpuSample>()?.sampler().clone();
        let mut history = Kept::new(sampler.clone());
        let kept = history.set(&config.history, config.window.get());
        kept.map_err(|e| Unavailable::because(format!("no history can be kept: {e:#}")))?;
        Ok(CpuIdle {
            config,
            workloads: cx.workloads.clone(),
            filters: cx.filters.clone(),
            sched: cx.shared::<Sched>()?,
            samples: Suspects::new(sampler),
            history,
            symbols: cx.symbols.clone(),
            cgroups,
            online: online as f64,
            usage: Usage::default(),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.history.set(&config.history, config.window.get())?;
        self.config = config;
        self.usage.begin_again();
        Ok(())
    }
}

impl AutoTracer for CpuIdle {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        self.samples.begin_check();
        let judge = Judge {
            config: &self.config,
            workloads: &self.workloads,
            capacity: &|w| capacity(&self.cgroups, &w.cgroup, self.online),
            wanted: &|w| self.filters.pass(Self::INFO.name, Some(w)),
            now,
        };
        let verdicts = self.usage.step(self.sched.cpu_time()?, &judge);
        Ok(verdicts.into_iter().filter_map(|v| self.act(v, now)).collect())
    }

    fn capture(
        &mut self,
        trigger: &Trigger,
        limits: Limits,
        parts: Parts,
    ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static {
        let samples = trigger.target.workload.and_then(|key| self.samples.hand_over(&key));
        let (symbols, target, start) = (self.symbols.clone(), trigger.target.clone(), trigger.onset);
        let lasts = self.config.capture.get().min(limits.duration);
        async move {
            let samples = samples.context("its samples are gone")?;
            let until = Instant::now() + lasts;
            if let Some(before) = samples.look_back().filter(|b| b.samples > 0) {
                let begin = start.minus(before.lasted());
                let profile = tokio::task::block_in_place(|| cpu_profile(before, &symbols, limits));
                parts.send("cpu_profile_before", begin, start, vec![profile]);
            }
            // Ends early when the agent stops: what was sampled by then is the capture.
            drop(tokio::time::timeout_at(until, samples.stopped()).await);
            let taken = samples.take();
            let end = start.plus(taken.lasted());
            let evidence = vec![tokio::task::block_in_place(|| cpu_profile(taken, &symbols, limits))];
            Ok(Capture { evidence, ..Capture::new("cpu_profile", target, start, end) })
        }
    }
}

impl CpuIdle {
    fn act(&mut self, verdict: Verdict, now: Now) -> Option<Change> {
        let Verdict { key, step, figures } = verdict;
        match (step, figures) {
            (Step::Begin, Some(f)) => report_error(self.samples.watch(key, &Scope::Cgroups(f.cgroups))),
            // It may have got cgroups since.
            (Step::Hold, Some(f)) => report_error(self.samples.extend(&key, &Scope::Cgroups(f.cgroups))),
            (Step::Open { since, reason, taken }, Some(f)) => {
                let mut trigger = trigger(&f, reason, since, now);
                trigger.capture = taken && f.wanted;
                if trigger.capture {
                    self.samples.offer(&key);
                } else {
                    self.samples.discard(&key);
                }
                return Some(Change::Onset(trigger));
            }
            (Step::Drop, _) => {
                self.samples.discard(&key);
                return Some(Change::Discarded(target(key)));
            }
            (Step::Recover, _) => {
                self.samples.stop(&key);
                return Some(Change::Recovered(target(key), now.wall));
            }
            (Step::Nothing, _) | (Step::Begin | Step::Hold | Step::Open { .. }, None) => {}
        }
        None
    }
}

impl Drop for CpuIdle {
    /// Captures close with what they have.
    fn drop(&mut self) {
        for (key, _) in self.usage.end() {
            self.samples.stop(&key);
        }
    }
}

/// Without sampling, limits are still checked.
fn report_error(sampling: anyhow::Result<()>) {
    if let Err(e) = sampling {
        tracing::warn!("cpuidle: {e:#}");
    }
}

/// What a cgroup may use, in CPUs: the tightest quota of it and its ancestors, its cpuset, the node.
fn capacity(cgroups: &Cgroups, path: &str, online: f64) -> Capacity {
    let quotas: Vec<(&str, f64)> = cgroups.cpu_limits(path).collect();
    let quota = quotas.iter().map(|(_, cpus)| *cpus).fold(online, f64::min);
    let cpuset = cgroups.cpuset_cpus(path).map_or(online, f64::from);
    let above = quotas.into_iter().filter(|(p, _)| *p != path);
    Capacity {
        cpus: quota.min(cpuset).max(f64::MIN_POSITIVE),
        shared: above.map(|(path, cpus)| (path.to_owned(), cpus)).collect(),
    }
}

fn target(key: WorkloadKey) -> Target {
    Target { collector: CpuIdle::INFO.name, workload: Some(key), detail: None }
}

fn shared_message(f: &Figures) -> String {
    let Some(s) = &f.shared else { return String::new() };
    let (name, percent) = (f.workload.display_name(), f.share() * 100.0);
    let (cpus, used, limit) = (f.cpus, s.cpus, s.limit);
    format!(
        "{name} uses {cpus:.2} CPUs of the {limit:.2} that it shares below {}, where {used:.2} are in use ({percent:.0} %)",
        s.path
    )
}

fn trigger(f: &Figures, reason: Reason, since: Now, now: Now) -> Trigger {
    let mut attributes = crate::signal::Attributes::new();
    let (cpus, capacity, percent) = (f.cpus, f.capacity, f.share() * 100.0);
    let name = f.workload.display_name();
    let usual = f.usual.map(|u| format!(", usually {:.0} %", u * 100.0)).unwrap_or_default();
    let (reason, message) = match reason {
        Reason::Level if f.shared.is_some() => ("usage", shared_message(f)),
        Reason::Jump => ("jump", format!("{name} uses {cpus:.2} CPUs ({percent:.0} % of what it may use){usual}")),
        _ => ("usage", format!("{name} uses {cpus:.2} of its {capacity:.2} CPUs ({percent:.0} %)")),
    };
    attributes.set(CPUIDLE_REASON, reason).set(CPU_USAGE, cpus);
    let limit = f.shared.as_ref().map_or(capacity, |s| s.limit);
    attributes.set(CPU_CAPACITY, limit).set(CPU_UTILIZATION, f.share());
    attributes.set_some(CPU_LIMIT_CGROUP, f.shared.as_ref().map(|s| s.path.clone()));
    attributes.set_some(CPU_USUAL, f.usual);
    Trigger {
        target: target(f.workload.key),
        def: &CPUIDLE,
        severity: CPUIDLE.severity,
        onset: since.wall,
        detected: now.wall,
        workload: Some(f.workload.clone()),
        message,
        attributes,
        links: Links::default(),
        capture: true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::probe::skeletons::cpu_sample::CpuSample as CpuSampleRecord;
    use crate::probe::skeletons::sched::{self, SchedGroup};
    use crate::signal::Evidence;

    /// Settings out of range are refused with what would be valid.
    #[test]
    fn settings_are_checked() {
        assert_eq!(Config::default().validate(), Ok(()));
        let e = Config { usage_limit: 1.5, ..Config::default() }.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("usage_limit", "from 0.1 to 1"));
        let e = Config { window: HumanDuration::from_secs(1), ..Config::default() }.validate().unwrap_err();
        assert_eq!(e.key, "window");
    }

    /// One workload at all of its limit for the window: an incident, its profile, and its end.
    #[test]
    fn a_workload_at_its_limit() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/batch").unwrap();
        rig.write("sys/fs/cgroup/batch/cpu.max", "100000 100000\n").unwrap();
        let settings = "window = \"2s\"\nhistory.window = \"30s\"";
        let mut c = rig.run(&crate::collectors::autotracing::<CpuIdle>(), settings).unwrap();
        let (mut used_ns, mut incident) = (0, None);
        let mut r = CpuSampleRecord::new_zeroed();
        // Long before, of the cgroup and of another, as the history has it.
        (r.time_ns, r.history, r.thread.tgid, r.thread.tid) = (1, 1, 42, 42);
        for of in [cgroup.id, cgroup.id + 1] {
            r.cgroup = of;
            c.record("cpu_sample", &r).unwrap();
        }
        r.history = 0;
        // The first subscription's bit; after its start, which is by the machine's clock.
        r.time_ns = u64::MAX;
        r.subscribers = 1;
        (r.kernel[0], r.kernel_bytes) = (0xffff_ffff_8100_0010, 8);
        let limits = Limits { duration: Duration::ZERO, stacks: 10 };
        for second in 0..8 {
            rig.advance(Duration::from_secs(1));
            used_ns += if second == 0 { 1_000_000 } else { 990_000_000 };
            let group = SchedGroup { run_ns: used_ns, ..SchedGroup::new_zeroed() };
            rig.kernel().put(&sched::SKELETON, "sched_evicted", &cgroup.id, &[group]).unwrap();
            for change in c.check().unwrap() {
                let Change::Onset(t) = change else { panic!("{change:?}") };
                for _ in 0..3 {
                    c.record("cpu_sample", &r).unwrap();
                }
                let capture = c.capture(&t, limits).unwrap();
                assert!(incident.replace((t, capture)).is_none());
            }
        }
        let (trigger, capture) = incident.unwrap();
        assert_eq!(
            (trigger.def.name, trigger.severity, trigger.capture),
            ("linux.autotracing.cpuidle", Severity::Warn, true)
        );
        assert_eq!(trigger.message, "/batch uses 0.99 of its 1.00 CPUs (99 %)");
        let [Evidence::Profile(profile)] = &capture.evidence[..] else { panic!("{capture:?}") };
        assert_eq!((profile.stacks.len(), profile.stacks[0].value, profile.lost), (1, 3, 0));
        let parts = c.parts();
        let [before] = &parts[..] else { panic!("{parts:?}") };
        let [Evidence::Profile(profile)] = &before.evidence[..] else { panic!("{before:?}") };
        assert_eq!((before.name, before.end, profile.stacks.len()), ("cpu_profile_before", trigger.onset, 1));
        assert_eq!(profile.period, 3 * crate::probe::shared::cpu_sample::SAMPLE_PERIOD_NS);
        rig.advance(Duration::from_secs(60));
        let changes: Vec<_> = (0..20)
            .flat_map(|_| {
                rig.advance(Duration::from_secs(1));
                c.check().unwrap()
            })
            .collect();
        assert!(matches!(&changes[..], [Change::Recovered(..)]), "{changes:?}");
    }
}
