// SPDX-License-Identifier: Apache-2.0
//! Samples folded by stack.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::SAMPLE_PERIOD_NS;
use crate::probe::frames;
use crate::probe::skeletons::cpu_sample::CpuSample as Record;
use crate::signal::Thread;

/// Distinct stacks kept of one subscription; the kernel side hands over at most 99 a second and CPU.
pub(super) const MAX_STACKS: usize = 20_000;

/// One distinct stack, as addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawStack {
    pub thread: Thread,
    /// Its cgroup, by the hierarchy of the cpu controller.
    pub cgroup: u64,
    pub kernel: Vec<u64>,
    pub user: Vec<u64>,
    pub count: u64,
}

/// What was sampled for one subscription.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    pub stacks: Vec<RawStack>,
    pub samples: u64,
    /// Samples of it without room, in the ring or here.
    pub lost: u64,
    /// From when to when (`CLOCK_BOOTTIME`).
    pub start_ns: u64,
    pub end_ns: u64,
    /// CPU time that one sample stands for.
    pub period_ns: u64,
}

impl Taken {
    #[must_use]
    pub fn lasted(&self) -> Duration {
        Duration::from_nanos(self.end_ns.saturating_sub(self.start_ns))
    }
}

/// A thread at one place. Shared by all subscriptions that have it.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub pid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
    pub cgroup: u64,
    pub kernel: Box<[u64]>,
    pub user: Box<[u64]>,
}

impl Place {
    pub fn of(r: &Record) -> Self {
        Place {
            pid: r.thread.tgid,
            tid: r.thread.tid,
            comm: r.thread.comm,
            cgroup: r.cgroup,
            kernel: frames(&r.kernel, r.kernel_bytes).into(),
            user: frames(&r.user, r.user_bytes).into(),
        }
    }

    /// Memory of it, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + (self.kernel.len() + self.user.len()) * size_of::<u64>()
    }
}

/// How often each place was seen, for a bounded number of places.
#[derive(Default)]
pub(super) struct Folded {
    places: HashMap<Arc<Place>, u64>,
    pub samples: u64,
    /// Samples of places that there was no room for.
    pub dropped: u64,
}

impl Folded {
    pub fn add(&mut self, place: &Arc<Place>) {
        self.samples += 1;
        if let Some(count) = self.places.get_mut(place) {
            *count += 1;
        } else if self.places.len() < MAX_STACKS {
            self.places.insert(place.clone(), 1);
        } else {
            self.dropped += 1;
        }
    }

    /// As it is handed out. `lost`: what did not get here.
    pub fn taken(self, lost: u64, (start_ns, end_ns): (u64, u64), every: u32) -> Taken {
        let stacks = self.places.into_iter().map(|(p, count)| RawStack {
            thread: Thread { pid: p.pid, tid: p.tid, comm: crate::probe::text(&p.comm) },
            cgroup: p.cgroup,
            kernel: p.kernel.to_vec(),
            user: p.user.to_vec(),
            count,
        });
        Taken {
            stacks: stacks.collect(),
            samples: self.samples,
            lost: lost + self.dropped,
            start_ns,
            end_ns,
            period_ns: SAMPLE_PERIOD_NS * u64::from(every),
        }
    }
}
