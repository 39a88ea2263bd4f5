// SPDX-License-Identifier: Apache-2.0
//! Metric collectors: each on its own interval, never on a scrape.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Command, Outlet, Slot, reload};
use crate::collectors::registry::{Running, RunningMetrics};
use crate::signal::Metrics;

/// A metric collector and when it is due.
pub(crate) struct MetricsSlot {
    pub slot: Slot<Box<dyn RunningMetrics>>,
    pub interval: Duration,
}

/// All metric collectors, one after another on one thread.
pub(crate) struct MetricsLoop {
    slots: Vec<Slot<Box<dyn RunningMetrics>>>,
    /// Interval and next due time of the slot of the same index.
    due: Vec<(Duration, Instant)>,
    outlet: Arc<dyn Outlet>,
}

impl MetricsLoop {
    pub fn new(slots: Vec<MetricsSlot>, outlet: Arc<dyn Outlet>) -> Self {
        let now = Instant::now();
        let due = slots.iter().map(|s| (s.interval, now)).collect();
        MetricsLoop { slots: slots.into_iter().map(|s| s.slot).collect(), due, outlet }
    }

    pub fn run(mut self, commands: &Receiver<Command>) {
        let mut out = Metrics::default();
        loop {
            let next = self.due.iter().map(|(_, at)| *at).min();
            let wait = next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            match commands.recv_timeout(wait) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Command::Reload { collector, section }) => {
                    reload(&mut self.slots, collector, |c| c.reload(&section));
                }
                Ok(Command::Answer(answer)) => answer.store(true, Ordering::Relaxed),
                Err(RecvTimeoutError::Timeout) => self.collect_due(&mut out),
            }
        }
    }

    fn collect_due(&mut self, out: &mut Metrics) {
        let now = Instant::now();
        for (slot, (interval, due)) in self.slots.iter_mut().zip(&mut self.due) {
            if *due > now {
                continue;
            }
            // From the plan, not from now, so that intervals do not drift; a missed one is skipped.
            *due = (*due + *interval).max(now + *interval / 2);
            slot.restart_if_due(&*self.outlet, |r| if let Running::Metrics(m) = r { Some(m) } else { None });
            slot.run(&*self.outlet, |c| c.collect(out));
            self.outlet.metrics(slot.name, out);
            out.drain();
        }
    }
}
