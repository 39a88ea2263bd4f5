// SPDX-License-Identifier: Apache-2.0
//! A real kubelet and its list of pods, in a VM: `make test-kubernetes` builds it and runs this.

use crate::support::{Agent, Need, is_about, patience, place, shell, wait_for};

/// A static pod with a sidecar is named by the kubelet alone, over https with its certificate verified.
#[test]
#[ignore = "needs a kubelet, which takes 20 minutes to build: make test-kubernetes"]
fn the_kubelets_pods_are_named() {
    let _place = place!(Need::Agent, Need::CgroupV2, Need::OwnMachine, Need::Containerd);
    let (up, said) = shell("tests/containers/kubelet start");
    assert!(up, "{said}");
    let pki = said.lines().last().unwrap_or_default().to_owned();
    let agent = Agent::start(&format!(
        "[workload]\nlabels = [\"team\"]\n[workload.cri]\nenabled = false\n[workload.kubelet]\n\
         url = \"https://localhost:10250\"\nca_file = \"{pki}/kubelet.crt\"\n"
    ));
    let state = [("source", "kubelet"), ("state", "ok")];
    wait_for("answer of the kubelet", patience(20), || {
        agent.metric("bianque_workload_source_state", &state).filter(|n| *n == 1.0)
    });
    let event = agent.wait_event("linux.memory.oom_kill", patience(60), |e| is_about(e, "k8s.container.name", "main"));
    let of = |key: &str| event["resource"][key].clone();
    assert_eq!(of("k8s.namespace.name"), "shop", "{event}");
    assert!(of("k8s.pod.name").as_str().is_some_and(|n| n.starts_with("web-")), "{event}");
    assert_eq!((of("linux.k8s.pod.static"), of("k8s.pod.qos_class")), (true.into(), "Burstable".into()));
    assert_eq!((of("service.name"), of("k8s.pod.label.team")), ("cart".into(), "blue".into()));
    let page = agent.get("/metrics");
    let sidecar = |l: &&str| l.starts_with("linux_workload_info") && l.contains("linux_k8s_container_kind=\"sidecar\"");
    assert!(page.lines().any(|l| sidecar(&l) && l.contains("k8s_container_name=\"proxy\"")), "{page}");
    assert!(shell("tests/containers/kubelet stop").0);
}
