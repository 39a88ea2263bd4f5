// SPDX-License-Identifier: Apache-2.0
//! A task keeps a CPU in the kernel and lets nobody else run there.
//!
//! ## What it reports
//! A CPU runs one task in kernel mode for longer than the limit, though it was asked to give way:
//! everything else that is to run on that CPU stands still, and sooner or later the node does. With it
//! the CPU, the task, its container, its kernel stack and how its program came there, and what each
//! other CPU did at that moment.
//!
//! ## How
//! The CPU clock looks at each CPU twice a second. A CPU is stuck while look after look finds the same
//! task, not switched out in between, in kernel mode and marked to give way (TIF_NEED_RESCHED). That is
//! what the kernel's own watchdog looks for, but needs no watchdog and has a limit of its own. Time that
//! the hypervisor took (steal) does not count, nor more than one period for a look that came late. What
//! the watchdog says in the kernel's log is read too; where it speaks first, the CPUs are asked then.
//!
//! ## Signals
//! `linux.cpu.soft_lockup` of `linux.phase` `begun` when the limit is crossed, `lasting` when it has
//! lasted for ten times as long as when it was last reported, or the watchdog had been first, and `ended`
//! (INFO) with all its time. The thread and its container are `linux.culprit`: the node suffers.
//!
//! ## Limits
//! The figures are exact to a look, half a second. A CPU that takes no interrupts is seen when it takes
//! them again, as `linux.irq.held_off`. A task in the kernel for long on a CPU that nobody else wants
//! is no lockup. CPUs that came online after the start are not looked at. The looks wake an idle CPU
//! twice a second.
//!
//! ## What to do next
//! Read the stack from the inside out: which loop does not end, over what (a huge list, a device that
//! does not answer, a lock that spins). Look in `linux.lockup.cpus` for who holds that lock. A driver's
//! function: its version and known errors. The same system call again and again in a container: what
//! it is asked to do there, and how much of it.

mod report;

use std::collections::HashMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, EventCollector, Events, Info, Invalid};
use crate::collectors::{Settings, Unavailable, head_doc};
use crate::host::{Clock, Host, Kmsg, Now};
use crate::probe::skeletons::softlockup::{CpuSeen, Lockup, LockupPhase, Record, Records, SKELETON, setting, switch};
use crate::probe::{Object, Sampling, Table};
use crate::signal::semconv::attr;
use crate::signal::units::{HumanDuration, ns};
use crate::signal::{EventDef, Key, MetricDef, Severity};
use report::{Pending, Reporter, WatchdogLine};

const LOCKUP_CPUS: Key = Key::new("linux.lockup.cpus", "What the other CPUs did at that moment: thread, mode, stacks");
const LOCKUP_BY_KERNEL: Key = Key::new("linux.lockup.reported_by_kernel", "The kernel's own watchdog has reported it");

const BY: &[Key] = &[attr::LINUX_PHASE, attr::LINUX_EVENT_SEVERITY];

static LOCKUPS: MetricDef =
    MetricDef::counter("linux.cpu.soft_lockups", "{event}", "CPUs kept in the kernel longer than the limit, by phase")
        .by(BY);

/// A CPU that is stuck.
pub static LOCKED_UP: EventDef = EventDef {
    name: "linux.cpu.soft_lockup",
    summary: "A task keeps a CPU in the kernel for longer than the limit",
    severity: Severity::Error,
    worst: Severity::Error,
    attributes: &[
        attr::LINUX_PHASE,
        attr::CPU_LOGICAL_NUMBER,
        attr::LINUX_CPU_STEAL,
        LOCKUP_CPUS,
        LOCKUP_BY_KERNEL,
        attr::LINUX_CULPRIT,
    ],
    counter: &LOCKUPS,
    container_counter: None,
};

/// Samples a second.
const HZ: u64 = 2;
const SAMPLE_PERIOD: Duration = Duration::from_millis(1000 / HZ);
/// The other CPUs answer with their next sample; one that is stuck with interrupts off does not.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(3 * 1000 / HZ);
/// How often answers are counted while some are awaited, and the kernel's log is read.
const AWAITING: Duration = Duration::from_millis(200);
const READING: Duration = Duration::from_secs(1);
/// What the watchdog said of a CPU holds for so long: it repeats itself sooner.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Settings of `softlockup`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Report a CPU that a task keeps in the kernel for longer than this. Steal time does not count. At least 2s.
    pub limit: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Config { limit: HumanDuration::from_millis(4000) }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        let range = Duration::from_secs(2)..=Duration::from_secs(600);
        Invalid::unless_within(range, "limit", self.limit, "from 2s to 10m")
    }
}

/// A lockup that was reported.
struct Known {
    tid: u32,
    /// When the watchdog last spoke of it; `None`: it did not.
    by_kernel: Option<u64>,
    /// We have seen it ourselves, so that its end will be seen too.
    seen: bool,
}

/// The collector.
pub struct SoftLockup {
    object: Object,
    _looks: Sampling,
    questions: Table<u32, u64>,
    clock: Clock,
    host: Host,
    /// `None`: the log may not be read here.
    log: Option<Kmsg>,
    reporter: Reporter,
    /// By CPU.
    known: HashMap<u32, Known>,
    pending: Vec<Pending>,
}

impl Collector for SoftLockup {
    const INFO: Info = Info {
        name: "softlockup",
        summary: "CPUs kept in kernel mode by one task",
        doc: head_doc(include_str!("softlockup.rs")),
        enabled: true,
        needs: &[],
        object: Some(&SKELETON),
        optional: &[],
        // CAP_SYSLOG: kernel symbols, the kernel's log.
        capabilities: &["CAP_SYSLOG"],
        metrics: &[],
        events: &[&LOCKED_UP],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let period = u64::try_from(SAMPLE_PERIOD.as_nanos()).unwrap_or(u64::MAX);
        let options = SKELETON.options().switch(switch::PERIOD_NS, period);
        let object = cx.load(options.setting(setting::LIMIT_NS, config.limit.ns()))?;
        let unavailable = |e: anyhow::Error| Unavailable::because(format!("{e:#}"));
        let log = Kmsg::open_at_end(cx.host)
            .inspect_err(|e| {
                tracing::warn!("softlockup: the kernel's log is not readable, its watchdog is not heard: {e}")
            })
            .ok();
        let looks = object.sample("look", HZ).map_err(unavailable)?;
        looks.start().map_err(unavailable)?;
        Ok(SoftLockup {
            _looks: looks,
            questions: object.table("questions").map_err(unavailable)?,
            object,
            clock: cx.clock.clone(),
            host: cx.host.clone(),
            log,
            reporter: Reporter::new(cx),
            known: HashMap::new(),
            pending: Vec::new(),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.object.set(setting::LIMIT_NS, config.limit.ns())
    }
}

impl EventCollector for SoftLockup {
    type Records = Records;

    fn on_record(&mut self, record: Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        match record {
            Record::Lockup(r) => self.locked_up(r, out),
            Record::CpuSeen(r) => self.seen(r, out),
        }
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        if !self.pending.is_empty() {
            return Some(AWAITING);
        }
        self.log.as_ref().map(|_| READING)
    }

    fn tick(&mut self, now: Now, out: &mut Events) -> anyhow::Result<()> {
        let timeout = ns(ANSWER_TIMEOUT);
        for p in self.pending.extract_if(.., |p| now.boot_ns.saturating_sub(p.asked_ns) >= timeout) {
            out.emit(self.reporter.event(p));
        }
        self.known.retain(|_, k| {
            let said = k.by_kernel.is_some_and(|at| now.boot_ns.saturating_sub(at) < ns(FORGOTTEN));
            k.seen || said
        });
        self.listen(now)
    }
}

impl SoftLockup {
    /// Our own look found one, or its end.
    fn locked_up(&mut self, r: &Lockup, out: &mut Events) {
        let cpu = r.at.cpu;
        if r.phase == LockupPhase::LOCKUP_ENDED {
            let by_kernel = self.known.remove(&cpu).is_some_and(|k| k.by_kernel.is_some());
            out.emit(self.reporter.event(Pending::ended(r, by_kernel)));
            return;
        }
        let tid = r.at.thread.tid;
        let known = self.known.entry(cpu).or_insert(Known { tid, by_kernel: None, seen: false });
        if known.tid != tid {
            *known = Known { tid, by_kernel: None, seen: false };
        }
        known.seen = true;
        let by_kernel = known.by_kernel.is_some();
        self.pending.push(Pending::seen(r, by_kernel, self.clock.boot_ns()));
    }

    /// A CPU answered.
    fn seen(&mut self, r: &CpuSeen, out: &mut Events) {
        self.pending.iter_mut().for_each(|p| p.answered(r));
        let cpus = self.host.stat().map_or(usize::MAX, |s| s.cpus.len());
        for p in self.pending.extract_if(.., |p| p.is_complete(cpus)) {
            out.emit(self.reporter.event(p));
        }
    }

    /// Reads what the kernel's watchdog said.
    fn listen(&mut self, now: Now) -> anyhow::Result<()> {
        let Some(log) = self.log.as_mut() else { return Ok(()) };
        for line in log.drain()?.iter().filter_map(|r| WatchdogLine::parse(&r.text)) {
            let known = self.known.get_mut(&line.cpu).filter(|k| k.tid == line.tid);
            if let Some(known) = known {
                known.by_kernel = Some(now.boot_ns);
                self.pending.iter_mut().filter(|p| p.cpu == line.cpu).for_each(|p| p.by_kernel = true);
                continue;
            }
            self.known.insert(line.cpu, Known { tid: line.tid, by_kernel: Some(now.boot_ns), seen: false });
            // The stack is the CPU's own answer, which every CPU is asked for now.
            self.questions.put(&0, &now.boot_ns)?;
            self.pending.push(Pending::said(&line, now.boot_ns));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;

    /// A limit below some looks would be chance.
    #[test]
    fn limit_is_checked() {
        assert_eq!(Config::default().validate(), Ok(()));
        let e = Config { limit: HumanDuration::from_millis(500) }.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("limit", "from 2s to 10m"));
    }

    fn rig() -> Rig {
        let rig = Rig::new().unwrap();
        rig.write("dev/kmsg", "").unwrap();
        rig
    }

    fn lockup(phase: LockupPhase) -> Lockup {
        let mut r = Lockup { phase, stuck_ns: 5_000_000_000, ..Lockup::new_zeroed() };
        (r.at.cpu, r.at.thread.tgid, r.at.thread.tid) = (1, 42, 42);
        r
    }

    /// One that we see waits for what the other CPUs say, and for those that do not answer no longer than the
    /// patience; its end is reported too.
    #[test]
    fn a_lockup_and_its_end() {
        let rig = rig();
        let mut c = rig.run(&crate::collectors::events::<SoftLockup>(), "").unwrap();
        assert_eq!(c.period(), Some(READING));
        assert!(c.record("lockup", &lockup(LockupPhase::LOCKUP_BEGUN)).unwrap().is_empty());
        assert_eq!(c.period(), Some(AWAITING));
        assert!(c.tick().unwrap().is_empty());
        rig.advance(ANSWER_TIMEOUT);
        let e = c.tick().unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.cpu.soft_lockup", Severity::Error));
        assert_eq!(e.attributes.get(attr::CPU_LOGICAL_NUMBER.name).and_then(crate::signal::Value::as_int), Some(1));
        let e = c.record("lockup", &lockup(LockupPhase::LOCKUP_ENDED)).unwrap().pop().unwrap();
        assert_eq!(e.attributes.get(attr::LINUX_PHASE.name).and_then(crate::signal::Value::as_str), Some("ended"));
    }

    /// One that the kernel's watchdog speaks of is asked for: every CPU is to answer.
    #[test]
    fn the_watchdogs_word() {
        let rig = rig();
        let mut c = rig.run(&crate::collectors::events::<SoftLockup>(), "").unwrap();
        rig.append("dev/kmsg", "0,9,9,-;watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [spin:42]\n").unwrap();
        assert!(c.tick().unwrap().is_empty());
        let questions = rig.kernel().table::<u32, u64>(&SKELETON, "questions").unwrap();
        assert_eq!(questions.get(&0).unwrap(), Some(rig.clock().boot_ns()));
        rig.advance(ANSWER_TIMEOUT);
        let e = c.tick().unwrap().pop().unwrap();
        assert_eq!(e.thread.unwrap().comm, "spin");
    }
}
