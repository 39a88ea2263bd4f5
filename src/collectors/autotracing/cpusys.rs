// SPDX-License-Identifier: Apache-2.0
//! The node spends its CPU time in the kernel.
//!
//! ## What it reports
//! Since when, how much of the node's CPU time the kernel takes, how much is usual, and for what: a flame graph of
//! the kernel's functions, the system calls and other ways into the kernel that take the most, and the workloads
//! and processes for which.
//!
//! ## How
//! Once a second `/proc/stat` is read. System time (without interrupts, of which `softirqstat` reports) is too much at
//! `usage_limit` of what the node's CPUs had (without what the hypervisor gave to others), or `jump_limit` above
//! what is usual; and only where it is more than one task could take alone. From the first such second on the stacks of
//! all CPUs are sampled, 99 times a second each, in memory only. If it lasts for `window`, the incident is opened
//! with that first second as its onset; else the samples are dropped. What is usual is learned during the agent's
//! first five seconds.
//!
//! ## Signals
//! `linux.autotracing.cpusys` with the figures, an incident, a CPU profile of the kernel's part, two tables, and the
//! readings of the last minute.
//!
//! ## Limits
//! The clock that samples is an interrupt: code of the kernel that runs with interrupts off is seen where it switches
//! them on again. What runs while a CPU is idle, interrupts above all, is not sampled. The flame graph has no frames
//! of programs: `cpuidle` shows those of a container.
//!
//! ## What to do next
//! `bianque show ID`. The tables say who asks for what: `page fault` is memory that is touched for the first time or
//! again after reclaim (see `memreclaim`), `kernel thread` is work on somebody's behalf. Functions with `lock` or
//! `spin` in their names on top: CPUs wait for each other, and fewer of the callers at once get more done.

mod summary;

use std::future::Future;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::collectors::cpu_profile::cpu_profile;
use crate::collectors::detect::{Detector, Reading, Reason, Rules, Step, check_limits};
use crate::collectors::readings::Readings;
use crate::collectors::suspects::Suspects;
use crate::collectors::{
    AutoTracer, Collector, Context, Info, Invalid, Limits, Parts, Settings, Unavailable, head_doc,
};
use crate::host::proc::CpuTimes;
use crate::host::{Host, Now};
use crate::probe::shared::cpu_sample::{CpuSample, Scope};
use crate::probe::stacks::Symbols;
use crate::signal::units::HumanDuration;
use crate::signal::{Attributes, Capture, Change, EventDef, Key, Links, MetricDef, Severity, Target, Trigger};
use crate::workload::Workloads;

/// A task alone is no trouble of the node's.
const MORE_THAN_ONE: f64 = 1.1;
/// So much of a smaller node is.
const ALL_OF_ONE: f64 = 0.9;

const REASON: Key = Key::new("linux.cpusys.reason", "usage: high against what the node has; jump: far more than usual");
const SYSTEM_USAGE: Key = Key::new("linux.cpu.system.usage", "CPUs that the kernel takes");
const SYSTEM_UTILIZATION: Key =
    Key::new("linux.cpu.system.utilization", "Share of the node's CPU time that the kernel takes");
const SYSTEM_USUAL: Key = Key::new("linux.cpu.system.usual", "Share of it that the kernel usually takes");

static INCIDENTS: MetricDef =
    MetricDef::counter("linux.autotracing.cpusys.incidents", "{event}", "Times the kernel took too much CPU time")
        .by(&[REASON]);

/// The kernel takes too much.
pub static CPUSYS: EventDef = EventDef {
    name: "linux.autotracing.cpusys",
    summary: "The kernel takes too much of the node's CPU time, or far more than usual",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[REASON, SYSTEM_USAGE, SYSTEM_UTILIZATION, SYSTEM_USUAL],
    counter: &INCIDENTS,
    container_counter: None,
};

/// Settings of `cpusys`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Limit of the kernel's share of the node's CPU time; from 0.1 to 1.
    pub usage_limit: f64,
    /// Limit of a jump of that share above the usual one; from 0.1 to 1.
    pub jump_limit: f64,
    /// How long a limit must be exceeded before an incident is opened; from 2s to 5m.
    pub window: HumanDuration,
    /// How long sampling continues after the incident was opened; from 1s to 5m.
    pub capture: HumanDuration,
    /// Minimum time between two captures.
    pub cool_down: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            usage_limit: 0.5,
            jump_limit: 0.3,
            window: HumanDuration::from_secs(10),
            capture: HumanDuration::from_secs(10),
            cool_down: HumanDuration::from_secs(60),
        }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        check_limits((self.usage_limit, self.jump_limit), self.window, self.capture)
    }
}

impl Config {
    fn rules(&self) -> Rules {
        Rules {
            level: Some(self.usage_limit),
            jump: Some(self.jump_limit),
            window: self.window.get(),
            cool_down: self.cool_down.get(),
            ..Rules::default()
        }
    }
}

/// What the kernel took in one second or so.
#[derive(Debug, Clone, Copy)]
struct Usage {
    /// Of the node's CPU time.
    share: f64,
    cpus: f64,
    online: f64,
}

impl Usage {
    /// `None`: no time went by for the node.
    #[expect(clippy::cast_precision_loss, reason = "seconds, in nanoseconds, are far below 2^53")]
    fn between(before: CpuTimes, now: CpuTimes, online: usize) -> Option<Self> {
        let passed = |of: fn(&CpuTimes) -> u64| of(&now).saturating_sub(of(&before));
        let had = passed(|t| t.total_ns().saturating_sub(t.steal_ns));
        let online = online as f64;
        let share = (had > 0).then(|| passed(|t| t.system_ns) as f64 / had as f64)?.min(1.0);
        Some(Usage { share, cpus: share * online, online })
    }

    fn reading(self) -> Reading {
        let least = if self.online < 2.0 { ALL_OF_ONE * self.online } else { MORE_THAN_ONE };
        Reading { value: self.share, negligible: self.cpus < least, wanted: true }
    }
}

/// The collector.
pub struct CpuSys {
    config: Config,
    host: Host,
    workloads: Workloads,
    sampler: CpuSample,
    samples: Suspects<()>,
    symbols: Symbols,
    detector: Detector<()>,
    last: Option<CpuTimes>,
    readings: Readings,
}

impl Collector for CpuSys {
    const INFO: Info = Info {
        name: "cpusys",
        summary: "much CPU time in the kernel, with its flame graph, system calls and callers",
        doc: head_doc(include_str!("cpusys.rs")),
        needs: &[CpuSample::STACKS],
        capabilities: &["CAP_SYSLOG"],
        events: &[&CPUSYS],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let sampler = cx.shared::<CpuSample>()?;
        Ok(CpuSys {
            config,
            host: cx.host.clone(),
            workloads: cx.workloads.clone(),
            samples: Suspects::new(sampler.sampler().clone()),
            sampler,
            symbols: cx.symbols.clone(),
            detector: Detector::default(),
            last: None,
            readings: Readings::default(),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl AutoTracer for CpuSys {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        self.samples.begin_check();
        let stat = self.host.stat()?;
        let rules = self.config.rules();
        let Some(before) = self.last.replace(stat.all) else {
            self.detector.was_there(&rules, (), now);
            return Ok(Vec::new());
        };
        let Some(usage) = Usage::between(before, stat.all, stat.cpus.len()) else { return Ok(Vec::new()) };
        self.readings.push(now, usage.share);
        let usual = self.detector.usual(());
        let step = self.detector.step(&rules, (), usage.reading(), now);
        Ok(self.act(step, usage, usual, now).into_iter().collect())
    }

    fn capture(
        &mut self,
        trigger: &Trigger,
        limits: Limits,
        _: Parts,
    ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static {
        let samples = self.samples.hand_over(&());
        let readings = self.readings.evidence("cpu_system_utilization", "1");
        let (symbols, workloads, sampler) = (self.symbols.clone(), self.workloads.clone(), self.sampler.clone());
        let (target, start) = (trigger.target.clone(), trigger.onset);
        let lasts = self.config.capture.get().min(limits.duration);
        async move {
            let samples = samples.context("its samples are gone")?;
            // Ends early when it is over, or the agent stops: what was sampled by then is the capture.
            drop(tokio::time::timeout_at(Instant::now() + lasts, samples.stopped()).await);
            let mut taken = samples.take();
            let end = start.plus(taken.lasted());
            let evidence = tokio::task::block_in_place(|| {
                summary::keep_kernel(&mut taken);
                let owner = |s: &_| summary::owner(s, &workloads, &sampler);
                let callers = summary::callers(&taken, owner);
                let profile = cpu_profile(taken, &symbols, limits);
                let ways_in = summary::ways_in(&profile);
                vec![profile, ways_in, callers, readings]
            });
            Ok(Capture { evidence, ..Capture::new("kernel_profile", target, start, end) })
        }
    }
}

impl CpuSys {
    fn act(&mut self, step: Step, usage: Usage, usual: Option<f64>, now: Now) -> Option<Change> {
        match step {
            Step::Nothing | Step::Hold => {}
            Step::Begin => {
                // Without sampling, limits are still checked.
                if let Err(e) = self.samples.watch((), &Scope::Node) {
                    tracing::warn!("cpusys: {e:#}");
                }
            }
            Step::Open { since, reason, taken } => {
                if taken {
                    self.samples.offer(&());
                } else {
                    self.samples.discard(&());
                }
                return Some(Change::Onset(trigger(usage, usual, reason, taken, since, now)));
            }
            Step::Drop => {
                self.samples.discard(&());
                return Some(Change::Discarded(target()));
            }
            Step::Recover => {
                self.samples.stop(&());
                return Some(Change::Recovered(target(), now.wall));
            }
        }
        None
    }
}

impl Drop for CpuSys {
    /// A capture closes with what it has.
    fn drop(&mut self) {
        self.samples.stop(&());
    }
}

fn target() -> Target {
    Target { collector: CpuSys::INFO.name, workload: None, detail: None }
}

fn trigger(usage: Usage, usual: Option<f64>, reason: Reason, capture: bool, since: Now, now: Now) -> Trigger {
    let (cpus, online, percent) = (usage.cpus, usage.online, usage.share * 100.0);
    let said = usual.map(|u| format!(", usually {:.0} %", u * 100.0)).unwrap_or_default();
    let mut attributes = Attributes::new();
    attributes.set(REASON, if reason == Reason::Jump { "jump" } else { "usage" });
    attributes.set(SYSTEM_USAGE, cpus).set(SYSTEM_UTILIZATION, usage.share).set_some(SYSTEM_USUAL, usual);
    Trigger {
        target: target(),
        def: &CPUSYS,
        severity: CPUSYS.severity,
        onset: since.wall,
        detected: now.wall,
        workload: None,
        message: format!("the kernel takes {cpus:.2} of the node's {online:.0} CPUs ({percent:.0} %){said}"),
        attributes,
        links: Links::default(),
        capture,
    }
}

#[cfg(test)]
mod tests;
