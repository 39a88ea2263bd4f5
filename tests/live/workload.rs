// SPDX-License-Identifier: Apache-2.0
//! Attribution to workloads: real cgroups and containers, as the kernel and podman report them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bianque::host::{Cgroups, Clock, Host};
use bianque::probe::shared::{Cgroups as Lives, Shared, SharedProbe as _, cgroups};
use bianque::probe::{CgroupId, Loader, Reader, Stop};
use bianque::signal::{Workload, WorkloadKind};
use bianque::workload::{NameResolver, Workloads};

use crate::support::{Agent, Container, Need, place, podman, program, timeout, unique, wait_for};

/// The table, fed as the agent feeds it: probe first, walk second, names beside.
struct Fed {
    workloads: Workloads,
    stop: Stop,
    names: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Fed {
    fn new() -> Self {
        let workloads = Workloads::new(&Host::default(), &Clock::default());
        let shared = Shared::load(&mut Loader::new(), &[Lives::LIVES]);
        let probe = shared.get::<Lives>().expect("the probe of cgroups");
        let (stop, names) = (Stop::new().unwrap(), Arc::new(AtomicBool::new(false)));
        let reader = Reader::new(&[probe.object().clone()]).unwrap();
        let resolver = NameResolver::new(&workloads);
        let threads = vec![
            std::thread::spawn({
                let (workloads, stop) = (workloads.clone(), stop.clone());
                move || {
                    let feed = |_, ring, bytes: &[u8]| {
                        if let Some(change) = cgroups::decode(ring, bytes).expect("a record") {
                            workloads.on_change(change);
                        }
                    };
                    reader.run(&stop, feed).unwrap();
                }
            }),
            std::thread::spawn({
                let names = Arc::clone(&names);
                move || resolver.run(&names)
            }),
        ];
        workloads.scan().unwrap();
        Fed { workloads, stop, names, threads }
    }

    fn container(&self, id: &str) -> Option<Arc<Workload>> {
        self.workloads.all().into_iter().find(|w| w.container_id.as_deref() == Some(id))
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.stop.stop();
        self.names.store(true, Ordering::Relaxed);
        self.workloads.wake();
        for t in self.threads.drain(..) {
            t.join().unwrap();
        }
    }
}

/// A cgroup of our own; goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

/// A cgroup made in any hierarchy, v1 or v2, is found by number and id within a moment; the same path in
/// two of them is one workload; after its end it is still named, and its path made anew is it again: one identity is
/// one series.
#[test]
fn new_cgroups_are_known_in_every_hierarchy() {
    let _place = place!(Need::Agent);
    let fed = Fed::new();
    let name = unique("wl");
    let layout = Cgroups::read(&Host::default()).unwrap();
    assert!(!layout.hierarchies.is_empty());
    let mut made = Vec::new();
    for h in &layout.hierarchies {
        // A new cgroup of the cpuset hierarchy and the like is as good as any: no process is put into it.
        let dir = Dir::new(h.mount.join(&name));
        made.push((CgroupId { hierarchy: h.number, id: inode(&dir.0) }, dir));
    }
    let mut keys = Vec::new();
    for (id, _) in &made {
        let w = wait_for("the new cgroup", timeout(2), || fed.workloads.of_cgroup(*id));
        assert_eq!((w.kind, w.cgroup.as_str()), (WorkloadKind::Cgroup, format!("/{name}").as_str()));
        keys.push(w.key);
    }
    assert!(keys.windows(2).all(|k| k[0] == k[1]), "{keys:?}");

    let (ids, dirs): (Vec<CgroupId>, Vec<Dir>) = made.into_iter().unzip();
    drop(dirs);
    wait_for("the end", timeout(2), || (!fed.workloads.is_alive(keys[0])).then_some(()));
    assert!(ids.iter().all(|id| fed.workloads.of_cgroup(*id).is_some_and(|w| w.key == keys[0])));

    let again = Dir::new(layout.hierarchies[0].mount.join(&name));
    let id = CgroupId { hierarchy: layout.hierarchies[0].number, id: inode(&again.0) };
    let second = wait_for("the second life", timeout(2), || fed.workloads.of_cgroup(id));
    assert!(second.key == keys[0] && fed.workloads.is_alive(second.key), "{second:?}");
}

/// What was there before the agent is known by the walk, and a process's workload by its pid.
#[test]
fn what_was_there_before_is_known() {
    let _place = place!(Need::Agent, Need::Podman);
    let options = ["--label", "app.kubernetes.io/version=7", "--env", "OTEL_SERVICE_NAME=cart"];
    let c = Container::start("wl-old", &options, &["sleep", "3600"]);
    let fed = Fed::new();
    let w = wait_for("the name", timeout(3), || fed.container(&c.id).filter(|w| !w.pending));
    assert_eq!((w.container_name.as_deref(), w.runtime), (Some(c.name.as_str()), Some("podman")));
    assert!(w.image_name.as_deref().is_some_and(|i| i.contains("busybox")), "{:?}", w.image_name);
    assert_eq!(w.service_name.as_deref(), Some("cart"));
    if !w.labels.is_empty() {
        assert_eq!(w.service_version.as_deref(), Some("7"));
    }
    let layout = Cgroups::read(&Host::default()).unwrap();
    let pid = layout.hierarchies.iter().find_map(|h| {
        let inner = format!("{}/container", w.cgroup);
        let pids = [w.cgroup.as_str(), &inner].into_iter().filter_map(|p| layout.pids(h.number, p).ok());
        pids.flatten().next()
    });
    assert_eq!(fed.workloads.of_pid(pid.expect("a process of the container")).map(|w| w.key), Some(w.key));
    assert_eq!(fed.workloads.of_pid(std::process::id()).unwrap().kind, WorkloadKind::Own);
}

/// A container with `--rm` that ends at once is named still, minutes after podman forgot it.
///
/// On every kernel.
#[test]
fn a_container_that_ends_at_once_is_named() {
    let _place = place!(Need::Agent, Need::Podman);
    let fed = Fed::new();
    let heard = fed.workloads.changes();
    let c = Container::start("wl-quick", &["--rm=true", "--label", "team=shop"], &["true"]);
    let mut newest: Option<Arc<Workload>> = None;
    let begin = Instant::now();
    while newest.as_ref().is_none_or(|w| w.pending) && begin.elapsed() < timeout(4) {
        let mine = |w: &Arc<Workload>| w.container_id.as_deref() == Some(c.id.as_str());
        newest = heard.wait(Duration::from_millis(100)).into_iter().rfind(mine).or(newest);
    }
    let w = newest.expect("the container was never seen");
    assert_eq!((w.container_name.as_deref(), w.pending), (Some(c.name.as_str()), false));
    assert!(w.image_name.is_some());
    wait_for("its end", timeout(5), || (!fed.workloads.is_alive(w.key)).then_some(()));
    let kept = fed.workloads.by_key(w.key).expect("forgotten at once");
    assert_eq!(kept.container_name.as_deref(), Some(c.name.as_str()));
    let ids = fed.workloads.cgroups_of(w.key);
    assert!(!ids.is_empty() && ids.iter().all(|id| fed.workloads.of_cgroup(*id).is_some_and(|k| k.key == w.key)));
}

/// What a process publishes of itself names its service before its environment does, also seconds later.
#[test]
fn a_published_process_context_names_the_service() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::start("");
    let (_program, dir) = program("publish", include_str!("../provoke/publish.c"));
    let volume = format!("{}:/work:ro", dir.path().display());
    let options =
        ["--volume", &volume, "--env", "OTEL_SERVICE_NAME=env", "--env", "OTEL_RESOURCE_ATTRIBUTES=service.version=7"];
    let c = Container::start("wl-ctx", &options, &["/work/publish"]);
    let service = |name: &str| {
        let labels = [("container_id", &*c.id), ("service_name", name), ("service_version", "7")];
        agent.metric("linux_workload_info", &labels)
    };
    wait_for("service of the environment", timeout(30), || service("env"));
    wait_for("published service", timeout(40), || service("published"));
}

/// A container that podman renames soon appears under its new name, and no more under the old one.
#[test]
fn renamed_container_has_its_new_name() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let mut c = Container::start("first", &[], &["sleep", "3600"]);
    let series = |name: &str| {
        agent.metric("container_cpu_time_seconds_total", &[("container_name", name), ("container_id", &c.id)])
    };
    wait_for("the container's series", timeout(20), || series(&c.name));
    let new = unique("second");
    assert!(podman().args(["podman", "rename", &c.name, &new]).status().unwrap().success());
    let begin = Instant::now();
    wait_for("the container's series under its new name", timeout(15), || series(&new));
    eprintln!("renamed after {:?}", begin.elapsed());
    assert!(series(&c.name).is_none(), "it still has its old name");
    c.name = new;
}
