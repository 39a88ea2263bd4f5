// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How long softirqs (network, timers, RCU, …) waited between being raised and being run, and how long
//! they ran, by vector. Packets, timers and grace periods are late by as much as their softirq waits; what
//! runs as a softirq takes the CPU from whoever has it.
//!
//! # How
//! The shared `softirq` probe: first `softirq_raise` to `softirq_entry`, and `softirq_entry` to
//! `softirq_exit` (include/trace/events/irq.h), per CPU and vector. Counted in the kernel in powers of two
//! of a second; what is below 1 us is counted as zero.
//!
//! # Signals
//! `linux.softirq.latency` and `linux.softirq.duration`, by `linux.softirq.vector`: histograms of seconds,
//! since the agent started. A vector that has not run has none. The count of the second is the number of
//! softirqs, as in `/proc/softirqs`.
//!
//! # Limits
//! Both are time by the clock: hard interrupts that came meanwhile are in it, and what the hypervisor took
//! (steal). One that was raised again just as it was taken up has a duration, but no latency. What a CPU
//! runs on its last way off line is not seen.
//!
//! # What to do next
//! Long latency: something ran with interrupts or softirqs off, or earlier softirqs took long; the
//! `softirq` events name it where it was very long. High NET_RX time: see that CPU's interrupts and RPS,
//! and `system.cpu.time` of mode `interrupt`. Long TIMER or RCU runs: many timers or callbacks at once.

use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc};
use crate::probe::shared::Softirqs;
use crate::signal::semconv::attr;
use crate::signal::{Key, MetricDef, Metrics};

const BY: &[Key] = &[attr::LINUX_SOFTIRQ_VECTOR];

static LATENCY: MetricDef =
    MetricDef::histogram("linux.softirq.latency", "s", "Time from a softirq's first raise until it ran").by(BY);
static DURATION: MetricDef = MetricDef::histogram("linux.softirq.duration", "s", "Time that a softirq ran").by(BY);

/// Latency and run time of softirqs.
pub struct SoftirqStat {
    probe: Softirqs,
}

impl Collector for SoftirqStat {
    const INFO: Info = Info {
        name: "softirqstat",
        summary: "How long softirqs waited and ran, by vector",
        doc: head_doc(include_str!("softirqstat.rs")),
        needs: &[Softirqs::LATENCIES],
        metrics: &[&LATENCY, &DURATION],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(SoftirqStat { probe: cx.shared()? })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for SoftirqStat {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        for of in self.probe.latencies()?.iter().filter(|of| of.run.count() > 0) {
            let vector = [(attr::LINUX_SOFTIRQ_VECTOR, of.vector.into())];
            out.histogram(&LATENCY, None, &vector, of.wait.histogram());
            out.histogram(&DURATION, None, &vector, of.run.histogram());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::probe::Latencies;
    use crate::probe::skeletons::softirq::{SKELETON, SoftirqLatencies};
    use crate::signal::metric::Reading;

    /// A vector's histograms are the sums over the CPUs; one that did not run has none.
    #[test]
    fn vectors_that_ran() {
        let rig = Rig::new().unwrap();
        let mut one = SoftirqLatencies::new_zeroed();
        one.wait = Latencies { zero: 2, total_ns: 500_000_000, ..Latencies::default() };
        one.run.total_ns = 1_000_000_000;
        (one.run.zero, one.run.slots[10]) = (1, 2);
        rig.kernel().put(&SKELETON, "softirq_latencies", &3_u32, &[one, one]).unwrap();
        let mut out = Metrics::default();
        rig.run(&crate::collectors::metrics::<SoftirqStat>(), "").unwrap().collect(&mut out).unwrap();
        let of = |p: &crate::signal::Point| match &p.reading {
            Reading::Histogram(h) => {
                let vector = p.attributes.get(attr::LINUX_SOFTIRQ_VECTOR.name).and_then(|v| v.as_str()).unwrap();
                (p.def.name, vector.to_owned(), h.zero_count, h.counts[10], h.sum)
            }
            other => panic!("{other:?}"),
        };
        let points: Vec<_> = out.points().iter().map(of).collect();
        let net_rx = || "NET_RX".to_owned();
        assert_eq!(points, [(LATENCY.name, net_rx(), 4, 0, Some(1.0)), (DURATION.name, net_rx(), 2, 4, Some(2.0))]);
    }
}
