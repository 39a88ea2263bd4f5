// SPDX-License-Identifier: Apache-2.0
//! One workload floods a probe beside a quiet one: all events of the quiet one are reported, and what was
//! left out is counted as the noisy one's. A probe of events is added as one test that says how its hooks
//! are made to run in a cgroup.

use serde_json::Value as Json;

use crate::support::{Agent, Group, Need, events_of, place, shell, timeout, wait_for};

/// How one probe is flooded.
struct Flood {
    collector: &'static str,
    event: &'static str,
    /// Whose hierarchy the events' cgroups are of.
    controller: &'static str,
    /// Settings of the agent.
    config: &'static str,
    /// A line of shell that makes so many events in the cgroup with this directory.
    line: fn(dir: &str, times: usize) -> String,
    noisy: usize,
}

/// Fewer than the probes' limit, so that none may be missing.
const QUIET: usize = 12;

impl Flood {
    fn run(&self) {
        let agent = Agent::start(self.config);
        let (noisy, quiet) = (Group::of(self.controller, "noisy"), Group::of(self.controller, "quiet"));
        let (loud, low) = ((self.line)(&noisy.dir(), self.noisy), (self.line)(&quiet.dir(), QUIET));
        std::thread::scope(|s| {
            let flood = s.spawn(|| shell(&loud));
            // In the midst of it.
            wait_for("the flood", timeout(20), || (!self.events(&agent, &noisy).is_empty()).then_some(()));
            let (ok, said) = shell(&low);
            assert!(ok, "{said}");
            let (ok, said) = flood.join().unwrap();
            assert!(ok, "{said}");
        });
        wait_for("all events of the quiet one", timeout(20), || {
            (self.events(&agent, &quiet).len() >= QUIET).then_some(())
        });
        let victims = self.events(&agent, &quiet);
        assert_eq!(victims.len(), QUIET);
        assert!(victims.iter().all(|e| suppressed(e) == 0), "{victims:?}");
        // Each of the flood is an event, or counted as the flood's.
        let counted = wait_for("the rest of the flood", timeout(20), || {
            let n = self.events(&agent, &noisy).len() as u64 + self.left_out(&agent, &noisy);
            (n >= self.noisy as u64).then_some(n)
        });
        assert_eq!(counted, self.noisy as u64);
        assert_eq!(self.left_out(&agent, &quiet), 0);
        let reported = self.events(&agent, &noisy);
        assert!(reported.len() < self.noisy, "nothing was limited");
        let said: u64 = reported.iter().map(suppressed).sum();
        assert!(said <= self.left_out(&agent, &noisy), "{said} suppressed by events");
    }

    fn events(&self, agent: &Agent, group: &Group) -> Vec<Json> {
        let all = agent.json(&["events", "--name", self.event]);
        events_of(all, "linux.cgroup.path", &group.path())
    }

    /// Suppressed and lost, as the metrics have it.
    fn left_out(&self, agent: &Agent, group: &Group) -> u64 {
        let labels = [("collector", self.collector), ("container_name", &group.path())];
        let names = ["bianque_workload_events_suppressed_total", "bianque_workload_records_lost_total"];
        names.iter().filter_map(|name| agent.metric(name, &labels)).map(|n| n as u64).sum()
    }
}

fn suppressed(e: &Json) -> u64 {
    e["attributes"]["linux.suppressed"].as_u64().unwrap_or(0)
}

/// Processes that take more than their cgroup may have are killed one after the other.
#[test]
fn killed_tasks() {
    let _place = place!(Need::Agent);
    let flood = Flood {
        collector: "oom",
        event: "linux.memory.oom_kill",
        controller: "memory",
        config: "",
        line: |dir, times| {
            format!(
                "for f in memory.max memory.limit_in_bytes; do [ ! -e {dir}/$f ] || echo 4M > {dir}/$f; done\n\
                 [ ! -e {dir}/memory.swap.max ] || echo 0 > {dir}/memory.swap.max\n\
                 for ((i = 0; i < {times}; i++)); do (echo $BASHPID > {dir}/cgroup.procs && exec tail /dev/zero) > /dev/null 2>&1; done; true"
            )
        },
        noisy: 150,
    };
    flood.run();
}

/// Signals as of a bad page, which a process may send to itself.
///
/// On every kernel.
#[test]
fn signals_of_bad_pages() {
    let _place = place!(Need::Agent);
    let flood = Flood {
        collector: "ras",
        event: "linux.hw.error",
        controller: "memory",
        config: "",
        line: |dir, times| {
            // rt_sigqueueinfo(2) with SIGBUS and BUS_MCEERR_AO, as the kernel sends it.
            let number = if cfg!(target_arch = "aarch64") { 138 } else { 129 };
            format!(
                "(echo $BASHPID > {dir}/cgroup.procs && exec perl -e '$SIG{{BUS}} = \"IGNORE\"; $i = pack(\"i3x4Qx104\", 7, 0, 5, 4096);\
                 for (1..{times}) {{ syscall({number}, 0 + $$, 7, $i) == 0 or die }}')"
            )
        },
        noisy: 100_000,
    };
    flood.run();
}
