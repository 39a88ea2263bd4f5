// SPDX-License-Identifier: Apache-2.0
//! Names from what each runtime keeps, on made-up nodes; the real podman is tests/live's.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::host::Clock;
use crate::probe::CgroupId;
use crate::signal::Timestamp;

const ID: &str = "31a8d910a6930107067375b6e7aa4b65c74ae2dce8f4b1682549a4557c8d7ad5";

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Reads homes itself.
struct Direct;

struct Below<'a>(&'a Path);

impl storage::Folder for Below<'_> {
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(self.0.join(path)).ok()
    }

    fn list(&mut self, path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().into_string().unwrap()).collect()
    }
}

impl Strangers for Direct {
    fn environment(&self, _: u32) -> Option<ServiceEnv> {
        None
    }
    fn published(&self, _: u32) -> Option<ServiceEnv> {
        None
    }
    fn homes(&self, folder: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
    }
    fn container(&self, home: &Path, id: &str) -> Option<(Names, PathBuf)> {
        homes::look_up_in(&mut Below(home), id)
    }
    fn names(&self, home: &Path, file: &Path) -> Option<BTreeMap<String, String>> {
        homes::names(file, &std::fs::read(home.join(file)).ok()?)
    }
}

fn named(root: &Path, cgroup: &str) -> Option<Workload> {
    let mut w = crate::workload::table::describe(WorkloadKey(1), &cgroup.replace("ID", ID), true);
    apply(&look_up(&Host::under(root), &Direct, &w)?, &mut w);
    Some(w)
}

/// podman 4 as it writes its files: name, image, labels, and the service from the environment.
#[test]
fn podman() {
    let d = tempfile::tempdir().unwrap();
    let store = "var/lib/containers/storage";
    let listed = format!(
        r#"[{{"id":"{ID}","names":["wl-probe"],"image":"1748","layer":"c9","metadata":"{{\"image-name\":\"localhost/busybox:test\",\"name\":\"wl-probe\"}}","flags":{{}}}}]"#
    );
    put(d.path(), &format!("{store}/overlay-containers/containers.json"), &listed);
    let half = named(d.path(), "/libpod_parent/libpod-ID").unwrap();
    assert_eq!(half.container_name.as_deref(), Some("wl-probe"));
    let spec = r#"{"annotations":{"io.container.manager":"libpod"},"process":{"env":["PATH=/bin","OTEL_SERVICE_NAME=svc-x"]}}"#;
    put(d.path(), &format!("{store}/overlay-containers/{ID}/userdata/config.json"), spec);
    let db = format!(r#"x{{"spec":{{}},"id":"{ID}","name":"wl-probe","labels":{{"team":"shop"}}}}y"#);
    put(d.path(), &format!("{store}/libpod/bolt_state.db"), &db);
    let w = named(d.path(), "/libpod_parent/libpod-ID").unwrap();
    assert_eq!((w.container_name.as_deref(), w.runtime), (Some("wl-probe"), Some("podman")));
    assert_eq!((w.image_name.as_deref(), w.image_tag.as_deref()), (Some("localhost/busybox"), Some("test")));
    assert_eq!(w.labels.get("team").map(String::as_str), Some("shop"));
    assert_eq!(w.service_name.as_deref(), Some("svc-x"));
}

/// A rootless Docker's containers are described in its user's home, and renamed there.
#[test]
fn rootless_docker() {
    let d = tempfile::tempdir().unwrap();
    let file = format!("home/ann/.local/share/docker/containers/{ID}/config.v2.json");
    let described =
        format!(r#"{{"ID":"{ID}","Name":"/shop","Config":{{"Image":"shop:1","Labels":{{"team":"blue"}}}}}}"#);
    put(d.path(), &file, &described);
    let w = named(d.path(), "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope").unwrap();
    assert_eq!((w.container_name.as_deref(), w.runtime), (Some("shop"), Some("docker")));
    assert_eq!((w.image_name.as_deref(), w.labels["team"].as_str()), (Some("shop"), "blue"));
    let home = d.path().join("home/ann");
    let below = Path::new(&file).strip_prefix("home/ann").unwrap();
    assert_eq!(Direct.names(&home, below).unwrap()[ID], "shop");
}

/// A rootless podman with another driver and volatile containers; the image's name is in its own list.
#[test]
fn rootless_podman() {
    let d = tempfile::tempdir().unwrap();
    let store = "home/ann/.local/share/containers/storage";
    let listed = format!(r#"[{{"id":"{ID}","names":["mine"],"image":"1748","metadata":""}}]"#);
    put(d.path(), &format!("{store}/vfs-containers/volatile-containers.json"), &listed);
    put(d.path(), &format!("{store}/vfs-images/images.json"), r#"[{"id":"1748","names":["quay.io/x/y:1"]}]"#);
    let w = named(d.path(), "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope").unwrap();
    assert_eq!((w.container_name.as_deref(), w.image_name.as_deref()), (Some("mine"), Some("quay.io/x/y")));
}

/// What CRI-O 1.31 really writes: tests/fixtures/cri-o.
#[test]
fn cri_o_as_recorded() {
    let d = tempfile::tempdir().unwrap();
    let spec = include_str!("../../../tests/fixtures/cri-o/config.json");
    let path = cgroup_of(include_str!("../../../tests/fixtures/cri-o/cgroup"));
    let id = path.rsplit_once("/crio-").unwrap().1;
    let folder = "var/lib/containers/storage/overlay-containers";
    let listed = include_str!("../../../tests/fixtures/cri-o/volatile-containers.json");
    put(d.path(), &format!("{folder}/volatile-containers.json"), listed);
    put(d.path(), &format!("{folder}/{id}/userdata/config.json"), spec);
    let w = named(d.path(), path).unwrap();
    let pod = w.pod.as_ref().unwrap();
    assert_eq!((pod.name.as_deref(), pod.namespace.as_deref()), (Some("web-6d4-x7k2p"), Some("shop")));
    assert_eq!((pod.container.as_deref(), w.container_name.as_deref()), (Some("main"), Some("main")));
    assert_eq!((w.image_name.as_deref(), w.image_tag.as_deref()), (Some("registry.example/shop/server"), Some("1.27")));
    assert_eq!((w.runtime, w.service_name.as_deref()), (Some("cri-o"), Some("main")));
}

/// The path in a `/proc/PID/cgroup`, which is the same in all hierarchies.
fn cgroup_of(lines: &str) -> &str {
    let mut paths = crate::host::cgroup::memberships(lines).map(|m| m.path);
    let first = paths.next().unwrap();
    assert!(paths.all(|p| p == first), "{lines}");
    first
}

/// What Docker 20.10 really writes and answers, with its default cgroup and below another parent; a container
/// that was renamed: tests/fixtures/docker.
#[test]
fn docker_as_recorded() {
    let path = cgroup_of(include_str!("../../../tests/fixtures/docker/cgroup"));
    let id = path.rsplit('/').next().unwrap();
    let config = include_str!("../../../tests/fixtures/docker/config.v2.json");
    let d = tempfile::tempdir().unwrap();
    put(d.path(), &format!("var/lib/docker/containers/{id}/config.v2.json"), config);
    let check = |w: &Workload| {
        assert_eq!((w.container_name.as_deref(), w.runtime), (Some("web"), Some("docker")));
        assert_eq!((w.image_name.as_deref(), w.image_tag.as_deref()), (Some("shop/server"), Some("1.27")));
        assert_eq!(w.labels.get("team").map(String::as_str), Some("shop"));
        assert_eq!((w.service_name.as_deref(), w.service_version.as_deref()), (Some("cart"), Some("7")));
    };
    check(&named(d.path(), path).unwrap());
    let elsewhere = cgroup_of(include_str!("../../../tests/fixtures/docker/cgroup.parent"));
    let found = crate::workload::path::identify(elsewhere).and_then(|i| i.container).unwrap();
    assert_eq!(found.id, elsewhere.rsplit('/').next().unwrap(), "a bare id below a parent of its own");
    check(&named(d.path(), &format!("/jobs/{id}")).unwrap());
    let renamed = docker::names(include_bytes!("../../../tests/fixtures/docker/renamed.config.v2.json")).unwrap();
    assert_eq!(renamed, BTreeMap::from([(id.to_owned(), "web-old".to_owned())]));

    let d = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(d.path().join("var/run")).unwrap();
    let listener = UnixListener::bind(d.path().join("var/run/docker.sock")).unwrap();
    let daemon = std::thread::spawn(move || {
        let inspect = include_str!("../../../tests/fixtures/docker/inspect.http");
        for answer in [inspect, include_str!("../../../tests/fixtures/docker/unknown.http")] {
            use std::io::{Read, Write};
            let (mut s, _) = listener.accept().unwrap();
            assert!(s.read(&mut [0; 4096]).unwrap() > 0);
            s.write_all(answer.as_bytes()).unwrap();
        }
    });
    check(&named(d.path(), path).unwrap());
    assert!(named(d.path(), path).is_none());
    daemon.join().unwrap();
}

/// CRI-O: pod, container and labels from the annotations.
#[test]
fn cri_o() {
    let d = tempfile::tempdir().unwrap();
    let folder = "var/lib/containers/storage/overlay-containers";
    put(
        d.path(),
        &format!("{folder}/containers.json"),
        &format!(r#"[{{"id":"{ID}","names":["k8s_app_web-1_shop_u_0"]}}]"#),
    );
    let spec = r#"{"annotations":{"io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"shop",
        "io.kubernetes.pod.uid":"u","io.kubernetes.container.name":"app","io.kubernetes.cri-o.ImageName":"docker.io/nginx:1.27",
        "io.kubernetes.cri-o.Labels":"{\"app.kubernetes.io/name\":\"web\"}"}}"#;
    put(d.path(), &format!("{folder}/{ID}/userdata/config.json"), spec);
    let w = named(d.path(), "/kubepods/besteffort/pod0a1b2c3d-1111-2222-3333-444455556666/crio-ID").unwrap();
    let pod = w.pod.unwrap();
    assert_eq!((&*pod.uid, pod.name.as_deref(), pod.namespace.as_deref()), ("u", Some("web-1"), Some("shop")));
    assert_eq!((pod.container.as_deref(), w.image_tag.as_deref()), (Some("app"), Some("1.27")));
    assert_eq!((w.runtime, w.service_name.as_deref()), (Some("cri-o"), Some("web")));
}

/// containerd's CRI plugin: the bundle's annotations.
#[test]
fn containerd() {
    let d = tempfile::tempdir().unwrap();
    let spec = r#"{"annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"web-1",
        "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.image-name":"reg:5000/nginx@sha256:ab"}}"#;
    put(d.path(), &format!("{}/k8s.io/{ID}/config.json", "run/containerd/io.containerd.runtime.v2.task"), spec);
    let w = named(d.path(), "/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666/ID").unwrap();
    let pod = w.pod.unwrap();
    assert_eq!(&*pod.uid, "0a1b2c3d-1111-2222-3333-444455556666", "the path's, as the annotations have none");
    assert_eq!((pod.name.as_deref(), w.container_name.as_deref()), (Some("web-1"), Some("app")));
    assert_eq!((w.image_name.as_deref(), w.image_tag), (Some("reg:5000/nginx"), None));
    assert_eq!(w.service_name.as_deref(), Some("app"));
}

/// Docker's file, in the place that `daemon.json` names.
#[test]
fn docker_file() {
    let d = tempfile::tempdir().unwrap();
    put(d.path(), "etc/docker/daemon.json", r#"{"data-root":"/data/docker"}"#);
    let config =
        r#"{"Name":"/shop","Config":{"Image":"nginx:1","Labels":{"com.docker.compose.service":"web"},"Env":null}}"#;
    put(d.path(), &format!("data/docker/containers/{ID}/config.v2.json"), config);
    let w = named(d.path(), "/docker/ID").unwrap();
    assert_eq!((w.container_name.as_deref(), w.service_name.as_deref()), (Some("shop"), Some("web")));
}

/// Docker's socket: an answer, a refusal, and a daemon that takes the request and says nothing.
#[test]
fn docker_socket() {
    let d = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(d.path().join("var/run")).unwrap();
    let listener = UnixListener::bind(d.path().join("var/run/docker.sock")).unwrap();
    let daemon = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let answer = "HTTP/1.0 200 OK\r\nX: y\r\n\r\n{\"Name\":\"/sock\",\"Config\":{\"Image\":\"a\"}}";
        for answer in [answer, "HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"No such container\"}"] {
            let (mut s, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let n = s.read(&mut request).unwrap();
            assert!(request[..n].starts_with(format!("GET /containers/{ID}/json HTTP/1.0").as_bytes()));
            s.write_all(answer.as_bytes()).unwrap();
        }
        let silent = listener.accept().unwrap();
        std::thread::sleep(Duration::from_millis(900));
        drop(silent);
    });
    assert_eq!(named(d.path(), "/docker/ID").unwrap().container_name.as_deref(), Some("sock"));
    assert!(named(d.path(), "/docker/ID").is_none());
    let begin = Instant::now();
    assert!(named(d.path(), "/docker/ID").is_none());
    assert!(begin.elapsed() < Duration::from_millis(850), "{:?}", begin.elapsed());
    daemon.join().unwrap();
}

/// Half-written and broken files give no names and no panic.
#[test]
fn broken_files() {
    let d = tempfile::tempdir().unwrap();
    put(d.path(), "var/lib/containers/storage/overlay-containers/containers.json", "[{\"id\":");
    put(d.path(), &format!("var/lib/docker/containers/{ID}/config.v2.json"), "{\"Name\":5}");
    put(d.path(), &format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"), "");
    for cgroup in ["/libpod_parent/libpod-ID", "/docker/ID", "/x/ID", "/system.slice/cri-containerd-ID.scope"] {
        assert_eq!(named(d.path(), cgroup), None, "{cgroup}");
    }
}

/// A renamed container is reported by its new name, from podman's list as from Docker's file; a list that is half
/// written changes nothing, and is read again.
#[test]
fn renamed() {
    let d = tempfile::tempdir().unwrap();
    let workloads = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
    let other = ID.replace('3', "4");
    let list = "var/lib/containers/storage/overlay-containers/containers.json";
    let docker = format!("var/lib/docker/containers/{other}/config.v2.json");
    let write = |name: &str| {
        put(d.path(), list, &format!(r#"[{{"id":"{ID}","names":["{name}"],"metadata":"{{\"name\":\"old\"}}"}}]"#));
        put(d.path(), &docker, &format!(r#"{{"ID":"{other}","Name":"/{name}","Config":{{}}}}"#));
    };
    write("old");
    workloads.on_mkdir(CgroupId { hierarchy: 0, id: 1 }, &format!("/libpod_parent/libpod-{ID}"));
    workloads.on_mkdir(CgroupId { hierarchy: 0, id: 2 }, &format!("/docker/{other}"));
    let mut renames = Renames::default();
    assert!(renames.due().is_none(), "it would wake for nothing");
    for w in workloads.all() {
        let names = look_up(workloads.host(), &Direct, &w).unwrap();
        workloads.update(w.key, |w| apply(&names, w));
        renames.watch(w.key, &names.kept.unwrap());
    }
    let called = |id: &str| {
        let w = workloads.of_container(id).unwrap();
        (w.container_name.clone().unwrap(), w.service_name.as_deref().unwrap().to_owned())
    };
    let both = |name: &str| assert_eq!([called(ID), called(&other)], [(); 2].map(|()| (name.into(), name.into())));
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    renames.work(&workloads, &Direct, later(0));
    both("old");
    write("newer");
    renames.work(&workloads, &Direct, later(1));
    both("old");
    renames.work(&workloads, &Direct, later(6));
    both("newer");
    put(d.path(), list, "[{\"id\":");
    std::fs::remove_file(d.path().join(&docker)).unwrap();
    renames.work(&workloads, &Direct, later(12));
    both("newer");
    write("newest");
    renames.work(&workloads, &Direct, later(18));
    assert_eq!(called(ID).0, "newest");
    assert_eq!(called(&other).0, "newer", "its file had gone, as when a container goes");
    workloads.on_rmdir(CgroupId { hierarchy: 0, id: 1 });
    put(d.path(), list, "[]");
    renames.work(&workloads, &Direct, later(24));
    assert!(renames.due().is_none(), "it looks at files of containers that are gone");
}

/// A file that is written after the cgroup is made is found; a container that nobody names stops pending.
#[test]
fn late_names_and_no_names() {
    let d = tempfile::tempdir().unwrap();
    let w = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
    let resolver = NameResolver::new(&w);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || resolver.run(&stop)
    });
    let id = |id| CgroupId { hierarchy: 0, id };
    let other = ID.replace('3', "4");
    w.on_mkdir(id(1000), &format!("/docker/{ID}"));
    w.on_mkdir(id(1001), &format!("/docker/{other}"));
    assert!(w.of_cgroup(id(1000)).unwrap().pending);
    std::thread::sleep(Duration::from_millis(100));
    put(d.path(), &format!("var/lib/docker/containers/{ID}/config.v2.json"), r#"{"Name":"/late"}"#);
    let wait = |what: &dyn Fn() -> bool, at_most: u64| {
        let begin = Instant::now();
        while !what() && begin.elapsed() < Duration::from_millis(at_most) {
            std::thread::sleep(Duration::from_millis(5));
        }
        what()
    };
    assert!(wait(&|| w.of_cgroup(id(1000)).unwrap().container_name.as_deref() == Some("late"), 1800));
    assert!(!w.of_cgroup(id(1000)).unwrap().pending);
    assert!(wait(&|| !w.of_cgroup(id(1001)).unwrap().pending, 3000));
    stop.store(true, Ordering::Relaxed);
    w.wake();
    thread.join().unwrap();
}

/// A container of a user that is renamed is seen by its home's list, however that is read.
#[test]
fn a_users_container_is_renamed() {
    let d = tempfile::tempdir().unwrap();
    let list = "home/ann/.local/share/containers/storage/overlay-containers/containers.json";
    put(d.path(), list, &format!(r#"[{{"id":"{ID}","names":["old"]}}]"#));
    let host = Host::under(d.path());
    let workloads = Workloads::new(&host, &Clock::fixed(Timestamp(1), 1));
    workloads.on_mkdir(CgroupId { hierarchy: 0, id: 1 }, &format!("/user.slice/libpod-{ID}.scope"));
    let w = workloads.of_container(ID).unwrap();
    let names = look_up(&host, &Direct, &w).unwrap();
    assert_eq!(names.name.as_deref(), Some("old"));
    let mut renames = Renames::default();
    renames.watch(w.key, &names.kept.unwrap());
    put(d.path(), list, &format!(r#"[{{"id":"{ID}","names":["new"]}}]"#));
    renames.work(&workloads, &Direct, Instant::now());
    assert_eq!(workloads.of_container(ID).unwrap().container_name.as_deref(), Some("new"));
    workloads.on_rmdir(CgroupId { hierarchy: 0, id: 1 });
    renames.work(&workloads, &Direct, Instant::now() + Duration::from_secs(60));
    assert!(renames.due().is_none());
}

/// What a user wrote is taken as far as it is used, and no longer than names are.
#[test]
fn names_of_users_are_bounded() {
    let long = || "x".repeat(MAX_TEXT + 1);
    let labels = (0..1000).map(|i| (i.to_string(), "v".repeat(200))).collect();
    let annotations = [("io.kubernetes.pod.name", "p"), ("other", "o")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let service = ServiceEnv { name: Some(long()), ..ServiceEnv::default() };
    let (name, annotations) = (Some(long()), BTreeMap::from(annotations));
    let names = Names { name, labels, annotations, service, runtime: Some(path::PODMAN), ..Names::default() }.bounded();
    assert!(names.name.is_none() && names.annotations.len() == 1 && names.labels.len() < MAX_LABELS);
    assert!(names.service.name.as_deref().is_some_and(|n| n.len() < MAX_TEXT));
    let sent = serde_json::to_vec(&names).unwrap();
    assert!(sent.len() < 80 << 10);
    assert_eq!(serde_json::from_slice::<Names>(&sent).unwrap(), names);
}
