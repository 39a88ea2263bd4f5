// SPDX-License-Identifier: Apache-2.0
//! Who samples what: subscriptions over the same samples, each with its own start, end and losses.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::history::{History, HistorySettings, HistorySize};
use super::kernel::{Control, HISTORY};
use super::members::Members;
use super::stacks::{Folded, Place, Taken};
use crate::probe::skeletons::cpu_sample::{Record, Records};
use crate::probe::{CgroupId, RecordSet as _};

/// Subscriptions at once: the kernel has a bit for each.
pub(super) const MAX_SUBSCRIPTIONS: usize = 64;

/// Whom a subscription is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything that runs.
    Node,
    /// Tasks of these cgroups, not of their children.
    Cgroups(Vec<CgroupId>),
    /// Threads of these processes, as the host numbers them.
    Processes(Vec<u32>),
}

/// The shared sampler. Cheap to clone.
#[derive(Clone)]
pub struct Sampler(Arc<Inner>);

struct Inner {
    control: Box<dyn Control>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    runs: bool,
    /// One a subscription; a slot's number is its bit.
    slots: Vec<Option<Active>>,
    /// Subscribers as the kernel has them.
    node: u64,
    cgroups: HashMap<u64, u64>,
    processes: HashMap<u32, u64>,
    history: History,
    histories: u64,
}

/// Keeps the history going; it ends with the last of these.
#[derive(Debug)]
pub struct HistorySubscription {
    sampler: Sampler,
    number: u64,
}

impl HistorySubscription {
    #[must_use]
    pub fn size(&self) -> HistorySize {
        self.sampler.history_size()
    }
}

impl Drop for HistorySubscription {
    fn drop(&mut self) {
        self.sampler.end_history(self.number);
    }
}

struct Active {
    members: Members,
    folded: Folded,
    start_ns: u64,
    /// When it was stopped.
    end_ns: Option<u64>,
    lost_before: u64,
    stop: watch::Sender<bool>,
}

/// Samples of one scope, from its making until it is stopped, taken or dropped.
#[derive(Debug)]
pub struct Subscription {
    sampler: Sampler,
    slot: usize,
    stopped: watch::Receiver<bool>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sampler")
    }
}

impl Sampler {
    pub(super) fn new(control: impl Control + 'static) -> Self {
        let slots = std::iter::repeat_with(|| None).take(MAX_SUBSCRIPTIONS).collect();
        let state = Mutex::new(State { slots, ..State::default() });
        Sampler(Arc::new(Inner { control: Box::new(control), state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples this scope from now on.
    ///
    /// # Errors
    /// All 64 subscriptions are taken, the kernel's map is full, or the sampling does not start.
    pub fn subscribe(&self, scope: &Scope) -> Result<Subscription> {
        let mut state = self.state();
        let Some(slot) = state.slots.iter().position(Option::is_none) else {
            bail!("all {MAX_SUBSCRIPTIONS} subscriptions of the CPU sampler are taken");
        };
        let (stop, stopped) = watch::channel(false);
        state.slots[slot] = Some(Active {
            members: Members::default(),
            folded: Folded::default(),
            start_ns: self.0.control.now_ns(),
            end_ns: None,
            lost_before: self.0.control.lost(slot as u32),
            stop,
        });
        // Dropped on an error, which frees the slot and whatever was set in the kernel by then.
        let subscription = Subscription { sampler: self.clone(), slot, stopped };
        let result = self.0.add(&mut state, slot, scope).and_then(|()| self.0.start_or_stop(&mut state));
        drop(state);
        result.map(|()| subscription)
    }

    /// Keeps a history of the node from now on.
    ///
    /// # Errors
    /// The sampling does not start.
    pub fn subscribe_history(&self, settings: HistorySettings) -> Result<HistorySubscription> {
        let mut state = self.state();
        let number = state.histories;
        state.histories += 1;
        state.history.subscribe(number, settings);
        let subscription = HistorySubscription { sampler: self.clone(), number };
        let result = self.0.set_history(&mut state).and_then(|()| self.0.start_or_stop(&mut state));
        drop(state);
        result.map(|()| subscription)
    }

    pub(super) fn end_history(&self, number: u64) {
        let mut state = self.state();
        state.history.end(number);
        let result = self.0.set_history(&mut state).and_then(|()| self.0.start_or_stop(&mut state));
        log_failure(result);
    }

    pub(super) fn history_size(&self) -> HistorySize {
        self.state().history.size()
    }

    /// Stops all subscriptions; what they have can still be taken.
    pub(super) fn stop_all(&self) {
        let mut state = self.state();
        (0..MAX_SUBSCRIPTIONS).for_each(|slot| self.0.stop(&mut state, slot));
    }

    pub(super) fn on_record(&self, ring: usize, bytes: &[u8]) {
        let Ok(Record::CpuSample(r)) = Records::decode(ring, bytes) else { return };
        let place = Arc::new(Place::of(r));
        let mut state = self.state();
        let mut bits = r.subscribers;
        while bits != 0 {
            let slot = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // A sample that is older was meant for who had the slot before.
            if let Some(active) = state.slots[slot].as_mut().filter(|a| a.start_ns <= r.time_ns) {
                active.folded.add(&place);
            }
        }
        if r.history != 0 {
            state.history.add(r.time_ns, r.cgroup, &place);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_running(&self) -> bool {
        self.state().runs
    }
}

impl Inner {
    /// Adds to whom a subscription is about.
    fn add(&self, state: &mut State, slot: usize, scope: &Scope) -> Result<()> {
        let State { slots, node, cgroups, processes, .. } = state;
        let Some(active) = slots[slot].as_mut().filter(|a| a.end_ns.is_none()) else { return Ok(()) };
        let (bit, members) = (1 << slot, &mut active.members);
        match scope {
            Scope::Node => {
                members.node = true;
                *node |= bit;
                self.control.set_node(*node)
            }
            Scope::Cgroups(ids) => ids.iter().filter(|c| members.cgroups.insert(c.id)).try_for_each(|c| {
                let bits = add_bit(cgroups, c.id, bit);
                self.control.set_cgroup(c.id, bits)
            }),
            Scope::Processes(pids) => pids.iter().filter(|p| members.processes.insert(**p)).try_for_each(|pid| {
                let bits = add_bit(processes, *pid, bit);
                self.control.set_process(*pid, bits)
            }),
        }
    }

    /// Wants no more samples for a slot; what it has stays.
    fn stop(&self, state: &mut State, slot: usize) {
        let State { slots, node, cgroups, processes, .. } = state;
        let Some(active) = slots[slot].as_mut().filter(|a| a.end_ns.is_none()) else { return };
        active.end_ns = Some(self.control.now_ns());
        let (bit, members) = (1 << slot, &active.members);
        if members.node {
            *node &= !bit;
            log_failure(self.control.set_node(*node));
        }
        for id in &members.cgroups {
            log_failure(self.control.set_cgroup(*id, remove_bit(cgroups, *id, bit)));
        }
        for pid in &members.processes {
            log_failure(self.control.set_process(*pid, remove_bit(processes, *pid, bit)));
        }
        active.stop.send_replace(true);
        log_failure(self.start_or_stop(state));
    }

    fn set_history(&self, state: &mut State) -> Result<()> {
        if state.history.size().samples == 0 {
            state.history.lost_before = self.control.lost(HISTORY);
        }
        self.control.set_history(state.history.every())
    }

    /// Has the perf events run while somebody wants samples, and no longer.
    fn start_or_stop(&self, state: &mut State) -> Result<()> {
        let wanted = state.history.every() > 0 || state.slots.iter().flatten().any(|a| a.end_ns.is_none());
        if wanted != state.runs {
            self.control.run(wanted)?;
            state.runs = wanted;
        }
        Ok(())
    }
}

fn add_bit<K: Eq + Hash>(subscribers: &mut HashMap<K, u64>, key: K, bit: u64) -> u64 {
    let bits = subscribers.entry(key).or_default();
    *bits |= bit;
    *bits
}

fn remove_bit<K: Eq + Hash>(subscribers: &mut HashMap<K, u64>, key: K, bit: u64) -> u64 {
    let Some(bits) = subscribers.get_mut(&key) else { return 0 };
    *bits &= !bit;
    let left = *bits;
    if left == 0 {
        subscribers.remove(&key);
    }
    left
}

/// Ending cannot fail for the caller; the next start tries again.
fn log_failure(result: Result<()>) {
    if let Err(e) = result {
        tracing::debug!("cpu_sample: {e:#}");
    }
}

impl Subscription {
    /// Adds to whom it is about, such as cgroups that a workload got since.
    ///
    /// # Errors
    /// The kernel's map is full.
    pub fn extend(&self, more: &Scope) -> Result<()> {
        self.sampler.0.add(&mut self.sampler.state(), self.slot, more)
    }

    /// Samples so far.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.sampler.state().slots[self.slot].as_ref().map_or(0, |a| a.folded.samples)
    }

    /// Wants no more samples; what there is can still be taken.
    pub fn stop(&self) {
        self.sampler.0.stop(&mut self.sampler.state(), self.slot);
    }

    /// Returns when it was stopped, here or because the agent ends.
    pub async fn stopped(&self) {
        // An error is the sender's end, and so the subscription's.
        drop(self.stopped.clone().wait_for(|s| *s).await);
    }

    /// Stops it and gives what was sampled; a second time there is nothing left.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut state = self.sampler.state();
        let inner = &self.sampler.0;
        inner.stop(&mut state, self.slot);
        let Some(active) = state.slots[self.slot].as_mut() else { return Taken::default() };
        let lost = inner.control.lost(self.slot as u32).saturating_sub(active.lost_before);
        active.lost_before += lost;
        let end_ns = active.end_ns.unwrap_or(active.start_ns);
        std::mem::take(&mut active.folded).taken(lost, (active.start_ns, end_ns), 1)
    }

    /// What the history has of the same scope from before it began; `None` where nobody subscribed to
    /// a history. Its samples are fewer, and so each stands for more time. `lost` is of the whole history.
    #[must_use]
    pub fn look_back(&self) -> Option<Taken> {
        let state = self.sampler.state();
        let active = state.slots[self.slot].as_ref()?;
        state.history.look_back(&active.members, active.start_ns, self.sampler.0.control.lost(HISTORY))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.sampler.state();
        self.sampler.0.stop(&mut state, self.slot);
        state.slots[self.slot] = None;
    }
}
