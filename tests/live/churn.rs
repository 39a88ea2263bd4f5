// SPDX-License-Identifier: Apache-2.0
//! Cgroups and containers that come, are killed and go, at more than a hundred a minute.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Agent, Container, Need, Process, is_about, place, repeats, timeout, unique, wait_for};

const OOM: &str = "linux.memory.oom_kill";

/// Makes `$count` cgroups, has one task killed in each, and removes it. With `$again`, each has the path
/// of the one before it: another life at the same place.
const CHURN: &str = r#"
g=/sys/fs/cgroup; max=memory.max
if [ -e $g/cgroup.controllers ]; then echo +memory > $g/cgroup.subtree_control; else g=$g/memory; max=memory.limit_in_bytes; fi
for ((i = 0; i < count; i++)); do
  d=$g/$name-${again:-$i}
  mkdir $d && echo 8M > $d/$max; [ ! -e $d/memory.swap.max ] || echo 0 > $d/memory.swap.max
  ( echo $BASHPID > $d/cgroup.procs; head -c 64M /dev/zero | exec tail -c 64M ) > /dev/null 2>&1
  sleep 0.1
  for ((k = 0; k < 50; k++)); do rmdir $d 2>/dev/null && break; sleep 0.02; done
  sleep 0.2
done"#;

/// Every kill is reported, each victim once, of the cgroup or container that it was in.
///
/// In full in `make soak`.
#[test]
fn every_one_of_many_is_named() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let name = unique("churn");
    // What must be shown is that none is missed while others come and go; a dozen do, and many more in the soak.
    let (cgroups, containers) = (repeats(12, 100), repeats(4, 20));
    let churn = ["", "again"].map(|a| Process::start(&format!("name={name} again={a} count={}; {CHURN}", cgroups / 2)));
    let kill = ["sh", "-c", "head -c 200m /dev/zero | tail -c 200m >/dev/null"];
    let containers: Vec<Container> =
        (0..containers).map(|_| Container::start("churn", &["--rm=true", "--memory", "32m"], &kill)).collect();

    for c in &containers {
        let event = agent.wait_event(OOM, timeout(20), |e| is_about(e, "container.id", &c.id));
        assert_eq!(event["resource"]["container.name"], c.name.as_str());
    }
    let mut expected: BTreeMap<String, usize> = (0..cgroups / 2).map(|i| (format!("/{name}-{i}"), 1)).collect();
    expected.insert(format!("/{name}-again"), cgroups / 2);
    // Where the memory of the first victim is not back in time, the kernel takes the other task too.
    wait_for("kill in every cgroup", timeout(120), || {
        let killed = kills(&agent, &name);
        expected.iter().all(|(path, n)| killed.get(path).is_some_and(|k| k.len() >= *n)).then_some(())
    });
    drop(churn);
    let killed = kills(&agent, &name);
    assert!(killed.keys().eq(expected.keys()), "{killed:?}");
    for (path, victims) in &killed {
        let each: BTreeSet<_> = victims.iter().collect();
        assert_eq!(each.len(), victims.len(), "a victim of {path} is reported twice: {victims:?}");
    }
}

/// Victims, by their cgroup.
fn kills(agent: &Agent, name: &str) -> BTreeMap<String, Vec<u64>> {
    let mut killed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for e in agent.json(&["events", "--name", OOM]) {
        let path = e["resource"]["linux.cgroup.path"].as_str().unwrap_or_default();
        if path.starts_with(&format!("/{name}-")) {
            // The kernel's log, from where this comes, has ten kills in five seconds at most.
            let limited = &e["attributes"]["linux.oom.cgroup.path"];
            assert!(limited.is_null() || limited == path, "{e}");
            killed.entry(path.to_owned()).or_default().push(e["attributes"]["process.pid"].as_u64().unwrap());
        }
    }
    killed
}
