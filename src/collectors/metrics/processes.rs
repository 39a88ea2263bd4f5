// SPDX-License-Identifier: Apache-2.0
//! # What it reports
//! How many processes and threads there are and what they do, of the node and of each workload, beside their
//! limits; and open files.
//!
//! # How
//! One walk of a BPF iterator over all tasks: no file is opened for each. Limits from `/proc/sys/kernel` and the
//! `pids` controller, open files from `/proc/sys/fs/file-nr`. Once an interval.
//!
//! # Signals
//! `system.process.count`, `linux.thread.count` by state, `linux.thread.limit`, `linux.pid.limit`,
//! `linux.file.count`, `.limit`; `linux.container.process.count`, `linux.container.thread.count` by state,
//! `linux.container.thread.limit`.
//!
//! # Limits
//! The state of a process is that of its first thread. Blocked is uninterruptible sleep (`D`), idle a thread of the kernel
//! that waits for work. What comes and goes between two readings is not seen; `linux.thread.created` of `load`
//! counts it.
//!
//! # What to do next
//! Many `blocked`: see `hungtask`, `container.io.linux.pressure.total`, and the devices under `disk`. Many `defunct`: their
//! parent does not wait for them; in a container the first process has to. Near `linux.container.thread.limit`
//! new threads and processes fail with EAGAIN.

use std::collections::HashMap;
use std::sync::Arc;

use crate::collectors::{Collector, Context, Info, MetricCollector, NoSettings, Unavailable, head_doc};
use crate::host::{Cgroups, Host};
use crate::probe::shared::tasks::{STATES, States, Tasks};
use crate::signal::{Key, MetricDef, Metrics, Workload, WorkloadKey};
use crate::workload::Workloads;

const PROCESS_STATE: Key = Key::new("process.state", "running, sleeping, blocked, idle, stopped, frozen, defunct");
const THREAD_STATE: Key = Key::new("linux.thread.state", "running, sleeping, blocked, idle, stopped, frozen, defunct");

static PROCESSES: MetricDef =
    MetricDef::up_down_counter("system.process.count", "{process}", "Processes").by(&[PROCESS_STATE]);
static THREADS: MetricDef =
    MetricDef::up_down_counter("linux.thread.count", "{thread}", "Threads, those of the kernel too")
        .by(&[THREAD_STATE]);
static THREAD_LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.thread.limit", "{thread}", "Threads that the node may have (kernel.threads-max)");
static PID_LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.pid.limit", "{thread}", "Numbers that there are for threads (kernel.pid_max)");
static FILES: MetricDef = MetricDef::up_down_counter("linux.file.count", "{file}", "Open files of the node");
static FILE_LIMIT: MetricDef =
    MetricDef::up_down_counter("linux.file.limit", "{file}", "Open files that the node may have (fs.file-max)");
static CONTAINER_PROCESSES: MetricDef =
    MetricDef::up_down_counter("linux.container.process.count", "{process}", "Processes of the workload");
static CONTAINER_THREADS: MetricDef =
    MetricDef::up_down_counter("linux.container.thread.count", "{thread}", "Threads of the workload")
        .by(&[THREAD_STATE]);
static CONTAINER_THREAD_LIMIT: MetricDef = MetricDef::up_down_counter(
    "linux.container.thread.limit",
    "{thread}",
    "Threads that it may have: the tightest of its limit and those above it",
);

/// Processes and threads.
pub struct Processes {
    host: Host,
    cgroups: Cgroups,
    workloads: Workloads,
    tasks: Tasks,
}

impl Collector for Processes {
    const INFO: Info = Info {
        name: "processes",
        summary: "processes and threads by what they do, open files, and their limits",
        doc: head_doc(include_str!("processes.rs")),
        needs: &[Tasks::STATES],
        metrics: &[
            &PROCESSES,
            &THREADS,
            &THREAD_LIMIT,
            &PID_LIMIT,
            &FILES,
            &FILE_LIMIT,
            &CONTAINER_PROCESSES,
            &CONTAINER_THREADS,
            &CONTAINER_THREAD_LIMIT,
        ],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_config: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let cgroups = Cgroups::read(cx.host).map_err(|e| Unavailable::because(e.to_string()))?;
        let tasks = cx.shared::<Tasks>()?;
        Ok(Processes { host: cx.host.clone(), cgroups, workloads: cx.workloads.clone(), tasks })
    }

    fn reload(&mut self, _config: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl MetricCollector for Processes {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        out.count_some(&THREAD_LIMIT, None, &[], self.host.setting("kernel/threads-max"));
        out.count_some(&PID_LIMIT, None, &[], self.host.setting("kernel/pid_max"));
        if let Ok((open, most)) = self.host.open_files() {
            out.count(&FILES, None, &[], open);
            out.count(&FILE_LIMIT, None, &[], most);
        }
        let mut node = States::default();
        let mut by_workload: HashMap<WorkloadKey, (Arc<Workload>, States)> = HashMap::new();
        for (cgroup, states) in self.tasks.states()? {
            node.add_all(&states);
            if let Some(workload) = self.workloads.of_cgroup(cgroup) {
                by_workload.entry(workload.key).or_insert_with(|| (workload, States::default())).1.add_all(&states);
            }
        }
        for (state, (processes, threads)) in STATES.into_iter().zip(node.processes.into_iter().zip(node.threads)) {
            out.count(&PROCESSES, None, &[(PROCESS_STATE, state.into())], processes);
            out.count(&THREADS, None, &[(THREAD_STATE, state.into())], threads);
        }
        for (workload, states) in by_workload.values() {
            self.of_workload(workload, states, out);
        }
        Ok(())
    }
}

impl Processes {
    fn of_workload(&self, workload: &Arc<Workload>, states: &States, out: &mut Metrics) {
        out.count(&CONTAINER_PROCESSES, Some(workload), &[], states.processes.iter().sum());
        for (state, n) in STATES.into_iter().zip(states.threads) {
            out.count(&CONTAINER_THREADS, Some(workload), &[(THREAD_STATE, state.into())], n);
        }
        let limit = self.cgroups.tasks_allowed(&workload.cgroup);
        out.count_some(&CONTAINER_THREAD_LIMIT, Some(workload), &[], limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;
    use crate::probe::skeletons::tasks::{SKELETON, TaskDoes, TaskSeen};

    const PATH: &str = "/system.slice/web.service";

    /// Threads of a workload, those of its children too, and of the node by what they do; the tightest limit.
    #[test]
    fn figures() {
        let rig = Rig::new().unwrap();
        let (web, below) = (rig.cgroup(PATH).unwrap(), rig.cgroup(&format!("{PATH}/worker")).unwrap());
        rig.write("proc/sys/kernel/threads-max", "1000\n").unwrap();
        rig.write("proc/sys/fs/file-nr", "300\t0\t9000\n").unwrap();
        rig.write("sys/fs/cgroup/system.slice/pids.max", "50\n").unwrap();
        rig.write(&format!("sys/fs/cgroup{PATH}/pids.max"), "max\n").unwrap();
        let task = |cgroup, leads, does| {
            let mut r = TaskSeen { leads, ..TaskSeen::new_zeroed() };
            (r.cgroup.id, r.does) = (cgroup, does);
            r
        };
        let tasks = [
            task(web.id, 1, TaskDoes::TASK_SLEEPS),
            task(web.id, 0, TaskDoes::TASK_BLOCKED),
            task(below.id, 1, TaskDoes::TASK_RUNS),
            task(1, 1, TaskDoes::TASK_IDLE),
        ];
        rig.kernel().iterates(&SKELETON, "each", &tasks);
        let mut c = rig.run(&crate::collectors::metrics::<Processes>(), "").unwrap();
        let mut out = Metrics::default();
        c.collect(&mut out).unwrap();
        let threads = |name, cgroup, state| out.figure(name, cgroup, &[("linux.thread.state", state)]);
        let of_node =
            ["running", "sleeping", "blocked", "idle", "defunct"].map(|s| threads("linux.thread.count", None, s));
        assert_eq!(of_node, [Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(0.0)]);
        let processes = |state| out.figure("system.process.count", None, &[("process.state", state)]);
        assert_eq!((processes("sleeping"), processes("blocked")), (Some(1.0), Some(0.0)));
        assert_eq!(out.figure("linux.container.process.count", Some(PATH), &[]), Some(2.0));
        assert_eq!(threads("linux.container.thread.count", Some(PATH), "blocked"), Some(1.0));
        assert_eq!(out.figure("linux.container.thread.limit", Some(PATH), &[]), Some(50.0));
        let node = |name| out.figure(name, None, &[]);
        assert_eq!((node("linux.thread.limit"), node("linux.pid.limit")), (Some(1000.0), None));
        assert_eq!((node("linux.file.count"), node("linux.file.limit")), (Some(300.0), Some(9000.0)));
    }
}
