// SPDX-License-Identifier: Apache-2.0
//! Hangs from walk to walk: which are new, which last, which have ended.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::probe::shared::tasks::Blocked;

/// A hang is reported again when it has lasted this many times as long as at its last report.
const AGAIN: u32 = 10;

/// One sleep of one task: a task that ran in between has another number of switches.
pub type Sleep = (u32, u64, u64);

/// What is to be reported of a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Begun,
    Lasting,
    Ended,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Begun => "begun",
            Phase::Lasting => "lasting",
            Phase::Ended => "ended",
        }
    }
}

/// A task that is blocked for long.
#[derive(Debug, Clone)]
pub struct Hang {
    pub task: Blocked,
    /// When it went to sleep, or was first seen asleep (`CLOCK_BOOTTIME`); the earliest of all walks.
    pub since_ns: u64,
    /// How long it had lasted when it was last reported; `None`: not reported.
    reported: Option<Duration>,
    /// The kernel's own detector has reported it.
    pub by_kernel: bool,
    /// It is no hang after all, as its stack shows.
    excused: bool,
    walk: u64,
}

impl Hang {
    fn new(excused: bool, task: &Blocked) -> Self {
        Hang { task: task.clone(), since_ns: task.time_ns, reported: None, by_kernel: false, excused, walk: 0 }
    }

    fn seen(&mut self, task: Blocked, walk: u64) {
        let asleep = task.blocked_for.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        // Interrupts that its CPU has served since make it look shorter.
        self.since_ns = self.since_ns.min(task.time_ns.saturating_sub(asleep));
        (self.task, self.walk) = (task, walk);
    }

    /// What is to be reported of it now, if anything.
    fn due(&self, limit: Duration) -> Option<Phase> {
        match self.reported {
            _ if self.excused => None,
            None => (self.by_kernel || self.lasted() >= limit).then_some(Phase::Begun),
            Some(last) => (self.lasted() >= last * AGAIN).then_some(Phase::Lasting),
        }
    }

    pub fn lasted(&self) -> Duration {
        Duration::from_nanos(self.task.time_ns.saturating_sub(self.since_ns))
    }
}

/// All hangs.
#[derive(Debug, Default)]
pub struct Hangs {
    hangs: HashMap<Sleep, Hang>,
    /// Those that the kernel's own detector reported.
    announced: HashSet<Sleep>,
    walks: u64,
}

impl Hangs {
    /// Takes what a walk found. `excused` is asked once for each hang.
    pub fn walked(
        &mut self,
        found: Vec<Blocked>,
        limit: Duration,
        excused: impl Fn(&Blocked) -> bool,
    ) -> Vec<(Phase, Hang)> {
        self.walks += 1;
        let mut reports = Vec::new();
        for task in found {
            let sleep = (task.thread.tid, task.started_ns, task.switches);
            let hang = self.hangs.entry(sleep).or_insert_with(|| Hang::new(excused(&task), &task));
            hang.seen(task, self.walks);
            hang.by_kernel |= self.announced.contains(&sleep);
            if let Some(phase) = hang.due(limit) {
                hang.reported = Some(hang.lasted());
                reports.push((phase, hang.clone()));
            }
        }
        let gone = self.hangs.extract_if(|_, h| h.walk != self.walks);
        reports.extend(gone.filter(|(_, h)| h.reported.is_some()).map(|(_, h)| (Phase::Ended, h)));
        self.announced.retain(|sleep| self.hangs.contains_key(sleep));
        reports
    }

    /// The kernel reported this one. `false`: it has to be looked for.
    pub fn announce(&mut self, sleep: Sleep) -> bool {
        self.announced.insert(sleep);
        let known = self.hangs.get_mut(&sleep).filter(|h| h.reported.is_some() || h.excused);
        known.map(|h| h.by_kernel = true).is_some()
    }

    /// Those that were reported and have not ended.
    pub fn under_way(&self) -> impl Iterator<Item = &Hang> {
        self.hangs.values().filter(|h| h.reported.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::CgroupId;
    use crate::signal::Thread;

    const S: u64 = 1_000_000_000;
    const LIMIT: Duration = Duration::from_secs(10);

    fn task(now_s: u64, asleep_s: Option<u64>, switches: u64) -> Blocked {
        Blocked {
            thread: Thread { pid: 7, tid: 7, comm: "x".into() },
            cgroup: CgroupId { hierarchy: 0, id: 1 },
            time_ns: now_s * S,
            started_ns: 1,
            switches,
            blocked_for: asleep_s.map(Duration::from_secs),
            in_iowait: false,
            killable: false,
            freezable: false,
            lock: None,
            stack: vec![],
        }
    }

    fn phases(reports: &[(Phase, Hang)]) -> Vec<(Phase, u64)> {
        reports.iter().map(|(p, h)| (*p, h.lasted().as_secs())).collect()
    }

    /// Reported when it is over the limit, again at ten times that, and at its end with all of it.
    #[test]
    fn a_hang_from_its_onset_to_its_end() {
        let mut h = Hangs::default();
        let mut walk = |now, asleep| phases(&h.walked(vec![task(now, asleep, 5)], LIMIT, |_| false));
        assert_eq!(walk(100, Some(11)), [(Phase::Begun, 11)]);
        assert_eq!(walk(102, Some(13)), []);
        // Looks shorter, as interrupts ran; it began no later for that.
        assert_eq!(walk(200, Some(110)), [(Phase::Lasting, 111)]);
        assert_eq!(phases(&h.walked(vec![], LIMIT, |_| false)), [(Phase::Ended, 111)]);
        assert_eq!(h.hangs.len(), 0);
    }

    /// Where the onset is not known, it counts from the first walk that saw it; a task that ran in
    /// between begins anew.
    #[test]
    fn unknown_onset_and_new_sleeps() {
        let mut h = Hangs::default();
        let mut walk = |now, switches| phases(&h.walked(vec![task(now, None, switches)], LIMIT, |_| false));
        assert_eq!(walk(100, 5), []);
        assert_eq!(walk(109, 5), []);
        assert_eq!(walk(111, 6), []);
        assert_eq!(walk(121, 6), [(Phase::Begun, 10)]);
    }

    /// An excused one is never reported, not even its end. One that the kernel reported is reported, though it
    /// is below the limit.
    #[test]
    fn excused_and_reported_by_the_kernel() {
        let mut h = Hangs::default();
        assert_eq!(phases(&h.walked(vec![task(100, Some(20), 5)], LIMIT, |_| true)), []);
        assert!(h.announce((7, 1, 5)));
        assert_eq!(phases(&h.walked(vec![], LIMIT, |_| true)), []);
        assert!(!h.announce((7, 1, 6)));
        let reports = h.walked(vec![task(100, Some(3), 6), task(100, Some(3), 7)], LIMIT, |_| false);
        assert_eq!(phases(&reports), [(Phase::Begun, 3)]);
        assert!(reports[0].1.by_kernel && h.announce((7, 1, 6)));
    }
}
