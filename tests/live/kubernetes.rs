// SPDX-License-Identifier: Apache-2.0
//! A real kubelet, in a VM, and a real API server with the chart in it: `make test-kubernetes` builds them
//! and runs this.
//!
//! The same on every kernel.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::support::{Agent, Need, hierarchy, is_about, place, provoke, shell, timeout, unique, wait_for};

const OOM: &str = "linux.memory.oom_kill";

/// A static pod with a sidecar is named by the kubelet alone, over https with its certificate verified.
#[test]
#[ignore = "builds a kubelet for 20 minutes: make test-kubernetes"]
fn the_kubelets_pods_are_named() {
    let _place = place!(Need::Agent, Need::CgroupV2, Need::OwnMachine, Need::Containerd);
    let (up, said) = shell("tests/containers/kubelet start");
    assert!(up, "{said}");
    let pki = said.lines().last().unwrap_or_default().to_owned();
    let agent = Agent::start(&format!(
        "[workload]\nlabels = [\"team\"]\n[workload.cri]\nenabled = false\n[workload.kubelet]\n\
         url = \"https://localhost:10250\"\nca_file = \"{pki}/kubelet.crt\"\n"
    ));
    state_becomes(&agent, "kubelet", "ok");
    let event = agent.wait_event(OOM, timeout(60), |e| is_about(e, "k8s.container.name", "main"));
    let of = |key: &str| event["resource"][key].clone();
    assert_eq!(of("k8s.namespace.name"), "shop", "{event}");
    assert!(of("k8s.pod.name").as_str().is_some_and(|n| n.starts_with("web-")), "{event}");
    assert_eq!((of("linux.k8s.pod.static"), of("k8s.pod.qos_class")), (true.into(), "Burstable".into()));
    assert_eq!((of("service.name"), of("k8s.pod.label.team")), ("cart".into(), "blue".into()));
    let is_sidecar = |l: &str| {
        l.starts_with("linux_workload_info")
            && l.contains("linux_k8s_container_kind=\"sidecar\"")
            && l.contains("k8s_container_name=\"proxy\"")
    };
    wait_for("the sidecar's series", timeout(20), || agent.get("/metrics").lines().any(is_sidecar).then_some(()));
    assert!(shell("tests/containers/kubelet stop").0);
}

/// Helm installs the chart; with the account and the rights that it makes, and not without, the agent hears of a
/// pod that is made later and of its new label; what it heard is kept when the server is gone.
#[test]
#[ignore = "builds an API server for 20 minutes: make test-kubernetes"]
fn the_api_servers_pods_are_named() {
    let _place = place!(Need::Agent);
    let cluster = Cluster::start();
    cluster.helm("install bianque deploy/helm/bianque --set rbac.apiServer=false");
    // What a cluster has only with Prometheus' operator is not made; all else of this is.
    let without_operator = "--set serviceMonitor.enabled=false --set prometheusRule.enabled=false";
    cluster
        .helm(&format!("install all deploy/helm/bianque -f deploy/helm/bianque/ci/everything.yaml {without_operator}"));
    for name in ["bianque", "node-doctor"] {
        let set = cluster.get(&format!("/apis/apps/v1/namespaces/obs/daemonsets/{name}"));
        assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"], false, "{set}");
    }

    let dir = cluster.0.display();
    fs::write(cluster.0.join("token"), cluster.tool("token obs bianque")).unwrap();
    let agent = Agent::start(&format!(
        "[workload]\nlabels = [\"team\"]\n[workload.cri]\nenabled = false\n[workload.kubelet]\nenabled = false\n\
         [workload.api_server]\nenabled = true\nurl = \"https://127.0.0.1:16443\"\nnode = \"node-1\"\n\
         token_file = \"{dir}/token\"\nca_file = \"{dir}/apiserver.crt\"\n"
    ));
    state_becomes(&agent, "api_server", "down");
    assert!(agent.log().contains("403 Forbidden: the service account needs `list` and `watch` on `pods`"));
    cluster.helm("upgrade bianque deploy/helm/bianque --set rbac.apiServer=true");
    state_becomes(&agent, "api_server", "ok");

    let name = format!("{}-6d4cf5-x7k2p", unique("cart"));
    let pod = cluster.pod(&name, "node-1");
    let elsewhere = cluster.pod(&format!("{}-6d4cf5-aaaaa", unique("cart")), "node-2");
    let killed = |pod: &Pod, team: &str| {
        pod.run_out_of_memory();
        let is_it = |e: &Json| is_about(e, "container.id", &pod.container);
        agent.wait_event(OOM, timeout(20), |e| is_it(e) && (team.is_empty() || is_about(e, "k8s.pod.label.team", team)))
    };
    let event = killed(&pod, "blue");
    let of = |key: &str| event["resource"][key].clone();
    assert_eq!((of("k8s.pod.name"), of("k8s.pod.uid")), (name.as_str().into(), pod.uid.as_str().into()), "{event}");
    assert_eq!((of("k8s.namespace.name"), of("k8s.container.name")), ("shop".into(), "main".into()));
    assert_eq!((of("k8s.deployment.name"), of("k8s.replicaset.name")), ("cart".into(), "cart-6d4cf5".into()));
    assert_eq!((of("k8s.pod.qos_class"), of("k8s.container.restart_count")), ("Burstable".into(), 3.into()));
    let event = killed(&elsewhere, "");
    assert_eq!(event["resource"]["k8s.pod.name"], Json::Null, "a pod of another node: {event}");

    let path = format!("/api/v1/namespaces/shop/pods/{name}");
    cluster.tool(&format!("patch {path} '{{\"metadata\": {{\"labels\": {{\"team\": \"green\"}}}}}}'"));
    killed(&pod, "green");

    drop(cluster);
    state_becomes(&agent, "api_server", "old");
    killed(&pod, "green");
}

fn state_becomes(agent: &Agent, source: &str, state: &str) {
    wait_for(&format!("state {state} of {source}"), timeout(90), || {
        agent.metric("bianque_workload_source_state", &[("source", source), ("state", state)]).filter(|n| *n == 1.0)
    });
}

/// An API server of our own, and the directory of its files; ended with the test.
struct Cluster(PathBuf);

/// A pod that no kubelet runs: what is its container's is in a cgroup as kubelets name them.
struct Pod {
    uid: String,
    container: String,
}

impl Cluster {
    fn start() -> Self {
        let (up, said) = shell("tests/containers/apiserver start");
        assert!(up, "{said}");
        Cluster(said.lines().last().unwrap_or_default().into())
    }

    fn tool(&self, args: &str) -> String {
        let (done, said) = shell(&format!("tests/containers/apiserver {args}"));
        assert!(done, "{args}: {said}");
        said.trim().to_owned()
    }

    fn get(&self, path: &str) -> Json {
        serde_json::from_str(&self.tool(&format!("get {path}"))).expect("JSON")
    }

    fn helm(&self, args: &str) {
        let helm = "${BACKENDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bianque/backends}/helm/bin/helm";
        let config = self.0.join("kubeconfig");
        let (done, said) =
            shell(&format!("{helm} {args} --namespace obs --create-namespace --kubeconfig {} 2>&1", config.display()));
        assert!(done, "helm {args}: {said}");
    }

    fn pod(&self, name: &str, node: &str) -> Pod {
        let container = format!("{:064x}", fastrand::u128(..));
        let labels = "pod-template-hash=6d4cf5 team=blue";
        Pod::of(self.tool(&format!("pod shop {name} {node} {container} {labels}")), container)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        shell("tests/containers/apiserver stop");
    }
}

impl Pod {
    fn of(uid: String, container: String) -> Self {
        let pod = Pod { uid, container };
        fs::create_dir_all(pod.cgroup()).unwrap();
        // Of cgroup v2 alone: a limit is there where the parents hand the controller on.
        for parent in ["", "kubepods", "kubepods/burstable", &format!("kubepods/burstable/pod{}", pod.uid)] {
            let _ = fs::write(Path::new(&hierarchy("memory")).join(parent).join("cgroup.subtree_control"), "+memory");
        }
        pod
    }

    fn path(&self) -> String {
        format!("kubepods/burstable/pod{}/{}", self.uid, self.container)
    }

    fn cgroup(&self) -> PathBuf {
        Path::new(&hierarchy("memory")).join(self.path())
    }

    fn run_out_of_memory(&self) {
        provoke("oom-memcg", &["--cgroup", &self.path()]);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for dir in self.cgroup().ancestors().take(4) {
            let _ = fs::remove_dir(dir);
        }
    }
}
