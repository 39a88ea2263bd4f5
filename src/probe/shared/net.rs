// SPDX-License-Identifier: Apache-2.0
//! `net`: dropped packets and retransmitted segments, counted by reason and owner; and whose a socket
//! or a network namespace is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::counted::{Count, Counted};
use super::{Feature, Loading, SharedProbe};
use crate::probe::skeletons::net::{self, DropKey, NetnsMember, RetransmitKey, SocketHolder, Tally};
use crate::probe::{CgroupId, LoadError, Object, Optional, Skeleton, Table};
use crate::signal::{Thread, Total};

/// Hooks for drops that kernels may lack.
const TRAPPED: &[Optional] =
    &[Optional { slot: "trapped", lost: "drops by hardware that reports them (devlink traps)" }];
/// Holders of a socket that are looked at: more only say again that there is not one alone.
const MAX_HOLDERS: usize = 64;
/// As in `crowded_drops`: a reason and a kind make its key.
const CROWDED_SHIFT: u32 = 2;
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
    /// Inode of the network namespace; 0: the group found no room, only reason and kind are known.
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

/// The loaded probe. Cheap to clone; every consumer takes differences, nobody resets anything.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    object: Object,
    tables: Mutex<Tables>,
}

struct Tables {
    classes: Table<u32, u32>,
    drops: Counted<DropKey, Tally, DropGroup>,
    crowded_drops: Table<u32, Tally>,
    retransmits: Counted<RetransmitKey, Tally, RetransmitGroup>,
    crowded_retransmits: Table<u32, Tally>,
}

impl Count for Tally {
    type Total = u64;

    fn hits(&self) -> u64 {
        self.hits
    }
    fn last_ns(&self) -> u64 {
        self.last_ns
    }
    /// Packets or segments: a hit may be of several.
    fn total(&self) -> u64 {
        self.units
    }
}

impl SharedProbe for Net {
    const SKELETON: &'static Skeleton = &net::SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let (drops, retransmits) = (loading.wants(Net::DROPS), loading.wants(Net::RETRANSMITS));
        let mut options = net::SKELETON.options().switch(net::switch::REPORT_DROPS, u32::from(drops));
        if !drops && !retransmits {
            options = options.without(&["dropped"]);
        }
        if !drops {
            options = options.without(&["trapped"]);
        }
        if !retransmits {
            options = options.without(&["segment", "synack"]);
        }
        let object = loading.load(options)?;
        let tables = Tables::of(&object)
            .map_err(|e| LoadError::Object { object: net::SKELETON.name, reason: format!("{e:#}") })?;
        Ok(Net(Arc::new(Inner { object, tables: Mutex::new(tables) })))
    }

    fn object(&self) -> &Object {
        &self.0.object
    }

    /// Drops and retransmits of groups that found no room: they are the node's only.
    fn lost(&self) -> u64 {
        let mut tables = self.tables();
        let Tables { crowded_drops, crowded_retransmits, .. } = &mut *tables;
        let mut sum = 0;
        for table in [crowded_drops, crowded_retransmits] {
            // What cannot be read is none so far.
            let _ = table.for_each(|_, cpus| sum += cpus.iter().map(|t| t.hits).sum::<u64>());
        }
        sum
    }
}

impl Net {
    /// Dropped packets, counted and reported.
    pub const DROPS: Feature = Feature::of::<Net>("drops").without(TRAPPED);
    /// Retransmitted segments, and whether their loss was seen here.
    pub const RETRANSMITS: Feature = Feature::of::<Net>("retransmits");
    /// Who owns a socket or a network namespace, when asked.
    pub const OWNERS: Feature = Feature::of::<Net>("owners");

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

    /// All dropped packets so far, by group; groups that found no room under their reason and kind.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn drops(&self) -> Result<Vec<Total<DropGroup, u64>>> {
        let (mut tables, now) = (self.tables(), self.object().monotonic_ns());
        let group = |k: DropKey| DropGroup {
            location: k.location,
            cgroup: k.cgroup,
            netns: k.netns,
            reason: k.reason,
            kind: DropKind::of(k.kind),
            hardware: k.hardware != 0,
        };
        let crowded = |key| DropGroup {
            location: 0,
            cgroup: 0,
            netns: 0,
            reason: key >> CROWDED_SHIFT,
            kind: DropKind::of(key & ((1 << CROWDED_SHIFT) - 1)),
            hardware: false,
        };
        let mut all = tables.drops.read(now, group)?;
        all.extend(read_crowded(&mut tables.crowded_drops, crowded)?);
        Ok(all)
    }

    /// All segments that were sent again so far, by group.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn retransmits(&self) -> Result<Vec<Total<RetransmitGroup, u64>>> {
        let (mut tables, now) = (self.tables(), self.object().monotonic_ns());
        let group = |k: RetransmitKey| RetransmitGroup { cgroup: k.cgroup, netns: k.netns, kind: k.kind };
        let mut all = tables.retransmits.read(now, group)?;
        let crowded = |kind| RetransmitGroup { cgroup: 0, netns: 0, kind };
        all.extend(read_crowded(&mut tables.crowded_retransmits, crowded)?);
        Ok(all)
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
        let found: Vec<SocketHolder> = self.object().iterate("holders", MAX_HOLDERS)?;
        let mut holders = found.into_iter().map(|h| Holder { thread: h.thread.into(), cgroup: h.cgroup.into() });
        let Some(first) = holders.next() else { return Ok(None) };
        let is_one = matches!(sought, Sought::Inode(_)) || holders.all(|h| h.thread.pid == first.thread.pid);
        Ok(is_one.then_some(first))
    }

    /// Where every process is.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn netns_members(&self) -> Result<Vec<Member>> {
        let members: Vec<NetnsMember> = self.object().iterate("members", usize::MAX)?;
        let member = |m: NetnsMember| Member { netns: m.netns, pid: m.tgid, cgroup: m.cgroup.into() };
        Ok(members.into_iter().map(member).collect())
    }
}

impl Tables {
    fn of(object: &Object) -> Result<Self> {
        Ok(Tables {
            classes: object.table("reason_classes")?,
            drops: Counted::of(object, "drops")?,
            crowded_drops: object.table("crowded_drops")?,
            retransmits: Counted::of(object, "retransmits")?,
            crowded_retransmits: object.table("crowded_retransmits")?,
        })
    }
}

fn read_crowded<G>(table: &mut Table<u32, Tally>, group: impl Fn(u32) -> G) -> Result<Vec<Total<G, u64>>> {
    let mut all = Vec::new();
    table.for_each(|key, cpus| {
        let units = cpus.iter().map(|t| t.units).sum();
        if units > 0 {
            all.push(Total::new(group(*key), 0, units));
        }
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests;
