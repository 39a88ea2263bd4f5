// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How fast each CPU runs and the bounds that it is held within, how many cores the CPUs are on, and how many CPUs are
//! off line.
//!
//! # How
//! `cpufreq/scaling_cur_freq`, `scaling_min_freq` and `scaling_max_freq` of each CPU, `topology`, `online` and `present` below
//! `/sys/devices/system/cpu` (Documentation/admin-guide/pm/cpufreq.rst). Once a minute, or an interval that is longer:
//! some kernels measure for it, and reading it more often changes what is read.
//!
//! # Signals
//! `system.cpu.frequency`, `linux.cpu.frequency.limit` by `linux.cpu.frequency.bound`, `system.cpu.physical.count`,
//! `linux.cpu.offline.count`.
//!
//! # Limits
//! Frequencies need a driver; most virtual machines have none. The frequency is the driver's: on x86 what the CPU had on
//! average while it last worked, elsewhere what was asked of it. Cores are those of CPUs that are on line. How many CPUs
//! are on line is `system.cpu.logical.count` of `cpu`.
//!
//! # What to do next
//! A frequency far below its upper bound under load: heat or power, see `linux.hw.errors` and the machine's own log. An
//! upper bound below what the CPU can do: a power profile or the firmware (`cpupower frequency-info`). CPUs off line that
//! nobody took off line: look for machine checks.

use std::time::Duration;

use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc, lost};
use crate::host::Host;
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics, Value};

const BOUND: Key = Key::new("linux.cpu.frequency.bound", "lower, upper");

static FREQUENCY: MetricDef =
    MetricDef::gauge("system.cpu.frequency", "Hz", "Frequency of the CPU, as its driver has it")
        .by(&[attr::CPU_LOGICAL_NUMBER]);
static LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.cpu.frequency.limit", "Hz", "Bounds within which the CPU's frequency is chosen")
        .by(&[attr::CPU_LOGICAL_NUMBER, BOUND]);
static PHYSICAL: MetricDef =
    MetricDef::up_down_counter("system.cpu.physical.count", "{cpu}", "Cores that the CPUs on line are on");
static OFFLINE: MetricDef =
    MetricDef::up_down_counter("linux.cpu.offline.count", "{cpu}", "CPUs that the machine has and that are off line");

/// Frequencies and numbers of CPUs.
pub struct CpuFreq {
    host: Host,
    /// CPUs that were on line, and their cores.
    cores: Option<(Vec<u32>, Option<u64>)>,
}

impl Collector for CpuFreq {
    const INFO: Info = Info {
        name: "cpufreq",
        summary: "frequency of each CPU, cores, and CPUs that are off line",
        doc: head_doc(include_str!("cpufreq.rs")),
        metrics: &[&FREQUENCY, &LIMIT, &PHYSICAL, &OFFLINE],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        let cpus = host.online_cpus().map_err(|e| Unavailable::because(e.to_string()))?;
        let first = cpus.first().copied().unwrap_or(0);
        let absent = |cpu: &u32| host.frequency(*cpu).is_err();
        let of_frequency = cpus.iter().all(absent).then(|| host.frequency(first));
        let lost = of_frequency
            .and_then(|r| lost("frequencies, for want of a driver (cpufreq), as in most virtual machines", &r));
        Ok(lost.into_iter().collect())
    }

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(CpuFreq { host: cx.host.clone(), cores: None })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for CpuFreq {
    const LEAST_INTERVAL: Duration = Duration::from_secs(60);

    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let online = self.host.online_cpus()?;
        for &cpu in &online {
            // Without a driver there is none.
            let Ok(frequency) = self.host.frequency(cpu) else { continue };
            let number = (attr::CPU_LOGICAL_NUMBER, Value::from(cpu));
            out.count_some(&FREQUENCY, None, std::slice::from_ref(&number), frequency.now);
            for (bound, hz) in [("lower", frequency.least), ("upper", frequency.most)] {
                out.count_some(&LIMIT, None, &[number.clone(), (BOUND, bound.into())], hz);
            }
        }
        let present = self.host.present_cpus()?;
        let offline = present.iter().filter(|cpu| !online.contains(cpu)).count();
        out.count_some(&OFFLINE, None, &[], u64::try_from(offline).ok());
        out.count_some(&PHYSICAL, None, &[], self.cores(online));
        Ok(())
    }
}

impl CpuFreq {
    /// Cores change with the CPUs that are on line, and not else.
    fn cores(&mut self, online: Vec<u32>) -> Option<u64> {
        match &self.cores {
            Some((of, cores)) if *of == online => *cores,
            _ => {
                let cores = self.host.cores(&online);
                self.cores = Some((online, cores));
                cores
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::Rig;

    fn rig() -> Rig {
        let rig = Rig::new().unwrap();
        let cpu = |file: &str, text: &str| rig.write(&format!("sys/devices/system/cpu/{file}"), text).unwrap();
        cpu("online", "0-2\n");
        cpu("present", "0-3\n");
        for n in 0..3 {
            cpu(&format!("cpu{n}/topology/core_cpus_list"), if n == 1 { "1\n" } else { "0,2\n" });
        }
        cpu("cpu0/cpufreq/scaling_cur_freq", "2400000\n");
        cpu("cpu0/cpufreq/scaling_min_freq", "800000\n");
        cpu("cpu0/cpufreq/scaling_max_freq", "3600000\n");
        cpu("cpu1/cpufreq/scaling_cur_freq", "<unknown>\n");
        rig
    }

    fn frequency(out: &Metrics, cpu: &str) -> Option<f64> {
        out.figure("system.cpu.frequency", None, &[("cpu.logical_number", cpu)])
    }

    /// Hertz by CPU, its bounds, and how many CPUs and cores there are; what is not known is absent.
    #[test]
    fn figures() {
        let rig = rig();
        let mut c = rig.run(&crate::collectors::metrics::<CpuFreq>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!(["0", "1", "2"].map(|cpu| frequency(&out, cpu)), [Some(2.4e9), None, None]);
        let limit = |bound| {
            let labels = [("cpu.logical_number", "0"), ("linux.cpu.frequency.bound", bound)];
            out.figure("linux.cpu.frequency.limit", None, &labels)
        };
        assert_eq!((limit("lower"), limit("upper")), (Some(8e8), Some(3.6e9)));
        let count = |out: &Metrics| {
            ["system.cpu.physical.count", "linux.cpu.offline.count"].map(|name| out.figure(name, None, &[]))
        };
        assert_eq!(count(&out), [Some(2.0), Some(1.0)]);
        rig.write("sys/devices/system/cpu/online", "0,2\n").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!(count(&out), [Some(1.0), Some(2.0)]);
    }

    /// Without a driver there is no frequency and the reason is given; the numbers of CPUs are there.
    #[test]
    fn without_a_driver() {
        let rig = rig();
        assert_eq!(CpuFreq::survey(rig.host()).unwrap(), [] as [String; 0]);
        for cpu in ["cpu0", "cpu1"] {
            rig.remove(&format!("sys/devices/system/cpu/{cpu}/cpufreq")).unwrap();
        }
        let mut c = rig.run(&crate::collectors::metrics::<CpuFreq>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        assert_eq!((frequency(&out, "0"), out.points().len()), (None, 2));
        let [lost] = &CpuFreq::survey(rig.host()).unwrap()[..] else { panic!() };
        assert!(lost.contains("driver") && lost.contains("cpu0/cpufreq"), "{lost}");
    }
}
