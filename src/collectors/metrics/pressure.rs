// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! For how long tasks waited for CPU, memory, I/O or interrupts: of the node, and of each workload.
//!
//! # How
//! Pressure stall information: `/proc/pressure/*`, and on cgroup v2 `*.pressure` of the workload's cgroup
//! (Documentation/accounting/psi.rst). Once an interval.
//!
//! # Signals
//! `system.cpu.linux.pressure.total`, and of `memory`, `io` and `irq` alike;
//! `container.cpu.linux.pressure.total` and so on. The names are those proposed for OpenTelemetry
//! (semantic-conventions#2995).
//!
//! # Limits
//! Not where PSI is not compiled in (CONFIG_PSI) or is off (`psi=0`); not of workloads on cgroup v1. `irq`
//! needs Linux 6.1 and CONFIG_IRQ_TIME_ACCOUNTING. The node's `full` of the CPU has no meaning (kernel/sched/psi.c)
//! and is left out.
//!
//! # What to do next
//! `some` that grows by a tenth of a second a second: a tenth of the time somebody waited. Memory: see
//! `memory`; CPU: see `linux.sched.runqueue.latency` and the workload's limit; I/O: see `disk`.

use std::sync::Arc;

use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc, lost};
use crate::host::proc::{Pressure as Reading, Resource};
use crate::host::{Cgroups, Host};
use crate::signal::{Key, MetricDef, Metrics, Workload};
use crate::workload::Workloads;

const STALL: Key = Key::new("system.linux.pressure.stall_type", "some: at least one task waited; full: all did");
const BY: &[Key] = &[STALL];
const HELP: &str = "Time that tasks waited for it";

static NODE: [MetricDef; 4] = [
    MetricDef::counter("system.cpu.linux.pressure.total", "s", HELP).by(BY),
    MetricDef::counter("system.memory.linux.pressure.total", "s", HELP).by(BY),
    MetricDef::counter("system.io.linux.pressure.total", "s", HELP).by(BY),
    MetricDef::counter("system.irq.linux.pressure.total", "s", HELP).by(BY),
];
static WORKLOAD: [MetricDef; 4] = [
    MetricDef::counter("container.cpu.linux.pressure.total", "s", HELP).by(BY),
    MetricDef::counter("container.memory.linux.pressure.total", "s", HELP).by(BY),
    MetricDef::counter("container.io.linux.pressure.total", "s", HELP).by(BY),
    MetricDef::counter("container.irq.linux.pressure.total", "s", HELP).by(BY),
];
/// In the order of the metrics.
const RESOURCES: [Resource; 4] = [Resource::Cpu, Resource::Memory, Resource::Io, Resource::Irq];

/// Pressure on the node and on each workload.
pub struct Pressure {
    host: Host,
    cgroups: Cgroups,
    workloads: Workloads,
}

impl Collector for Pressure {
    const INFO: Info = Info {
        name: "pressure",
        summary: "time that tasks waited for CPU, memory, I/O and interrupts (PSI)",
        doc: head_doc(include_str!("pressure.rs")),
        metrics: &[&NODE[0], &NODE[1], &NODE[2], &NODE[3], &WORKLOAD[0], &WORKLOAD[1], &WORKLOAD[2], &WORKLOAD[3]],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        if let Err(e) = host.pressure(Resource::Cpu)
            && e.is_missing()
        {
            let why = "this kernel keeps no pressure stall information: it needs CONFIG_PSI, and psi=1 where CONFIG_PSI_DEFAULT_DISABLED is set";
            return Err(Unavailable::because(why));
        }
        Ok(lost("pressure of interrupts", &host.pressure(Resource::Irq)).into_iter().collect())
    }

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        Ok(Pressure { host: cx.host.clone(), cgroups, workloads: cx.workloads.clone() })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for Pressure {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let mut failed = None;
        for (def, resource) in NODE.iter().zip(RESOURCES) {
            match self.host.pressure(resource) {
                Ok(reading) => write(def, None, reading, resource != Resource::Cpu, out),
                Err(e) if e.is_missing() => {}
                Err(e) => failed = Some(e),
            }
        }
        for workload in self.workloads.leaves() {
            for (def, resource) in WORKLOAD.iter().zip(RESOURCES) {
                if let Ok(reading) = self.cgroups.pressure(resource, &workload.cgroup) {
                    write(def, Some(&workload), reading, true, out);
                }
            }
        }
        failed.map_or(Ok(()), |e| Err(e.into()))
    }
}

fn write(def: &'static MetricDef, who: Option<&Arc<Workload>>, reading: Reading, with_full: bool, out: &mut Metrics) {
    let full = reading.full.filter(|_| with_full);
    for (kind, line) in [("some", reading.some), ("full", full)] {
        if let Some(line) = line {
            out.value(def, who, &[(STALL, kind.into())], seconds(line.total_us));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 us are 285 years")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    const PATH: &str = "/system.slice/web.service";

    fn file(some: u64, full: u64) -> String {
        let line = |kind, total| format!("{kind} avg10=1.00 avg60=0.00 avg300=0.00 total={total}\n");
        line("some", some) + &line("full", full)
    }

    /// Microseconds become seconds; the node's CPU has no `full`, the irq file no `some`.
    #[test]
    fn of_the_node_and_a_workload() {
        let rig = Rig::new().unwrap();
        rig.cgroup(PATH).unwrap();
        rig.write("proc/pressure/cpu", file(100_648_410, 5)).unwrap();
        rig.write("proc/pressure/memory", file(2_000_000, 1_000_000)).unwrap();
        rig.write("proc/pressure/irq", "full avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n").unwrap();
        rig.write(&format!("sys/fs/cgroup{PATH}/cpu.pressure"), file(4_000_000, 3_500_000)).unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Pressure>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        let get = |name, who, kind| out.figure(name, who, &[("system.linux.pressure.stall_type", kind)]);
        assert_eq!(get("system.cpu.linux.pressure.total", None, "some"), Some(100.648_41));
        assert_eq!(get("system.cpu.linux.pressure.total", None, "full"), None);
        assert_eq!(get("system.memory.linux.pressure.total", None, "full"), Some(1.0));
        assert_eq!(get("system.io.linux.pressure.total", None, "some"), None);
        assert_eq!(get("system.irq.linux.pressure.total", None, "full"), Some(3.0));
        assert_eq!(get("system.irq.linux.pressure.total", None, "some"), None);
        assert_eq!(get("container.cpu.linux.pressure.total", Some(PATH), "full"), Some(3.5));
        assert_eq!(get("container.memory.linux.pressure.total", Some(PATH), "some"), None);
    }

    /// A kernel without it says what it needs; a broken file leaves the others whole.
    #[test]
    fn unavailable_and_broken() {
        let rig = Rig::new().unwrap();
        rig.remove("proc/pressure/cpu").unwrap();
        let why = rig.run(&crate::collectors::metrics::<Pressure>(), "").err().unwrap().to_string();
        assert!(why.contains("CONFIG_PSI"), "{why}");
        rig.write("proc/pressure/cpu", "nonsense").unwrap();
        rig.write("proc/pressure/io", file(2_000_000, 1)).unwrap();
        let mut c = rig.run(&crate::collectors::metrics::<Pressure>(), "").unwrap();
        let mut out = Metrics::default();
        assert!(c.collect(&mut out).unwrap_err().to_string().contains("pressure/cpu"));
        let some = [("system.linux.pressure.stall_type", "some")];
        assert_eq!(out.figure("system.io.linux.pressure.total", None, &some), Some(2.0));
    }
}
