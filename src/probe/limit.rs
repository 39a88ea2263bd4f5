// SPDX-License-Identifier: Apache-2.0
//! Limits of events by workload and reason, as `bpf/include/limit.h` keeps them in every object with a
//! ring of events: how many the next event has to speak of, and what never became one.

use std::collections::HashMap;

use anyhow::Result;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CgroupRef, MapDef, Object, Skeleton, Table};

/// The maps of `limit.h`.
pub(super) const LIMITS: &str = "limits";
const COUNTS: &str = "limit_counts";

/// An LRU map moves free entries to each CPU in batches of 128 (`LOCAL_FREE_TARGET` of
/// kernel/bpf/bpf_lru_list.h), so that a small one evicts what is in use on a machine with many CPUs.
const ENTRIES_A_CPU: usize = 256;

/// Keys of which is known what was said; more than a map of a usual machine has.
const KEYS: usize = 8192;

/// `struct limit_key`: who shares tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LimitKey {
    pub cgroup: CgroupRef,
    pub reason: u64,
    /// Inode of the network namespace, where the probe knows it.
    pub netns: u32,
    /// The ring's number in `probe_stats`.
    pub ring: u32,
}

impl std::hash::Hash for LimitKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// `struct limited`: head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limited {
    pub key: LimitKey,
    /// Events of the key that were over its limit, since `begun_ns`.
    pub suppressed: u64,
    /// When the key's entry was made; 0: there was no room for one.
    pub begun_ns: u64,
}

/// `struct limiter`: what became of a key's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limiter {
    pub spent_ns: u64,
    pub suppressed: u64,
    pub lost: u64,
    pub begun_ns: u64,
}

/// `struct limit_count`: the same of a whole ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LimitCount {
    pub suppressed: u64,
    pub crowded: u64,
}

/// Entries that a map of limits is to have.
pub(super) fn entries(def: &MapDef, cpus: usize) -> u32 {
    def.max_entries.max(u32::try_from(ENTRIES_A_CPU * cpus).unwrap_or(u32::MAX))
}

/// The head of a record from a ring of events.
pub(crate) fn head(skeleton_rings: &[super::RingDef], ring: usize, bytes: &[u8]) -> Option<Limited> {
    skeleton_rings.get(ring).filter(|r| r.limited)?;
    Limited::read_from_prefix(bytes).ok().map(|(head, _)| head)
}

/// What events have said so far of those that were over the limit: the kernel's counts only grow.
#[derive(Debug, Default)]
pub(crate) struct Said {
    of: HashMap<LimitKey, Counted>,
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    begun_ns: u64,
    suppressed: u64,
    turn: u64,
}

impl Said {
    /// How many were over the limit since the last event of this key; an event says it now. Records that
    /// CPUs made at once may come in any order: none is said twice.
    pub fn since_last(&mut self, head: &Limited) -> u64 {
        if head.begun_ns == 0 {
            return 0;
        }
        self.turn += 1;
        let fresh = Counted { begun_ns: head.begun_ns, suppressed: 0, turn: 0 };
        let last = self.of.entry(head.key).or_insert(fresh);
        if last.begun_ns < head.begun_ns {
            *last = fresh;
        }
        last.turn = self.turn;
        let is_older = last.begun_ns > head.begun_ns;
        let news = if is_older { 0 } else { head.suppressed.saturating_sub(last.suppressed) };
        last.suppressed += news;
        self.forget();
        news
    }

    /// Keeps the half that was used last.
    fn forget(&mut self) {
        if self.of.len() > KEYS {
            let oldest = self.turn.saturating_sub(KEYS as u64 / 2);
            self.of.retain(|_, c| c.turn > oldest);
        }
    }
}

/// Events that were not handed over, since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The ring's index.
    pub ring: usize,
    /// Whose they were; `None`: not known any more, as its entry had to make room.
    pub key: Option<LimitKey>,
    /// Over the limit.
    pub suppressed: u64,
    /// Had no room in the ring.
    pub lost: u64,
    /// Had no entry of its own, and no token left among all such.
    pub crowded: u64,
}

/// Looks at an object's limits.
pub(crate) struct Limits {
    object: Object,
    limits: Table<LimitKey, Limiter>,
    counts: Table<u32, LimitCount>,
    /// Counts of each entry at the last look.
    seen: HashMap<LimitKey, Limiter>,
    /// What was found so far, by ring: suppressed, lost, crowded.
    found: Vec<[u64; 3]>,
}

impl Limits {
    /// `None`: it has no ring of events.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn of(object: &Object) -> Result<Option<Self>> {
        let skeleton: &Skeleton = object.skeleton();
        if !skeleton.rings.iter().any(|r| r.limited) {
            return Ok(None);
        }
        Ok(Some(Limits {
            object: object.clone(),
            limits: object.table(LIMITS)?,
            counts: object.table(COUNTS)?,
            seen: HashMap::new(),
            found: vec![[0; 3]; skeleton.rings.len()],
        }))
    }

    /// What was not handed over since the last look, by key as far as it is known.
    ///
    /// # Errors
    /// The kernel's reason; nothing is forgotten then.
    pub fn check(&mut self) -> Result<Vec<Missing>> {
        // Totals first: what comes meanwhile is in the entries only, and in the totals of the next look.
        let totals = self.totals()?;
        let mut all = self.entries()?;
        for (ring, total) in totals.iter().enumerate() {
            let found = &mut self.found[ring];
            for m in all.iter().filter(|m| m.ring == ring) {
                found[0] += m.suppressed;
                found[1] += m.lost;
            }
            let mut rest = [0; 3];
            for ((rest, total), found) in rest.iter_mut().zip(total).zip(found) {
                *rest = total.saturating_sub(*found);
                *found += *rest;
            }
            if rest != [0; 3] {
                let [suppressed, lost, crowded] = rest;
                all.push(Missing { ring, key: None, suppressed, lost, crowded });
            }
        }
        Ok(all)
    }

    fn totals(&self) -> Result<Vec<[u64; 3]>> {
        let lost = self.object.lost()?;
        let rings = self.object.skeleton().rings.iter().zip(lost);
        rings
            .map(|(def, lost)| {
                let cpus = self.counts.get_per_cpu(&def.stat)?.unwrap_or_default();
                Ok([cpus.iter().map(|c| c.suppressed).sum(), lost, cpus.iter().map(|c| c.crowded).sum()])
            })
            .collect()
    }

    /// Growth of the entries that are there.
    fn entries(&mut self) -> Result<Vec<Missing>> {
        let rings = self.object.skeleton().rings;
        let (mut grown, mut now) = (Vec::new(), HashMap::new());
        let seen = &self.seen;
        self.limits.for_each(|key, limiter| {
            let Some(limiter) = limiter.first() else { return };
            let Some(ring) = rings.iter().position(|r| r.stat == key.ring) else { return };
            let last = seen.get(key).filter(|l| l.begun_ns == limiter.begun_ns);
            let news = |now: u64, last: Option<u64>| now.saturating_sub(last.unwrap_or(0));
            let suppressed = news(limiter.suppressed, last.map(|l| l.suppressed));
            let lost = news(limiter.lost, last.map(|l| l.lost));
            if suppressed + lost > 0 {
                grown.push(Missing { ring, key: Some(*key), suppressed, lost, crowded: 0 });
            }
            now.insert(*key, *limiter);
        })?;
        self.seen = now;
        Ok(grown)
    }
}

#[cfg(test)]
mod tests;
