// SPDX-License-Identifier: Apache-2.0
//! One workload floods a probe beside a quiet one: all events of the quiet one are reported, and what was
//! left out is counted as the noisy one's. A probe of events is added as one test that says how its hooks
//! are made to run in a cgroup.

use serde_json::Value as Json;

use crate::support::{
    Agent, Group, Need, Process, events_of, is_about, place, provoke_in_background, shell, timeout, wait_for,
};

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
    /// Each time it happens is one event, so that the count can be exact.
    exact: bool,
    /// Is this event the group's?
    is_of: fn(&Json, &str) -> bool,
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
        assert!(victims.len() == QUIET || !self.exact, "{} events of {QUIET}", victims.len());
        assert!(victims.iter().all(|e| suppressed(e) == 0), "{victims:?}");
        // Each of the flood is an event, or counted as the flood's.
        let counted = wait_for("the rest of the flood", timeout(20), || {
            let n = self.events(&agent, &noisy).len() as u64 + self.left_out(&agent, &noisy);
            (n >= self.noisy as u64).then_some(n)
        });
        assert!(counted == self.noisy as u64 || !self.exact, "{counted} of {}", self.noisy);
        assert_eq!(self.left_out(&agent, &quiet), 0);
        let reported = self.events(&agent, &noisy);
        assert!(reported.len() < self.noisy, "nothing was limited");
        let said: u64 = reported.iter().map(suppressed).sum();
        assert!(said <= self.left_out(&agent, &noisy), "{said} suppressed by events");
    }

    fn events(&self, agent: &Agent, group: &Group) -> Vec<Json> {
        let all = agent.json(&["events", "--name", self.event]).into_iter();
        all.filter(|e| (self.is_of)(e, &group.path())).collect()
    }

    /// Suppressed and lost, as the metrics have it.
    fn left_out(&self, agent: &Agent, group: &Group) -> u64 {
        let labels = [("collector", self.collector), ("container_name", &group.path())];
        let names = ["bianque_workload_events_suppressed_total", "bianque_workload_records_lost_total"];
        names.iter().filter_map(|name| agent.metric(name, &labels)).map(|n| n as u64).sum()
    }
}

fn is_about_group(e: &Json, path: &str) -> bool {
    is_about(e, "linux.cgroup.path", path)
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
        exact: true,
        is_of: is_about_group,
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
        exact: true,
        is_of: is_about_group,
    };
    flood.run();
}

/// Datagrams that a filter drops, in network namespaces of their own. Events are made at 1, 2, 4, … of a
/// kind, so it is the counts that must be whole.
///
/// On every kernel.
#[test]
fn dropped_packets() {
    let _place = place!(Need::Agent, Need::Iproute);
    const NOISY: u32 = 20_000;
    let agent = Agent::start("");
    let (noisy, quiet) = (Group::of("memory", "noisy"), Group::of("memory", "quiet"));
    // Their namespaces are there until all is counted: what ended before anybody asked has no owner.
    let drop = |group: &Group, times: u32| {
        Process::start(&format!(
            "echo $$ > {}/cgroup.procs && exec unshare -n bash -ec 'ip link set lo up\n\
             nft \"add table inet p; add chain inet p i {{ type filter hook input priority 0; }}; add rule inet p i udp dport 7001 drop\"\n\
             for ((i = 0; i < {times}; i++)); do echo > /dev/udp/127.0.0.1/7001; done; exec sleep 1000'",
            group.dir()
        ))
    };
    let events = |group: &Group| {
        events_of(agent.json(&["events", "--name", "linux.net.packet_drop"]), "linux.cgroup.path", &group.path())
    };
    let count = |group: &Group, want: u32| {
        let path = group.path();
        let labels = [("container_name", path.as_str()), ("linux_net_drop_kind", "loss")];
        wait_for("the count of drops", timeout(60), || {
            agent.metric("linux_container_net_packet_drops_total", &labels).filter(|n| *n >= f64::from(want))
        })
    };
    let _flood = drop(&noisy, NOISY);
    wait_for("the flood", timeout(20), || (!events(&noisy).is_empty()).then_some(()));
    let _few = drop(&quiet, 12);
    assert_eq!(count(&quiet, 12), 12.0);
    wait_for("a report of the quiet one's drops", timeout(20), || (!events(&quiet).is_empty()).then_some(()));
    assert_eq!(count(&noisy, NOISY), f64::from(NOISY));
    assert!(events(&noisy).len() < 100, "nothing was limited");
}

/// Interrupts held off by a process of the cgroup.
#[test]
fn held_off_interrupts() {
    let _place = place!(Need::Agent, Need::Spin);
    let flood = Flood {
        collector: "softirq",
        event: "linux.irq.held_off",
        controller: "cpu",
        config: "[collectors.softirq]\nheld_off_limit = \"10ms\"\n",
        line: |dir, times| format!("tests/provoke/irqoff --ms 20 --times {times} --cpu $(({times} > 12)) --in {dir}"),
        noisy: 150,
        exact: false,
        is_of: |e, path| e["attributes"]["linux.culprit"]["linux.cgroup.path"] == path,
    };
    flood.run();
}

/// Tasks that hang: more of one cgroup than may be reported at once.
#[test]
fn hung_tasks() {
    let _place = place!(Need::Agent, Need::Freeze);
    let agent = Agent::start("[collectors.hungtask]\nlimit = \"1s\"\n");
    let (noisy, quiet) = (Group::new("noisy"), Group::new("quiet"));
    let hang = |group: &Group, writers: &str| {
        provoke_in_background("hungtask", &["--seconds", "6", "--writers", writers, "--in", &group.dir()])
    };
    let begun = |group: &Group| {
        let all = events_of(agent.json(&["events", "--name", "linux.task.hung"]), "linux.cgroup.path", &group.path());
        all.into_iter().filter(|e| e["attributes"]["linux.phase"] == "begun").count()
    };
    let flood = hang(&noisy, "150");
    wait_for("the flood", timeout(20), || (begun(&noisy) > 0).then_some(()));
    let few = hang(&quiet, "12");
    wait_for("all tasks of the quiet one", timeout(20), || (begun(&quiet) == QUIET).then_some(()));
    few.wait();
    flood.wait();
    assert!(begun(&noisy) < 150, "nothing was limited");
}

/// A device that is set up and down without end, beside one that is seldom.
#[test]
fn flapping_devices() {
    let _place = place!(Need::Agent, Need::Iproute);
    let agent = Agent::start("");
    let (noisy, quiet) = (Group::new("noisy"), Group::new("quiet"));
    let flap = |group: &Group, device: &str, times: usize| {
        let (ok, said) = shell(&format!(
            "echo $$ > {}/cgroup.procs; (echo link add {device} type veth peer name {device}p\n\
             for ((i = 0; i < {times}; i++)); do echo link set {device} up; echo link set {device} down; done; echo link del {device}) | ip -batch -",
            group.dir()
        ));
        assert!(ok, "{said}");
    };
    // Who set it up is only known with fentry.
    let downs = |device: &str| {
        let all = agent.json(&["events", "--name", "linux.net.link_change"]).into_iter();
        let of = all.filter(|e| e["attributes"]["network.interface.name"] == device);
        of.filter(|e| e["attributes"]["linux.net.link.change"] == "admin_down").collect::<Vec<_>>()
    };
    let (loud, low) = (format!("bq{}n", std::process::id() % 100_000), format!("bq{}q", std::process::id() % 100_000));
    std::thread::scope(|s| {
        s.spawn(|| flap(&noisy, &loud, 400));
        wait_for("the flood", timeout(20), || (!downs(&loud).is_empty()).then_some(()));
        flap(&quiet, &low, 5);
    });
    let of_quiet = wait_for("all changes of the quiet one", timeout(20), || {
        let all = downs(&low);
        (all.len() >= 5).then_some(all)
    });
    assert!(
        of_quiet.iter().all(|e| e["attributes"]["linux.trigger"]["linux.cgroup.path"] == quiet.path().as_str()),
        "{of_quiet:?}"
    );
    assert!(downs(&loud).len() < 400, "nothing was limited");
}
