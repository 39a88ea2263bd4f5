// SPDX-License-Identifier: Apache-2.0
//! A task has to free memory before it gets some.
//!
//! ## What it reports
//! A task asked for memory and stood still while it freed some itself: because the node is short
//! (`direct`), because its memory cgroup or one above is full (`memcg`), or because there is no block
//! of pages large enough (`compaction`). How long, for what allocation, how many pages were looked at
//! and freed, which cgroup was reclaimed and how full it is, who paid, and where in kernel and program.
//!
//! ## How
//! From begin to end of each: `mm_vmscan_direct_reclaim_*`, `mm_vmscan_memcg_reclaim_*`
//! (include/trace/events/vmscan.h), `mm_compaction_*` of a task that came by
//! `mm_compaction_try_to_compact_pages`. The cgroup and the allocation are read from the kernel's own
//! scan_control, which current->reclaim_state stands in: no kprobe on any kernel. One stall of
//! `stall_limit` is an event of its own; shorter ones of a task and kind add up over `window`, and are
//! reported when together they took `window_limit`. The node's pressure (PSI) is read every two seconds, so that
//! there is one from before.
//!
//! ## Signals
//! `linux.memory.reclaim_stall`, for the workload of the task that paid.
//!
//! ## Limits
//! A stall is reported when it ends. Of a sum, order, flags and stack are the last one's. Compaction is
//! timed by zone, so one attempt is several stalls. Pages scanned are at least that many: where the
//! multi-gen LRU is on and the kernel is older than 6.8, only the last pass counts; before 5.19 those
//! of compaction are not known. What memory.high makes a task sleep on top of reclaim, and NUMA node
//! reclaim, are not counted. memory.reclaim, which somebody asked for, is no stall. A cgroup's own
//! pressure before the stall is what its averages over 60 and 300 s say.
//!
//! ## What to do next
//! `memcg`: compare `linux.reclaim.usage` and `.limit` of `linux.reclaim.cgroup.path`; raise the limit,
//! or find what fills it (page cache of a large file is reclaimed cheaply, anonymous memory is not).
//! Few pages freed of many scanned, at a low `priority`: the working set does not fit; an OOM kill is
//! near. `direct`: the node is short; see what grew. `compaction` of a high order: huge pages or a
//! driver's large buffers; look at /proc/buddyinfo and `transparent_hugepage/defrag`.

mod gfp;

use std::collections::VecDeque;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, EventCollector, Events, Info, Invalid, Optional};
use crate::collectors::{Settings, Unavailable, head_doc};
use crate::host::proc::{Pressure, Resource};
use crate::host::{Cgroups, Clock, Host, Now};
use crate::probe::Object;
use crate::probe::skeletons::memreclaim::{ReclaimKind, ReclaimStall, Record, Records, SKELETON, setting};
use crate::probe::stacks::Symbols;
use crate::signal::units::HumanDuration;
use crate::signal::{Event, EventDef, Key, MetricDef, Severity, Value, Workload};
use crate::workload::Workloads;

const RECLAIM_KIND: Key =
    Key::new("linux.reclaim.kind", "direct (the node is short), memcg (a memory cgroup is full), compaction");
const RECLAIM_ORDER: Key = Key::new("linux.reclaim.order", "Order of the allocation: 2^order pages");
const RECLAIM_GFP: Key = Key::new("linux.reclaim.gfp_mask", "Its gfp flags by name");
const RECLAIM_SCANNED: Key = Key::new("linux.reclaim.scanned", "Pages that were looked at");
const RECLAIM_RECLAIMED: Key = Key::new("linux.reclaim.reclaimed", "Pages that were freed");
const RECLAIM_PRIORITY: Key =
    Key::new("linux.reclaim.priority", "How hard it was tried: 12 is at first, 0 is all there is");
const RECLAIM_STALLS: Key = Key::new("linux.reclaim.stalls", "Stalls that this event is the sum of");
const RECLAIM_WINDOW: Key =
    Key::new("linux.reclaim.window", "Nanoseconds in which those stalls were; absent of a single one");
const RECLAIM_CGROUP: Key = Key::new("linux.reclaim.cgroup.path", "The memory cgroup that was reclaimed");
const RECLAIM_USAGE: Key = Key::new("linux.reclaim.usage", "Bytes charged to that cgroup");
const RECLAIM_LIMIT: Key = Key::new("linux.reclaim.limit", "Its limit in bytes");
const PRESSURE_BEFORE: Key =
    Key::new("linux.pressure.memory.before", "The node's memory pressure before it (PSI: percent, microseconds)");
const PRESSURE_AFTER: Key =
    Key::new("linux.pressure.memory.after", "The node's memory pressure after it (PSI: percent, microseconds)");
const PRESSURE_CGROUP: Key =
    Key::new("linux.pressure.memory.cgroup", "Memory pressure of the task's cgroup after it (PSI; cgroup v2)");

const BY: &[Key] = &[RECLAIM_KIND];

static STALLS: MetricDef =
    MetricDef::counter("linux.memory.reclaim_stalls", "{event}", "Reclaim stalls of tasks, longer than the limit")
        .by(BY);
static CONTAINER_STALLS: MetricDef =
    MetricDef::counter("linux.container.memory.reclaim_stalls", "{event}", "The workload's long reclaim stalls").by(BY);

/// A task that had to free memory.
pub static STALL: EventDef = EventDef {
    name: "linux.memory.reclaim_stall",
    summary: "A task stood still to free memory for longer than the limit",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[
        RECLAIM_KIND,
        RECLAIM_ORDER,
        RECLAIM_GFP,
        RECLAIM_SCANNED,
        RECLAIM_RECLAIMED,
        RECLAIM_PRIORITY,
        RECLAIM_STALLS,
        RECLAIM_WINDOW,
        RECLAIM_CGROUP,
        RECLAIM_USAGE,
        RECLAIM_LIMIT,
        PRESSURE_BEFORE,
        PRESSURE_AFTER,
        PRESSURE_CGROUP,
    ],
    counter: &STALLS,
    container_counter: Some(&CONTAINER_STALLS),
};

/// How often the kernel works out its averages (PSI_FREQ in kernel/sched/psi.c).
const PSI_PERIOD: Duration = Duration::from_secs(2);
/// Readings that are kept: a minute.
const READINGS: usize = 30;

/// Settings of `memreclaim`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Report a single stall that is longer than this. At least 1ms.
    pub stall_limit: HumanDuration,
    /// Shorter stalls of one task and kind add up over this time. At least 1s.
    pub window: HumanDuration,
    /// Report them when together they took longer than this. Less than the window, at least 1ms.
    pub window_limit: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        let ms = HumanDuration::from_millis;
        Config { stall_limit: ms(500), window: ms(10_000), window_limit: ms(1000) }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        Invalid::unless_within(ms..=minute, "stall_limit", self.stall_limit, "from 1ms to 60s")?;
        Invalid::unless_within(Duration::from_secs(1)..=minute * 60, "window", self.window, "from 1s to 1h")?;
        Invalid::unless_within(ms..=self.window.get(), "window_limit", self.window_limit, "from 1ms to the window")
    }
}

/// The collector.
pub struct MemReclaim {
    object: Object,
    clock: Clock,
    host: Host,
    workloads: Workloads,
    symbols: Symbols,
    page: u64,
    /// The node's pressure by the time of its reading, oldest first.
    pressure: VecDeque<(u64, Pressure)>,
}

impl Collector for MemReclaim {
    const INFO: Info = Info {
        name: "memreclaim",
        summary: "tasks stalled in direct reclaim or compaction, and the cgroup that is short",
        doc: head_doc(include_str!("memreclaim.rs")),
        enabled: true,
        needs: &[],
        object: Some(&SKELETON),
        optional: &[
            Optional { slot: "compact_try", lost: "stalls in compaction (a kernel without it)" },
            Optional { slot: "compact_begin", lost: "stalls in compaction (a kernel without it)" },
            Optional { slot: "compact_end", lost: "stalls in compaction (a kernel without it)" },
            Optional { slot: "shrink", lost: "pages scanned before the last pass" },
            Optional { slot: "memcg_begin", lost: "stalls in reclaim of memory cgroups (a kernel without them)" },
            Optional { slot: "memcg_end", lost: "stalls in reclaim of memory cgroups (a kernel without them)" },
        ],
        // CAP_SYSLOG: kernel symbols. CAP_SYS_PTRACE: the program's.
        capabilities: &["CAP_SYSLOG", "CAP_SYS_PTRACE"],
        metrics: &[],
        events: &[&STALL],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let options = SKELETON
            .options()
            .setting(setting::STALL_LIMIT_NS, config.stall_limit.ns())
            .setting(setting::WINDOW_NS, config.window.ns())
            .setting(setting::WINDOW_LIMIT_NS, config.window_limit.ns());
        Ok(MemReclaim {
            object: cx.load(options)?,
            clock: cx.clock.clone(),
            host: cx.host.clone(),
            workloads: cx.workloads.clone(),
            symbols: cx.symbols.clone(),
            page: crate::host::sys::page_size(),
            pressure: VecDeque::with_capacity(READINGS),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.object.set(setting::STALL_LIMIT_NS, config.stall_limit.ns())?;
        self.object.set(setting::WINDOW_NS, config.window.ns())?;
        self.object.set(setting::WINDOW_LIMIT_NS, config.window_limit.ns())
    }
}

impl EventCollector for MemReclaim {
    type Records = Records;

    fn on_record(&mut self, Record::ReclaimStall(r): Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        let workload = self.workloads.of_process(r.thread.tgid, r.cgroup.into());
        let mut e = Event::new(&STALL, self.clock.wall(r.time_ns), workload, String::new());
        e.duration = Some(Duration::from_nanos(r.stall_ns));
        e.thread = Some(r.thread.into());
        (e.kernel_stack, e.user_stack) = self.symbols.both(r.thread.tgid, &r.stack);
        self.say_work(&mut e, r);
        self.say_cgroup(&mut e, r);
        self.say_pressure(&mut e, r);
        e.message = message(&e, r);
        out.emit(e);
        Ok(())
    }

    fn period(&self) -> Option<Duration> {
        Some(PSI_PERIOD)
    }

    fn tick(&mut self, now: Now, _: &mut Events) -> anyhow::Result<()> {
        // Without PSI there is nothing to keep; that is no failure.
        if let Ok(p) = self.host.pressure(Resource::Memory) {
            if self.pressure.len() == READINGS {
                self.pressure.pop_front();
            }
            self.pressure.push_back((now.boot_ns, p));
        }
        Ok(())
    }
}

impl MemReclaim {
    fn say_work(&self, e: &mut Event, r: &ReclaimStall) {
        e.attributes.set(RECLAIM_KIND, kind(r));
        if r.order >= 0 {
            e.attributes.set(RECLAIM_ORDER, r.order).set(RECLAIM_GFP, gfp::names(r.gfp_mask));
        }
        if r.kind != ReclaimKind::RECLAIM_COMPACTION {
            e.attributes.set(RECLAIM_RECLAIMED, r.work.reclaimed);
            e.attributes.set(RECLAIM_PRIORITY, r.priority);
        }
        if r.work.scanned != 0 {
            e.attributes.set(RECLAIM_SCANNED, r.work.scanned);
        }
        e.attributes.set(RECLAIM_STALLS, r.stalls);
        e.attributes.set_some(RECLAIM_WINDOW, (r.window_ns != 0).then_some(r.window_ns));
    }

    /// The cgroup that was reclaimed, and how full it is.
    fn say_cgroup(&self, e: &mut Event, r: &ReclaimStall) {
        if r.reclaimed.id == 0 {
            return;
        }
        let path = self.workloads.of_cgroup(r.reclaimed.into()).map(|w| w.cgroup.clone());
        e.attributes.set_some(RECLAIM_CGROUP, path).set(RECLAIM_USAGE, r.usage_pages.saturating_mul(self.page));
        // PAGE_COUNTER_MAX of include/linux/page_counter.h: no limit.
        if r.limit_pages < u64::MAX / 2 / self.page {
            e.attributes.set(RECLAIM_LIMIT, r.limit_pages * self.page);
        }
    }

    fn say_pressure(&self, e: &mut Event, r: &ReclaimStall) {
        let began = r.time_ns.saturating_sub(if r.window_ns == 0 { r.stall_ns } else { r.window_ns });
        let before = self.pressure.iter().rev().find(|(at, _)| *at <= began).map(|(_, p)| figures(p));
        let after = self.host.pressure(Resource::Memory).ok().map(|p| figures(&p));
        let path = e.workload.as_ref().map(|w| w.cgroup.clone());
        let own = path.and_then(|p| Cgroups::read(&self.host).ok()?.pressure(Resource::Memory, &p).ok());
        e.attributes
            .set_some(PRESSURE_BEFORE, before)
            .set_some(PRESSURE_AFTER, after)
            .set_some(PRESSURE_CGROUP, own.map(|p| figures(&p)));
    }
}

fn kind(r: &ReclaimStall) -> &'static str {
    match r.kind {
        ReclaimKind::RECLAIM_DIRECT => "direct",
        ReclaimKind::RECLAIM_MEMCG => "memcg",
        _ => "compaction",
    }
}

/// Under the names that the kernel's file has: Documentation/accounting/psi.rst.
fn figures(p: &Pressure) -> Value {
    let lines = [("some", p.some), ("full", p.full)];
    let lines = lines.into_iter().filter_map(|(name, line)| Some((name, line?)));
    Value::Map(
        lines
            .map(|(name, l)| {
                let cells = [("avg10", l.avg[0]), ("avg60", l.avg[1]), ("avg300", l.avg[2])];
                let averages = cells.map(|(name, v)| (name.into(), Value::from(v)));
                (name.into(), Value::Map(averages.into_iter().chain([("total".into(), l.total_us.into())]).collect()))
            })
            .collect(),
    )
}

/// One line: who, how long and why.
fn message(e: &Event, r: &ReclaimStall) -> String {
    let thread = e.thread.clone().unwrap_or_default();
    let of_workload = Workload::message_suffix(e.workload.as_ref());
    let ms = Duration::from_nanos(r.stall_ns).as_millis();
    let path = e.attributes.get(RECLAIM_CGROUP.name).and_then(Value::as_str);
    let over = match (r.kind, path) {
        (ReclaimKind::RECLAIM_MEMCG, Some(path)) => format!("in reclaim of the memory cgroup {path}"),
        (ReclaimKind::RECLAIM_MEMCG, None) => "in reclaim of a memory cgroup".to_owned(),
        (ReclaimKind::RECLAIM_DIRECT, _) => "in reclaim of the node's memory".to_owned(),
        _ => format!("in compaction for 2^{} pages", r.order.max(0)),
    };
    let times = match r.window_ns {
        0 => String::new(),
        ns => format!(", {} times within {:.1} s", r.stalls, Duration::from_nanos(ns).as_secs_f64()),
    };
    format!("{} (pid {}){of_workload} stood still for {ms} ms {over}{times}", thread.comm, thread.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;

    /// Limits that would flood, or never be reached, are refused with what would be valid.
    #[test]
    fn limits_are_checked() {
        let mut c = Config::default();
        assert_eq!(c.validate(), Ok(()));
        c.window_limit = HumanDuration::from_millis(20_000);
        let e = c.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("window_limit", "from 1ms to the window"));
    }

    /// A stall with the pressure of before and after, and how full the cgroup was that it freed memory for.
    #[test]
    fn a_stall_and_the_pressure_around_it() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let pressure = |avg10| format!("some avg10={avg10} avg60=0.00 avg300=0.00 total=5\n");
        rig.write("proc/pressure/memory", pressure("1.00")).unwrap();
        let mut c = rig.run(&crate::collectors::events::<MemReclaim>(), "").unwrap();
        assert!(c.tick().unwrap().is_empty());
        rig.advance(Duration::from_secs(3));
        rig.write("proc/pressure/memory", pressure("9.00")).unwrap();
        let mut r = ReclaimStall::new_zeroed();
        (r.time_ns, r.stall_ns, r.kind, r.order) = (rig.clock().boot_ns(), 700_000_000, ReclaimKind::RECLAIM_MEMCG, -1);
        (r.cgroup.id, r.reclaimed.id, r.usage_pages, r.limit_pages) = (cgroup.id, cgroup.id, 10, 20);
        (r.thread.tgid, r.thread.tid) = (42, 42);
        r.thread.comm[..4].copy_from_slice(b"hogs");
        let e = c.record("reclaim_stall", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.memory.reclaim_stall", Severity::Warn));
        let words = "hogs (pid 42) of a.service stood still for 700 ms in reclaim of the memory cgroup /a.service";
        assert_eq!(e.message, words);
        let avg10 = |key: crate::signal::Key| {
            let Some(Value::Map(lines)) = e.attributes.get(key.name) else { panic!("no {}", key.name) };
            format!("{:?}", lines).contains(if key.name == PRESSURE_BEFORE.name { "1.0" } else { "9.0" })
        };
        assert!(avg10(PRESSURE_BEFORE) && avg10(PRESSURE_AFTER));
        let int = |key: crate::signal::Key| e.attributes.get(key.name).and_then(Value::as_int).unwrap();
        assert_eq!(int(RECLAIM_LIMIT), 2 * int(RECLAIM_USAGE));
    }
}
