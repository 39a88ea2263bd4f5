// SPDX-License-Identifier: Apache-2.0
//! A sampler without a kernel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::Sampler;
use super::kernel::Control;
use crate::probe::skeletons::cpu_sample::CpuSample as Record;

/// The state of a kernel that only records calls.
#[derive(Default)]
pub(crate) struct FakeState {
    pub now_ns: u64,
    pub runs: bool,
    pub node: u64,
    pub cgroups: HashMap<u64, u64>,
    pub processes: HashMap<u32, u64>,
    pub history: u32,
    pub lost: HashMap<u32, u64>,
    /// Entries that a map takes.
    pub room: usize,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<FakeState>>);

impl Fake {
    pub fn new() -> (Fake, Sampler) {
        let fake = Fake(Arc::new(Mutex::new(FakeState { now_ns: 1_000, room: 100, ..FakeState::default() })));
        (fake.clone(), Sampler::new(fake))
    }

    pub fn with<R>(&self, f: impl FnOnce(&mut FakeState) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    /// Samples a thread as the program does, and hands the record over.
    pub fn sample(&self, sampler: &Sampler, cgroup: u64, pid: u32, address: u64) {
        let record = self.with(|t| {
            let bits = |b: Option<&u64>| b.copied().unwrap_or(0);
            let subscribers = t.node | bits(t.cgroups.get(&cgroup)) | bits(t.processes.get(&pid));
            record(t.now_ns, subscribers, cgroup, pid, address, t.history > 0)
        });
        if record.subscribers != 0 || record.history != 0 {
            sampler.on_record(0, record.as_bytes());
        }
    }
}

impl Control for Fake {
    fn now_ns(&self) -> u64 {
        self.with(|t| t.now_ns)
    }

    fn run(&self, on: bool) -> anyhow::Result<()> {
        self.with(|t| t.runs = on);
        Ok(())
    }

    fn set_node(&self, subscribers: u64) -> anyhow::Result<()> {
        self.with(|t| t.node = subscribers);
        Ok(())
    }

    fn set_cgroup(&self, id: u64, subscribers: u64) -> anyhow::Result<()> {
        self.with(|t| set(&mut t.cgroups, t.room, id, subscribers))
    }

    fn set_process(&self, tgid: u32, subscribers: u64) -> anyhow::Result<()> {
        self.with(|t| set(&mut t.processes, t.room, tgid, subscribers))
    }

    fn set_history(&self, every: u32) -> anyhow::Result<()> {
        self.with(|t| t.history = every);
        Ok(())
    }

    fn lost(&self, subscriber: u32) -> u64 {
        self.with(|t| t.lost.get(&subscriber).copied().unwrap_or(0))
    }
}

fn set<K: Eq + std::hash::Hash>(map: &mut HashMap<K, u64>, room: usize, key: K, bits: u64) -> anyhow::Result<()> {
    if bits == 0 {
        map.remove(&key);
        return Ok(());
    }
    anyhow::ensure!(map.contains_key(&key) || map.len() < room, "no space left");
    map.insert(key, bits);
    Ok(())
}

/// A sample of a thread with one user frame.
pub(crate) fn record(time_ns: u64, subscribers: u64, cgroup: u64, pid: u32, address: u64, history: bool) -> Record {
    let mut r = Record::new_zeroed();
    (r.time_ns, r.subscribers, r.cgroup, r.history) = (time_ns, subscribers, cgroup, u32::from(history));
    (r.thread.tgid, r.thread.tid) = (pid, pid);
    r.user[0] = address;
    r.user_bytes = 8;
    r
}
