// SPDX-License-Identifier: Apache-2.0
//! A task sleeps and cannot be woken.
//!
//! ## What it reports
//! A task is in uninterruptible sleep (state D) for longer than the limit: it waits for a disk, a file
//! server or a lock, and nothing that it was to do gets done; no signal ends it, but where
//! `linux.hung.killable` says so. With it how long, its container, its kernel stack, what the stack
//! shows of what it waits for, and who holds the lock where the kernel records that.
//!
//! ## How
//! A walk over all tasks (BPF's task iterator) four times within the limit. The scheduler keeps when a
//! task was last on a CPU (`se.exec_start`), so one walk shows for how long it has slept, to a few
//! milliseconds; where it does not, a task counts from the first walk that saw it, as long as its
//! number of context switches stays the same. The kernel's own detector (`sched:sched_process_hang`,
//! `kernel.hung_task_timeout_secs`) is used too: it triggers a walk, and the event records it.
//! Frozen and stopped tasks, idle workers and parents that wait for a vfork(2) child are no hang.
//!
//! ## Signals
//! `linux.task.hung` of `linux.phase` `begun` when a task is over the limit, `lasting` when it has
//! been so for ten times as long as when it was last reported, and `ended` (INFO) with all its time.
//!
//! ## Limits
//! The end is seen by the next walk, a quarter of the limit late at most. What it waits for is derived
//! from function names only: the kernel does not say which inode or device it is. The lock and who has
//! it are known since 6.16 (`CONFIG_DETECT_HUNG_TASK_BLOCKER`). A task that may be frozen where it
//! sleeps (TASK_FREEZABLE) is reported only if its stack shows that it waits for a file server. A walk
//! reports 4,096 tasks at most.
//!
//! ## What to do next
//! `linux.hung.wait` says what kind of thing is stuck. `frozen_filesystem`: who ran fsfreeze or a
//! snapshot. `block_*`, `page`, `journal`: the disk; see its queue, `dmesg`, and hung I/O of other
//! tasks. `nfs`, `smb`, `ceph`, `fuse`: the server. A lock: look at `linux.culprit`, and what it waits
//! for itself. Many tasks with one `linux.hung.lock.address` have one cause: the one that holds it.

mod hangs;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::task_wait::Wait;
use crate::collectors::{Collector, Context, EventCollector, Events, Info, Invalid, Optional};
use crate::collectors::{Settings, Unavailable, head_doc};
use crate::host::{Clock, Now};
use crate::probe::shared::Tasks;
use crate::probe::shared::tasks::Blocked;
use crate::probe::skeletons::hungtask::{Record, Records, SKELETON};
use crate::probe::stacks::Symbols;
use crate::signal::semconv::attr;
use crate::signal::units::HumanDuration;
use crate::signal::{Event, EventDef, Key, MetricDef, Role, Severity, Value, Workload};
use crate::workload::Workloads;
use hangs::{Hang, Hangs, Phase};

const HUNG_FUNCTION: Key = Key::new("linux.hung.function", "The kernel's function that it waits in");
const HUNG_WAIT: Key =
    Key::new("linux.hung.wait", "What it waits for, as that function tells: mutex, page, journal, nfs, …");
const HUNG_FILESYSTEM: Key = Key::new("linux.hung.filesystem", "The file system that it is in");
const HUNG_LOCK: Key =
    Key::new("linux.hung.lock", "The lock that it waits for: mutex, semaphore, rwsem_read, rwsem_write");
const HUNG_LOCK_ADDRESS: Key =
    Key::new("linux.hung.lock.address", "Its address: tasks with the same one wait for each other");
const HUNG_LOCK_HINT: Key =
    Key::new("linux.hung.lock.owner_is_hint", "The culprit had the lock, but may have let go of it");
const HUNG_IOWAIT: Key = Key::new("linux.hung.iowait", "It waits for I/O");
const HUNG_KILLABLE: Key = Key::new("linux.hung.killable", "A fatal signal would end the wait");
const HUNG_TASKS: Key = Key::new("linux.hung.tasks", "Hung tasks of this workload at that moment");
const HUNG_BY_KERNEL: Key = Key::new("linux.hung.reported_by_kernel", "The kernel's own detector has reported it");

const BY: &[Key] = &[attr::LINUX_PHASE, attr::LINUX_EVENT_SEVERITY];

static HANGS: MetricDef =
    MetricDef::counter("linux.task.hangs", "{event}", "Tasks blocked for longer than the limit").by(BY);
static CONTAINER_HANGS: MetricDef =
    MetricDef::counter("linux.container.task.hangs", "{event}", "The workload's tasks blocked for too long").by(BY);

/// A task that sleeps too long.
pub static HUNG: EventDef = EventDef {
    name: "linux.task.hung",
    summary: "A task is in uninterruptible sleep for longer than the limit",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[
        attr::LINUX_PHASE,
        HUNG_FUNCTION,
        HUNG_WAIT,
        HUNG_FILESYSTEM,
        HUNG_LOCK,
        HUNG_LOCK_ADDRESS,
        HUNG_LOCK_HINT,
        HUNG_IOWAIT,
        HUNG_KILLABLE,
        HUNG_TASKS,
        HUNG_BY_KERNEL,
        attr::LINUX_CULPRIT,
    ],
    counter: &HANGS,
    container_counter: Some(&CONTAINER_HANGS),
};

/// Walks within the limit.
const WALKS: u32 = 4;
/// No walk sooner than that after another: it looks at every task of the node.
const MIN_PERIOD: Duration = Duration::from_millis(500);
/// Nor later: the end of a hang is seen by a walk.
const MAX_PERIOD: Duration = Duration::from_secs(5);

/// Settings of `hungtask`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Report a task that is in uninterruptible sleep for longer than this. At least 1s.
    pub limit: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Config { limit: HumanDuration::from_millis(10_000) }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        Invalid::unless_within(range, "limit", self.limit, "from 1s to 1h")
    }
}

/// The collector.
pub struct HungTask {
    limit: Duration,
    tasks: Tasks,
    hangs: Hangs,
    clock: Clock,
    workloads: Workloads,
    symbols: Symbols,
}

impl Collector for HungTask {
    const INFO: Info = Info {
        name: "hungtask",
        summary: "tasks in uninterruptible sleep: where, for how long, and what they wait for",
        doc: head_doc(include_str!("hungtask.rs")),
        enabled: true,
        needs: &[Tasks::BLOCKED],
        object: Some(&SKELETON),
        optional: &[Optional { slot: "hang", lost: "whether the kernel's own detector spoke" }],
        // CAP_SYSLOG: kernel symbols.
        capabilities: &["CAP_SYSLOG"],
        metrics: &[],
        events: &[&HUNG],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let tasks = cx.shared::<Tasks>()?;
        cx.load(SKELETON.options())?;
        Ok(HungTask {
            limit: config.limit.get(),
            tasks,
            hangs: Hangs::default(),
            clock: cx.clock.clone(),
            workloads: cx.workloads.clone(),
            symbols: cx.symbols.clone(),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.limit = config.limit.get();
        Ok(())
    }
}

impl EventCollector for HungTask {
    type Records = Records;

    /// The kernel's own detector, with a limit that may be below ours, fired: that task is examined
    /// now. One that has woken up meanwhile lasted no longer than that limit, and is let go.
    fn on_record(&mut self, Record::KernelHung(r): Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        if self.hangs.announce((r.thread.tid, r.start_ns, r.switches)) {
            return Ok(());
        }
        self.walk(Duration::ZERO, out)
    }

    fn period(&self) -> Option<Duration> {
        Some((self.limit / WALKS).clamp(MIN_PERIOD, MAX_PERIOD))
    }

    fn tick(&mut self, _: Now, out: &mut Events) -> anyhow::Result<()> {
        self.walk(self.limit, out)
    }
}

impl HungTask {
    fn walk(&mut self, at_least: Duration, out: &mut Events) -> anyhow::Result<()> {
        let found = self.tasks.blocked(at_least)?;
        let symbols = &self.symbols;
        let excused = |task: &Blocked| Wait::of(&symbols.kernel(&task.stack)).is_ordinary(task.freezable);
        for (phase, hang) in self.hangs.walked(found, self.limit, excused) {
            out.emit(self.event(phase, &hang));
        }
        Ok(())
    }

    fn event(&self, phase: Phase, hang: &Hang) -> Event {
        let task = &hang.task;
        // Of one that has ended, the last walk that saw it and this one are all that is known.
        let now_ns = if phase == Phase::Ended { self.clock.boot_ns() } else { task.time_ns };
        let lasted = Duration::from_nanos(now_ns.saturating_sub(hang.since_ns));
        let workload = self.workloads.of_process(task.thread.pid, task.cgroup);
        let mut e = Event::new(&HUNG, self.clock.wall(now_ns), workload, String::new());
        e.kernel_stack = self.symbols.kernel(&task.stack);
        let wait = Wait::of(&e.kernel_stack);
        e.duration = Some(lasted);
        e.thread = Some(task.thread.clone());
        e.message = message(phase, &e, &wait);
        if phase == Phase::Ended {
            e.severity = Severity::Info;
        }
        e.attributes
            .set(attr::LINUX_PHASE, phase.name())
            .set_some(HUNG_FUNCTION, wait.function)
            .set_some(HUNG_WAIT, wait.on)
            .set_some(HUNG_FILESYSTEM, wait.filesystem)
            .set(HUNG_IOWAIT, task.in_iowait)
            .set(HUNG_KILLABLE, task.killable)
            .set(HUNG_BY_KERNEL, hang.by_kernel)
            .set(HUNG_TASKS, self.hangs.under_way().filter(|h| h.task.cgroup == task.cgroup).count());
        self.say_lock(&mut e, task);
        e
    }

    fn say_lock(&self, e: &mut Event, task: &Blocked) {
        let Some(lock) = &task.lock else { return };
        e.attributes.set(HUNG_LOCK, lock.kind).set(HUNG_LOCK_ADDRESS, Value::address(lock.address));
        if let Some(owner) = &lock.owner {
            e.attributes.set(HUNG_LOCK_HINT, owner.hint);
            e.involve(Role::Culprit, self.workloads.of_process(owner.thread.pid, owner.cgroup), owner.thread.clone());
        }
    }
}

/// One line: who, for how long and for what.
fn message(phase: Phase, e: &Event, wait: &Wait) -> String {
    let thread = e.thread.clone().unwrap_or_default();
    let of_workload = Workload::message_suffix(e.workload.as_ref());
    let seconds = e.duration.unwrap_or_default().as_secs();
    let who = format!("{} (pid {}){of_workload}", thread.comm, thread.pid);
    match phase {
        Phase::Ended => format!("{who} was blocked in the kernel for {seconds} s"),
        _ => {
            let what = wait.words().map(|what| format!(", waits for {what}")).unwrap_or_default();
            format!("{who} has been blocked in the kernel for {seconds} s{what}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use crate::collectors::testing::Rig;
    use crate::probe::skeletons::tasks::{self, BlockedTask};

    /// A limit that ordinary I/O would cross is refused with what would be valid.
    #[test]
    fn limit_is_checked() {
        assert_eq!(Config::default().validate(), Ok(()));
        let e = Config { limit: HumanDuration::from_millis(10) }.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("limit", "from 1s to 1h"));
    }

    /// From the walk over the tasks to the event of a hang, and of its end.
    #[test]
    fn a_hang_and_its_end() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        rig.symbol(0xffff_ffff_8100_0000, "nfs_wait_bit_killable").unwrap();
        let mut c = rig.run(&crate::collectors::events::<HungTask>(), "").unwrap();
        let mut r = BlockedTask::new_zeroed();
        (r.time_ns, r.blocked_ns, r.start_ns, r.switches) = (rig.clock().boot_ns(), 20_000_000_000, 7, 5);
        (r.cgroup.id, r.thread.tgid, r.thread.tid) = (cgroup.id, 42, 43);
        r.thread.comm[..2].copy_from_slice(b"cp");
        (r.stack[0], r.stack_bytes, r.killable) = (0xffff_ffff_8100_0010, 8, 1);
        rig.kernel().iterates(&tasks::SKELETON, "walk", r.as_bytes());
        let e = c.tick().unwrap().pop().unwrap();
        assert_eq!(
            (e.def.name, e.severity, e.duration),
            ("linux.task.hung", Severity::Warn, Some(Duration::from_secs(20)))
        );
        assert!(
            e.message.starts_with("cp (pid 42) of a.service has been blocked in the kernel for 20 s"),
            "{}",
            e.message
        );
        let text =
            |e: &Event, key: crate::signal::Key| e.attributes.get(key.name).and_then(Value::as_str).map(str::to_owned);
        assert_eq!(text(&e, HUNG_WAIT).as_deref(), Some("nfs"));
        assert!(c.tick().unwrap().is_empty());
        rig.kernel().iterates(&tasks::SKELETON, "walk", &r.as_bytes()[..100]);
        let e = c.tick().unwrap().pop().unwrap();
        assert_eq!((e.severity, text(&e, attr::LINUX_PHASE).as_deref()), (Severity::Info, Some("ended")));
    }
}
