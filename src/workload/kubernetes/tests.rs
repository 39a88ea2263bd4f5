// SPDX-License-Identifier: Apache-2.0
//! What the sources say, and how they fail. The real containerd is tests/live's, the real kubelet
//! that of `make test-kubernetes`; the kubelet's list here is written by the published schema.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message as _;

use super::cri::Taker;
use super::messages::{
    Container, ContainerEvent, ContainerMetadata, ContainerStatus, ImageSpec, ListContainersResponse,
    ListPodSandboxResponse, PodSandbox, PodSandboxMetadata, PodSandboxStatus, VersionResponse,
};
use super::*;
use crate::host::{Clock, Host};
use crate::probe::CgroupId;
use crate::signal::semconv::{Key, attr};
use crate::signal::{Attributes, Timestamp, WorkloadKey};
use crate::workload::settings::Cri;
use crate::workload::table::describe;

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

fn id(of: &str) -> String {
    format!("{of:0>64}")
}

fn settings() -> Settings {
    Settings { labels: vec!["team".into()], annotations: vec!["note".into()], ..Settings::default() }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// The workload of a container in the pod, with what is known put into it.
fn named(facts: &Facts, container: &str) -> Workload {
    let mut w = describe(WorkloadKey(1), &format!("/kubepods/burstable/pod{UID}/{}", id(container)), true);
    let _named = facts.hand_over(&mut w);
    w
}

fn text<'a>(a: &'a Attributes, key: &str) -> Option<&'a str> {
    a.get(key).and_then(crate::signal::Value::as_str)
}

fn metadata() -> Option<PodSandboxMetadata> {
    Some(PodSandboxMetadata { name: "web-6d4-x7k2p".into(), uid: UID.into(), namespace: "shop".into() })
}

fn sandbox() -> PodSandbox {
    let labels = map(&[("pod-template-hash", "6d4"), ("team", "blue"), ("secret", "x")]);
    let annotations = map(&[("note", "hi"), ("kubernetes.io/config.source", "api")]);
    PodSandbox { id: id("a"), metadata: metadata(), labels, annotations }
}

fn container(image: ImageSpec) -> Container {
    Container {
        id: id("b"),
        pod_sandbox_id: id("a"),
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 2 }),
        image: Some(image),
        image_ref: String::new(),
        labels: map(&[("io.kubernetes.container.name", "main")]),
    }
}

/// containerd's and CRI-O's answers come to the same: names, owner, chosen labels, and the image by the
/// name that people know, not by the id that the kubelet asked for.
#[test]
fn a_runtime_names_pod_and_container() {
    let by_id = ImageSpec { image: format!("sha256:{}", id("c")), user_specified_image: "nginx:1.27".into() };
    let crio = ImageSpec { image: id("c"), user_specified_image: "nginx:1.27".into() };
    let plain = ImageSpec { image: "nginx:1.27".into(), ..ImageSpec::default() };
    for (runtime, image) in [("containerd", by_id), ("cri-o", crio), ("containerd", plain)] {
        let facts = Facts::new(&settings());
        let mut taker = Taker::new(&facts, runtime);
        taker.sandbox(sandbox());
        taker.container(container(image));
        let w = named(&facts, "b");
        let a = w.resource();
        let of = |k: Key| text(&a, k.name);
        assert_eq!((of(attr::K8S_POD_NAME), of(attr::K8S_NAMESPACE_NAME)), (Some("web-6d4-x7k2p"), Some("shop")));
        assert_eq!((of(attr::K8S_DEPLOYMENT_NAME), of(attr::K8S_REPLICASET_NAME)), (Some("web"), Some("web-6d4")));
        assert_eq!((of(attr::K8S_CONTAINER_NAME), of(attr::SERVICE_NAME)), (Some("main"), Some("main")));
        assert_eq!((of(attr::CONTAINER_IMAGE_NAME), w.image_tag.as_deref()), (Some("nginx"), Some("1.27")));
        assert_eq!((text(&a, "k8s.pod.label.team"), text(&a, "k8s.pod.label.secret")), (Some("blue"), None));
        assert_eq!(text(&a, "k8s.pod.annotation.note"), Some("hi"));
        assert_eq!((w.pod.unwrap().restarts, of(attr::K8S_POD_QOS_CLASS)), (Some(2), Some("Burstable")));
        let pause = named(&facts, "a");
        assert_eq!(pause.container_name.as_deref(), Some(SANDBOX));
        assert_eq!(text(&pause.resource(), attr::LINUX_K8S_CONTAINER_KIND.name), Some("sandbox"));
    }
}

/// What CRI-O 1.31 really answers, and the cgroup in which it put the container: tests/fixtures/cri-o. It does not
/// say in a list what the image was asked for as; a tag known from its files stays.
#[test]
fn cri_o_as_recorded() {
    const SANDBOXES: &[u8] = include_bytes!("../../../tests/fixtures/cri-o/sandboxes.pb");
    const CONTAINERS: &[u8] = include_bytes!("../../../tests/fixtures/cri-o/containers.pb");
    const VERSION: &[u8] = include_bytes!("../../../tests/fixtures/cri-o/version.pb");
    let version = VersionResponse::decode(VERSION).unwrap();
    assert_eq!((&*version.runtime_name, &*version.runtime_version), ("cri-o", "1.31.0"));
    let facts = Facts::new(&settings());
    let mut taker = Taker::new(&facts, &version.runtime_name);
    let sandbox = ListPodSandboxResponse::decode(SANDBOXES).unwrap().items.remove(0);
    let container = ListContainersResponse::decode(CONTAINERS).unwrap().containers.remove(0);
    let (sandbox_id, container_id) = (sandbox.id.clone(), container.id.clone());
    taker.sandbox(sandbox);
    taker.container(container);
    let lines = include_str!("../../../tests/fixtures/cri-o/cgroup");
    let named = |id: &str| {
        let paths = crate::host::cgroup::memberships(lines).map(|m| m.path.replace(&container_id, id));
        let mut all = paths.map(|path| describe(WorkloadKey(1), &path, true)).collect::<Vec<_>>();
        assert!(all.iter().all(|w| w.container_id.as_deref() == Some(id)), "{all:?}");
        let mut w = all.remove(0);
        w.image_name = Some("registry.example/shop/server".into());
        w.image_tag = Some("1.27".into());
        assert!(facts.hand_over(&mut w));
        w
    };
    let w = named(&container_id);
    assert_eq!((w.runtime, w.container_name.as_deref()), (Some("cri-o"), Some("main")));
    assert_eq!((w.image_name.as_deref(), w.image_tag.as_deref()), (Some("registry.example/shop/server"), Some("1.27")));
    let a = w.resource();
    let of = |k: Key| text(&a, k.name);
    assert_eq!((of(attr::K8S_POD_NAME), of(attr::K8S_NAMESPACE_NAME)), (Some("web-6d4-x7k2p"), Some("shop")));
    assert_eq!((of(attr::K8S_POD_UID), of(attr::K8S_DEPLOYMENT_NAME)), (Some(UID), Some("web")));
    assert_eq!((of(attr::K8S_POD_QOS_CLASS), of(attr::K8S_CONTAINER_NAME)), (Some("Burstable"), Some("main")));
    assert_eq!((text(&a, "k8s.pod.label.team"), text(&a, "k8s.pod.annotation.note")), (Some("blue"), Some("hi")));
    assert_eq!(w.pod.unwrap().restarts, Some(2));
    assert_eq!(named(&sandbox_id).container_name.as_deref(), Some(SANDBOX));
}

/// An event gives the same metadata as the lists; one without a pod, and a container of an unknown pod, give none.
#[test]
fn events_report_the_same() {
    let facts = Facts::new(&settings());
    let mut taker = Taker::new(&facts, "containerd");
    taker.container(container(ImageSpec::default()));
    taker.event(ContainerEvent::default());
    assert!(!facts.is_settled(&id("b")));
    let s = sandbox();
    let c = container(ImageSpec::default());
    taker.event(ContainerEvent {
        container_id: id("b"),
        pod_sandbox_status: Some(PodSandboxStatus {
            id: s.id,
            metadata: s.metadata,
            labels: s.labels,
            annotations: s.annotations,
        }),
        containers_statuses: vec![ContainerStatus {
            id: c.id,
            metadata: c.metadata,
            image: c.image,
            image_ref: c.image_ref,
            labels: c.labels,
        }],
    });
    let pod = named(&facts, "b").pod.unwrap();
    assert_eq!((pod.name.as_deref(), pod.container.as_deref()), (Some("web-6d4-x7k2p"), Some("main")));
}

fn pod_list() -> String {
    let status = |name: &str, of: &str| {
        format!(
            r#"{{"name":"{name}","containerID":"containerd://{}","image":"nginx:1.27","restartCount":1,"ready":true,"state":{{}}}}"#,
            id(of)
        )
    };
    format!(
        r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[
        {{"metadata":{{"name":"web-6d4-x7k2p","namespace":"shop","uid":"{UID}","labels":{{"pod-template-hash":"6d4","team":"green"}},
            "ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-6d4","uid":"u","controller":true}}]}},
          "spec":{{"nodeName":"node-1","initContainers":[{{"name":"setup"}},{{"name":"proxy","restartPolicy":"Always"}}],"containers":[{{"name":"main"}}]}},
          "status":{{"phase":"Running","qosClass":"Burstable","containerStatuses":[{}],"initContainerStatuses":[{},{}],"ephemeralContainerStatuses":[{}]}}}},
        {{"metadata":{{"name":"etcd-node-1","namespace":"kube-system","uid":"0a1b2c3d111122223333444455556666",
            "annotations":{{"kubernetes.io/config.source":"file"}}}},"spec":{{}},"status":{{"containerStatuses":[{{"name":"etcd"}}]}}}}]}}"#,
        status("main", "b"),
        status("setup", "d"),
        status("proxy", "e"),
        status("debug", "f"),
    )
}

/// The kubelet's list: what each container is in its pod, the owner by reference, static pods; and a label
/// that was changed since the runtime learned of the pod.
#[test]
fn the_kubelets_list() {
    let facts = Facts::new(&settings());
    let mut taker = Taker::new(&facts, "containerd");
    taker.sandbox(sandbox());
    taker.container(container(ImageSpec::default()));
    assert_eq!(pods::apply_list(pod_list().as_bytes(), Source::Kubelet, &facts).unwrap().pods, 2);
    let kind = |of: &str| named(&facts, of).pod.unwrap().kind.map(crate::signal::ContainerKind::as_str);
    assert_eq!([kind("d"), kind("e"), kind("f")], [Some("init"), Some("sidecar"), Some("ephemeral")]);
    let w = named(&facts, "b");
    assert_eq!(w.pod.as_ref().unwrap().kind, None);
    assert_eq!(w.chosen.get("k8s.pod.label.team").map(String::as_str), Some("green"));
    assert_eq!((w.image_name.as_deref(), w.pod.unwrap().restarts), (Some("nginx"), Some(2)));
    taker.sandbox(sandbox());
    assert_eq!(named(&facts, "b").chosen.get("k8s.pod.label.team").map(String::as_str), Some("green"));

    let mut pod = describe(WorkloadKey(2), "/kubepods/burstable/pod0a1b2c3d111122223333444455556666", false);
    let _named = facts.hand_over(&mut pod);
    let pod = pod.pod.unwrap();
    assert_eq!((pod.name.as_deref(), pod.is_static, pod.owners.len()), (Some("etcd-node-1"), true, 0));
    assert_eq!(pods::apply_list(br#"{"items":null}"#, Source::Kubelet, &facts).unwrap().pods, 0);
    for bad in ["[]", r#"{"items":{}}"#, r#"{"items":[]} x"#] {
        assert!(pods::apply_list(bad.as_bytes(), Source::Kubelet, &facts).is_err(), "{bad}");
    }
}

/// A container that is known by its pod's next one only, as it ended between two readings.
#[test]
fn the_container_before_a_restart() {
    let facts = Facts::new(&settings());
    let list = format!(
        r#"{{"items":[{{"metadata":{{"name":"web","namespace":"shop","uid":"{UID}"}},"spec":{{}},"status":{{"containerStatuses":[
        {{"name":"main","containerID":"containerd://{}","image":"nginx:1.27","restartCount":3,"state":{{"running":{{}}}},
          "lastState":{{"terminated":{{"exitCode":137,"reason":"OOMKilled","containerID":"containerd://{}"}}}}}}]}}}}]}}"#,
        id("c"),
        id("b")
    );
    assert_eq!(pods::apply_list(list.as_bytes(), Source::Kubelet, &facts).unwrap().pods, 1);
    for (of, restarts) in [("c", 3), ("b", 2)] {
        let pod = named(&facts, of).pod.unwrap();
        assert_eq!((pod.name.as_deref(), pod.container.as_deref()), (Some("web"), Some("main")));
        assert_eq!(pod.restarts, Some(restarts));
    }
}

/// One request a connection; `answer` makes what is sent of it.
fn serve(mut answer: impl FnMut(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut s = stream.unwrap();
            let mut request = vec![0; 8192];
            let n = s.read(&mut request).unwrap_or(0);
            let body = answer(&String::from_utf8_lossy(&request[..n]));
            let _ = s.write_all(body.as_bytes());
        }
    });
    format!("http://{address}/pods")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn kubelet(url: &str, change: impl FnOnce(&mut super::super::settings::Kubelet)) -> anyhow::Result<kubelet::Client> {
    let mut settings = super::super::settings::Kubelet::default();
    change(&mut settings);
    kubelet::Client::new(Path::new("/nonexistent"), url, &["node-1".to_owned()], &settings)
}

/// What is no list of pods, a refusal and half an answer are errors that say so; the token never goes over plain http.
#[tokio::test]
async fn a_kubelet_that_answers_oddly() {
    let d = tempfile::tempdir().unwrap();
    let token = d.path().join("token");
    std::fs::write(&token, "geheim\n").unwrap();
    let mut answers = ["<html>", "403", "half", "list"].into_iter().cycle();
    let url = serve(move |request| {
        assert!(request.starts_with("GET /pods ") && !request.contains("geheim"), "{request}");
        match answers.next().unwrap() {
            "403" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            "half" => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"items\":".to_owned(),
            "list" => ok(&pod_list()),
            page => ok(page),
        }
    });
    let client = kubelet(&url, |s| s.token_file = token).unwrap();
    let facts = Facts::new(&settings());
    for said in ["no list of pods", "nodes/proxy", "broke off"] {
        let e = format!("{:#}", client.read(&facts).await.unwrap_err());
        assert!(e.contains(said), "{e}");
    }
    assert_eq!(client.read(&facts).await.unwrap(), 2);
}

type Issuer = rcgen::Issuer<'static, rcgen::KeyPair>;

/// Who signs certificates, and their own.
fn authority(name: &str) -> (Issuer, String) {
    let mut p = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = p.self_signed(&key).unwrap();
    (rcgen::Issuer::new(p, key), certificate.pem())
}

/// A kubelet at a loopback address with a certificate for a name; its address, and whether it got the token.
async fn tls_kubelet(issuer: &Issuer, name: &str) -> (String, Arc<AtomicBool>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/pods", listener.local_addr().unwrap());
    let heard = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let (acceptor, heard) = (tokio_rustls::TlsAcceptor::from(Arc::new(tls)), Arc::clone(&heard));
        async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let Ok(mut s) = acceptor.accept(socket).await else { continue };
                let mut request = vec![0; 4096];
                let n = s.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..n]).to_ascii_lowercase();
                heard.store(request.contains("authorization: bearer geheim"), Ordering::Relaxed);
                let _ = s.write_all(ok(&pod_list()).as_bytes()).await;
                let _ = s.shutdown().await;
            }
        }
    });
    (url, heard)
}

/// Over https the token is sent, and only to a kubelet whose certificate is signed by who is trusted.
#[tokio::test]
async fn only_a_trusted_kubelet_gets_the_token() {
    let (issuer, trusted) = authority("cluster");
    let (_, other) = authority("somebody");
    let (url, heard) = tls_kubelet(&issuer, "127.0.0.1").await;
    let d = tempfile::tempdir().unwrap();
    let (token, ca_file) = (d.path().join("token"), d.path().join("ca.crt"));
    std::fs::write(&token, "geheim").unwrap();
    assert!(
        kubelet(&url, |s| s.token_file.clone_from(&token)).is_err(),
        "without a CA there is nothing to verify with"
    );
    let facts = Facts::new(&settings());
    std::fs::write(&ca_file, other).unwrap();
    let refused = kubelet(&url, |s| s.token_file.clone_from(&token)).unwrap().read(&facts).await;
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(refused.contains("certificate") && !heard.load(Ordering::Relaxed), "{refused}");
    std::fs::write(&ca_file, trusted).unwrap();
    // Found beside the token, as the service account has it.
    assert_eq!(kubelet(&url, |s| s.token_file = token).unwrap().read(&facts).await.unwrap(), 2);
    assert!(heard.load(Ordering::Relaxed));
}

/// A kubelet that is asked at an address may have a certificate for the node's name only, as it makes one by itself;
/// not for another's.
#[tokio::test]
async fn certificates_of_the_nodes_name() {
    let (issuer, trusted) = authority("node-1-ca");
    let d = tempfile::tempdir().unwrap();
    let (token, ca_file) = (d.path().join("token"), d.path().join("kubelet.crt"));
    std::fs::write(&token, "geheim").unwrap();
    std::fs::write(&ca_file, trusted).unwrap();
    for (name, is_trusted) in [("node-1", true), ("node-2", false), ("127.0.0.2", false)] {
        let (url, heard) = tls_kubelet(&issuer, name).await;
        let client = kubelet(&url, |s| (s.token_file, s.ca_file) = (token.clone(), Some(ca_file.clone()))).unwrap();
        assert_eq!(client.read(&Facts::new(&settings())).await.is_ok(), is_trusted, "{name}");
        assert_eq!(heard.load(Ordering::Relaxed), is_trusted, "{name}");
    }
}

/// A pod that is born is looked for in the kubelet's list until it is there; a kubelet that is gone leaves what it reported.
#[tokio::test]
async fn a_new_pod_is_looked_for_and_a_lost_kubelet_leaves_its_names() {
    let gone = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let url = serve({
        let (gone, asked) = (Arc::clone(&gone), Arc::clone(&asked));
        move |_| match (gone.load(Ordering::Relaxed), asked.fetch_add(1, Ordering::Relaxed)) {
            (true, _) => String::new(),
            // It lags: the pod is in it at the third look.
            (_, 0 | 1) => ok(r#"{"items":[]}"#),
            _ => ok(&pod_list()),
        }
    });
    let d = tempfile::tempdir().unwrap();
    let workloads = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
    let kubelet = super::super::settings::Kubelet { url: Some(url), ..Default::default() };
    let settings = Settings { cri: Cri { enabled: false, socket: None }, kubelet, ..settings() };
    let kubernetes = Kubernetes::new(&settings, &BTreeMap::new(), &workloads);
    let facts = kubernetes.facts();
    let run = tokio::spawn(kubernetes.run());
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        for _ in 0..1000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}");
    };
    until("the first list", &|| facts.state(Source::Kubelet) == SourceState::Ok).await;
    workloads.on_mkdir(CgroupId { hierarchy: 0, id: 7 }, &format!("/kubepods/burstable/pod{UID}/{}", id("b")));
    until("the pod", &|| named(&facts, "b").pod.is_some_and(|p| p.name.is_some())).await;
    gone.store(true, Ordering::Relaxed);
    workloads.on_mkdir(CgroupId { hierarchy: 0, id: 8 }, &format!("/kubepods/burstable/pod{UID}/{}", id("9")));
    until("its loss", &|| facts.state(Source::Kubelet) == SourceState::Old).await;
    assert_eq!(named(&facts, "b").pod.unwrap().name.as_deref(), Some("web-6d4-x7k2p"));
    run.abort();
}

/// The API server's list, and what its watch reports: a label that changes, a deletion that takes no names away, a version
/// that is too old.
#[tokio::test]
async fn the_api_server_is_watched() {
    let pod = |team: &str, version: u32| {
        let container = id("b");
        format!(
            r#"{{"metadata":{{"name":"web-6d4-x7k2p","namespace":"shop","uid":"{UID}","resourceVersion":"{version}","labels":{{"team":"{team}"}}}},
            "spec":{{}},"status":{{"qosClass":"Burstable","containerStatuses":[{{"name":"main","containerID":"containerd://{container}"}}]}}}}"#
        )
        .replace('\n', " ")
    };
    let list = format!(r#"{{"kind":"PodList","metadata":{{"resourceVersion":"10"}},"items":[{}]}}"#, pod("blue", 9));
    let event = |kind: &str, object: &str| format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
    let bookmark = event("BOOKMARK", r#"{"kind":"Pod","metadata":{"resourceVersion":"13"}}"#);
    let gone = event("ERROR", r#"{"kind":"Status","code":410,"message":"too old resource version"}"#);
    let mut watches = [
        event("MODIFIED", &pod("green", 12)) + &bookmark,
        event("DELETED", &pod("green", 14)),
        gone,
        event("ADDED", &pod("red", 15)),
    ]
    .into_iter();
    let (asked, questions) = std::sync::mpsc::channel();
    let url = serve(move |request| {
        let uri = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = if uri.contains("watch=1") { watches.next() } else { Some(list.clone()) };
        asked.send(uri).unwrap();
        answer.map_or_else(String::new, |a| ok(&a))
    });
    let d = tempfile::tempdir().unwrap();
    let workloads = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
    let api_server = super::super::settings::ApiServer {
        enabled: true,
        url: Some(url.trim_end_matches("/pods").to_owned()),
        node: Some("node-1".into()),
        ..Default::default()
    };
    let settings = Settings { cri: Cri { enabled: false, socket: None }, api_server, ..settings() };
    let kubernetes = Kubernetes::new(&settings, &BTreeMap::new(), &workloads);
    let facts = kubernetes.facts();
    let run = tokio::spawn(kubernetes.run());
    let (mut containers, mut teams) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..1000 {
        // Metadata of a container is handed over once.
        let w = named(&facts, "b");
        containers.extend(w.pod.and_then(|p| p.container).map(|name| (w.runtime, name.to_string())));
        teams.extend(w.chosen.get("k8s.pod.label.team").cloned());
        if teams.contains("red") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.abort();
    assert!(teams.contains("red"), "{teams:?}");
    assert_eq!(containers, [(Some(path::CONTAINERD), "main".to_owned())].into());
    let questions: Vec<String> = questions.try_iter().collect();
    let from = |uri: &str| uri.split("resourceVersion=").nth(1).map(|v| v.split('&').next().unwrap().to_owned());
    let versions: Vec<_> = questions.iter().filter_map(|q| from(q)).take(6).collect();
    assert_eq!(versions, ["0", "10", "13", "14", "0", "10"], "{questions:?}");
    let of_the_node = |q: &String| q.starts_with("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&");
    assert!(questions.iter().all(of_the_node), "{questions:?}");
}

/// A response that is not an event, and the reason of a refusal, are errors.
#[test]
fn a_watch_with_odd_events() {
    let facts = Facts::new(&settings());
    let applied = |line: &str| pods::apply_event(line.as_bytes(), &facts).map_err(|e| format!("{e:#}"));
    assert!(applied("<html>").unwrap_err().contains("not a watch event"));
    assert!(applied(r#"{"type":"RENAMED","object":{}}"#).unwrap_err().contains("RENAMED"));
    let refusal = r#"{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd is gone"}}"#;
    assert_eq!(applied(refusal).unwrap_err(), "it ends the watch: 500 etcd is gone");
}
