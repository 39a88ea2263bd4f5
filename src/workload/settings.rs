// SPDX-License-Identifier: Apache-2.0
//! Settings under `workload`: where names come from beside the runtimes' files, and which labels are
//! handed on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::signal::HumanDuration;

const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How containers, pods and services get their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Labels that become attributes, `container.label.KEY` and `k8s.pod.label.KEY`. A `*` at the end stands for
    /// any rest, as in `app.kubernetes.io/*`.
    pub labels: Vec<String>,
    /// Annotations of pods that become attributes, `k8s.pod.annotation.KEY`; written as labels are.
    pub annotations: Vec<String>,
    pub cri: Cri,
    pub kubelet: Kubelet,
    pub api_server: ApiServer,
}

/// The container runtime's own word on pods: containerd's or CRI-O's socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cri {
    /// Whether the runtime is asked.
    pub enabled: bool,
    /// Its socket. When not set: the first that is there of containerd's, CRI-O's, k3s', k0s', microk8s' and
    /// cri-dockerd's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/containerd/containerd.sock")]
    pub socket: Option<PathBuf>,
}

impl Default for Cri {
    fn default() -> Self {
        Cri { enabled: true, socket: None }
    }
}

/// The kubelet's list of pods, which also knows owners and what each container is in its pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kubelet {
    /// Whether the kubelet is asked.
    pub enabled: bool,
    /// Its address. When not set, and the agent runs as a pod: port 10250 of K8S_NODE_IP, else of K8S_NODE_NAME, which
    /// the Downward API hands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "https://node-1:10250")]
    pub url: Option<String>,
    /// File with the token that is sent over https; read for each request, as it changes.
    pub token_file: PathBuf,
    /// PEM file with the certificates that the kubelet's is checked against. When not set: the cluster's, of the
    /// service account, and the kubelet's own in `/var/lib/kubelet/pki`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/var/lib/kubelet/pki/kubelet.crt")]
    pub ca_file: Option<PathBuf>,
    /// The list is read when a pod is new; and after so long anyway, as labels change. At least 10s.
    pub refresh: HumanDuration,
}

impl Default for Kubelet {
    fn default() -> Self {
        Kubelet {
            enabled: true,
            url: None,
            token_file: SERVICE_ACCOUNT_TOKEN.into(),
            ca_file: None,
            refresh: HumanDuration::from_secs(300),
        }
    }
}

impl Kubelet {
    /// The address of the list of pods, by the settings or by what the Downward API says; `None`: not asked.
    #[must_use]
    pub fn address(&self, env: &BTreeMap<String, String>) -> Option<String> {
        if !self.enabled {
            return None;
        }
        let url = self.url.clone().or_else(|| {
            // Only who runs in a pod has a token, and only then do these variables mean this node.
            let node = ["K8S_NODE_IP", "K8S_NODE_NAME"].iter().find_map(|v| env.get(*v)).filter(|n| !n.is_empty())?;
            let host = if node.contains(':') { format!("[{node}]") } else { node.clone() };
            self.token_file.exists().then(|| format!("https://{host}:10250"))
        })?;
        let url = url.trim_end_matches('/');
        Some(if url.ends_with("/pods") { url.to_owned() } else { format!("{url}/pods") })
    }
}

/// The API server's watch on the pods of this node: an option for nodes whose kubelet may not be asked. It hears of a
/// changed label at once, where the kubelet's list is read every few minutes, but each node is one more connection
/// to the cluster's heart. The account needs `list` and `watch` on `pods`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiServer {
    /// Whether the API server is asked.
    pub enabled: bool,
    /// Its address. When not set: the cluster's, which every pod has in KUBERNETES_SERVICE_HOST and
    /// KUBERNETES_SERVICE_PORT.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "https://10.96.0.1:443")]
    pub url: Option<String>,
    /// The node whose pods are watched, as the cluster calls it. When not set: K8S_NODE_NAME, which the Downward API
    /// hands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// File with the token that is sent over https; read for each request, as it changes.
    pub token_file: PathBuf,
    /// PEM file with the certificates that the server's is checked against. When not set: the cluster's, of the service
    /// account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for ApiServer {
    fn default() -> Self {
        ApiServer { enabled: false, url: None, node: None, token_file: SERVICE_ACCOUNT_TOKEN.into(), ca_file: None }
    }
}

impl ApiServer {
    /// Its address, by the settings or from the variables that every pod gets.
    #[must_use]
    pub fn address(&self, env: &BTreeMap<String, String>) -> Option<String> {
        self.url.clone().or_else(|| {
            let host = env.get("KUBERNETES_SERVICE_HOST").filter(|h| !h.is_empty())?;
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let port = env.get("KUBERNETES_SERVICE_PORT").map_or("443", String::as_str);
            Some(format!("https://{host}:{port}"))
        })
    }

    /// The node, by the settings or by what the Downward API says, if it can be the name of one.
    #[must_use]
    pub fn node_name(&self, env: &BTreeMap<String, String>) -> Option<String> {
        self.node.clone().or_else(|| env.get("K8S_NODE_NAME").cloned()).filter(|n| is_node_name(n))
    }
}

/// Of a DNS subdomain (RFC 1123), as names of nodes are.
fn is_node_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

impl Settings {
    /// Checks what types cannot: each key that is wrong, and what would be valid.
    #[must_use]
    pub fn invalid(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let mut check = |key: &str, ok: bool, expected: &str| {
            if !ok {
                out.push((format!("workload.{key}"), expected.to_owned()));
            }
        };
        let patterns = |all: &[String]| all.iter().all(|p| !p.is_empty() && !p.trim_end_matches('*').contains('*'));
        check("labels", patterns(&self.labels), "names of labels, each with at most one `*`, at its end");
        check(
            "annotations",
            patterns(&self.annotations),
            "names of annotations, each with at most one `*`, at its end",
        );
        check("cri.socket", self.cri.socket.as_ref().is_none_or(|p| p.is_absolute()), "an absolute path");
        let scheme = |u: &String| u.starts_with("https://") || u.starts_with("http://");
        check("kubelet.url", self.kubelet.url.as_ref().is_none_or(scheme), "an http:// or https:// address");
        let server = &self.api_server;
        check("api_server.url", server.url.as_ref().is_none_or(scheme), "an http:// or https:// address");
        let node = server.node.as_deref().is_none_or(is_node_name);
        check("api_server.node", node, "the name of a node: lower-case letters, digits, `-` and `.`");
        check("kubelet.refresh", self.kubelet.refresh.as_secs() >= 10, "at least 10s");
        out
    }
}

/// Whether one of the patterns names this label.
pub(super) fn chooses(patterns: &[String], key: &str) -> bool {
    patterns.iter().any(|p| match p.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => p == key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, a prefix, everything; and nothing by default.
    #[test]
    fn patterns() {
        let of = |p: &str| vec![p.to_owned()];
        assert!(chooses(&of("app"), "app") && !chooses(&of("app"), "apps"));
        assert!(chooses(&of("app.kubernetes.io/*"), "app.kubernetes.io/name") && chooses(&of("*"), "x"));
        assert!(!chooses(&[], "app"));
        let bad = Settings { labels: of("a*b"), ..Settings::default() };
        assert_eq!(bad.invalid()[0].0, "workload.labels");
        assert_eq!(Settings::default().invalid(), []);
    }

    /// The kubelet is found by its address, or in a pod by the node's; outside of one it is not asked.
    #[test]
    fn the_kubelets_address() {
        let d = tempfile::tempdir().unwrap();
        let token = d.path().join("token");
        let env = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        let mut k = Kubelet { token_file: token.clone(), ..Kubelet::default() };
        assert_eq!(k.address(&env("K8S_NODE_NAME", "n1")), None, "without a token this is no pod");
        std::fs::write(token, "t").unwrap();
        assert_eq!(k.address(&env("K8S_NODE_NAME", "n1")).as_deref(), Some("https://n1:10250/pods"));
        assert_eq!(k.address(&env("K8S_NODE_IP", "fd00::1")).as_deref(), Some("https://[fd00::1]:10250/pods"));
        assert_eq!(k.address(&BTreeMap::new()), None);
        k.url = Some("http://127.0.0.1:10255/".into());
        assert_eq!(k.address(&BTreeMap::new()).as_deref(), Some("http://127.0.0.1:10255/pods"));
        k.enabled = false;
        assert_eq!(k.address(&BTreeMap::new()), None);
    }

    /// The API server's address and the node come from the variables that every pod gets, or from the settings; a name that would change the
    /// request is none.
    #[test]
    fn the_api_servers_address() {
        let env = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let in_a_pod = env(&[("KUBERNETES_SERVICE_HOST", "fd00::1"), ("KUBERNETES_SERVICE_PORT", "6443")]);
        let mut server = ApiServer::default();
        assert_eq!(server.address(&in_a_pod).as_deref(), Some("https://[fd00::1]:6443"));
        assert_eq!((server.address(&env(&[])), server.node_name(&env(&[]))), (None, None));
        assert_eq!(server.node_name(&env(&[("K8S_NODE_NAME", "n1.example")])).as_deref(), Some("n1.example"));
        assert_eq!(server.node_name(&env(&[("K8S_NODE_NAME", "n1&watch=0")])), None);
        server.node = Some("n 1".into());
        let bad = Settings { api_server: server, ..Settings::default() };
        assert_eq!(bad.invalid()[0].0, "workload.api_server.node");
    }
}
