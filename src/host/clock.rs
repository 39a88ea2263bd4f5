// SPDX-License-Identifier: Apache-2.0
//! Boot time, wall time, and the offset between them.

use crate::signal::Timestamp;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: Timestamp,
    /// `CLOCK_BOOTTIME` in nanoseconds, as probes stamp their records.
    pub boot_ns: u64,
}

/// Turns the kernel's boot-time stamps into wall time. The offset is read again every second, so a
/// stepped clock does not move what is still to come by more than that.
#[derive(Debug, Clone, Default)]
pub struct Clock {}

impl Clock {
    #[must_use]
    pub fn now(&self) -> Now {
        unimplemented!()
    }

    #[must_use]
    pub fn wall(&self, _boot_ns: u64) -> Timestamp {
        unimplemented!()
    }
}
