// SPDX-License-Identifier: Apache-2.0
//! `cpu_sample`: stacks of chosen cgroups, from the CPU clock of every CPU, while somebody watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::probe::skeletons::cpu_sample::{self, Record};
use crate::probe::{CgroupId, LoadError, Loader, Object, RecordSet, Sampling, Table, frames};
use crate::signal::Thread;

/// Off the usual 100 Hz, so as not to run in step with timers.
pub const HZ: u64 = 99;
/// CPU time that one sample stands for.
pub const SAMPLE_PERIOD_NS: u64 = 1_000_000_000 / HZ;
/// Distinct stacks kept of one target; the kernel side hands over at most 99 a second and CPU.
const MAX_STACKS: usize = 20_000;

/// One distinct stack, as addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawStack {
    pub thread: Thread,
    pub kernel: Vec<u64>,
    pub user: Vec<u64>,
    pub count: u64,
}

/// What was sampled of one target.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    pub stacks: Vec<RawStack>,
    pub samples: u64,
    /// Samples without room, in the ring or here.
    pub lost: u64,
    pub lasted: Duration,
}

/// Handle of the shared sampler. Cheap to clone.
#[derive(Clone)]
pub struct CpuSample(Arc<Inner>);

struct Inner {
    object: Object,
    targets: Table<u64, u64>,
    state: Mutex<State>,
}

struct State {
    /// Opened at once, while the privileges are there; it runs while somebody watches.
    sampling: Sampling,
    runs: bool,
    watched: HashMap<u64, Target>,
}

struct Target {
    cgroups: Vec<u64>,
    stacks: HashMap<StackKey, u64>,
    samples: u64,
    dropped: u64,
    ring_lost_before: u64,
    since: Instant,
    /// No further samples are wanted; what there is waits to be taken.
    stop: tokio::sync::watch::Sender<bool>,
}

#[derive(PartialEq, Eq, Hash)]
struct StackKey {
    pid: u32,
    tid: u32,
    comm: [u8; 16],
    kernel: Box<[u64]>,
    user: Box<[u64]>,
}

impl CpuSample {
    /// # Errors
    /// Why it does not load.
    pub fn load(loader: &mut Loader) -> Result<Self, LoadError> {
        let object = loader.load(cpu_sample::SKELETON.options())?;
        let failed =
            |e: anyhow::Error| LoadError::Object { object: cpu_sample::SKELETON.name, reason: format!("{e:#}") };
        let targets = object.table("targets").map_err(failed)?;
        let sampling = object.sample("sample", HZ).map_err(failed)?;
        let state = Mutex::new(State { sampling, runs: false, watched: HashMap::new() });
        Ok(CpuSample(Arc::new(Inner { object, targets, state })))
    }

    /// The object whose ring the agent reads for [`on_record`](Self::on_record).
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts sampling the tasks of these cgroups under the number `target`.
    ///
    /// # Errors
    /// The sampling does not start, or the map is full.
    pub fn watch(&self, target: u64, cgroups: &[CgroupId]) -> Result<()> {
        let mut state = self.state();
        if state.watched.contains_key(&target) {
            return Ok(());
        }
        if !state.runs {
            self.start(&mut state)?;
        }
        let (stop, _) = tokio::sync::watch::channel(false);
        let lost = self.ring_lost();
        let fresh = Target {
            cgroups: Vec::new(),
            stacks: HashMap::new(),
            samples: 0,
            dropped: 0,
            ring_lost_before: lost,
            since: Instant::now(),
            stop,
        };
        state.watched.insert(target, fresh);
        self.add_cgroups(&mut state, target, cgroups)
    }

    fn start(&self, state: &mut State) -> Result<()> {
        if state.sampling.is_outdated() {
            match self.0.object.sample("sample", HZ) {
                Ok(fresh) => state.sampling = fresh,
                Err(e) => tracing::info!("CPUs that came later are not sampled: {e:#}"),
            }
        }
        state.sampling.start()?;
        state.runs = true;
        Ok(())
    }

    /// Adds cgroups that the target got meanwhile.
    ///
    /// # Errors
    /// The map is full.
    pub fn extend(&self, target: u64, cgroups: &[CgroupId]) -> Result<()> {
        self.add_cgroups(&mut self.state(), target, cgroups)
    }

    fn add_cgroups(&self, state: &mut State, target: u64, cgroups: &[CgroupId]) -> Result<()> {
        let Some(t) = state.watched.get_mut(&target) else { return Ok(()) };
        for c in cgroups {
            if !t.cgroups.contains(&c.id) {
                self.0.targets.put(&c.id, &target)?;
                t.cgroups.push(c.id);
            }
        }
        Ok(())
    }

    /// Wants no more samples of the target; what there is can still be taken.
    pub fn stop(&self, target: u64) {
        let mut state = self.state();
        if let Some(t) = state.watched.get_mut(&target) {
            self.forget_cgroups(t);
            t.stop.send_replace(true);
        }
        Self::rest(&mut state);
    }

    /// Stops all targets: the agent is about to end, and captures close with what they have.
    pub fn stop_all(&self) {
        let targets: Vec<u64> = self.state().watched.keys().copied().collect();
        targets.into_iter().for_each(|t| self.stop(t));
    }

    /// Ends when the target was stopped, or is not watched at all.
    pub async fn stopped(&self, target: u64) {
        let stop = self.state().watched.get(&target).map(|t| t.stop.subscribe());
        if let Some(mut stop) = stop {
            // An error is the sender's end: the target was taken.
            drop(stop.wait_for(|s| *s).await);
        }
    }

    /// Ends the sampling of the target and gives what was sampled.
    pub fn take(&self, target: u64) -> Taken {
        let mut state = self.state();
        let Some(t) = state.watched.remove(&target) else { return Taken::default() };
        self.forget_cgroups(&t);
        Self::rest(&mut state);
        let lost = self.ring_lost().saturating_sub(t.ring_lost_before) + t.dropped;
        let stacks = t.stacks.into_iter().map(|(k, count)| RawStack {
            thread: Thread { pid: k.pid, tid: k.tid, comm: crate::probe::text(&k.comm) },
            kernel: k.kernel.into(),
            user: k.user.into(),
            count,
        });
        Taken { stacks: stacks.collect(), samples: t.samples, lost, lasted: t.since.elapsed() }
    }

    fn forget_cgroups(&self, t: &Target) {
        for id in &t.cgroups {
            if let Err(e) = self.0.targets.remove(id) {
                tracing::debug!("cpu_sample: {e:#}");
            }
        }
    }

    /// Stops the perf events when no target wants them any more.
    fn rest(state: &mut State) {
        if state.runs && state.watched.values().all(|t| *t.stop.borrow()) {
            state.runs = false;
            if let Err(e) = state.sampling.stop() {
                tracing::debug!("cpu_sample: {e:#}");
            }
        }
    }

    fn ring_lost(&self) -> u64 {
        self.0.object.lost().map_or(0, |l| l.iter().sum())
    }

    /// Takes one record of the ring; called by the reader's thread.
    pub fn on_record(&self, ring: usize, bytes: &[u8]) {
        let Ok(Record::CpuSample(r)) = cpu_sample::Records::decode(ring, bytes) else { return };
        let mut state = self.state();
        let Some(t) = state.watched.get_mut(&r.target) else { return };
        t.samples += 1;
        let key = StackKey {
            pid: r.thread.tgid,
            tid: r.thread.tid,
            comm: r.thread.comm,
            kernel: frames(&r.kernel, r.kernel_bytes).into(),
            user: frames(&r.user, r.user_bytes).into(),
        };
        if t.stacks.len() >= MAX_STACKS && !t.stacks.contains_key(&key) {
            t.dropped += 1;
            return;
        }
        *t.stacks.entry(key).or_default() += 1;
    }
}
