// SPDX-License-Identifier: Apache-2.0
//! A lockup on its way to an event: it waits for what the other CPUs say.

use std::time::Duration;

use super::LOCKED_UP;
use crate::collectors::Context;
use crate::host::Clock;
use crate::probe::skeletons::softlockup::{CpuSeen, FoundAt, Lockup, LockupPhase};
use crate::probe::stacks::Symbols;
use crate::probe::{CallStack, CgroupId};
use crate::signal::ids::StackKey;
use crate::signal::semconv::attr;
use crate::signal::{Event, Role, Severity, Thread, Value, Workload};
use crate::workload::Workloads;

/// What the kernel's watchdog writes: `watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [comm:pid]`
/// (watchdog_timer_fn in kernel/watchdog.c).
#[derive(Debug, PartialEq, Eq)]
pub struct WatchdogLine {
    pub cpu: u32,
    pub stuck: Duration,
    pub comm: String,
    pub tid: u32,
}

impl WatchdogLine {
    pub fn parse(text: &str) -> Option<Self> {
        let (cpu, rest) = text.split_once("BUG: soft lockup - CPU#")?.1.split_once(" stuck for ")?;
        let (seconds, rest) = rest.split_once("s! [")?;
        let (comm, tid) = rest.rsplit_once(']')?.0.rsplit_once(':')?;
        Some(WatchdogLine {
            cpu: cpu.parse().ok()?,
            stuck: Duration::from_secs(seconds.parse().ok()?),
            comm: comm.to_owned(),
            tid: tid.parse().ok()?,
        })
    }
}

/// Addresses, and the process that they belong to.
struct Found {
    cgroup: Option<CgroupId>,
    thread: Thread,
    stack: Option<CallStack>,
}

/// Another CPU.
struct Other {
    cpu: u32,
    mode: &'static str,
    found: Found,
}

/// What is known of a lockup so far.
pub struct Pending {
    pub cpu: u32,
    pub by_kernel: bool,
    /// When the CPUs were asked (`CLOCK_BOOTTIME`).
    pub asked_ns: u64,
    phase: &'static str,
    time_ns: u64,
    stuck: Duration,
    steal_ns: Option<u64>,
    culprit: Found,
    others: Vec<Other>,
}

impl Pending {
    /// We saw it ourselves.
    pub fn seen(r: &Lockup, by_kernel: bool, now_ns: u64) -> Self {
        // The watchdog was first, so this is not its beginning.
        let first = r.phase == LockupPhase::LOCKUP_BEGUN && !by_kernel;
        Self::of(r, if first { "begun" } else { "lasting" }, by_kernel, now_ns)
    }

    pub fn ended(r: &Lockup, by_kernel: bool) -> Self {
        Self::of(r, "ended", by_kernel, 0)
    }

    fn of(r: &Lockup, phase: &'static str, by_kernel: bool, asked_ns: u64) -> Self {
        Pending {
            cpu: r.at.cpu,
            by_kernel,
            asked_ns,
            phase,
            time_ns: r.time_ns,
            stuck: Duration::from_nanos(r.stuck_ns),
            steal_ns: Some(r.steal_ns),
            culprit: Found::at(&r.at),
            others: Vec::new(),
        }
    }

    /// The watchdog was first.
    pub fn said(line: &WatchdogLine, now_ns: u64) -> Self {
        Pending {
            cpu: line.cpu,
            by_kernel: true,
            asked_ns: now_ns,
            phase: "begun",
            time_ns: now_ns,
            stuck: line.stuck,
            steal_ns: None,
            culprit: Found {
                cgroup: None,
                thread: Thread { pid: line.tid, tid: line.tid, comm: line.comm.clone() },
                stack: None,
            },
            others: Vec::new(),
        }
    }

    /// A CPU says what it does; its first answer counts.
    pub fn answered(&mut self, r: &CpuSeen) {
        let cpu = r.at.cpu;
        if cpu != self.cpu {
            let mode = if r.idle != 0 { "idle" } else { ["kernel", "user"][usize::from(r.user_mode != 0)] };
            if !self.others.iter().any(|o| o.cpu == cpu) {
                self.others.push(Other { cpu, mode, found: Found::at(&r.at) });
            }
        } else if self.culprit.is_unseen() && r.at.thread.tid == self.culprit.thread.tid {
            self.culprit = Found::at(&r.at);
        }
    }

    pub fn is_complete(&self, cpus: usize) -> bool {
        self.others.len() + 1 >= cpus && !self.culprit.is_unseen()
    }
}

impl Found {
    /// Nobody has looked where it is.
    fn is_unseen(&self) -> bool {
        self.stack.as_ref().is_none_or(|s| s.kernel().is_empty())
    }

    fn at(at: &FoundAt) -> Self {
        Found { cgroup: Some(at.cgroup.into()), thread: at.thread.into(), stack: Some(at.stack) }
    }
}

/// Makes events.
pub struct Reporter {
    clock: Clock,
    workloads: Workloads,
    symbols: Symbols,
}

impl Reporter {
    pub fn new(cx: &Context<'_>) -> Self {
        Reporter { clock: cx.clock.clone(), workloads: cx.workloads.clone(), symbols: cx.symbols.clone() }
    }

    pub fn event(&self, mut p: Pending) -> Event {
        let culprit = p.culprit;
        let workload = match culprit.cgroup {
            Some(cgroup) => self.workloads.of_process(culprit.thread.pid, cgroup),
            None => self.workloads.of_pid(culprit.thread.pid),
        };
        let mut e = Event::new(&LOCKED_UP, self.clock.wall(p.time_ns), None, String::new());
        if p.phase == "ended" {
            e.severity = Severity::Info;
        }
        e.duration = Some(p.stuck);
        if let Some(stack) = &culprit.stack {
            (e.kernel_stack, e.user_stack) = self.symbols.both(culprit.thread.pid, stack);
        }
        let of = Workload::message_suffix(workload.as_ref());
        let (cpu, seconds, thread) = (p.cpu, p.stuck.as_secs_f64(), culprit.thread);
        let (comm, pid) = (&thread.comm, thread.pid);
        e.message = match p.phase {
            "ended" => format!("CPU {cpu} was stuck in the kernel for {seconds:.1} s in {comm} (pid {pid}){of}"),
            _ => format!("CPU {cpu} has been stuck in the kernel for {seconds:.1} s in {comm} (pid {pid}){of}"),
        };
        e.attributes
            .set(attr::LINUX_PHASE, p.phase)
            .set(attr::CPU_LOGICAL_NUMBER, cpu)
            .set_some(attr::LINUX_CPU_STEAL, p.steal_ns)
            .set(super::LOCKUP_BY_KERNEL, p.by_kernel);
        if p.phase != "ended" {
            p.others.sort_by_key(|o| o.cpu);
            let others = p.others.iter().map(|o| self.other(o, &mut e.late_stacks)).collect();
            e.attributes.set(super::LOCKUP_CPUS, Value::Array(others));
        }
        e.thread = Some(thread.clone());
        e.involve(Role::Culprit, workload, thread);
        e
    }

    fn other(&self, o: &Other, late: &mut Vec<StackKey>) -> Value {
        let mut cells = vec![
            (attr::CPU_LOGICAL_NUMBER, Value::from(o.cpu)),
            (attr::CPU_MODE, o.mode.into()),
            (attr::PROCESS_PID, o.found.thread.pid.into()),
            (attr::THREAD_NAME, o.found.thread.comm.clone().into()),
        ];
        if let Some(w) = o.found.cgroup.and_then(|c| self.workloads.of_process(o.found.thread.pid, c)) {
            cells.push((attr::LINUX_CGROUP_PATH, w.cgroup.clone().into()));
        }
        if let Some(stack) = &o.found.stack {
            let (kernel, user) = self.symbols.both(o.found.thread.pid, stack);
            cells.push((attr::LINUX_STACK_KERNEL, kernel.text().to_owned().into()));
            cells.push((attr::LINUX_STACK_USER, user.text().to_owned().into()));
            if let Some(id) = user.id() {
                cells.push((attr::LINUX_STACK_USER_ID, id.to_string().into()));
            }
            late.extend(user.late());
        }
        Value::table_row(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of 5.10 and 6.1, a task named to mislead, and a line of another kind.
    #[test]
    fn reads_the_watchdogs_line() {
        let line = WatchdogLine::parse("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [a:b] c:4711]").unwrap();
        assert_eq!((line.cpu, line.stuck.as_secs(), line.comm.as_str(), line.tid), (3, 22, "a:b] c", 4711));
        assert!(WatchdogLine::parse("watchdog: BUG: soft lockup - CPU#0 stuck for 9s! [spin:77]").is_some());
        assert_eq!(WatchdogLine::parse("rcu: INFO: rcu_preempt self-detected stall on CPU"), None);
    }
}
