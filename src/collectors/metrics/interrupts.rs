// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How many interrupts of each kind the CPUs took: those of devices by who handles them, the architecture's own (timer,
//! rescheduling, function calls, TLB, machine checks …) by the kernel's abbreviation; and how many softirqs they ran.
//!
//! # How
//! `/proc/interrupts` (kernel/irq/proc.c, arch/x86/kernel/irq.c) and `/proc/softirqs`, read a line at a time, once an
//! interval.
//!
//! # Signals
//! `linux.interrupt.handled` by `linux.interrupt.kind`, `linux.softirq.handled` by `linux.softirq.vector`; with `per_cpu`
//! by CPU; `linux.interrupt.left_out.count`.
//!
//! # Limits
//! Interrupts of one handler are one kind; the number of a queue is left out, `nvme0q` stands for all queues of that disk. At
//! most 200 kinds of devices, the others are `other`; at most 8,192 lines and a million counts, the lines beyond them are
//! counted in `linux.interrupt.left_out.count`. Some kinds are parts of others (`TLB` of `CAL`, `PMI` of `NMI`): they have no
//! sum, `linux.cpu.interrupts` of `load` is all of them. The kernel counts with 32 bits: what wrapped before the agent's
//! start is not known, later wraps are counted on. What a CPU counted is kept when it goes off line, but for what came
//! between the last reading and that.
//!
//! # What to do next
//! One device with many: `linux.net.softnet.processed` and `system.disk.operations` show its work; coalesce or spread its
//! interrupts (`ethtool -C`, `/proc/irq/N/smp_affinity`), with `per_cpu` see who takes them. Many `RES`, `CAL` or `TLB`:
//! threads that wake each other across CPUs, or processes that unmap memory while many threads run. `MCE`: see the `ras`
//! collector; `SPU` and `ERR`: hardware or its driver.

mod tally;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collectors::{Collector, Context, Info, MetricCollector, Settings, Unavailable, head_doc, lost};
use crate::host::proc::Counted;
use crate::host::{Host, Reading};
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value};
use tally::Tally;

const KIND: Key = Key::new(
    "linux.interrupt.kind",
    "LOC, RES, CAL, TLB, … as the kernel abbreviates them; of a device its handler without the number of the queue; other",
);

static HANDLED: MetricDef = MetricDef::counter(
    "linux.interrupt.handled",
    "{interrupt}",
    "Interrupts that CPUs took, by kind; some are part of another, they have no sum",
)
.by(&[KIND, attr::CPU_LOGICAL_NUMBER]);
static SOFTIRQS: MetricDef =
    MetricDef::counter("linux.softirq.handled", "{softirq}", "Softirqs that CPUs ran, by vector")
        .by(&[attr::LINUX_SOFTIRQ_VECTOR, attr::CPU_LOGICAL_NUMBER]);
static LEFT_OUT: MetricDef = MetricDef::up_down_counter(
    "linux.interrupt.left_out.count",
    "{interrupt}",
    "Interrupts, by number, that are not counted as there are too many",
);

/// Settings of `interrupts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Reports interrupts and softirqs for each CPU, instead of for all together.
    pub per_cpu: bool,
}

impl Settings for Config {}

/// Interrupts and softirqs.
pub struct Interrupts {
    per_cpu: bool,
    host: Host,
    interrupts: Source,
    softirqs: Source,
}

/// One of the files.
#[derive(Default)]
struct Source {
    tally: Tally,
    /// Those of the last reading.
    cpus: Vec<u32>,
}

impl Collector for Interrupts {
    const INFO: Info = Info {
        name: "interrupts",
        summary: "interrupts and softirqs by kind",
        doc: head_doc(include_str!("interrupts.rs")),
        metrics: &[&HANDLED, &SOFTIRQS, &LEFT_OUT],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        let (interrupts, softirqs) = (host.interrupts(|_, _| ()), host.softirqs(|_, _| ()));
        if let (Err(e), Err(_)) = (&interrupts, &softirqs) {
            return Err(Unavailable::because(e.to_string()));
        }
        Ok(lost("interrupts", &interrupts).into_iter().chain(lost("softirqs", &softirqs)).collect())
    }

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let (interrupts, softirqs) = (Source::default(), Source::default());
        Ok(Interrupts { per_cpu: config.per_cpu, host: cx.host.clone(), interrupts, softirqs })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.per_cpu = config.per_cpu;
        Ok(())
    }
}

impl MetricCollector for Interrupts {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        // One file that cannot be read costs no other's figures; one that was never there is no failure.
        let interrupts = self.interrupts.take(|source| self.host.interrupts(|cpus, line| source.add(cpus, line)));
        if interrupts.is_ok() {
            self.interrupts.write(&HANDLED, KIND, self.per_cpu, out);
            out.count(&LEFT_OUT, None, &[], self.interrupts.tally.left_out());
        }
        let softirqs = self.softirqs.take(|source| self.host.softirqs(|cpus, line| source.add(cpus, line)));
        if softirqs.is_ok() {
            self.softirqs.write(&SOFTIRQS, attr::LINUX_SOFTIRQ_VECTOR, self.per_cpu, out);
        }
        match [interrupts, softirqs].into_iter().find_map(|r| r.err().filter(|e| !e.is_missing())) {
            Some(e) => Err(e.into()),
            None => Ok(()),
        }
    }
}

impl Source {
    fn take(&mut self, read: impl FnOnce(&mut Self) -> Reading<()>) -> Reading<()> {
        self.tally.begin();
        let result = read(self);
        if result.is_ok() {
            self.tally.end();
        }
        result
    }

    fn add(&mut self, cpus: &[u32], line: &Counted<'_>) {
        if self.cpus != cpus {
            self.cpus = cpus.to_vec();
        }
        self.tally.add(cpus, line);
    }

    fn write(&self, def: &'static MetricDef, key: Key, per_cpu: bool, out: &mut Metrics) {
        for (name, kind) in self.tally.kinds() {
            let by = (key, Value::from(name.to_owned()));
            if !per_cpu || kind.has_no_cpus() {
                out.count(def, None, &[by], kind.total());
                continue;
            }
            // The series of a CPU that is off line end.
            for &cpu in &self.cpus {
                let by = [by.clone(), (attr::CPU_LOGICAL_NUMBER, Value::from(cpu))];
                out.count_some(def, None, &by, kind.of_cpu(cpu));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    const INTERRUPTS: &str = "            CPU0       CPU2
  1:          0          9   IO-APIC   1-edge      i8042
 12:          3          1   IO-APIC  12-edge      i8042
 30:        471          0   PCI-MSI 81921-edge      virtio4-req.0
 31:          0        503   PCI-MSI 81922-edge      virtio4-req.1
LOC:       7385       7007   Local timer interrupts
ERR:          2
FIQ:              usb_fiq
";
    const SOFTIRQS: &str = "      CPU0    CPU1    CPU2
   TIMER:   1744     0    2272
  NET_RX:     10     1       2
";

    fn rig() -> Rig {
        let rig = Rig::new().unwrap();
        rig.write("proc/interrupts", INTERRUPTS).unwrap();
        rig.write("proc/softirqs", SOFTIRQS).unwrap();
        rig
    }

    fn collected(rig: &Rig, config: &str) -> Metrics {
        let mut c = rig.run(&crate::collectors::metrics::<Interrupts>(), config).unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        out
    }

    fn of(out: &Metrics, kind: &str, cpu: Option<&str>) -> Option<f64> {
        let labels: Vec<_> =
            [("linux.interrupt.kind", kind)].into_iter().chain(cpu.map(|n| ("cpu.logical_number", n))).collect();
        out.figure("linux.interrupt.handled", None, &labels)
    }

    /// Every kind once, with the sum of its lines and CPUs; what has no count is not zero.
    #[test]
    fn figures() {
        let out = collected(&rig(), "");
        let kinds = ["i8042", "virtio4-req", "LOC", "ERR", "FIQ"].map(|kind| of(&out, kind, None));
        assert_eq!(kinds, [Some(13.0), Some(974.0), Some(14_392.0), Some(2.0), None]);
        let softirq = |vector| out.figure("linux.softirq.handled", None, &[("linux.softirq.vector", vector)]);
        assert_eq!((softirq("TIMER"), softirq("NET_RX")), (Some(4016.0), Some(13.0)));
        assert_eq!(out.figure("linux.interrupt.left_out.count", None, &[]), Some(0.0));
        assert_eq!(out.points().len(), 7);
    }

    /// By CPU as the header numbers them, and then no sum; one that goes off line has no series.
    #[test]
    fn each_cpu_by_itself() {
        let rig = rig();
        let mut c = rig.run(&crate::collectors::metrics::<Interrupts>(), "per_cpu = true").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!((of(&out, "i8042", Some("0")), of(&out, "i8042", Some("2"))), (Some(3.0), Some(10.0)));
        assert_eq!((of(&out, "LOC", Some("1")), of(&out, "LOC", None), of(&out, "ERR", None)), (None, None, Some(2.0)));
        rig.write("proc/interrupts", "  CPU0\nLOC:  7400  Local timer interrupts\n").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!((of(&out, "LOC", Some("0")), of(&out, "LOC", Some("2"))), (Some(7400.0), None));
    }

    /// A file that is not there, or is spoiled, leaves the other whole; `doctor` names it.
    #[test]
    fn without_a_file() {
        let rig = rig();
        assert_eq!(Interrupts::survey(rig.host()).unwrap(), [] as [String; 0]);
        let mut c = rig.run(&crate::collectors::metrics::<Interrupts>(), "").unwrap();
        rig.remove("proc/interrupts").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!((out.points().len(), of(&out, "LOC", None)), (2, None));
        assert!(Interrupts::survey(rig.host()).unwrap()[0].contains("interrupts is not there"));
        rig.write("proc/interrupts", "nonsense\n").unwrap();
        let mut out = Metrics::default();
        assert!(c.collect(&mut out).unwrap_err().to_string().contains("header"));
        assert_eq!(out.points().len(), 2);
        rig.remove("proc/softirqs").unwrap();
        assert!(Interrupts::survey(rig.host()).is_err());
    }
}
