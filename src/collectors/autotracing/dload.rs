// SPDX-License-Identifier: Apache-2.0
//! Tasks in uninterruptible sleep pile up.
//!
//! ## What it reports
//! Of which container, or of the node, how many tasks are blocked in the kernel at once, since when, and for what: the
//! kernel stack of each, what they wait for, who holds the locks, and what the block devices do meanwhile.
//!
//! ## How
//! Once a second a walk over all tasks (BPF's task iterator) counts those in uninterruptible sleep (state D) that have
//! not run for `blocked`: short waits of ordinary I/O do not count, nor do frozen tasks and parents that wait for a
//! vfork(2) child. At `tasks` of one workload it is over its limit; so is the node, by all tasks that are of none
//! that is. If that lasts for `window`, the incident is opened with the first such second as its onset. A walk that
//! takes more than 5 ms makes the next ones rarer, to one in five seconds.
//!
//! ## Signals
//! `linux.autotracing.dload` with the figures, an incident, a profile of the blocked tasks' stacks, and tables of what
//! they wait for, of locks and of devices.
//!
//! ## Limits
//! What a task waits for is derived from function names: the kernel does not say which inode or device it is. Locks
//! and who has them are known since 6.16 (`CONFIG_DETECT_HUNG_TASK_BLOCKER`). A walk reports 4,096 tasks at most.
//!
//! ## What to do next
//! `bianque show ID`. One row of the table of waits with most tasks has one cause: a device with requests in flight
//! and none completed does not answer; with many completed it is overloaded; `nfs`, `smb`, `ceph`, `fuse`: the server.
//! A lock: what its owner waits for itself (`hungtask` shows single tasks). The load average counts these tasks.

mod evidence;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::detect::{Detector, Reading, Rules, Step};
use crate::collectors::readings::Readings;
use crate::collectors::task_wait::Wait;
use crate::collectors::{
    AutoTracer, Collector, Context, Info, Invalid, Limits, Parts, Settings, Unavailable, head_doc,
};
use crate::host::{Host, Now};
use crate::probe::shared::Tasks;
use crate::probe::shared::tasks::Blocked;
use crate::probe::stacks::Symbols;
use crate::signal::units::{HumanDuration, ns};
use crate::signal::{
    Attributes, Capture, Change, EventDef, Key, Links, MetricDef, Severity, Target, Trigger, Workload, WorkloadKey,
    WorkloadKind,
};
use crate::workload::{Filters, Workloads};

/// A walk is followed by so many times its length without one, and no more than that.
const REST: u32 = 200;
const MAX_REST: Duration = Duration::from_secs(5);
/// How long the devices are watched.
const DEVICES: Duration = Duration::from_secs(1);

const TASKS: Key = Key::new("linux.dload.tasks", "Tasks in uninterruptible sleep at that moment");
const WAIT: Key = Key::new("linux.dload.wait", "What most of them wait for: mutex, page, journal, nfs, …");
const LONGEST: Key = Key::new("linux.dload.longest", "The longest of their waits, in nanoseconds");

static INCIDENTS: MetricDef =
    MetricDef::counter("linux.autotracing.dload.incidents", "{event}", "Times blocked tasks piled up");
static CONTAINER_INCIDENTS: MetricDef = MetricDef::counter(
    "linux.container.autotracing.dload.incidents",
    "{event}",
    "Times blocked tasks of the workload piled up",
);

/// Blocked tasks pile up.
pub static DLOAD: EventDef = EventDef {
    name: "linux.autotracing.dload",
    summary: "Tasks of a workload, or of the node, pile up in uninterruptible sleep",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[TASKS, WAIT, LONGEST],
    counter: &INCIDENTS,
    container_counter: Some(&CONTAINER_INCIDENTS),
};

/// Settings of `dload`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// So many blocked tasks of one workload, or of the node, are too many; from 2 to 4096.
    pub tasks: u32,
    /// A task counts when it has been blocked for so long; from 100ms to 1m.
    pub blocked: HumanDuration,
    /// How long there must be too many before an incident is opened; from 2s to 5m.
    pub window: HumanDuration,
    /// Minimum time between two captures of the same workload.
    pub cool_down: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            tasks: 10,
            blocked: HumanDuration::from_millis(500),
            window: HumanDuration::from_secs(5),
            cool_down: HumanDuration::from_secs(60),
        }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        Invalid::unless((2..=4096).contains(&self.tasks), "tasks", self.tasks, "from 2 to 4096")?;
        Invalid::unless_within(ms * 100..=minute, "blocked", self.blocked, "from 100ms to 1m")?;
        Invalid::unless_within(ms * 2000..=minute * 5, "window", self.window, "from 2s to 5m")
    }
}

impl Config {
    fn rules(&self) -> Rules {
        Rules {
            level: Some(f64::from(self.tasks)),
            window: self.window.get(),
            cool_down: self.cool_down.get(),
            ..Rules::default()
        }
    }
}

/// Blocked tasks of one workload; of the node where there is none.
#[derive(Default)]
struct Pile {
    workload: Option<Arc<Workload>>,
    tasks: Vec<Blocked>,
}

/// How to find the piles; shared with captures.
#[derive(Clone)]
struct Finder {
    tasks: Tasks,
    workloads: Workloads,
    symbols: Symbols,
}

impl Finder {
    /// Every pile of at least `least` tasks that are blocked for `blocked`, by workload; those of the others together
    /// are the node's, by `None`, however few.
    fn piles(&self, blocked: Duration, least: usize) -> anyhow::Result<HashMap<Option<WorkloadKey>, Pile>> {
        let mut found = self.tasks.blocked(blocked)?;
        found.retain(|t| t.blocked_for.is_some());
        if found.len() < least {
            return Ok(HashMap::from([(None, Pile { workload: None, tasks: found })]));
        }
        let mut piles: HashMap<Option<WorkloadKey>, Pile> = HashMap::new();
        for task in found {
            let workload = self.workloads.of_process(task.thread.pid, task.cgroup);
            let is_own = workload.as_ref().is_some_and(|w| w.kind == WorkloadKind::Own);
            if is_own || Wait::of(&self.symbols.kernel(&task.stack)).is_ordinary(task.freezable) {
                continue;
            }
            let pile = piles.entry(workload.as_ref().map(|w| w.key)).or_default();
            pile.workload = workload;
            pile.tasks.push(task);
        }
        let small: Vec<_> =
            piles.iter().filter(|(k, p)| k.is_some() && p.tasks.len() < least).map(|(k, _)| *k).collect();
        let of_small: Vec<Blocked> = small.iter().filter_map(|k| piles.remove(k)).flat_map(|p| p.tasks).collect();
        piles.entry(None).or_default().tasks.extend(of_small);
        Ok(piles)
    }
}

/// The collector.
pub struct DLoad {
    config: Config,
    host: Host,
    filters: Filters,
    finder: Finder,
    detector: Detector<Option<WorkloadKey>>,
    /// Blocked tasks of all workloads.
    readings: Readings,
    /// No walk before that.
    rest_until_ns: u64,
}

impl Collector for DLoad {
    const INFO: Info = Info {
        name: "dload",
        summary: "tasks that pile up in uninterruptible sleep, with their stacks and what they wait for",
        doc: head_doc(include_str!("dload.rs")),
        needs: &[Tasks::BLOCKED],
        capabilities: &["CAP_SYSLOG"],
        events: &[&DLOAD],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let (tasks, workloads) = (cx.shared::<Tasks>()?, cx.workloads.clone());
        Ok(DLoad {
            config,
            host: cx.host.clone(),
            filters: cx.filters.clone(),
            finder: Finder { tasks, workloads, symbols: cx.symbols.clone() },
            detector: Detector::default(),
            readings: Readings::default(),
            rest_until_ns: 0,
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl AutoTracer for DLoad {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        if now.boot_ns < self.rest_until_ns {
            return Ok(Vec::new());
        }
        let begin = Instant::now();
        let piles = self.finder.piles(self.config.blocked.get(), self.config.tasks as usize)?;
        let rest = (begin.elapsed() * REST).min(MAX_REST);
        self.rest_until_ns = now.boot_ns.saturating_add(ns(rest));
        self.readings.push(now, piles.values().map(|p| p.tasks.len()).sum::<usize>() as f64);
        let rules = self.config.rules();
        let mut changes = Vec::new();
        for (key, pile) in &piles {
            let wanted = pile.workload.as_ref().is_none_or(|w| self.filters.pass(Self::INFO.name, Some(w)));
            let reading = Reading { value: pile.tasks.len() as f64, negligible: false, wanted };
            let step = self.detector.step(&rules, *key, reading, now);
            changes.extend(self.change(*key, step, Some(pile), now));
        }
        for (key, step) in self.detector.end_round(&rules, now) {
            changes.extend(self.change(key, step, None, now));
        }
        Ok(changes)
    }

    fn capture(
        &mut self,
        trigger: &Trigger,
        limits: Limits,
        _: Parts,
    ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static {
        let (finder, host, clock_start) = (self.finder.clone(), self.host.clone(), trigger.detected);
        // Of a workload also what is left of a pile that shrinks, and no other's; of the node, what is in no pile.
        let least = if trigger.target.workload.is_some() { 1 } else { self.config.tasks as usize };
        let blocked = self.config.blocked.get();
        let readings = self.readings.evidence("blocked_tasks", "{task}");
        let target = trigger.target.clone();
        let watches = DEVICES.min(limits.duration);
        async move {
            let (before, begin) = (host.disks(), Instant::now());
            let mut piles = tokio::task::block_in_place(|| finder.piles(blocked, least))?;
            let pile = piles.remove(&target.workload).unwrap_or_default();
            tokio::time::sleep(watches.saturating_sub(begin.elapsed())).await;
            let mut evidence = tokio::task::block_in_place(|| evidence::of_pile(&pile.tasks, &finder, limits));
            if let (Ok(before), Ok(after)) = (before, host.disks()) {
                evidence.extend(evidence::devices(&before, &after, begin.elapsed()));
            }
            evidence.push(readings);
            let end = clock_start.plus(begin.elapsed());
            Ok(Capture { evidence, ..Capture::new("blocked_tasks", target, clock_start, end) })
        }
    }
}

impl DLoad {
    fn change(&self, key: Option<WorkloadKey>, step: Step, pile: Option<&Pile>, now: Now) -> Option<Change> {
        match step {
            Step::Nothing | Step::Begin | Step::Hold => None,
            Step::Open { since, taken, .. } => Some(Change::Onset(self.trigger(pile?, since, taken, now))),
            Step::Drop => Some(Change::Discarded(target(key))),
            Step::Recover => Some(Change::Recovered(target(key), now.wall)),
        }
    }

    fn trigger(&self, pile: &Pile, since: Now, capture: bool, now: Now) -> Trigger {
        let longest = pile.tasks.iter().filter_map(|t| t.blocked_for).max().unwrap_or_default();
        let wait = evidence::usual_wait(&pile.tasks, &self.finder);
        let owner = pile.workload.as_ref().map_or("the node's other workloads", |w| w.display_name());
        let mut attributes = Attributes::new();
        attributes.set(TASKS, pile.tasks.len()).set_some(WAIT, wait.on);
        attributes.set(LONGEST, ns(longest));
        let (n, seconds) = (pile.tasks.len(), longest.as_secs_f64());
        let what = wait.words().map(|what| format!(", most wait for {what}")).unwrap_or_default();
        Trigger {
            target: target(pile.workload.as_ref().map(|w| w.key)),
            def: &DLOAD,
            severity: DLOAD.severity,
            onset: since.wall,
            detected: now.wall,
            workload: pile.workload.clone(),
            message: format!("{n} tasks of {owner} are blocked in the kernel, for up to {seconds:.1} s{what}"),
            attributes,
            links: Links::default(),
            capture,
        }
    }
}

fn target(workload: Option<WorkloadKey>) -> Target {
    Target { collector: DLoad::INFO.name, workload, detail: None }
}

#[cfg(test)]
mod tests;
