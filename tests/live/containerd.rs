// SPDX-License-Identifier: Apache-2.0
//! Pods of a real containerd, driven through its socket as a kubelet does.

use crate::support::{Agent, Containerd, CriPod, Need, is_about, place, timeout, unique, wait_for};

const OOM: &str = "linux.memory.oom_kill";
/// Takes more than the pod's container may have, at once.
const GREEDY: &[&str] = &["sh", "-c", "head -c 100m /dev/zero | tail -c 100m >/dev/null"];

fn config(socket: &str) -> String {
    format!(
        "[workload]\nlabels = [\"team\", \"app.*\"]\nannotations = [\"note\"]\n[workload.cri]\nsocket = {socket:?}\n"
    )
}

/// A pod of a Deployment, as its controllers name and label it.
fn deployed(containerd: &Containerd, set: &str, command: &[&str]) -> CriPod {
    let labels = "pod-template-hash=6d4cf5,app.kubernetes.io/name=cart,team=blue,secret=no";
    let env = [("CRI_LABELS", labels), ("CRI_ANNOTATIONS", "note=hello"), ("CRI_ATTEMPT", "3")];
    containerd.pod(&format!("{set}-6d4cf5-x7k2p"), &env, command)
}

/// Every name of a pod that was killed the moment it ran: by the runtime's own events.
#[test]
fn killed_pod_is_named() {
    let _place = place!(Need::Agent, Need::Containerd);
    killed_pod("1.7");
}

/// The same where the runtime has no event stream and is queried for each new container.
#[test]
fn killed_pod_is_named_without_events() {
    let _place = place!(Need::Agent, Need::Containerd);
    killed_pod("1.6");
}

fn killed_pod(version: &'static str) {
    let containerd = Containerd::start(version);
    let agent = Agent::start(&config(&containerd.bring_up()));
    state_becomes(&agent, "ok");
    let set = unique("cart");
    let pod = deployed(&containerd, &set, GREEDY);
    let event = agent.wait_event(OOM, timeout(20), |e| is_about(e, "container.id", &pod.container));
    containerd.remove(&pod);
    let of = |key: &str| event["resource"][key].clone();
    assert_eq!(of("k8s.pod.name"), pod.name.as_str(), "{event}");
    assert_eq!(of("k8s.pod.uid"), pod.uid.as_str());
    assert_eq!((of("k8s.namespace.name"), of("k8s.container.name")), ("shop".into(), "main".into()));
    assert_eq!(
        (of("k8s.deployment.name"), of("k8s.replicaset.name")),
        (set.clone().into(), format!("{set}-6d4cf5").into())
    );
    assert_eq!((of("k8s.pod.qos_class"), of("k8s.container.restart_count")), ("Burstable".into(), 3.into()));
    assert_eq!((of("container.runtime.name"), of("container.name")), ("containerd".into(), "main".into()));
    assert_eq!(of("container.image.name"), "docker.io/library/busybox");
    assert_eq!(of("service.name"), "cart");
    assert_eq!((of("k8s.pod.label.team"), of("k8s.pod.annotation.note")), ("blue".into(), "hello".into()));
    assert!(of("k8s.pod.label.secret").is_null(), "only what was chosen is handed on: {event}");
}

/// A runtime's metadata is kept while it is down, and marked as old; once it is back, new pods are named again.
#[test]
fn a_runtime_that_goes_leaves_its_names() {
    let _place = place!(Need::Agent, Need::Containerd);
    let containerd = Containerd::start("1.7");
    let socket = containerd.bring_up();
    let before = deployed(&containerd, &unique("before"), &["sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.2; done"]);
    let agent = Agent::start(&config(&socket));
    state_becomes(&agent, "ok");
    containerd.take_down();
    state_becomes(&agent, "old");
    assert_eq!(agent.log().matches("provides no pod metadata; earlier metadata is kept").count(), 1, "{}", agent.log());
    let known = |pod: &CriPod| {
        let page = agent.get("/metrics");
        let id = format!("container_id=\"{}\"", pod.container);
        let info = page.lines().find(|l| l.starts_with("linux_workload_info") && l.contains(&id))?.to_owned();
        info.contains(&format!("k8s_pod_name=\"{}\"", pod.name)).then_some(info)
    };
    let info = wait_for("the pod's name", timeout(5), || known(&before));
    assert!(info.contains("k8s_deployment_name="), "{info}");
    containerd.bring_up();
    state_becomes(&agent, "ok");
    let after = deployed(&containerd, &unique("after"), GREEDY);
    let event = agent.wait_event(OOM, timeout(20), |e| is_about(e, "container.id", &after.container));
    assert_eq!(event["resource"]["k8s.pod.name"], after.name.as_str());
}

fn state_becomes(agent: &Agent, state: &str) {
    wait_for(&format!("state {state} of the runtime"), timeout(20), || {
        agent.metric("bianque_workload_source_state", &[("source", "cri"), ("state", state)]).filter(|n| *n == 1.0)
    });
}
