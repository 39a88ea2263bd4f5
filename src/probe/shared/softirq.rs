// SPDX-License-Identifier: Apache-2.0
//! `softirq`: softirqs from raise to entry, and timer interrupts that came late.

use std::time::Duration;

use super::{Feature, Loading, SharedProbe};
use crate::probe::skeletons::softirq::{SKELETON, setting};
use crate::probe::{LoadError, Object, Skeleton};

/// include/linux/interrupt.h, in the order of their numbers, which never changed.
pub const VECTORS: [&str; 10] =
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];

/// The loaded probe. Cheap to clone.
#[derive(Clone)]
pub struct Softirqs(Object);

impl Softirqs {
    /// Records of softirqs that waited, and of interrupts held off, for longer than the limits; one
    /// collector takes both rings.
    pub const DELAYS: Feature = Feature::of::<Softirqs>("delays");

    /// From when on a softirq that waits, and a CPU without interrupts, is reported; nothing is until this
    /// is called. Steal time does not count.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set_limits(&self, delay: Duration, held_off: Duration) -> anyhow::Result<()> {
        let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX).unsigned_abs();
        self.0.set(setting::SOFTIRQ_LIMIT_NS, ns(delay))?;
        self.0.set(setting::HELD_OFF_LIMIT_NS, ns(held_off))
    }
}

impl SharedProbe for Softirqs {
    const SKELETON: &'static Skeleton = &SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        Ok(Softirqs(loading.load(SKELETON.options())?))
    }

    fn object(&self) -> &Object {
        &self.0
    }
}
