// SPDX-License-Identifier: Apache-2.0
//! Who set a device up or down: what the probe said just before rtnetlink told of it.

use std::collections::VecDeque;

use crate::probe::CgroupId;
use crate::probe::skeletons::linkwatch::AdminChange;
use crate::signal::Thread;

/// A notice follows within milliseconds; the queue between may hold it up.
const LATE_NS: u64 = 5_000_000_000;
/// As many devices may change at once.
const KEPT: usize = 256;

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    Process { thread: Thread, cgroup: CgroupId },
    Device,
    Unknown,
}

impl By {
    /// The value of `linux.net.link.changed_by`.
    pub fn name(&self) -> &'static str {
        match self {
            By::Process { .. } => "process",
            By::Device => "device",
            By::Unknown => "unknown",
        }
    }

    /// For the end of a message.
    pub fn words(&self) -> String {
        match self {
            By::Process { thread, .. } => format!(" by {} (pid {})", thread.comm, thread.pid),
            By::Device | By::Unknown => String::new(),
        }
    }
}

/// What the probe said and no notice has asked for yet.
#[derive(Debug, Default)]
pub struct AdminChanges {
    recent: VecDeque<AdminChange>,
}

impl AdminChanges {
    pub fn note(&mut self, r: &AdminChange) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(*r);
    }

    /// Who set this device of the namespace (its inode number, where it is known) up or down. Each notice has
    /// one record, the oldest of those that are left; with `all` it is the last notice of several, some lost.
    pub fn take(&mut self, index: u32, inode: Option<u64>, up: bool, all: bool, now_ns: u64) -> By {
        self.recent.retain(|r| now_ns.saturating_sub(r.time_ns) < LATE_NS);
        let fits = |r: &AdminChange| {
            let there = inode.is_none_or(|i| i == u64::from(r.netns));
            there && r.ifindex == index && (r.up != 0) == up
        };
        let found: Vec<usize> = (0..self.recent.len()).filter(|i| fits(&self.recent[*i])).collect();
        let place = if all { found.last() } else { found.first() };
        let Some(one) = place.and_then(|i| self.recent.get(*i)).copied() else { return By::Unknown };
        // Where the namespace is not known, another's device of the same number may be meant.
        if found.iter().any(|i| self.recent[*i].netns != one.netns) {
            return By::Unknown;
        }
        for i in found.into_iter().take(if all { usize::MAX } else { 1 }).rev() {
            self.recent.remove(i);
        }
        By::Process { thread: one.thread.into(), cgroup: one.cgroup.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(netns: u32, ifindex: u32, up: u32, tgid: u32) -> AdminChange {
        let mut r: AdminChange = zerocopy::FromZeros::new_zeroed();
        (r.time_ns, r.netns, r.ifindex, r.up, r.thread.tgid) = (1_000, netns, ifindex, up, tgid);
        r
    }

    fn pid(by: &By) -> Option<u32> {
        match by {
            By::Process { thread, .. } => Some(thread.pid),
            _ => None,
        }
    }

    /// By namespace where it is known, by number alone where that is enough, else nobody is blamed.
    #[test]
    fn the_right_one_or_nobody() {
        let take = |all: &mut AdminChanges, index, inode, up, now| pid(&all.take(index, inode, up, false, now));
        let mut all = AdminChanges::default();
        for r in [change(7, 3, 0, 50), change(8, 3, 0, 51), change(7, 3, 1, 52), change(9, 4, 1, 53)] {
            all.note(&r);
        }
        assert_eq!(take(&mut all, 3, None, false, 2_000), None);
        assert_eq!(take(&mut all, 3, Some(8), false, 2_000), Some(51));
        assert_eq!(take(&mut all, 3, Some(8), false, 2_000), None);
        assert_eq!(take(&mut all, 3, None, false, 2_000), Some(50));
        assert_eq!(take(&mut all, 4, None, true, 2_000), Some(53));
        assert_eq!(take(&mut all, 3, Some(7), true, 1_000 + LATE_NS), None);
    }

    /// Changes in quick succession are each one's; where notices are lost, the last one counts.
    #[test]
    fn one_after_the_other() {
        let mut changes = AdminChanges::default();
        let note = |changes: &mut AdminChanges| {
            for tgid in [50, 51, 52] {
                changes.note(&change(7, 3, 0, tgid));
            }
        };
        note(&mut changes);
        for tgid in [50, 51, 52] {
            assert_eq!(pid(&changes.take(3, Some(7), false, false, 2_000)), Some(tgid));
        }
        note(&mut changes);
        assert_eq!(pid(&changes.take(3, Some(7), false, true, 2_000)), Some(52));
        assert_eq!(pid(&changes.take(3, Some(7), false, true, 2_000)), None);
    }
}
