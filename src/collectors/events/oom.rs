// SPDX-License-Identifier: Apache-2.0
//! The OOM killer killed a task.
//!
//! ## What it reports
//! Who was killed and in which container, which thread's allocation failed, which limit
//! was reached (the node's memory, a memory cgroup's, a cpuset's), and how memory stood: the cgroup's
//! `memory.stat` and `memory.events`, its largest processes, the victim's memory by kind, the node's. The
//! stacks are those of the thread that allocated (`linux.trigger`).
//!
//! ## How
//! `oom:mark_victim` (include/trace/events/oom.h), once for each task that is killed, so group kills
//! are complete. The kernel side takes the victim's figures and the usage and limit of its memory
//! cgroup and ancestors at that instant; the rest is read right after, beside the kill, which it does
//! not delay. Constraint and cgroup come from the kernel's own `oom-kill:` line (mm/oom_kill.c), or
//! from a kprobe where there is one and the log may not be read.
//!
//! ## Signals
//! `linux.memory.oom_kill`, one for each victim.
//!
//! ## Limits
//! `memory.stat` is read some milliseconds after the kill began: what the victim held may be gone from
//! it already; usage and limit are of the kill itself. Where the trigger is the victim, there is a user
//! stack only if it was read before the program was gone. Without CAP_SYSLOG (where `dmesg_restrict` is
//! set) and without kprobes the constraint is `unknown`.
//!
//! ## What to do next
//! Constraint `memcg`: compare `linux.oom.memory.stat` (anon: the program's heap; file: page cache;
//! slab, shmem, sock: the kernel on its behalf) with the limit; raise the limit or find what grew.
//! Constraint `none`: the node itself is full; look at `linux.oom.processes` and what has no limit.
//! The same container again and again: see its memory over time before the first kill.

use std::collections::VecDeque;
use std::time::Duration;

use crate::collectors::{
    Collector, Context, EventCollector, Events, Info, NoSettings, Optional, Unavailable, head_doc,
};
use crate::host::cgroup::Cgroups;
use crate::host::{Clock, Host, Kmsg};
use crate::probe::skeletons::oom::{OomVictim, Record, Records, SKELETON};
use crate::probe::stacks::Symbols;
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Key, MetricDef, Role, Severity, Thread, Value, Workload};
use crate::workload::Workloads;

const PROCESS_COMMAND: Key = Key::new("process.command", "The thread's name (comm)");
const OOM_CONSTRAINT: Key =
    Key::new("linux.oom.constraint", "What ran out: none (the node), cpuset, memory_policy, memcg, unknown");
const OOM_CGROUP: Key = Key::new("linux.oom.cgroup.path", "The cgroup whose limit was reached");
const OOM_USAGE: Key = Key::new("linux.oom.usage", "Bytes charged to that cgroup at the kill").in_unit("By");
const OOM_LIMIT: Key = Key::new("linux.oom.limit", "Its limit in bytes").in_unit("By");
const OOM_CPUSET: Key =
    Key::new("linux.oom.cpuset", "The cpuset whose memory ran out: the last part of its cgroup's path");
const OOM_NODES: Key =
    Key::new("linux.oom.memory_nodes", "The NUMA nodes that the allocation was bound to, as cpuset.mems has them");
const OOM_ORDER: Key = Key::new("linux.oom.order", "Order of the allocation that could not be met");
const OOM_GFP: Key = Key::new("linux.oom.gfp_mask", "Its gfp flags");
const OOM_SCORE_ADJ: Key = Key::new("linux.oom.score_adj", "The victim's oom_score_adj");
const OOM_GROUP: Key = Key::new("linux.oom.group_kill", "memory.oom.group: the whole cgroup was killed");
const OOM_VICTIM_MEMORY: Key =
    Key::new("linux.oom.victim.memory", "The victim's memory in bytes, by kind").in_unit("By");
const OOM_MEMORY_STAT: Key =
    Key::new("linux.oom.memory.stat", "memory.stat of the cgroup, after the kill").in_unit("By");
const OOM_MEMORY_EVENTS: Key = Key::new("linux.oom.memory.events", "memory.events of the cgroup");
const OOM_PROCESSES: Key = Key::new("linux.oom.processes", "The cgroup's (or node's) largest processes that are left");
const OOM_MEMINFO: Key = Key::new("linux.oom.meminfo", "The node's memory in bytes").in_unit("By");

const BY: &[Key] = &[OOM_CONSTRAINT];

static KILLS: MetricDef =
    MetricDef::counter("linux.memory.oom_kills", "{event}", "Tasks that the OOM killer chose").by(BY);
static CONTAINER_KILLS: MetricDef =
    MetricDef::counter("linux.container.memory.oom_kills", "{event}", "The workload's tasks that the OOM killer chose")
        .by(BY);

/// A task was chosen.
pub static OOM_KILL: EventDef = EventDef {
    name: "linux.memory.oom_kill",
    summary: "The OOM killer chose a task",
    severity: Severity::Error,
    worst: Severity::Error,
    attributes: &[
        OOM_CONSTRAINT,
        OOM_CGROUP,
        OOM_USAGE,
        OOM_LIMIT,
        OOM_CPUSET,
        OOM_NODES,
        OOM_ORDER,
        OOM_GFP,
        OOM_SCORE_ADJ,
        OOM_GROUP,
        OOM_VICTIM_MEMORY,
        OOM_MEMORY_STAT,
        OOM_MEMORY_EVENTS,
        OOM_PROCESSES,
        OOM_MEMINFO,
        attr::LINUX_TRIGGER,
    ],
    counter: &KILLS,
    container_counter: Some(&CONTAINER_KILLS),
};

/// `enum oom_constraint` (include/linux/oom.h).
const CONSTRAINTS: [&str; 4] = ["none", "cpuset", "memory_policy", "memcg"];
const UNKNOWN: &str = "unknown";
const TOP_PROCESSES: usize = 10;
/// The group's processes looked at for the largest; a cgroup may hold tens of thousands.
const MAX_PROCESSES: usize = 4096;
/// The kernel's line is written before the tracepoint fires; its reader may still be behind.
const LOG_RETRIES: u32 = 3;
/// The kernel writes ten of them in five seconds at most.
const MAX_LINES: usize = 64;
const LOG_WAIT: Duration = Duration::from_millis(2);

/// The collector.
pub struct Oom {
    clock: Clock,
    host: Host,
    workloads: Workloads,
    symbols: Symbols,
    /// `None`: the log may not be read here.
    log: Option<Kmsg>,
    /// Lines of kills that were not reported yet, and of group kills.
    lines: VecDeque<KillLine>,
    page: u64,
}

impl Collector for Oom {
    const INFO: Info = Info {
        name: "oom",
        summary: "tasks killed for want of memory, with the evidence",
        doc: head_doc(include_str!("oom.rs")),
        enabled: true,
        needs: &[],
        object: Some(&SKELETON),
        optional: &[Optional {
            slot: "kill",
            lost: "the allocation's order and flags; the constraint comes from the kernel's log",
        }],
        // CAP_SYS_PTRACE: the names of the trigger's functions.
        capabilities: &["CAP_SYSLOG", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"],
        metrics: &[],
        events: &[&OOM_KILL],
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        cx.load(SKELETON.options())?;
        let log = Kmsg::open_at_end(cx.host)
            .inspect_err(|e| tracing::warn!("oom: the kernel's log is not readable, constraint may be unknown: {e}"))
            .ok();
        Ok(Oom {
            clock: cx.clock.clone(),
            host: cx.host.clone(),
            workloads: cx.workloads.clone(),
            symbols: cx.symbols.clone(),
            log,
            lines: VecDeque::new(),
            page: crate::host::sys::page_size(),
        })
    }

    fn reload(&mut self, _: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl EventCollector for Oom {
    type Records = Records;

    fn on_record(&mut self, Record::OomVictim(r): Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        // First of all: the trigger is often the victim, and its program is about to be gone.
        let user = self.symbols.user(r.trigger.tgid, r.stack.user());
        let workload = self.victim_workload(r);
        let line = self.log_line(r, workload.as_ref().map(|w| w.cgroup.as_str()));
        let mut e = Event::new(&OOM_KILL, self.clock.wall(r.time_ns), workload, String::new());
        e.thread = Some(self.victim(r));
        self.say_limit(&mut e, r, line.as_ref());
        self.say_victim(&mut e, r);
        self.add_evidence(&mut e);
        let trigger = self.workloads.of_process(r.trigger.tgid, r.trigger_cgroup.into());
        e.involve(Role::Trigger, trigger, r.trigger.into());
        e.kernel_stack = self.symbols.kernel(r.stack.kernel());
        // Addresses in a program that is gone mean nothing, unless their names are on their way.
        if user.late().is_some() || user.iter().any(|f| f.module.is_some()) {
            e.user_stack = user;
        }
        e.message = message(&e);
        out.emit(e);
        Ok(())
    }
}

impl Oom {
    /// The kernel's `oom-kill:` line for this victim; in a burst there is none for some, as the kernel
    /// limits them. Lines of others that are read on the way are kept for those.
    fn log_line(&mut self, r: &OomVictim, cgroup: Option<&str>) -> Option<KillLine> {
        let pid = r.victim.tgid;
        for attempt in 0..LOG_RETRIES {
            if attempt > 0 {
                std::thread::sleep(LOG_WAIT);
            }
            self.read_log()?;
            // A group kill has one line for all of its victims.
            let own = self.lines.iter().rposition(|l| l.pid == pid);
            if let Some(at) = own.or_else(|| self.lines.iter().rposition(|l| l.group && l.covers(r, cgroup))) {
                let line = self.lines.get(at).cloned();
                self.lines.retain(|l| l.pid != pid || l.group);
                return line;
            }
        }
        None
    }

    /// `None`: the log cannot be read at all.
    fn read_log(&mut self) -> Option<()> {
        let records = self.log.as_mut()?.drain().inspect_err(|e| tracing::debug!("kernel log: {e}"));
        for record in records.unwrap_or_default() {
            if record.text.contains("are going to be killed due to memory.oom.group set") {
                // It follows the line of its first victim.
                self.lines.back_mut().into_iter().for_each(|l| l.group = true);
            } else if let Some(mut line) = KillLine::parse(&record.text) {
                line.id = self.id_of(line.cgroup.as_deref());
                self.lines.push_back(line);
            }
        }
        self.lines.drain(..self.lines.len().saturating_sub(MAX_LINES));
        Some(())
    }

    /// Of a cgroup in the memory controller's hierarchy.
    fn id_of(&self, path: Option<&str>) -> Option<u64> {
        let cgroups = Cgroups::read(&self.host).ok()?;
        cgroups.id_of(cgroups.of_controller("memory")?.number, path?).ok()
    }

    fn bytes(&self, pages: u64) -> u64 {
        pages.saturating_mul(self.page)
    }

    fn victim(&self, r: &OomVictim) -> Thread {
        let mut victim = Thread::from(r.victim);
        if r.victim_known == 0 {
            victim.comm = self.host.comm(victim.pid).unwrap_or_default();
        }
        victim
    }

    fn victim_workload(&self, r: &OomVictim) -> Option<std::sync::Arc<Workload>> {
        if r.victim_known == 0 {
            return self.workloads.of_pid(r.victim.tgid);
        }
        self.workloads.of_process(r.victim.tgid, r.victim_cgroup.into())
    }

    /// What ran out, and how it stood at the kill.
    fn say_limit(&self, e: &mut Event, r: &OomVictim, line: Option<&KillLine>) {
        let from_kernel = CONSTRAINTS.get(r.constraint as usize).copied();
        let constraint = from_kernel.or(line.map(|l| l.constraint)).unwrap_or(UNKNOWN);
        e.attributes.set(OOM_CONSTRAINT, constraint);
        if let Some(l) = line {
            e.attributes
                .set_some(OOM_CGROUP, l.cgroup.clone())
                .set_some(OOM_CPUSET, l.cpuset.clone())
                .set_some(OOM_NODES, l.nodes.clone());
            if l.group {
                e.attributes.set(OOM_GROUP, true);
            }
        }
        let groups = r.group_id.iter().zip(r.group_usage_pages.iter().zip(&r.group_limit_pages));
        let groups = groups.filter(|(id, _)| **id != 0);
        let named = groups.clone().find(|(id, _)| line.and_then(|l| l.id) == Some(**id));
        // Where the kernel does not say which ran out: the innermost group that is full. A page counter is charged in
        // batches, hence the slack.
        let full = named.or_else(|| groups.clone().find(|(_, (used, limit))| used.saturating_add(64) >= **limit));
        if let (Some((_, (used, limit))), true) = (full, constraint != CONSTRAINTS[0]) {
            e.attributes.set(OOM_USAGE, self.bytes(*used)).set(OOM_LIMIT, self.bytes(*limit));
        }
        if from_kernel.is_some() {
            e.attributes.set(OOM_ORDER, r.order).set(OOM_GFP, Value::address(r.gfp_mask.into()));
        }
    }

    fn say_victim(&self, e: &mut Event, r: &OomVictim) {
        if r.victim_known == 0 {
            return;
        }
        let kinds = [
            ("anon", r.anon_pages),
            ("file", r.file_pages),
            ("shmem", r.shmem_pages),
            ("swap", r.swap_pages),
            ("virtual", r.total_vm_pages),
        ];
        let bytes = kinds.map(|(name, pages)| (name, self.bytes(pages)));
        e.attributes.set(OOM_VICTIM_MEMORY, Value::figures(bytes));
        e.attributes.set(OOM_SCORE_ADJ, r.oom_score_adj);
    }

    /// Memory figures of the cgroup that ran out, or of the node, from its files.
    fn add_evidence(&self, e: &mut Event) {
        let memcg = e.attributes.get(OOM_CONSTRAINT.name).and_then(Value::as_str) != Some(CONSTRAINTS[0]);
        let named = e.attributes.get(OOM_CGROUP.name).and_then(Value::as_str).map(str::to_owned);
        let path = named.or_else(|| e.workload.as_ref().map(|w| w.cgroup.clone())).filter(|_| memcg);
        let cgroups = Cgroups::read(&self.host).ok();
        let mut processes = None;
        if let (Some(path), Some(cgroups)) = (&path, &cgroups) {
            if let Ok(m) = cgroups.memory(path) {
                e.attributes.set(OOM_MEMORY_STAT, Value::figures(m.stat));
            }
            if let Ok(m) = cgroups.memory_events(path) {
                e.attributes.set(OOM_MEMORY_EVENTS, Value::figures(figures(&m)));
            }
            let hierarchy = cgroups.of_controller("memory").map_or(0, |h| h.number);
            processes = cgroups.pids_below(hierarchy, path, MAX_PROCESSES).ok();
        }
        e.attributes.set(OOM_PROCESSES, Value::Array(self.largest(processes)));
        if let Ok(m) = self.host.meminfo() {
            e.attributes.set(OOM_MEMINFO, Value::figures(m.iter().map(|(n, v)| (n.to_owned(), v))));
        }
    }

    /// The largest of the group's processes; of the node's, where the node ran out.
    fn largest(&self, of: Option<Vec<u32>>) -> Vec<Value> {
        let mut all = match of {
            Some(pids) => pids.into_iter().filter_map(|p| self.host.process(p).ok()).collect(),
            None => self.host.processes().map(|p| p.0).unwrap_or_default(),
        };
        all.sort_by_key(|p| std::cmp::Reverse(p.rss_bytes));
        let cells: fn(_) -> [(Key, Value); 3] = |p: crate::host::proc::Process| {
            [
                (attr::PROCESS_PID, p.pid.into()),
                (PROCESS_COMMAND, p.comm.into()),
                (attr::PROCESS_MEMORY_USAGE, p.rss_bytes.into()),
            ]
        };
        all.into_iter().take(TOP_PROCESSES).map(|p| Value::row(cells(p))).collect()
    }
}

fn figures(m: &crate::host::cgroup::MemoryEvents) -> Vec<(&'static str, u64)> {
    let all = [
        ("low", m.low),
        ("high", m.high),
        ("max", m.max),
        ("oom", m.oom),
        ("oom_kill", m.oom_kill),
        ("oom_group_kill", m.oom_group_kill),
    ];
    all.into_iter().filter_map(|(n, v)| Some((n, v?))).collect()
}

/// One line: who, why and how much.
fn message(e: &Event) -> String {
    let victim = e.thread.clone().unwrap_or_default();
    let of_workload = Workload::message_suffix(e.workload.as_ref());
    let int = |key: Key| e.attributes.get(key.name).and_then(Value::as_int);
    let text = |key: Key| e.attributes.get(key.name).and_then(Value::as_str);
    let constraint = text(OOM_CONSTRAINT);
    let why = match (constraint, int(OOM_LIMIT)) {
        (Some("none"), _) => "the node is out of memory".to_owned(),
        (Some(c @ ("cpuset" | "memory_policy")), _) => {
            let nodes = text(OOM_NODES).unwrap_or("?");
            let bound_by = text(OOM_CPUSET).map_or_else(|| c.replace('_', " "), |name| format!("cpuset {name}"));
            format!("no memory is left on NUMA node {nodes}, which {bound_by} is bound to")
        }
        (_, Some(limit)) => format!("memory limit of {} MiB reached", limit >> 20),
        (Some(c), None) => format!("out of memory, constraint {c}"),
        (None, None) => "out of memory".to_owned(),
    };
    format!("{} (pid {}){of_workload} was killed: {why}", victim.comm, victim.pid)
}

/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a,task_memcg=/a/b,task=x,pid=1,uid=0`
/// (dump_oom_summary in mm/oom_kill.c, since 5.0).
#[derive(Debug, Clone, PartialEq, Eq)]
struct KillLine {
    constraint: &'static str,
    cgroup: Option<String>,
    /// Where nodes of memory are what constrained it: which, and by which cpuset.
    cpuset: Option<String>,
    nodes: Option<String>,
    pid: u32,
    group: bool,
    /// Of the cgroup, while it is there.
    id: Option<u64>,
}

impl KillLine {
    /// Whether the victim was in the group that ran out; of the victim may only the workload be known, which may be
    /// a part of the group or have it as a part.
    fn covers(&self, r: &OomVictim, workload: Option<&str>) -> bool {
        if let (Some(id), 1) = (self.id, r.victim_known) {
            return r.group_id.contains(&id);
        }
        let is_in = |path: &str, group: &str| {
            path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.cgroup.as_deref().zip(workload).is_some_and(|(group, w)| is_in(w, group) || is_in(group, w))
    }

    fn parse(text: &str) -> Option<Self> {
        let fields = text.strip_prefix("oom-kill:")?;
        let (mut cpuset, mut nodes) = (None, None);
        let constraint = match field(fields, "constraint=")? {
            "CONSTRAINT_NONE" => CONSTRAINTS[0],
            "CONSTRAINT_CPUSET" => {
                cpuset = field(fields, ",cpuset=").map(str::to_owned);
                nodes = list(fields, ",mems_allowed=");
                CONSTRAINTS[1]
            }
            "CONSTRAINT_MEMORY_POLICY" => {
                nodes = list(fields, ",nodemask=");
                CONSTRAINTS[2]
            }
            "CONSTRAINT_MEMCG" => CONSTRAINTS[3],
            _ => UNKNOWN,
        };
        // A task's name may hold commas and equal signs: the pid is what follows the last `,pid=`.
        let pid = fields.rsplit_once(",pid=")?.1.split(',').next()?.parse().ok()?;
        let cgroup = field(fields, ",oom_memcg=").map(str::to_owned);
        Some(KillLine { constraint, cgroup, cpuset, nodes, pid, group: false, id: None })
    }
}

/// A list of numbers, which has commas of its own: `0-1,3`.
fn list(fields: &str, name: &str) -> Option<String> {
    let (_, rest) = fields.split_once(name)?;
    let numbers = rest.split(',').take_while(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    Some(numbers.collect::<Vec<_>>().join(",")).filter(|l| !l.is_empty())
}

fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    fields.split_once(name)?.1.split(',').next()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use zerocopy::FromZeros as _;

    use super::*;
    use crate::collectors::testing::Rig;
    use crate::probe::stacks::{Named, Urgency, UserSymbols};
    use crate::probe::{CgroupId, CgroupRef, ThreadRef};
    use crate::signal::Frame;
    use crate::signal::ids::StackKey;

    /// A group kill's line is for all in the group, and for no neighbour of a like name. Where the victim's own groups
    /// are not known, the group may be a part of the workload.
    #[test]
    fn group_lines() {
        let line = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=x,pid=7,uid=0";
        let l = KillLine { group: true, ..KillLine::parse(line).unwrap() };
        let mut r = OomVictim::new_zeroed();
        let covers = |l: &KillLine, r: &OomVictim, workload: &str| l.covers(r, Some(workload));
        assert!(covers(&l, &r, "/a") && covers(&l, &r, "/a/b") && !covers(&l, &r, "/ab"));
        let child = KillLine { cgroup: Some("/a/b".into()), id: Some(5), ..l };
        assert!(covers(&child, &r, "/a") && !covers(&child, &r, "/a/c"));
        r.victim_known = 1;
        assert!(!covers(&child, &r, "/a"), "it was in another part of it");
        r.group_id[1] = 5;
        assert!(covers(&child, &r, "/a"));
    }

    /// Lines of 5.10 and 6.18, and a task named to mislead.
    #[test]
    fn reads_the_kernels_line() {
        let line = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=x,pid=9,pid=77,uid=0";
        let cgroup = Some("/a".into());
        let l = KillLine { constraint: "memcg", cgroup, cpuset: None, nodes: None, pid: 77, group: false, id: None };
        assert_eq!(KillLine::parse(line), Some(l));
        let line = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=tail,pid=5,uid=0";
        let l = KillLine::parse(line).unwrap();
        assert_eq!((l.constraint, l.cgroup, l.nodes, l.pid), ("none", None, None, 5));
        let line = "oom-kill:constraint=CONSTRAINT_CPUSET,nodemask=(null),cpuset=b,mems_allowed=1,3-4,global_oom,task_memcg=/a/b,task=tail,pid=5,uid=0";
        let l = KillLine::parse(line).unwrap();
        assert_eq!((l.constraint, l.cpuset.as_deref(), l.nodes.as_deref()), ("cpuset", Some("b"), Some("1,3-4")));
        let line = "oom-kill:constraint=CONSTRAINT_MEMORY_POLICY,nodemask=1,cpuset=/,mems_allowed=0-1,global_oom,task_memcg=/,task=tail,pid=5,uid=0";
        let l = KillLine::parse(line).unwrap();
        assert_eq!((l.constraint, l.cpuset, l.nodes.as_deref()), ("memory_policy", None, Some("1")));
        assert_eq!(KillLine::parse("Out of memory: Killed process 5 (tail)"), None);
    }

    fn victim(rig: &Rig, cgroup: CgroupId) -> OomVictim {
        let thread = |pid, name: &[u8; 4]| {
            let mut t = ThreadRef { tgid: pid, tid: pid, comm: [0; 16] };
            t.comm[..4].copy_from_slice(name);
            t
        };
        let mut r = OomVictim::new_zeroed();
        (r.time_ns, r.victim_known, r.constraint) = (rig.clock().boot_ns(), 1, u32::MAX);
        (r.victim, r.trigger) = (thread(77, b"hogs"), thread(78, b"asks"));
        r.victim_cgroup = CgroupRef { id: cgroup.id, hierarchy: cgroup.hierarchy, reserved: 0 };
        r.anon_pages = 10;
        (r.group_id[0], r.group_usage_pages[0], r.group_limit_pages[0]) = (cgroup.id, 256, 256);
        r
    }

    /// The record says who and how much, the kernel's log why, the cgroup's files what it held.
    #[test]
    fn a_kill_with_its_evidence() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        rig.write("sys/fs/cgroup/a.service/memory.current", "1048576\n").unwrap();
        rig.write("sys/fs/cgroup/a.service/memory.stat", "anon 900\nfile 100\n").unwrap();
        rig.write("dev/kmsg", "6,1,2,-;from before\n").unwrap();
        let mut oom = rig.run(&crate::collectors::events::<Oom>(), "").unwrap();
        let line = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a.service,task_memcg=/a.service,task=hogs,pid=77,uid=0";
        rig.append("dev/kmsg", format!("6,2,3,-;{line}\n")).unwrap();
        let e = oom.record("oom_victim", &victim(&rig, cgroup)).unwrap().pop().unwrap();
        assert_eq!(
            (e.def.name, e.severity, e.time),
            ("linux.memory.oom_kill", Severity::Error, rig.clock().now().wall)
        );
        assert_eq!(e.message, "hogs (pid 77) of a.service was killed: memory limit of 1 MiB reached");
        let text = |key: Key| e.attributes.get(key.name).and_then(Value::as_str);
        assert_eq!(text(OOM_CONSTRAINT), Some("memcg"));
        assert_eq!(text(OOM_CGROUP), Some("/a.service"));
        let stat = e.attributes.get(OOM_MEMORY_STAT.name).unwrap();
        assert_eq!(*stat, Value::figures([("anon", 900_u64), ("file", 100)]));
        assert_eq!(e.related[0].thread.comm, "asks");
    }

    /// The trigger's functions stay with the kill where their names are known and where they still come; addresses
    /// for which there will be none do not.
    #[test]
    fn user_stacks_that_have_names_or_await_them() {
        struct Names(Named);
        impl UserSymbols for Names {
            fn frames(&self, _: u32, _: &[u64], _: Urgency, _: Instant) -> Named {
                self.0.clone()
            }
            fn trim(&self, _: Duration) {}
            fn impaired(&self) -> Option<String> {
                None
            }
        }
        let frame = |module: &str| Frame { address: 0x10, module: Some(module.into()), ..Frame::default() };
        let cases = [
            (Named::Frames(vec![frame("app")]), "0x10 [app+0x0]"),
            (Named::Late(StackKey(5)), "0x10"),
            (Named::Unknown, ""),
        ];
        for (names, text) in cases {
            let rig = Rig::new().unwrap().with_symbols_of(Arc::new(Names(names)));
            let cgroup = rig.cgroup("/a.service").unwrap();
            let mut oom = rig.run(&crate::collectors::events::<Oom>(), "").unwrap();
            let mut r = victim(&rig, cgroup);
            (r.stack.user[0], r.stack.user_bytes) = (0x10, 8);
            let e = oom.record("oom_victim", &r).unwrap().pop().unwrap();
            assert_eq!(e.user_stack.text(), text);
        }
    }

    /// A pod ran out whose container is nearly full, too: the figures and processes are the pod's.
    #[test]
    fn the_group_that_ran_out() {
        let rig = Rig::new().unwrap();
        let pod = rig.cgroup("/pod").unwrap();
        let container = rig.cgroup("/pod/app.service").unwrap();
        rig.write("sys/fs/cgroup/pod/cgroup.procs", "").unwrap();
        rig.write("sys/fs/cgroup/pod/app.service/cgroup.procs", "88\n").unwrap();
        rig.write("proc/88/stat", STAT_OF_88).unwrap();
        rig.write("dev/kmsg", "6,1,2,-;from before\n").unwrap();
        let mut oom = rig.run(&crate::collectors::events::<Oom>(), "").unwrap();
        let line = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/pod,task_memcg=/pod/app.service,task=hogs,pid=77,uid=0";
        rig.append("dev/kmsg", format!("6,2,3,-;{line}\n")).unwrap();
        let mut r = victim(&rig, container);
        (r.group_id[1], r.group_usage_pages[1], r.group_limit_pages[1]) = (pod.id, 512, 512);
        let e = oom.record("oom_victim", &r).unwrap().pop().unwrap();
        assert_eq!(e.message, "hogs (pid 77) of app.service was killed: memory limit of 2 MiB reached");
        let Some(Value::Array(processes)) = e.attributes.get(OOM_PROCESSES.name) else { panic!("{e:?}") };
        assert_eq!(processes.len(), 1, "{processes:?}");
    }

    /// proc_pid_stat(5).
    const STAT_OF_88: &str = "88 (app) S 1 88 88 0 -1 4194304 1 0 0 0 5 5 0 0 20 0 1 0 100 1000000 250 \
        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    /// Without a log and without the cgroup, what the record has is the event.
    #[test]
    fn a_kill_without_evidence() {
        let rig = Rig::new().unwrap();
        let gone = CgroupId { hierarchy: 0, id: 999_999_999 };
        let mut oom = rig.run(&crate::collectors::events::<Oom>(), "").unwrap();
        let e = oom.record("oom_victim", &victim(&rig, gone)).unwrap().pop().unwrap();
        assert_eq!((e.workload.is_none(), e.thread.unwrap().pid), (true, 77));
        assert_eq!(e.attributes.get(OOM_CONSTRAINT.name).and_then(Value::as_str), Some(UNKNOWN));
    }
}
