// SPDX-License-Identifier: Apache-2.0
//! Softirqs that were raised but not run, and CPUs that could not take their timer interrupt.
//!
//! ## What it reports
//! `linux.softirq.delay`: on this CPU a softirq (network, timer, RCU, …) waited longer than its
//! limit between being raised and being run. Packets, timers and grace periods were late by as much.
//! `linux.irq.held_off`: on this CPU no interrupt could be taken for longer than the limit: some
//! code ran with interrupts off, or a handler ran that long. Everything on that CPU stood still.
//!
//! ## How
//! First `softirq_raise` to `softirq_entry`, per CPU and vector, all ten. Every hard timer of the
//! monotonic clock is a probe for interrupts held off: its lateness at `hrtimer_expire_entry`
//! (include/trace/events/timer.h) does not depend on the tick; one that was armed for a moment in the
//! past is late from `hrtimer_start` on. The stack is where the CPU was when
//! it could serve again: the culprit, or right behind it. Time that the hypervisor took (steal, as
//! the kernel books it) is subtracted before the limit is compared.
//!
//! ## Signals
//! Both events name the CPU, the thread found running, its kernel stack and where its program was. Where
//! that thread had the CPU all the while, it is the culprit, with its container.
//!
//! ## Limits
//! A hypervisor that reports no steal time makes a paused guest look like interrupts held off.
//! A CPU without any hard timer armed is not seen. At most 20 records of a kind and CPU at once, one
//! more each second; what was limited is a number on the next.
//!
//! ## What to do next
//! Read the stack from the inside out: a driver's handler, a long `local_irq_save` section, a
//! console write. For NET_RX, look at that CPU's interrupt affinity and at RPS. For a culprit in a
//! container, see what it asks of the kernel at that time (`bianque incidents`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, EventCollector, Events, Info, Invalid, Settings, Unavailable, head_doc};
use crate::host::{Clock, Host};
use crate::probe::ThreadRef;
use crate::probe::shared::softirq::{Softirqs, VECTORS};
use crate::probe::skeletons::softirq::{FoundAt, IrqHeldOff, Record, Records, SoftirqDelay};
use crate::probe::stacks::Symbols;
use crate::signal::semconv::attr;
use crate::signal::units::HumanDuration;
use crate::signal::{Event, EventDef, Key, MetricDef, Related, Role, Severity, Stack, Thread};
use crate::workload::Workloads;

const TIMER_FUNCTION: Key = Key::new("linux.timer.function", "The kernel function of the timer that was late");

const BY: &[Key] = &[attr::LINUX_SOFTIRQ_VECTOR];

static DELAYS: MetricDef =
    MetricDef::counter("linux.softirq.delays", "{event}", "Softirqs that waited longer than the limit").by(BY);
static HELD_OFFS: MetricDef =
    MetricDef::counter("linux.irq.held_offs", "{event}", "Times a CPU took no interrupts for longer than the limit");

/// A softirq that waited too long.
pub static DELAY: EventDef = EventDef {
    name: "linux.softirq.delay",
    summary: "A softirq was raised but not run for longer than the limit",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[attr::LINUX_SOFTIRQ_VECTOR, attr::CPU_LOGICAL_NUMBER, attr::LINUX_CPU_STEAL, attr::LINUX_CULPRIT],
    counter: &DELAYS,
    container_counter: None,
};

/// A CPU that took no interrupts.
pub static HELD_OFF: EventDef = EventDef {
    name: "linux.irq.held_off",
    summary: "A CPU took no interrupts for longer than the limit",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[attr::CPU_LOGICAL_NUMBER, attr::LINUX_CPU_STEAL, TIMER_FUNCTION, attr::LINUX_CULPRIT],
    counter: &HELD_OFFS,
    container_counter: None,
};

/// Settings of `softirq`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Report a softirq that waited longer than this. Steal time does not count. At least 100us.
    pub delay_limit: HumanDuration,
    /// Report a CPU that took no interrupts for longer than this. Steal time does not count. At least 1ms.
    pub held_off_limit: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Config { delay_limit: HumanDuration::from_millis(100), held_off_limit: HumanDuration::from_millis(100) }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        let (us, ms, minute) = (Duration::from_micros(1), Duration::from_millis(1), Duration::from_secs(60));
        Invalid::unless_within(us * 100..=minute, "delay_limit", self.delay_limit, "from 100us to 60s")?;
        Invalid::unless_within(ms..=minute, "held_off_limit", self.held_off_limit, "from 1ms to 60s")
    }
}

/// The collector.
pub struct Softirq {
    probe: Softirqs,
    clock: Clock,
    workloads: Workloads,
    symbols: Symbols,
    host: Host,
}

impl Collector for Softirq {
    const INFO: Info = Info {
        name: "softirq",
        summary: "softirqs that run late, CPUs with interrupts held off",
        doc: head_doc(include_str!("softirq.rs")),
        enabled: true,
        needs: &[Softirqs::DELAYS],
        object: None,
        optional: &[],
        // CAP_SYSLOG: kernel symbols. CAP_SYS_PTRACE: the program's.
        capabilities: &["CAP_SYSLOG", "CAP_SYS_PTRACE"],
        metrics: &[],
        events: &[&DELAY, &HELD_OFF],
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let probe = cx.shared::<Softirqs>()?;
        let limited = probe.set_limits(config.delay_limit.get(), config.held_off_limit.get());
        limited.map_err(|e| Unavailable::because(format!("its limits cannot be set: {e:#}")))?;
        cx.take_records(&probe, "softirq_delay")?;
        cx.take_records(&probe, "irq_held_off")?;
        Ok(Softirq {
            probe,
            clock: cx.clock.clone(),
            workloads: cx.workloads.clone(),
            symbols: cx.symbols.clone(),
            host: cx.host.clone(),
        })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.probe.set_limits(config.delay_limit.get(), config.held_off_limit.get())
    }
}

impl EventCollector for Softirq {
    type Records = Records;

    fn on_record(&mut self, record: Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        out.emit(match record {
            Record::SoftirqDelay(r) => self.delayed(r),
            Record::IrqHeldOff(r) => self.held_off(r),
        });
        Ok(())
    }
}

impl Softirq {
    fn delayed(&self, r: &SoftirqDelay) -> Event {
        let vector = VECTORS.get(r.vector as usize).copied().unwrap_or("unknown");
        let delay = Duration::from_nanos(r.delay_ns.saturating_sub(r.steal_ns));
        let mut e = self.event(&DELAY, r.time_ns, delay, &r.at);
        let raised_in = r.raised_in as u32;
        if is_softirq_thread(&r.at.thread) {
            self.blame_interrupted(&mut e, r);
        } else if [0, r.at.thread.tid].contains(&raised_in) {
            self.blame_found(&mut e, &r.at);
        }
        // Else it was left to `ksoftirqd` and then served in an interrupt of a thread that came later.
        e.message = format!("softirq {vector} waited {} on CPU {}{}", ms(delay), r.at.cpu, running(&e));
        e.attributes.set(attr::LINUX_SOFTIRQ_VECTOR, vector).set(attr::CPU_LOGICAL_NUMBER, r.at.cpu);
        e.attributes.set(attr::LINUX_CPU_STEAL, r.steal_ns);
        e
    }

    fn held_off(&self, r: &IrqHeldOff) -> Event {
        let delay = Duration::from_nanos(r.delay_ns.saturating_sub(r.steal_ns));
        let mut e = self.event(&HELD_OFF, r.time_ns, delay, &r.at);
        self.blame_found(&mut e, &r.at);
        e.message = format!("CPU {} took no interrupts for {}{}", r.at.cpu, ms(delay), running(&e));
        e.attributes.set(attr::CPU_LOGICAL_NUMBER, r.at.cpu).set(attr::LINUX_CPU_STEAL, r.steal_ns);
        let function = self.symbols.kernel(&[r.function]).first().and_then(|f| f.symbol.clone());
        e.attributes.set_some(TIMER_FUNCTION, function.map(|f| f.to_string()));
        e
    }

    /// The node suffers: whatever was to run on that CPU waited. The thread found there is involved.
    fn event(&self, def: &'static EventDef, time_ns: u64, delay: Duration, at: &FoundAt) -> Event {
        let mut e = Event::new(def, self.clock.wall(time_ns), None, String::new());
        e.duration = Some(delay);
        (e.kernel_stack, e.user_stack) = self.symbols.both(at.thread.tgid, &at.stack);
        e.thread = (at.thread.tid != 0).then(|| Thread::from(at.thread));
        e
    }

    fn blame_found(&self, e: &mut Event, at: &FoundAt) {
        if let Some(thread) = e.thread.clone().filter(|_| !is_softirq_thread(&at.thread)) {
            e.involve(Role::Culprit, self.workloads.of_process(thread.pid, at.cgroup.into()), thread);
        }
    }

    /// The thread of softirqs runs when it may: whoever was running as it was raised had the CPU until then. Its stack is
    /// of no use, as it is the one of what waited.
    fn blame_interrupted(&self, e: &mut Event, r: &SoftirqDelay) {
        (e.kernel_stack, e.user_stack) = Default::default();
        let (pid, tid) = ((r.raised_in >> 32) as u32, r.raised_in as u32);
        // Raised while nobody ran, or by softirqs themselves.
        if tid == 0 || tid == r.at.thread.tid {
            return;
        }
        let comm = self.host.comm(tid).unwrap_or_default();
        e.involve(Role::Culprit, self.workloads.of_pid(pid), Thread { pid, tid, comm });
    }
}

/// `ksoftirqd`, which runs softirqs that were left to it.
fn is_softirq_thread(thread: &ThreadRef) -> bool {
    Thread::from(*thread).comm.starts_with("ksoftirqd/")
}

fn ms(d: Duration) -> String {
    format!("{:.0} ms", d.as_secs_f64() * 1e3)
}

/// Who was there, for the message.
fn running(e: &Event) -> String {
    let Some(culprit) = e.related.first() else { return String::new() };
    let at = culprit.workload.as_ref().map(|w| format!(" in {}", w.display_name())).unwrap_or_default();
    let work = work_of(culprit, &e.kernel_stack).map(|w| format!(" working on {w}")).unwrap_or_default();
    format!("; {} (pid {}){work}{at} was running", culprit.thread.comm, culprit.thread.pid)
}

/// What a worker of the kernel works on, for whoever queued it: the function below the workqueue's own.
fn work_of(who: &Related, stack: &Stack) -> Option<String> {
    if !who.thread.comm.starts_with("kworker/") {
        return None;
    }
    let names: Vec<String> =
        stack.iter().map(|f| f.symbol.as_ref().map(ToString::to_string).unwrap_or_default()).collect();
    let at = names.iter().position(|name| name == "process_one_work")?;
    names.get(at.checked_sub(1)?).filter(|name| !name.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;

    /// Limits that would flood, or never fire, are refused with what would be valid.
    #[test]
    fn limits_are_checked() {
        let mut c = Config::default();
        assert_eq!(c.validate(), Ok(()));
        c.delay_limit = HumanDuration::from_micros(1);
        let e = c.validate().unwrap_err();
        assert_eq!((e.key, e.expected.as_str()), ("delay_limit", "from 100us to 60s"));
    }

    /// A delay without the time that was stolen, the thread that was in the way, and the function of a timer.
    #[test]
    fn delays_and_culprits() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        rig.symbol(0xffff_ffff_8100_0000, "tick_handler").unwrap();
        let mut softirq = rig.run(&crate::collectors::events::<Softirq>(), "").unwrap();
        let mut r = SoftirqDelay::new_zeroed();
        (r.delay_ns, r.steal_ns, r.vector) = (200_000_000, 50_000_000, 3);
        (r.at.cpu, r.at.thread.tgid, r.at.thread.tid, r.at.cgroup.id) = (1, 42, 43, cgroup.id);
        r.at.thread.comm[..4].copy_from_slice(b"spin");
        let e = softirq.record("softirq_delay", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.softirq.delay", Severity::Warn));
        assert_eq!(e.message, "softirq NET_RX waited 150 ms on CPU 1; spin (pid 42) in a.service was running");
        assert_eq!(e.duration, Some(Duration::from_millis(150)));
        // Left to ksoftirqd: whoever had the CPU when it was raised, not the thread that waited itself.
        rig.write("proc/77/comm", "rthog\n").unwrap();
        rig.write("proc/77/cgroup", "0::/a.service\n").unwrap();
        (r.at.thread.tgid, r.at.thread.tid, r.at.cgroup.id, r.raised_in) = (15, 15, 1, 77 << 32 | 77);
        r.at.thread.comm = *b"ksoftirqd/1\0\0\0\0\0";
        let e = softirq.record("softirq_delay", &r).unwrap().pop().unwrap();
        assert_eq!(e.message, "softirq NET_RX waited 150 ms on CPU 1; rthog (pid 77) in a.service was running");
        let culprits: Vec<_> = e.related.iter().map(|c| (c.role, c.thread.comm.as_str())).collect();
        assert_eq!(culprits, [(Role::Culprit, "rthog")]);
        r.raised_in = 15 << 32 | 15;
        let e = softirq.record("softirq_delay", &r).unwrap().pop().unwrap();
        assert_eq!((e.message.as_str(), e.related.len()), ("softirq NET_RX waited 150 ms on CPU 1", 0));
        // Served in an interrupt of a thread that came later.
        (r.at.thread.tgid, r.at.thread.tid, r.raised_in) = (42, 43, 77 << 32 | 77);
        r.at.thread.comm = *b"disk\0\0\0\0\0\0\0\0\0\0\0\0";
        let e = softirq.record("softirq_delay", &r).unwrap().pop().unwrap();
        assert_eq!((e.message.as_str(), e.related.len()), ("softirq NET_RX waited 150 ms on CPU 1", 0));
        // A worker stands for whom it works.
        (r.at.thread.tgid, r.at.thread.tid, r.raised_in) = (15, 15, 15 << 32 | 15);
        rig.symbol(0xffff_ffff_8100_1000, "process_one_work").unwrap();
        rig.symbol(0xffff_ffff_8100_2000, "flush_of_somebody").unwrap();
        r.at.thread.comm = *b"kworker/1:0\0\0\0\0\0";
        let stack = [0xffff_ffff_8100_2010, 0xffff_ffff_8100_1010];
        (r.at.stack.kernel[0], r.at.stack.kernel[1], r.at.stack.kernel_bytes) = (stack[0], stack[1], 16);
        let e = softirq.record("softirq_delay", &r).unwrap().pop().unwrap();
        assert!(e.message.contains("kworker/1:0 (pid 15) working on flush_of_somebody was running"), "{}", e.message);
        let mut r = IrqHeldOff::new_zeroed();
        (r.delay_ns, r.function) = (120_000_000, 0xffff_ffff_8100_0010);
        let e = softirq.record("irq_held_off", &r).unwrap().pop().unwrap();
        assert_eq!((e.message.as_str(), e.related.len()), ("CPU 0 took no interrupts for 120 ms", 0));
        let function = e.attributes.get(TIMER_FUNCTION.name).and_then(crate::signal::Value::as_str);
        assert_eq!(function, Some("tick_handler"));
    }
}
