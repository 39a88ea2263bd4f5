// SPDX-License-Identifier: Apache-2.0
//! `tasks`: a walk over all tasks, when somebody asks; between two walks nothing runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use super::{Feature, Loading, SharedProbe};
use crate::probe::skeletons::tasks::{BlockedTask, SKELETON, TaskDoes, TaskSeen, setting, switch};
use crate::probe::{CgroupId, LoadError, Object, Skeleton, frames};
use crate::signal::Thread;

/// Blocked tasks that one walk tells of; the kernel goes on counting what is over.
const MAX_BLOCKED: usize = 4096;
/// As many as the kernel makes at most (PID_MAX_LIMIT of include/linux/threads.h).
const MAX_TASKS: usize = 1 << 22;

/// What a task waits for, where the kernel notes it (6.16, `CONFIG_DETECT_HUNG_TASK_BLOCKER`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// mutex, semaphore, rwsem (to read), rwsem (to write)
    pub kind: &'static str,
    pub address: u64,
    pub owner: Option<Owner>,
}

/// Who has a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub thread: Thread,
    pub cgroup: CgroupId,
    /// One of those who have it, or the one who last got it: it may have let go.
    pub hint: bool,
}

/// A task in uninterruptible sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    pub thread: Thread,
    /// In the cpu controller's hierarchy.
    pub cgroup: CgroupId,
    /// When it was looked at, and when the task was started (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    pub started_ns: u64,
    /// Context switches of its life: the same at two looks means that it did not run in between.
    pub switches: u64,
    /// `None`: not known, as it was moved to another CPU.
    pub blocked_for: Option<Duration>,
    pub in_iowait: bool,
    /// A fatal signal would end its wait.
    pub killable: bool,
    /// It may be frozen where it sleeps: it waits for another program.
    pub freezable: bool,
    pub lock: Option<Lock>,
    /// Kernel stack, innermost first.
    pub stack: Vec<u64>,
}

/// What the tasks of a cgroup do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct States {
    /// By [`STATES`]: of all threads, and of those that are the first of their process.
    pub threads: [u64; STATES.len()],
    pub processes: [u64; STATES.len()],
}

/// Names of states. Blocked: in uninterruptible sleep; idle: a thread of the kernel that waits for work.
pub const STATES: [&str; 7] = ["running", "sleeping", "blocked", "idle", "stopped", "frozen", "defunct"];

impl States {
    fn add(&mut self, r: &TaskSeen) {
        let at = match r.does {
            TaskDoes::TASK_RUNS => 0,
            TaskDoes::TASK_SLEEPS => 1,
            TaskDoes::TASK_BLOCKED => 2,
            TaskDoes::TASK_IDLE => 3,
            TaskDoes::TASK_STOPPED => 4,
            TaskDoes::TASK_FROZEN => 5,
            _ => 6,
        };
        self.threads[at] += 1;
        self.processes[at] += u64::from(r.leads);
    }

    /// Adds those of another cgroup.
    pub fn add_all(&mut self, other: &Self) {
        let sum = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        sum(&mut self.threads, &other.threads);
        sum(&mut self.processes, &other.processes);
    }
}

/// Handle of the walk. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    object: Object,
    /// Held while a walk has its limit.
    walking: Arc<Mutex<()>>,
}

impl SharedProbe for Tasks {
    const SKELETON: &'static Skeleton = &SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let blocked = u32::from(loading.wants(Tasks::BLOCKED));
        let object = loading.load(SKELETON.options().switch(switch::BLOCKED, blocked))?;
        Ok(Tasks { object, walking: Arc::default() })
    }

    fn object(&self) -> &Object {
        &self.object
    }
}

impl Tasks {
    /// What each task does, when asked for.
    pub const STATES: Feature = Feature::of::<Tasks>("states");
    /// Tasks in uninterruptible sleep, when asked for.
    pub const BLOCKED: Feature = Feature::of::<Tasks>("blocked");

    /// Tasks in uninterruptible sleep for at least `limit`, and those of which it is not known for
    /// how long. Needs [`Tasks::BLOCKED`].
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn blocked(&self, limit: Duration) -> Result<Vec<Blocked>> {
        let _walk = self.walking.lock().unwrap_or_else(PoisonError::into_inner);
        let ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        if self.object.get(setting::BLOCKED_LIMIT_NS)? != ns {
            self.object.set(setting::BLOCKED_LIMIT_NS, ns)?;
        }
        let tasks: Vec<BlockedTask> = self.object.iterate("walk", MAX_BLOCKED)?;
        Ok(tasks.iter().map(Blocked::from).collect())
    }

    /// What the tasks do by cgroup, in the cpu controller's hierarchy.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn states(&self) -> Result<HashMap<CgroupId, States>> {
        let tasks: Vec<TaskSeen> = self.object.iterate("each", MAX_TASKS)?;
        let mut by_cgroup: HashMap<CgroupId, States> = HashMap::new();
        for task in &tasks {
            by_cgroup.entry(task.cgroup.into()).or_default().add(task);
        }
        Ok(by_cgroup)
    }
}

impl From<&BlockedTask> for Blocked {
    fn from(r: &BlockedTask) -> Self {
        Blocked {
            thread: r.thread.into(),
            cgroup: r.cgroup.into(),
            time_ns: r.time_ns,
            started_ns: r.start_ns,
            switches: r.switches,
            blocked_for: (r.blocked_ns != 0).then(|| Duration::from_nanos(r.blocked_ns)),
            in_iowait: r.in_iowait != 0,
            killable: r.killable != 0,
            freezable: r.freezable != 0,
            lock: (r.lock != 0).then(|| Lock {
                kind: ["mutex", "semaphore", "rwsem_read", "rwsem_write"][(r.lock_kind & 3) as usize],
                address: r.lock,
                owner: (r.owner.tid != 0).then(|| Owner {
                    thread: r.owner.into(),
                    cgroup: r.owner_cgroup.into(),
                    hint: r.owner_is_hint != 0,
                }),
            }),
            stack: frames(&r.stack, r.stack_bytes).to_vec(),
        }
    }
}
