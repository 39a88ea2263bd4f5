// SPDX-License-Identifier: Apache-2.0
//! Boot time, wall time, and the offset between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::sys;
use crate::signal::Timestamp;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: Timestamp,
    /// `CLOCK_BOOTTIME` in nanoseconds, as probes stamp their records.
    pub boot_ns: u64,
}

/// Turns the kernel's boot-time stamps into wall time. The offset is read again every second, so a
/// stepped clock does not move what is still to come by more than that. Cheap to clone; clones share
/// the offset.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    Kernel {
        /// Wall minus boot time.
        offset_ns: AtomicI64,
        /// Boot time at which the offset was read; 0: never.
        read_at_ns: AtomicU64,
    },
    Fixed {
        offset_ns: AtomicI64,
        boot_ns: AtomicU64,
    },
}

/// How old an offset may be.
const REFRESH_NS: u64 = 1_000_000_000;

impl Default for Clock {
    fn default() -> Self {
        Clock(Arc::new(Source::Kernel { offset_ns: AtomicI64::new(0), read_at_ns: AtomicU64::new(0) }))
    }
}

impl Clock {
    /// A clock that stands still until [`Self::advance`] or [`Self::step`], for tests.
    #[must_use]
    pub fn fixed(wall: Timestamp, boot_ns: u64) -> Self {
        let offset_ns = AtomicI64::new(difference(wall.0, boot_ns));
        Clock(Arc::new(Source::Fixed { offset_ns, boot_ns: AtomicU64::new(boot_ns) }))
    }

    /// Lets time go by on a fixed clock; nothing on the kernel's.
    pub fn advance(&self, by: Duration) {
        if let Source::Fixed { boot_ns, .. } = &*self.0 {
            boot_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Steps the wall clock of a fixed clock, as `settimeofday` does; nothing on the kernel's.
    pub fn step(&self, by_ns: i64) {
        if let Source::Fixed { offset_ns, .. } = &*self.0 {
            offset_ns.fetch_add(by_ns, Ordering::Relaxed);
        }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Now {
        let boot_ns = self.boot_ns();
        Now { wall: Timestamp(boot_ns.saturating_add_signed(self.offset(boot_ns))), boot_ns }
    }

    /// `CLOCK_BOOTTIME` in nanoseconds.
    #[must_use]
    pub fn boot_ns(&self) -> u64 {
        match &*self.0 {
            Source::Kernel { .. } => sys::boot_ns(),
            Source::Fixed { boot_ns, .. } => boot_ns.load(Ordering::Relaxed),
        }
    }

    /// The wall time of a boot-time stamp.
    #[must_use]
    pub fn wall(&self, boot_ns: u64) -> Timestamp {
        Timestamp(boot_ns.saturating_add_signed(self.offset(self.boot_ns())))
    }

    /// Reads the offset now, e.g. when `TFD_TIMER_CANCEL_ON_SET` reported a step.
    pub fn refresh(&self) {
        if let Source::Kernel { offset_ns, read_at_ns } = &*self.0 {
            offset_ns.store(measure_offset(), Ordering::Relaxed);
            read_at_ns.store(sys::boot_ns().max(1), Ordering::Release);
        }
    }

    fn offset(&self, now_boot_ns: u64) -> i64 {
        match &*self.0 {
            Source::Kernel { offset_ns, read_at_ns } => {
                let read = read_at_ns.load(Ordering::Acquire);
                if read == 0 || now_boot_ns.saturating_sub(read) >= REFRESH_NS {
                    self.refresh();
                }
                offset_ns.load(Ordering::Relaxed)
            }
            Source::Fixed { offset_ns, .. } => offset_ns.load(Ordering::Relaxed),
        }
    }
}

/// The closest of three tries: a thread that is preempted between the two reads must not move all
/// times of the next second.
fn measure_offset() -> i64 {
    let mut best = (u64::MAX, 0);
    for _ in 0..3 {
        let before = sys::boot_ns();
        let wall = sys::wall_ns();
        let gap = sys::boot_ns().saturating_sub(before);
        if gap < best.0 {
            best = (gap, difference(wall, before + gap / 2));
        }
    }
    best.1
}

fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real clock agrees with the system's wall clock, and boot time does not go backwards.
    #[test]
    fn the_kernels_clock_agrees_with_the_wall() {
        let c = Clock::default();
        let (a, b) = (c.now(), c.now());
        assert!(b.boot_ns >= a.boot_ns && a.boot_ns > 0);
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let off = system.abs_diff(u128::from(b.wall.0));
        assert!(off < 1_500_000_000, "{off} ns off");
        assert_eq!(c.wall(b.boot_ns), b.wall);
    }

    /// A step of the wall clock moves the wall time of stamps, never the time between two stamps.
    #[test]
    fn a_step_moves_only_the_wall() {
        let c = Clock::fixed(Timestamp(1_000_000), 400);
        let before = c.now();
        c.advance(Duration::from_nanos(50));
        c.step(-900);
        let after = c.now();
        assert_eq!(after.boot_ns - before.boot_ns, 50);
        assert_eq!(after.wall.0, 1_000_000 + 50 - 900);
        assert_eq!(c.wall(401).0 - c.wall(400).0, 1);
    }
}
