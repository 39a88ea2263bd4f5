// SPDX-License-Identifier: Apache-2.0
//! `net`: dropped packets and retransmitted segments, counted by reason and owner; and whose a socket
//! or a network namespace is.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::Feature;
use crate::probe::map::Plain;
use crate::probe::skeletons::net::{self, DropKey, RetransmitKey, Tally};
use crate::probe::{CgroupId, CgroupRef, LoadError, Loader, Object, Table, ThreadRef};
use crate::signal::Thread;

/// Slots that kernels may lack.
pub const OPTIONAL: &[&str] = &["trapped"];
/// A group that was not hit for so long leaves the kernel's hash.
const IDLE_NS: u64 = 300_000_000_000;
/// Reasons that can be told apart; those of subsystems have higher numbers.
pub const REASONS: u32 = 512;

/// What a drop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropKind {
    Loss,
    Normal,
    Ignored,
}

impl DropKind {
    fn of(number: u32) -> Self {
        match number {
            0 => DropKind::Loss,
            1 => DropKind::Normal,
            _ => DropKind::Ignored,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DropKind::Loss => "loss",
            DropKind::Normal => "normal",
            DropKind::Ignored => "ignored",
        }
    }
}

/// Drops that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DropGroup {
    /// Address in the kernel, or of a hardware trap's name.
    pub location: u64,
    /// Of the socket, in the unified hierarchy; 0: not known.
    pub cgroup: u64,
    /// Inode of the network namespace; 0: the group found no room, only the reason is known.
    pub netns: u32,
    pub reason: u32,
    pub kind: DropKind,
    pub hardware: bool,
}

/// Retransmits that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetransmitGroup {
    pub cgroup: u64,
    pub netns: u32,
    pub kind: u32,
}

/// What became of the hits of a group, since the probe was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    pub all: u64,
    /// Of them: records handed over, and records without room. The rest was suppressed.
    pub told: u64,
    pub lost: u64,
}

impl Hits {
    fn add(&mut self, t: &Tally) {
        self.all += t.hits;
        self.told += t.told;
        self.lost += t.lost;
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Hits) -> Hits {
        Hits {
            all: self.all.saturating_sub(earlier.all),
            told: self.told.saturating_sub(earlier.told),
            lost: self.lost.saturating_sub(earlier.lost),
        }
    }
}

/// Turns readings into growth. A group that was idle for long begins at zero again.
#[derive(Debug, Clone)]
pub struct Growth<K>(HashMap<K, Hits>);

impl<K> Default for Growth<K> {
    fn default() -> Self {
        Growth(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> Growth<K> {
    /// What each group grew by since the call before; those that did not are left out.
    pub fn of(&mut self, reading: &[(K, Hits)]) -> Vec<(K, Hits)> {
        let grown = |(group, now): &(K, Hits)| (*group, now.since(self.0.get(group).unwrap_or(&Hits::default())));
        let growth = reading.iter().map(grown).filter(|(_, h)| h.all > 0).collect();
        self.0 = reading.iter().copied().collect();
        growth
    }
}

/// A socket whose holder is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sought {
    /// By the inode of its file.
    Inode(u64),
    /// By the UDP port that it is bound to, in a network namespace (its inode).
    UdpPort { netns: u32, port: u16 },
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub thread: Thread,
    /// In the memory controller's hierarchy.
    pub cgroup: CgroupId,
}

/// A process and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Inode of its network namespace.
    pub netns: u32,
    pub pid: u32,
    /// In the memory controller's hierarchy.
    pub cgroup: CgroupId,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHolder {
    cgroup: CgroupRef,
    thread: ThreadRef,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawMember {
    cgroup: CgroupRef,
    netns: u32,
    tgid: u32,
}

/// The loaded probe. Cheap to clone; every consumer takes differences, nobody resets anything.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    object: Object,
    tables: Mutex<Tables>,
}

struct Tables {
    classes: Table<u32, u32>,
    drops: Table<DropKey, Tally>,
    crowded_drops: Table<u32, Tally>,
    retransmits: Table<RetransmitKey, Tally>,
    crowded_retransmits: Table<u32, Tally>,
}

impl Net {
    /// Loads the probe with the features of it that are asked for.
    ///
    /// # Errors
    /// The program, the hook and the kernel's reason.
    pub fn load(loader: &mut Loader, features: &BTreeSet<Feature>) -> Result<Self, LoadError> {
        let (drops, retransmits) = (features.contains(&Feature::NetDrops), features.contains(&Feature::NetRetransmits));
        let mut options = net::SKELETON.options().optional(OPTIONAL);
        options = options.switch(net::switch::REPORT_DROPS, u32::from(drops));
        if !drops && !retransmits {
            options = options.without(&["dropped"]);
        }
        if !drops {
            options = options.without(OPTIONAL);
        }
        if !retransmits {
            options = options.without(&["segment", "synack"]);
        }
        let object = loader.load(options)?;
        let tables = Tables::of(&object)
            .map_err(|e| LoadError::Object { object: net::SKELETON.name, reason: format!("{e:#}") })?;
        Ok(Net(Arc::new(Inner { object, tables: Mutex::new(tables) })))
    }

    #[must_use]
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what a reason's number is: a `REASON_…` of the probe. Numbers that it has no place for
    /// stay losses.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn classify(&self, reason: u32, class: u32) -> Result<()> {
        let tables = self.tables();
        if reason < REASONS { tables.classes.put(&reason, &class) } else { Ok(()) }
    }

    /// Whether somebody has said what the reasons are.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn is_classified(&self) -> Result<bool> {
        // Where the kernel gives no reason, none is plainly a loss.
        Ok(self.tables().classes.get(&0)?.is_some_and(|class| class != 0))
    }

    /// All drops so far, by group; groups that found no room under their reason alone.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn drops(&self) -> Result<Vec<(DropGroup, Hits)>> {
        let (mut tables, now) = (self.tables(), self.object().monotonic_ns());
        let (drops, crowded) = {
            let t = &mut *tables;
            (read(&mut t.drops, now)?, read_crowded(&mut t.crowded_drops)?)
        };
        let group = |k: &DropKey| DropGroup {
            location: k.location,
            cgroup: k.cgroup,
            netns: k.netns,
            reason: k.reason,
            kind: DropKind::of(k.kind),
            hardware: k.hardware != 0,
        };
        let crowded = crowded.into_iter().map(|(reason, hits)| {
            (DropGroup { location: 0, cgroup: 0, netns: 0, reason, kind: DropKind::Loss, hardware: false }, hits)
        });
        Ok(drops.iter().map(|(k, h)| (group(k), *h)).chain(crowded).collect())
    }

    /// All retransmits so far, by group.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn retransmits(&self) -> Result<Vec<(RetransmitGroup, Hits)>> {
        let (mut tables, now) = (self.tables(), self.object().monotonic_ns());
        let (all, crowded) = {
            let t = &mut *tables;
            (read(&mut t.retransmits, now)?, read_crowded(&mut t.crowded_retransmits)?)
        };
        let group = |k: &RetransmitKey| RetransmitGroup { cgroup: k.cgroup, netns: k.netns, kind: k.kind };
        let crowded = crowded.into_iter().map(|(kind, h)| (RetransmitGroup { cgroup: 0, netns: 0, kind }, h));
        Ok(all.iter().map(|(k, h)| (group(k), *h)).chain(crowded).collect())
    }

    /// The process that holds the socket; `None` when none does any more, or when several have the port. Of
    /// those that share one socket, the first. Walks all open files: for what is rare.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn holder(&self, sought: Sought) -> Result<Option<Holder>> {
        // Held, as what is sought is a setting of the object.
        let _one_at_a_time = self.tables();
        let (socket, port, netns) = match sought {
            Sought::Inode(inode) => (inode, 0, 0),
            Sought::UdpPort { netns, port } => (0, port, netns),
        };
        self.object().set(net::setting::SOUGHT_PORT, port.into())?;
        self.object().set(net::setting::SOUGHT_NETNS, netns)?;
        self.object().set(net::setting::SOUGHT_SOCKET, socket)?;
        let found = self.walk("holders", 64 * size_of::<RawHolder>())?;
        let holders = found.chunks_exact(size_of::<RawHolder>()).filter_map(|c| RawHolder::read_from_bytes(c).ok());
        let mut holders = holders.map(|h| Holder { thread: h.thread.into(), cgroup: h.cgroup.into() });
        let Some(first) = holders.next() else { return Ok(None) };
        let is_one = matches!(sought, Sought::Inode(_)) || holders.all(|h| h.thread.pid == first.thread.pid);
        Ok(is_one.then_some(first))
    }

    /// Where every process is.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn netns_members(&self) -> Result<Vec<Member>> {
        let all = self.walk("members", usize::MAX)?;
        let members = all.chunks_exact(size_of::<RawMember>()).filter_map(|c| RawMember::ref_from_bytes(c).ok());
        Ok(members.map(|m| Member { netns: m.netns, pid: m.tgid, cgroup: m.cgroup.into() }).collect())
    }

    fn walk(&self, slot: &'static str, limit: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let file = self.object().iterate(slot)?;
        file.take(limit as u64).read_to_end(&mut all).with_context(|| format!("run the iterator {slot}"))?;
        Ok(all)
    }
}

impl Tables {
    fn of(object: &Object) -> Result<Self> {
        Ok(Tables {
            classes: object.table("reason_classes")?,
            drops: object.table("drops")?,
            crowded_drops: object.table("crowded_drops")?,
            retransmits: object.table("retransmits")?,
            crowded_retransmits: object.table("crowded_retransmits")?,
        })
    }
}

/// Sums over the CPUs, and makes room: a group that is idle for minutes is told once more.
fn read<K: Plain>(table: &mut Table<K, Tally>, now: u64) -> Result<Vec<(K, Hits)>> {
    let (mut all, mut idle) = (Vec::new(), Vec::new());
    table.for_each(|key, cpus| {
        let mut hits = Hits::default();
        cpus.iter().for_each(|t| hits.add(t));
        let last = cpus.iter().map(|t| t.last_ns).max().unwrap_or(0);
        if now.saturating_sub(last) > IDLE_NS {
            idle.push(*key);
        }
        all.push((*key, hits));
    })?;
    for key in &idle {
        table.remove(key)?;
    }
    Ok(all)
}

fn read_crowded(table: &mut Table<u32, Tally>) -> Result<Vec<(u32, Hits)>> {
    let mut all = Vec::new();
    table.for_each(|key, cpus| {
        let mut hits = Hits::default();
        cpus.iter().for_each(|t| hits.add(t));
        if hits.all > 0 {
            all.push((*key, hits));
        }
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each call tells what is new; a group that was forgotten begins at zero again.
    #[test]
    fn growth_is_told_once() {
        let hits = |all| Hits { all, told: 1, lost: 0 };
        let mut growth = Growth::default();
        assert_eq!(growth.of(&[(1, hits(5))]), [(1, hits(5))]);
        assert_eq!(growth.of(&[(1, hits(7))]), [(1, Hits { all: 2, told: 0, lost: 0 })]);
        assert_eq!(growth.of(&[(1, hits(7))]), []);
        assert_eq!(growth.of(&[]), []);
        assert_eq!(growth.of(&[(1, hits(3))]), [(1, hits(3))]);
    }
}
