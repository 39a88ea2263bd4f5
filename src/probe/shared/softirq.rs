// SPDX-License-Identifier: Apache-2.0
//! `softirq`: how long softirqs wait and run, and timer interrupts that came late.

use std::sync::Arc;
use std::time::Duration;

use super::{Feature, Loading, SharedProbe};
use crate::probe::skeletons::softirq::{SKELETON, SoftirqLatencies, setting, switch};
use crate::probe::{Latencies, LoadError, Object, Skeleton, Table};
use crate::signal::Growing as _;

/// include/linux/interrupt.h, in the order of their numbers, which never changed.
pub const VECTORS: [&str; 10] =
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];

/// The softirqs of one vector, on all CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorLatencies {
    pub vector: &'static str,
    /// From the first raise to the entry.
    pub wait: Latencies,
    /// From the entry to the exit.
    pub run: Latencies,
}

/// The loaded probe. Cheap to clone; every consumer takes differences, nobody resets anything.
#[derive(Clone)]
pub struct Softirqs {
    object: Object,
    latencies: Arc<Table<u32, SoftirqLatencies>>,
}

impl Softirqs {
    /// Records of softirqs that waited, and of interrupts held off, for longer than the limits; one
    /// collector takes both rings.
    pub const DELAYS: Feature = Feature::of::<Softirqs>("delays");
    /// How long the softirqs of each vector waited and ran.
    pub const LATENCIES: Feature = Feature::of::<Softirqs>("latencies");

    /// From when on a softirq that waits, and a CPU without interrupts, is reported; nothing is until this
    /// is called. Steal time does not count.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_limits(&self, delay: Duration, held_off: Duration) -> anyhow::Result<()> {
        let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX).unsigned_abs();
        self.object.set(setting::SOFTIRQ_LIMIT_NS, ns(delay))?;
        self.object.set(setting::HELD_OFF_LIMIT_NS, ns(held_off))
    }

    /// All vectors since the probe was loaded, those that never ran included.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn latencies(&self) -> anyhow::Result<Vec<VectorLatencies>> {
        let of = |(number, vector): (u32, &&'static str)| {
            let (mut wait, mut run) = (Latencies::default(), Latencies::default());
            for cpu in self.latencies.get_per_cpu(&number)?.unwrap_or_default() {
                wait.add(&cpu.wait);
                run.add(&cpu.run);
            }
            Ok(VectorLatencies { vector, wait, run })
        };
        (0..).zip(&VECTORS).map(of).collect()
    }
}

impl SharedProbe for Softirqs {
    const SKELETON: &'static Skeleton = &SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let (delays, latencies) = (loading.wants(Softirqs::DELAYS), loading.wants(Softirqs::LATENCIES));
        let mut options = SKELETON
            .options()
            .switch(switch::DELAYS, u32::from(delays))
            .switch(switch::LATENCIES, u32::from(latencies));
        if !delays {
            options = options.without(&["armed", "expire", "expired"]);
        }
        if !latencies {
            options = options.without(&["exit"]).map_size("softirq_latencies", 1);
        }
        let object = loading.load(options)?;
        let latencies = object
            .table("softirq_latencies")
            .map_err(|e| LoadError::Object { object: SKELETON.name, reason: format!("{e:#}") })?;
        Ok(Softirqs { object, latencies: Arc::new(latencies) })
    }

    fn object(&self) -> &Object {
        &self.object
    }
}
