// SPDX-License-Identifier: Apache-2.0
//! Hands the collectors' filters to the kernel, where a probe asks (`bpf/include/filter.h`): which
//! cgroups it makes no record of. That saves their way up here and leaves a probe's limits to the
//! others; what is not in a probe's map is judged in user space like anything else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::collectors::Built;
use crate::collectors::Kind;
use crate::probe::{CgroupId, CgroupRef, Object, Setting, Table};
use crate::signal::Workload;
use crate::workload::{Filters, Workloads};

/// As `filter.h` has them.
const MAP: &str = "filtered";
const COUNTS: &str = "filter_counts";
const FILTERING: Setting<u32> = Setting::new("filtering");

/// The probes that ask.
pub(super) struct KernelFilter {
    filters: Filters,
    workloads: Workloads,
    probes: Mutex<Vec<Probe>>,
}

struct Probe {
    object: Object,
    map: Table<CgroupRef, u64>,
    counts: Table<u32, u64>,
    rings: Vec<Ring>,
    /// What is in the map, and how much of it there can be.
    written: HashMap<CgroupId, u64>,
    room: usize,
}

struct Ring {
    /// Its number in `probe_stats`.
    number: u32,
    /// Who takes its records.
    collector: &'static str,
    counted: u64,
}

impl KernelFilter {
    pub fn new(filters: &Filters, workloads: &Workloads, built: &[Built]) -> Self {
        let events = built.iter().filter(|b| b.running.kind() == Kind::Events);
        let owned = events.clone().flat_map(|b| b.objects.iter().map(|o| (o, b.name, None)));
        let taken = events.flat_map(|b| b.rings.iter().map(|r| (&r.object, b.name, Some(r.ring))));
        let mut probes: Vec<Probe> = Vec::new();
        for (object, collector, only) in owned.chain(taken) {
            let at = probes.iter().position(|p| p.object.name() == object.name());
            let Some(at) = at.or_else(|| {
                probes.push(Probe::new(object)?);
                Some(probes.len() - 1)
            }) else {
                continue;
            };
            let rings = object.skeleton().rings.iter().enumerate().filter(|(i, _)| only.is_none_or(|o| o == *i));
            probes[at].rings.extend(rings.map(|(_, r)| Ring { number: r.stat, collector, counted: 0 }));
        }
        KernelFilter { filters: filters.clone(), workloads: workloads.clone(), probes: Mutex::new(probes) }
    }

    /// Judges all cgroups that live: after changes of filters or workloads, and now and then, as
    /// children of a known cgroup come and go unreported.
    pub fn judge(&self) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.retain(|p| !p.rings.is_empty());
        let idle = |p: &Probe| p.written.is_empty() && p.rings.iter().all(|r| self.filters.of(r.collector).is_none());
        if probes.iter().all(idle) {
            return;
        }
        let all = self.workloads.cgroups();
        for p in probes.iter_mut() {
            if let Err(e) = p.write(&self.filters, &all) {
                tracing::warn!("{} is filtered in user space only: {e:#}", p.object.name());
            }
        }
    }

    /// Records that the kernel did not make since the last look, by collector.
    pub fn counted(&self) -> Vec<(&'static str, u64)> {
        let mut out = Vec::new();
        for p in self.probes.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            for ring in &mut p.rings {
                let Ok(Some(cpus)) = p.counts.get_per_cpu(&ring.number) else { continue };
                let total = cpus.iter().sum();
                out.push((ring.collector, total - std::mem::replace(&mut ring.counted, total)));
            }
        }
        out.retain(|(_, n)| *n > 0);
        out
    }
}

impl Probe {
    /// `None`: the object does not ask.
    fn new(object: &Object) -> Option<Self> {
        let room = object.skeleton().maps.iter().find(|m| m.name == MAP)?.max_entries as usize;
        let (map, counts) = (object.table(MAP).ok()?, object.table(COUNTS).ok()?);
        Some(Probe { object: object.clone(), map, counts, rings: Vec::new(), written: HashMap::new(), room })
    }

    fn write(&mut self, filters: &Filters, all: &[(CgroupId, Arc<Workload>)]) -> anyhow::Result<()> {
        let filters: Vec<_> =
            self.rings.iter().filter_map(|r| Some((1_u64 << r.number, filters.of(r.collector)?))).collect();
        let bits = |w: &Workload| filters.iter().filter(|(_, f)| !f.passes(Some(w))).fold(0, |all, (bit, _)| all | bit);
        let unwanted: HashMap<_, _> = all.iter().map(|(id, w)| (*id, bits(w))).filter(|(_, b)| *b != 0).collect();
        let over: Vec<_> = self.written.keys().filter(|id| !unwanted.contains_key(id)).copied().collect();
        for id in over {
            self.map.remove(&key(id))?;
            self.written.remove(&id);
        }
        for (id, bits) in unwanted {
            let known = self.written.get(&id);
            if known == Some(&bits) || known.is_none() && self.written.len() >= self.room {
                continue;
            }
            self.map.put(&key(id), &bits)?;
            self.written.insert(id, bits);
        }
        self.object.set(FILTERING, u32::from(!self.written.is_empty()))
    }
}

fn key(id: CgroupId) -> CgroupRef {
    CgroupRef { id: id.id, hierarchy: id.hierarchy, reserved: 0 }
}
