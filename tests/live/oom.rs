// SPDX-License-Identifier: Apache-2.0
//! OOM kills.

use crate::support::{
    Agent, Container, Need, Process, attribute, bianque, events_of, is_about, place, provoke, timeout, unique, wait_for,
};

const NAME: &str = "linux.memory.oom_kill";
/// Takes more than the container may have.
const GREEDY: &[&str] = &["sh", "-c", "head -c 200m /dev/zero | tail -c 200m >/dev/null"];

/// A container that is killed is named in event, incident and metrics; of a quiet one beside it
/// nothing is said.
#[test]
fn killed_container_is_named_and_quiet_one_is_not() {
    let _place = place!(Need::Agent, Need::Podman);
    killed_container();
}

/// The same where only cgroup v2 is.
#[test]
fn killed_container_is_named_on_cgroup_v2() {
    let _place = place!(Need::Agent, Need::Podman, Need::CgroupV2);
    killed_container();
}

fn killed_container() {
    let agent = Agent::shared("");
    let quiet = Container::start("quiet", &["--memory", "64m"], &["sleep", "3600"]);
    let greedy = Container::start("greedy", &["--memory", "48m"], GREEDY);

    let event = agent.wait_event(NAME, timeout(20), |e| is_about(e, "container.name", &greedy.name));
    assert_eq!(event["resource"]["container.id"], greedy.id.as_str());
    assert_eq!(event["resource"]["container.runtime.name"], "podman");
    assert_eq!(event["severity"], "ERROR");
    assert_eq!(event["collector"], "oom");
    assert_eq!(event["attributes"]["linux.oom.constraint"], "memcg");
    assert_eq!(event["attributes"]["linux.oom.limit"], 48 << 20);
    assert!(event["attributes"]["linux.oom.memory.stat"].is_object(), "{event}");

    let incident = agent.wait_incident(timeout(10), |i| is_about(i, "container.name", &greedy.name));
    assert_eq!(incident["id"], event["trace_id"]);
    let shown = agent.cli(&["show", incident["id"].as_str().unwrap()]);
    let tree = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && tree.contains(&greedy.name), "show: {tree}");

    wait_for("counter of the container's kills", timeout(10), || {
        agent
            .metric("linux_container_memory_oom_kills_total", &[("container_name", &greedy.name)])
            .filter(|n| *n >= 1.0)
    });
    assert_eq!(events_of(agent.json(&["events"]), "container.name", &quiet.name), [] as [serde_json::Value; 0]);
    assert_eq!(events_of(agent.json(&["incidents"]), "container.name", &quiet.name), [] as [serde_json::Value; 0]);
}

/// `--follow` shows a kill while it is fresh: an operator need not ask twice.
#[test]
fn follow_shows_it_at_once() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    let path = agent.store().with_file_name("followed");
    // Since a minute ago: on a busy machine the kill may come before the follower is connected.
    let follow = bianque()
        .args(["events", "--follow", "--since", "1m", "-o", "json", "--config"])
        .arg(agent.config_file())
        .stdout(std::fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let _follow = Process::from(follow);
    std::thread::sleep(timeout(1));
    let group = unique("follow");
    provoke("oom-memcg", &["--cgroup", &group]);
    wait_for("line of --follow", timeout(5), || {
        std::fs::read_to_string(&path).ok().filter(|t| t.contains(&group) && t.contains(NAME))
    });
}

/// A cgroup that no runtime made is known by its path.
#[test]
fn killed_plain_cgroup_is_known_by_its_path() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared("");
    let group = unique("oom");
    provoke("oom-memcg", &["--limit-mb", "24", "--cgroup", &group]);
    let path = format!("/{group}");
    let event = agent.wait_event(NAME, timeout(10), |e| is_about(e, "linux.cgroup.path", &path));
    assert_eq!(event["attributes"]["linux.oom.cgroup.path"], path.as_str());
    assert_eq!(event["attributes"]["linux.oom.limit"], 24 << 20);
    assert!(event["stacks"]["kernel"].to_string().contains("mem_cgroup"), "{event}");
}

/// A cgroup that is killed as a whole: each victim is reported, and that it was one of a group.
#[test]
fn group_kill_names_each_victim() {
    let _place = place!(Need::Agent, Need::CgroupV2);
    let agent = Agent::shared("");
    let group = unique("all");
    provoke("oom-memcg", &["--group", "--limit-mb", "24", "--cgroup", &group]);
    let path = format!("/{group}");
    let bystander = agent.wait_event(NAME, timeout(10), |e| {
        is_about(e, "linux.cgroup.path", &path) && e["attributes"]["thread.name"] == "sleep"
    });
    assert_eq!(bystander["attributes"]["linux.oom.group_kill"], true, "{bystander}");
    assert_eq!(bystander["attributes"]["linux.oom.constraint"], "memcg", "{bystander}");
    let of_it = events_of(agent.json(&["events", "--name", NAME]), "linux.cgroup.path", &path);
    assert!(of_it.len() >= 2, "{of_it:?}");
    assert!(of_it.iter().all(|e| e["trace_id"] == bystander["trace_id"]), "one kill is one incident: {of_it:?}");
}

/// Exhausting the one NUMA node of a cpuset is distinguished from a node that is out of memory.
#[test]
fn cpuset_out_of_memory_is_distinguished() {
    let _place = place!(Need::Agent, Need::SecondNode);
    let agent = Agent::shared("");
    let group = unique("cpuset");
    provoke("oom-cpuset", &["--cgroup", &group]);
    let path = format!("/{group}");
    let event = agent.wait_event(NAME, timeout(20), |e| is_about(e, "linux.cgroup.path", &path));
    assert_eq!(attribute(&event, "linux.oom.constraint"), "cpuset", "{event}");
    assert_eq!((attribute(&event, "linux.oom.cpuset"), attribute(&event, "linux.oom.memory_nodes")), (&*group, "1"));
    assert!(event["message"].as_str().is_some_and(|m| m.contains("NUMA node 1")), "{event}");
    assert!(event["attributes"]["linux.oom.limit"].is_null(), "no limit was reached: {event}");
}

/// The node itself runs out: the event says so, and the evidence is the node's.
#[test]
fn node_out_of_memory_is_distinguished() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::shared("");
    provoke("oom-global", &[]);
    let event = agent.wait_event(NAME, timeout(20), |e| e["attributes"]["linux.oom.constraint"] == "none");
    assert!(event["attributes"]["linux.oom.meminfo"].is_object(), "{event}");
}
