// SPDX-License-Identifier: Apache-2.0
//! What is known of helpers that failed: which processes and file systems are left alone, how many helpers could
//! not be ended, and whether another may be started.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::start::Process;
use crate::helper::messages::{DEVICES, Devices, Subject};

/// At most so many are left behind; no more are started until one of them is gone.
pub(super) const LEFT: usize = 4;
/// With so many, only file systems that were seen to answer are asked.
const CAREFUL: usize = LEFT - 1;
/// Processes and file systems on which a helper failed are left alone for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// Of so many at most it is known.
const KNOWN: usize = 256;
/// Starts within [`PAUSE`]: each costs CPU time, and who makes helpers fail shall not spend more.
pub(super) const STARTS: usize = 10;

/// What is known of helpers that failed.
#[derive(Default)]
pub(super) struct Known {
    /// Ended, but not yet gone.
    left: Vec<Left>,
    /// One that is not gone so long after it was ended is held by a file system.
    dies: Duration,
    /// Processes and homes that are not asked about.
    subjects: HashMap<Subject, Instant>,
    /// File systems that did not answer.
    pub devices: HashMap<u64, Instant>,
    /// File systems that did.
    answered: HashSet<u64>,
    /// Starts of the last [`PAUSE`].
    pub starts: Vec<Instant>,
    pub start_failed: Option<Instant>,
    /// One has answered.
    pub works: bool,
    warned: bool,
}

struct Left {
    processes: Vec<Box<dyn Process>>,
    device: u64,
    since: Instant,
    /// That it cannot be ended was logged.
    logged: bool,
}

impl Known {
    pub fn new(dies: Duration) -> Self {
        Known { dies, ..Known::default() }
    }

    /// Which file systems a helper may ask; `None`: this process or home is to be left alone.
    pub fn devices(&mut self, about: &Subject) -> Option<Devices> {
        self.check();
        if self.subjects.contains_key(about) {
            return None;
        }
        let some = |all: &mut dyn Iterator<Item = u64>| all.take(DEVICES).collect();
        Some(if self.held() >= CAREFUL {
            Devices::Only(some(&mut self.answered.iter().copied().filter(|d| !self.devices.contains_key(d))))
        } else {
            Devices::AllBut(some(&mut self.devices.keys().copied()))
        })
    }

    pub fn may_start(&mut self) -> bool {
        let recent = |t: &Instant| t.elapsed() < PAUSE;
        self.starts.retain(recent);
        let may = self.held() < LEFT && self.starts.len() < STARTS && !self.start_failed.as_ref().is_some_and(recent);
        if may {
            self.starts.push(Instant::now());
        }
        may
    }

    /// Failures on one process or another are no matter; that all fail, from the first on, is.
    pub fn warn_if_none_works(&mut self) {
        if !self.works && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "a helper ended before one ever answered: functions of programs may have no names \
                 (it needs seccomp filters, /proc, and to be run from where the agent is)"
            );
        }
    }

    pub fn avoid(&mut self, about: &Subject) {
        if self.subjects.len() < KNOWN {
            self.subjects.insert(about.clone(), Instant::now());
        }
    }

    pub fn answered(&mut self, device: u64) {
        if self.answered.len() < DEVICES {
            self.answered.insert(device);
        }
    }

    /// Ends the processes of a helper, whose file system of this device may hold them.
    pub fn end(&mut self, mut processes: Vec<Box<dyn Process>>, device: u64) {
        processes.iter_mut().for_each(|p| p.kill());
        self.left.push(Left { processes, device, since: Instant::now(), logged: false });
    }

    /// Those that a file system holds.
    pub fn held(&self) -> usize {
        self.left.iter().filter(|l| self.is_held(l)).count()
    }

    /// Why names of some programs are not to be had, if so.
    pub fn impaired(&self) -> Option<String> {
        let held = self.held();
        let mut devices: Vec<_> = self.left.iter().filter(|l| self.is_held(l)).map(|l| in_words(l.device)).collect();
        devices.sort();
        devices.dedup();
        let more = if held >= LEFT { "; no helper is started until one does" } else { "" };
        let devices = devices.join(", ");
        match held {
            0 => None,
            1 => Some(format!("1 helper process waits for a file system that does not answer ({devices})")),
            _ => Some(format!("{held} helper processes wait for file systems that do not answer ({devices}){more}")),
        }
    }

    fn is_held(&self, left: &Left) -> bool {
        left.since.elapsed() >= self.dies
    }

    /// Forgets those that are gone, and what was to be avoided long enough.
    pub fn check(&mut self) {
        for l in &mut self.left {
            l.processes.retain_mut(|p| !p.is_gone());
            if !l.processes.is_empty() && l.since.elapsed() >= self.dies && !l.logged {
                l.logged = true;
                let device = in_words(l.device);
                tracing::warn!(device, "a file system does not answer: functions of programs on it have no names");
            }
        }
        for l in self.left.extract_if(.., |l| l.processes.is_empty()) {
            if l.logged {
                // Another that is still held by it is seen below.
                self.devices.remove(&l.device);
                tracing::info!("a file system that did not answer lets go: functions of programs have names again");
            }
        }
        for l in self.left.iter().filter(|l| l.device != 0) {
            self.devices.entry(l.device).or_insert(l.since);
        }
        let held: HashSet<u64> = self.left.iter().map(|l| l.device).collect();
        self.devices.retain(|device, since| held.contains(device) || since.elapsed() < PAUSE);
        self.subjects.retain(|_, since| since.elapsed() < PAUSE);
    }
}

/// A file system's device number as `/proc/self/mountinfo` has it.
fn in_words(device: u64) -> String {
    if device == 0 {
        return "of unknown device number".to_owned();
    }
    format!("{}:{}", device >> 32, device & u64::from(u32::MAX))
}
