// SPDX-License-Identifier: Apache-2.0
//! What a collector's filter excludes.

use crate::support::{
    Agent, Container, Group, Need, Process, events_of, is_about, place, provoke, shell, timeout, unique, wait_for,
};

const OOM: &str = "linux.memory.oom_kill";
/// Takes more than the container may have.
const GREEDY: &[&str] = &["sh", "-c", "head -c 200m /dev/zero | tail -c 200m >/dev/null"];
const LIMIT: &[&str] = &["--memory", "48m"];

fn suppressed(agent: &Agent) -> f64 {
    suppressed_of(agent, "oom")
}

fn suppressed_of(agent: &Agent, collector: &str) -> f64 {
    let labels = [("collector", collector), ("reason", "filter")];
    agent.metric("bianque_events_suppressed_total", &labels).unwrap_or(0.0)
}

fn reported(agent: &Agent, of: &Container) -> usize {
    events_of(agent.json(&["events", "--name", OOM]), "container.name", &of.name).len()
}

/// Puts `new` in place of `old` in the configuration of a running agent.
fn reload(agent: &Agent, old: &str, new: &str) {
    agent.reconfigure(|text| text.replace(old, new));
    agent.signal("HUP");
    wait_for("the reload", timeout(10), || agent.log().contains("read the configuration again").then_some(()));
}

/// Has a process of the group take more than it may have.
fn kill_in(group: &Group) {
    let dir = group.dir();
    let line = format!(
        "cd {dir}; if [ -e memory.max ]; then echo 24M > memory.max; [ ! -e memory.swap.max ] || echo 0 > memory.swap.max; \
         else echo 24M > memory.limit_in_bytes; fi; \
         sh -c 'echo $$ > cgroup.procs; head -c 96M /dev/zero | tail -c 96M' > /dev/null; [ $? = 137 ]"
    );
    let (killed, said) = shell(&line);
    assert!(killed, "nothing was killed in {dir}: {said}");
}

/// Of two containers that are killed, the one that the filter denies by its name is only counted; after
/// a reload without the filter the next one is reported, too.
#[test]
fn denied_container_is_counted_and_not_reported() {
    let _place = place!(Need::Agent, Need::Podman);
    let label = unique("denied");
    let filter = format!("[collectors.oom.filter]\ndeny = [\"container=*{label}*\"]\n");
    let agent = Agent::start(&filter);

    let denied = Container::start(&label, LIMIT, GREEDY);
    assert!(denied.name.contains(&label));
    let counted =
        wait_for("count of what was filtered", timeout(20), || Some(suppressed(&agent)).filter(|n| *n >= 1.0));
    let other = Container::start("reported", LIMIT, GREEDY);
    agent.wait_event(OOM, timeout(20), |e| is_about(e, "container.name", &other.name));
    assert_eq!(reported(&agent, &denied), 0);
    assert_eq!(suppressed(&agent), counted, "the other one is not counted");
    let of_denied = [("container_name", denied.name.as_str())];
    assert_eq!(agent.metric("linux_container_memory_oom_kills_total", &of_denied), None);

    reload(&agent, &filter, "");
    let again = Container::start(&label, LIMIT, GREEDY);
    agent.wait_event(OOM, timeout(20), |e| is_about(e, "container.name", &again.name));
    assert_eq!((reported(&agent, &denied), suppressed(&agent)), (0, counted));
}

/// With an allow list, what is on it is reported and other cgroups are not.
#[test]
fn only_what_is_allowed_is_reported() {
    let _place = place!(Need::Agent);
    let (wanted, other) = (unique("wanted"), unique("other"));
    let agent = Agent::start(&format!("[collectors.oom.filter]\nallow = [\"cgroup=/{wanted}*\"]\n"));
    provoke("oom-memcg", &["--limit-mb", "24", "--cgroup", &other]);
    wait_for("count of what was filtered", timeout(20), || (suppressed(&agent) >= 1.0).then_some(()));
    provoke("oom-memcg", &["--limit-mb", "24", "--cgroup", &wanted]);
    agent.wait_event(OOM, timeout(20), |e| is_about(e, "linux.cgroup.path", &format!("/{wanted}")));
    assert_eq!(
        events_of(agent.json(&["events", "--name", OOM]), "linux.cgroup.path", &format!("/{other}")),
        [] as [serde_json::Value; 0]
    );
}

/// What the filter denies when its cgroup is already known costs no record: the kernel counts it, and the
/// collector does not run.
///
/// On every kernel.
#[test]
fn the_kernel_makes_no_record_of_who_is_denied() {
    let _place = place!(Need::Agent);
    let group = Group::of("memory", "denied");
    let agent = Agent::start(&format!("[collectors.oom.filter]\ndeny = [\"cgroup={}\"]\n", group.path()));
    let runs = || agent.metric("bianque_collector_duration_seconds_count", &[("collector", "oom")]).unwrap_or(0.0);
    let before = runs();
    kill_in(&group);
    let counted =
        wait_for("count of what the kernel filtered", timeout(20), || Some(suppressed(&agent)).filter(|n| *n >= 1.0));
    assert_eq!(runs(), before, "a record was made");

    reload(&agent, "deny = [", "allow = [");
    kill_in(&group);
    agent.wait_event(OOM, timeout(20), |e| is_about(e, "linux.cgroup.path", &group.path()));
    assert_eq!(suppressed(&agent), counted);
}

/// Drops that the filter excludes are still in the node's counts.
#[test]
fn denied_drops_are_counted_for_the_node() {
    // On hybrid nodes the socket's cgroup says nothing of who has it.
    let _place = place!(Need::Agent, Need::CgroupV2);
    let group = Group::of("unified", "dropping");
    let agent = Agent::start(&format!("[collectors.dropwatch.filter]\ndeny = [\"cgroup={}\"]\n", group.path()));
    let dropped = || -> f64 {
        let page = agent.get("/metrics");
        let losses = page.lines().filter(|l| l.starts_with("linux_net_packet_drops_total{") && l.contains("\"loss\""));
        losses.filter_map(|l| l.split("} ").last()?.split(' ').next()?.parse::<f64>().ok()).sum()
    };
    let before = dropped();
    // The sockets' cgroup is that of who opens them.
    let send = format!("echo $$ > {}/cgroup.procs && exec tests/provoke/drops --why queue --net 17", group.dir());
    let (sent, said) = shell(&send);
    assert!(sent, "{said}");
    wait_for("drops of the node", timeout(20), || (dropped() > before).then_some(()));
    wait_for("count of what was filtered", timeout(20), || (suppressed_of(&agent, "dropwatch") >= 1.0).then_some(()));
    let reported = agent.json(&["events", "--name", "linux.net.packet_drop"]);
    assert_eq!(events_of(reported, "linux.cgroup.path", &group.path()), [] as [serde_json::Value; 0]);
}

/// Workloads that the filter denies are not sampled, not even before a limit is exceeded for the whole
/// window; once allowed they are sampled and reported.
#[test]
fn who_is_denied_is_not_sampled() {
    const SPIN: &str = "linux.autotracing.cpuidle";
    let _place = place!(Need::Agent);
    let group = Group::new("spinning");
    let spin = format!("echo $$ > {}/cgroup.procs && while :; do :; done", group.dir());
    let nobody = "[collectors.cpuidle.filter]\nallow = [\"cgroup=/nobody\"]\n";
    let settings = "[collectors.cpuidle]\njump_limit = 0.1\nwindow = \"2s\"\ncapture = \"1s\"\n";
    let agent = Agent::start(&format!("{settings}{nobody}"));
    let samples = || agent.metric("bianque_probe_runs_total", &[("probe", "cpu_sample")]).unwrap_or(0.0);
    // What is usual for a group that was there before the agent is learnt first.
    std::thread::sleep(timeout(7));
    let spinning = Process::start(&spin);
    wait_for("onset that was filtered", timeout(20), || (suppressed_of(&agent, "cpuidle") >= 1.0).then_some(()));
    assert_eq!(samples(), 0.0, "somebody was sampled");
    drop(spinning);
    // Long enough that it counts as recovered.
    std::thread::sleep(timeout(6));

    reload(&agent, "/nobody", &group.path());
    let _spinning = Process::start(&spin);
    agent.wait_event(SPIN, timeout(30), |e| is_about(e, "linux.cgroup.path", &group.path()));
    wait_for("samples", timeout(10), || (samples() > 0.0).then_some(()));
}
