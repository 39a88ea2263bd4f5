// SPDX-License-Identifier: Apache-2.0
//! The node's part: what its CPUs did.

use std::collections::HashMap;

use super::{CPU_COUNT, NODE_TIME, NODE_UTILIZATION, SOFTIRQ_TIME, seconds};
use crate::host::proc::{CpuTimes, Stat};
use crate::signal::semconv::attr;
use crate::signal::{Metrics, Value};

/// What the node's CPUs did, from `/proc/stat`.
#[derive(Default)]
pub(super) struct Node {
    last: HashMap<Option<u32>, Held>,
}

impl Node {
    pub(super) fn write(&mut self, stat: &Stat, per_cpu: bool, out: &mut Metrics) {
        out.value(&CPU_COUNT, None, &[], f64::from(u32::try_from(stat.cpus.len()).unwrap_or(u32::MAX)));
        if !per_cpu {
            return self.write_one(None, stat.all, out);
        }
        for (cpu, times) in &stat.cpus {
            self.write_one(Some(*cpu), *times, out);
        }
    }

    fn write_one(&mut self, cpu: Option<u32>, now: CpuTimes, out: &mut Metrics) {
        let before = self.last.get(&cpu).map(|h| h.reported);
        let now = self.last.entry(cpu).or_insert(Held { source: now, reported: now }).take(now);
        let total = before.map(|b| now.total_ns().saturating_sub(b.total_ns())).filter(|t| *t > 0);
        let number: Vec<_> = cpu.map(|n| (attr::CPU_LOGICAL_NUMBER, Value::from(n))).into_iter().collect();
        out.value(&SOFTIRQ_TIME, None, &number, seconds(now.softirq_ns));
        for (mode, of) in MODE_TIMES {
            let mut attributes = vec![(attr::CPU_MODE, Value::from(*mode))];
            attributes.extend_from_slice(&number);
            out.value(&NODE_TIME, None, &attributes, seconds(of(&now)));
            if let (Some(before), Some(total)) = (before, total) {
                let share = seconds(of(&now).saturating_sub(of(&before))) / seconds(total);
                out.value(&NODE_UTILIZATION, None, &attributes, share);
            }
        }
    }
}

type Mode = (&'static str, fn(&CpuTimes) -> u64);

/// The conventions' modes: hardware and soft interrupts are one. Together they are all of the CPUs' time.
/// What guests used is in `user` and `nice`, as the kernel counts.
static MODE_TIMES: &[Mode] = &[
    ("user", |t| t.user_ns),
    ("nice", |t| t.nice_ns),
    ("system", |t| t.system_ns),
    ("idle", |t| t.idle_ns),
    ("iowait", |t| t.iowait_ns),
    ("interrupt", |t| t.irq_ns + t.softirq_ns),
    ("steal", |t| t.steal_ns),
];

/// Times that do not fall. The kernel's may: time that waited for I/O goes back by some ticks when a CPU's waiting tasks
/// end elsewhere (Documentation/filesystems/proc.rst calls it unreliable), idle time when a CPU comes back.
#[derive(Clone, Copy)]
struct Held {
    source: CpuTimes,
    reported: CpuTimes,
}

/// What falls by no more than this comes up again, and is waited for; what falls by more began anew. The bound is that
/// of Prometheus' node exporter (`jumpBackSeconds`, collector/cpu_linux.go).
const JITTER_NS: u64 = 3_000_000_000;

type Field = fn(&mut CpuTimes) -> &mut u64;

static FIELDS: [Field; 8] = [
    |t| &mut t.user_ns,
    |t| &mut t.nice_ns,
    |t| &mut t.system_ns,
    |t| &mut t.idle_ns,
    |t| &mut t.iowait_ns,
    |t| &mut t.irq_ns,
    |t| &mut t.softirq_ns,
    |t| &mut t.steal_ns,
];

impl Held {
    /// Takes what the kernel says now; what is to be reported.
    fn take(&mut self, mut now: CpuTimes) -> CpuTimes {
        for field in FIELDS {
            let (now, source) = (*field(&mut now), field(&mut self.source));
            let grown = now.saturating_sub(*source);
            if now >= *source || *source - now > JITTER_NS {
                *source = now;
            }
            *field(&mut self.reported) += grown;
        }
        self.reported
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{S, get};
    use super::*;

    fn stat(user_s: u64, idle_s: u64) -> Stat {
        let all = CpuTimes { user_ns: user_s * S, idle_ns: idle_s * S, ..CpuTimes::default() };
        Stat { all, cpus: vec![(0, all), (3, CpuTimes::default())], ..Stat::default() }
    }

    /// The node's time is reported from the first reading on, its shares from the second; they add up to 1.
    #[test]
    fn node_times_and_shares() {
        let (mut node, mut out) = (Node::default(), Metrics::default());
        node.write(&stat(10, 90), false, &mut out);
        assert_eq!(get(&out, "system.cpu.time", Some("user")), [10.0]);
        assert_eq!(get(&out, "system.cpu.utilization", None), [] as [f64; 0]);
        assert_eq!(get(&out, "system.cpu.logical.count", None), [2.0]);
        out.drain();
        node.write(&stat(13, 91), false, &mut out);
        assert_eq!(get(&out, "system.cpu.utilization", Some("user")), [0.75]);
        assert!((get(&out, "system.cpu.utilization", None).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    /// Softirqs are part of the conventions' interrupt mode, so that the modes add up to all time, and a
    /// figure of their own.
    #[test]
    fn softirqs_are_interrupts() {
        let (mut node, mut out) = (Node::default(), Metrics::default());
        let all = CpuTimes { user_ns: 5 * S, irq_ns: S, softirq_ns: 2 * S, ..CpuTimes::default() };
        node.write(&Stat { all, ..Stat::default() }, false, &mut out);
        assert_eq!(get(&out, "system.cpu.time", Some("interrupt")), [3.0]);
        assert_eq!(get(&out, "linux.cpu.softirq.time", None), [2.0]);
        assert!((get(&out, "system.cpu.time", None).iter().sum::<f64>() - 8.0).abs() < 1e-9);
    }

    /// By CPU there is no sum over them, which would count all time twice.
    #[test]
    fn each_cpu_by_itself() {
        let (mut node, mut out) = (Node::default(), Metrics::default());
        node.write(&stat(10, 90), true, &mut out);
        let times = out.points().iter().filter(|p| p.def.name == "system.cpu.time");
        let cpus: Vec<_> = times.map(|p| p.attributes.get("cpu.logical_number").and_then(Value::as_int)).collect();
        assert_eq!((cpus.len(), cpus[0], cpus[7]), (14, Some(0), Some(3)));
    }

    /// No mode's time falls. A dip is waited out; what began anew, as the idle time of a CPU that was unplugged, counts
    /// on from where it was. Shares never leave 0 to 1.
    #[test]
    fn times_never_fall() {
        let (mut node, mut out) = (Node::default(), Metrics::default());
        let times = |idle_s: u64, iowait_ms: u64| CpuTimes {
            user_ns: 5 * S,
            idle_ns: idle_s * S,
            iowait_ns: iowait_ms * S / 1000,
            ..CpuTimes::default()
        };
        for (idle, iowait_ms, expected) in [
            (360_000, 50_000, (360_000.0, 50.0)),
            (360_001, 49_900, (360_001.0, 50.0)),
            (360_002, 50_100, (360_002.0, 50.1)),
            (350_000, 50_200, (360_002.0, 50.2)),
            (350_010, 50_300, (360_012.0, 50.3)),
        ] {
            out.drain();
            node.write(&Stat { all: times(idle, iowait_ms), ..Stat::default() }, false, &mut out);
            let one = |mode| get(&out, "system.cpu.time", Some(mode))[0];
            assert_eq!((one("idle"), one("iowait")), expected);
            assert!(get(&out, "system.cpu.utilization", None).iter().all(|s| (0.0..=1.0).contains(s)));
        }
    }
}
