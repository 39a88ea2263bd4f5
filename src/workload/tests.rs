// SPDX-License-Identifier: Apache-2.0
//! Lives and deaths of cgroups, as the kernel reports them.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::signal::Timestamp;

const A: &str = "28d402025fb48c08c89210e4aff98eac4086db94f8874abe933d2b07a68495e7";

fn id(hierarchy: u32, id: u64) -> CgroupId {
    CgroupId { hierarchy, id }
}

fn table() -> (tempfile::TempDir, Clock, Workloads) {
    let d = tempfile::tempdir().unwrap();
    let clock = Clock::fixed(Timestamp(1), 1);
    let w = Workloads::new(&Host::under(d.path()), &clock);
    (d, clock, w)
}

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// One container in two v1 hierarchies and its child is one workload; the same number in another
/// hierarchy is somebody else.
#[test]
fn hierarchies_and_children_join() {
    let (_d, _c, w) = table();
    let path = format!("/libpod_parent/libpod-{A}");
    w.on_mkdir(id(4, 77), &path);
    w.on_mkdir(id(2, 5), &path);
    w.on_mkdir(id(4, 78), &format!("{path}/inner"));
    w.on_mkdir(id(3, 77), "/system.slice/cron.service");
    let key = w.of_cgroup(id(4, 77)).unwrap().key;
    assert_eq!(w.of_cgroup(id(2, 5)).unwrap().key, key);
    let folded = w.of_cgroup(id(4, 78)).unwrap();
    assert_eq!((folded.key, &folded.cgroup, folded.container_id.as_deref()), (key, &path, Some(A)));
    assert_eq!(w.of_cgroup(id(3, 77)).unwrap().unit.as_deref(), Some("cron.service"));
    assert_eq!(w.cgroups_of(key), [id(4, 77), id(2, 5)]);
    assert_eq!(w.all().len(), 2);
    w.on_mkdir(id(4, 1), "/");
    assert!(w.of_cgroup(id(4, 1)).is_none() && w.of_cgroup(id(0, 9)).is_none());
}

/// A container that was killed a moment ago is still named; after five minutes it is forgotten.
#[test]
fn the_dead_are_named_for_a_while() {
    let (_d, clock, w) = table();
    w.on_mkdir(id(0, 7), &format!("/docker/{A}"));
    let key = w.of_cgroup(id(0, 7)).unwrap().key;
    w.on_rmdir(id(0, 7));
    assert!(w.of_cgroup(id(0, 7)).is_some() && !w.is_alive(key) && w.all().is_empty());
    clock.advance(Duration::from_secs(299));
    w.on_mkdir(id(0, 8), "/x");
    assert!(w.by_key(key).is_some());
    clock.advance(Duration::from_secs(2));
    w.on_mkdir(id(0, 9), "/y");
    assert!(w.of_cgroup(id(0, 7)).is_none() && w.by_key(key).is_none());
    assert!(w.of_cgroup(id(0, 8)).is_some());
}

/// An id used again names the new one at once, and the end of the old one's keeping does not take it away.
#[test]
fn ids_used_again_are_not_mixed_up() {
    let (_d, clock, w) = table();
    w.on_mkdir(id(0, 7), &format!("/docker/{A}"));
    let old = w.of_cgroup(id(0, 7)).unwrap().key;
    w.on_rmdir(id(0, 7));
    clock.advance(Duration::from_secs(10));
    w.on_mkdir(id(0, 7), "/system.slice/new.service");
    let new = w.of_cgroup(id(0, 7)).unwrap();
    assert_eq!(new.unit.as_deref(), Some("new.service"));
    assert_ne!(new.key, old);
    clock.advance(Duration::from_secs(400));
    w.on_rmdir(id(0, 99));
    assert_eq!(w.of_cgroup(id(0, 7)).unwrap().key, new.key);
}

/// A unit that is started again is the same workload, in each hierarchy, at once and within the minutes in which it
/// is kept: its series have one identity. What its processes said of themselves does not outlive them.
#[test]
fn a_restarted_unit_is_the_same_workload() {
    let (_d, _c, w) = table();
    let path = "/system.slice/nginx.service";
    for (h, i) in [(0, 10), (4, 20)] {
        w.on_mkdir(id(h, i), path);
    }
    let key = w.of_cgroup(id(4, 20)).unwrap().key;
    assert_eq!(w.of_cgroup(id(0, 10)).unwrap().key, key);
    w.update(key, |w| w.service_name = Some("shop".into()));
    // systemd may not have removed one hierarchy's folder when it makes another's anew.
    w.on_rmdir(id(0, 10));
    w.on_mkdir(id(0, 11), path);
    w.on_rmdir(id(4, 20));
    assert!(w.is_alive(key) && w.by_key(key).unwrap().service_name.is_some());
    w.on_rmdir(id(0, 11));
    assert!(!w.is_alive(key) && w.of_path(path).is_none());
    w.on_mkdir(id(4, 21), path);
    assert_eq!([20, 21].map(|i| w.of_cgroup(id(4, i)).unwrap().key), [key; 2]);
    assert!(w.is_alive(key) && w.by_key(key).unwrap().service_name.is_none());
    assert_eq!((w.all().len(), w.of_path(path).unwrap().key), (1, key));
}

/// However many labels and annotations somebody gives a container, and however long, what is kept is bounded and UTF-8.
#[test]
fn chosen_labels_are_bounded() {
    let (_d, _c, w) = table();
    w.on_mkdir(id(4, 5), "/a");
    let key = w.of_cgroup(id(4, 5)).unwrap().key;
    w.update(key, |w| {
        w.chosen.extend((0..1000).map(|i| (format!("k8s.pod.annotation.{i}"), "ä".repeat(100_000))));
        w.chosen.insert("a".repeat(5000), "long name".into());
    });
    let kept = w.by_key(key).unwrap();
    assert_eq!(kept.chosen.len(), 64);
    assert!(kept.chosen.iter().all(|(k, v)| k.len() < 1024 && v.len() == 1024));
    w.update(key, |w| drop(w.chosen.insert("app".into(), format!("x{}", "ä".repeat(1000)))));
    assert_eq!(w.by_key(key).unwrap().chosen["app"].len(), 1023, "cut between characters");
}

/// A renamed cgroup is what its new path says.
#[test]
fn renames_are_followed() {
    let (_d, _c, w) = table();
    w.on_mkdir(id(4, 5), "/a");
    w.on_rename(id(4, 5), "/b");
    assert_eq!(w.of_cgroup(id(4, 5)).unwrap().cgroup, "/b");
    assert_eq!(w.all().len(), 1);
}

/// Keys are the same after a restart of the agent, and other after a boot.
#[test]
fn keys_survive_a_restart() {
    let d = tempfile::tempdir().unwrap();
    put(d.path(), "proc/sys/kernel/random/boot_id", "one\n");
    let check = || {
        let w = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
        w.on_mkdir(id(0, 10), "/system.slice/nginx.service");
        w.on_mkdir(id(0, 11), &format!("/docker/{A}"));
        [10, 11].map(|i| w.of_cgroup(id(0, i)).unwrap().key)
    };
    let (first, again) = (check(), check());
    assert_eq!(first, again);
    put(d.path(), "proc/sys/kernel/random/boot_id", "two\n");
    let booted = check();
    assert_ne!(first[0], booted[0]);
    assert_eq!(first[1], booted[1]);
}

/// The walk takes in what was there before, ends what it misses, and brings nothing back to life.
#[test]
fn the_walk_joins_in() {
    let (d, _c, w) = table();
    put(d.path(), "proc/self/mountinfo", "1 0 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put(d.path(), "proc/self/cgroup", "0::/\n");
    let unit = d.path().join("sys/fs/cgroup/system.slice/cron.service");
    std::fs::create_dir_all(unit.join("child")).unwrap();
    std::fs::create_dir_all(d.path().join(format!("sys/fs/cgroup/docker/{A}"))).unwrap();
    w.on_mkdir(id(0, 1 << 60), "/gone");
    let gone = w.of_cgroup(id(0, 1 << 60)).unwrap().key;
    assert_eq!(w.scan().unwrap(), 6);
    assert!(!w.is_alive(gone));
    let inode = |p: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).unwrap());
    let cron = w.of_cgroup(id(0, inode(&unit))).unwrap();
    assert_eq!(cron.unit.as_deref(), Some("cron.service"));
    assert_eq!(w.of_cgroup(id(0, inode(&unit.join("child")))).unwrap().key, cron.key);
    w.on_rmdir(id(0, inode(&unit)));
    w.on_rmdir(id(0, inode(&unit.join("child"))));
    w.scan().unwrap();
    assert!(!w.is_alive(cron.key), "what the kernel said is gone stays gone");
    put(d.path(), "proc/50/cgroup", &format!("0::/docker/{A}/inner\n"));
    assert_eq!(w.of_pid(50).unwrap().container_id.as_deref(), Some(A));
    assert!(w.of_pid(51).is_none());
}

/// A walk that found a folder before its removal must not take it for a living one.
#[test]
fn removed_behind_the_walks_back() {
    let (_d, _c, w) = table();
    w.write().begin_scan();
    w.on_rmdir(id(0, 33));
    assert!(w.read().knows_for_scan(id(0, 33), "/x"));
    w.write().end_scan(1);
    assert!(w.of_cgroup(id(0, 33)).is_none());
}

/// The agent's own process is distinguished, whatever cgroup it shares.
#[test]
fn the_agent_knows_itself() {
    let (_d, _c, w) = table();
    let own = w.of_pid(std::process::id()).unwrap();
    assert_eq!(own.kind, WorkloadKind::Own);
    assert_eq!(w.by_key(own.key).unwrap().kind, WorkloadKind::Own);
    assert_eq!(w.own_pid(), std::process::id());
}

/// An agent in a container or service is that workload, by its cgroup as by its process; in a session, with others
/// beside it, only its process is its own.
#[test]
fn the_agents_own_cgroup_is_its_own() {
    let service = "1:name=systemd:/system.slice/bianque.service\n4:memory:/system.slice\n";
    let pod = format!("0::/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/{A}\n");
    for (lines, path) in [(service, "/system.slice/bianque.service"), (&*pod, pod.trim().trim_start_matches("0::"))] {
        let d = tempfile::tempdir().unwrap();
        put(d.path(), "proc/self/cgroup", lines);
        let w = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
        assert_eq!(w.own().kind, WorkloadKind::Own, "before its cgroup is known");
        w.on_mkdir(id(0, 7), path);
        w.on_mkdir(id(0, 8), &format!("{path}/helpers"));
        w.on_mkdir(id(0, 9), "/system.slice/other.service");
        let by_cgroup = [7, 8, 9].map(|i| w.of_cgroup(id(0, i)).unwrap().kind == WorkloadKind::Own);
        assert_eq!(by_cgroup, [true, true, false], "{lines}");
        let own = w.of_cgroup(id(0, 7)).unwrap();
        assert_eq!((w.own().key, w.is_alive(own.key)), (own.key, true));
        let thread = Thread { pid: std::process::id(), ..Thread::default() };
        let other = w.of_cgroup(id(0, 9));
        assert_eq!(w.subject(other.clone(), Some(&thread)).unwrap().key, own.key);
        assert_eq!(w.subject(other.clone(), None), other);
    }
    let d = tempfile::tempdir().unwrap();
    put(d.path(), "proc/self/cgroup", "0::/user.slice/user-0.slice/session-3.scope\n");
    let w = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
    w.on_mkdir(id(0, 7), "/user.slice/user-0.slice/session-3.scope");
    let beside = w.of_cgroup(id(0, 7)).unwrap();
    assert_eq!(beside.kind, WorkloadKind::Unit);
    assert_eq!(w.of_process(77, id(0, 7)).unwrap().key, beside.key);
    assert_eq!(w.of_process(std::process::id(), id(0, 7)).unwrap().kind, WorkloadKind::Own);
}

/// Without accounting, systemd makes no group for a unit in the v1 hierarchies of controllers: the process says which
/// unit it is of. One that is gone is of what the controller has; a container is known by any hierarchy.
#[test]
fn a_v1_unit_without_accounting_is_named_by_its_process() {
    let (d, _c, w) = table();
    w.on_mkdir(id(3, 30), "/system.slice");
    w.on_mkdir(id(3, 31), &format!("/docker/{A}"));
    w.on_mkdir(id(9, 90), "/system.slice/cron.service");
    put(d.path(), "proc/50/cgroup", "9:name=systemd:/system.slice/cron.service\n3:cpu,cpuacct:/system.slice\n");
    put(d.path(), "proc/51/cgroup", "9:name=systemd:/system.slice/cron.service\n3:cpu,cpuacct:/docker/x\n");
    let name = |pid, group| w.of_process(pid, id(3, group)).map(|w| w.display_name().to_owned());
    assert_eq!(name(50, 30).as_deref(), Some("cron.service"));
    assert_eq!(name(50, 1).as_deref(), Some("cron.service"), "the root of the hierarchy");
    assert_eq!(name(52, 30).as_deref(), Some("/system.slice"));
    assert_eq!(name(51, 31).as_deref(), Some(&A[..12]));
    w.on_mkdir(id(3, 32), "/batch");
    w.on_mkdir(id(9, 91), "/init.scope");
    put(d.path(), "proc/53/cgroup", "9:name=systemd:/init.scope\n3:cpu,cpuacct:/batch\n");
    assert_eq!(name(53, 32).as_deref(), Some("/batch"), "a cgroup made by hand, by a process of a unit");
    put(d.path(), "proc/54/cgroup", "3:cpu,cpuacct:/\n0::/init.scope\n");
    assert_eq!(name(54, 32).as_deref(), Some("/batch"), "it exits: v1's hierarchies show it in their root");
    assert_eq!(name(54, 33), None, "one that is not known yet");
}

/// The agent and its unit are exported under one identity, and so have one key and one set of names.
#[test]
fn the_agent_is_its_unit() {
    let d = tempfile::tempdir().unwrap();
    put(d.path(), "proc/self/cgroup", "0::/system.slice/bianque.service\n");
    let w = Workloads::new(&Host::under(d.path()), &Clock::fixed(Timestamp(1), 1));
    w.on_mkdir(id(0, 7), "/system.slice/bianque.service");
    let unit = w.of_cgroup(id(0, 7)).unwrap();
    w.update(unit.key, |w| w.service_name = Some("bianque".into()));
    let own = w.own();
    assert_eq!((own.key, unit.kind), (unit.key, WorkloadKind::Own));
    assert_eq!((own.kind, own.service_name.as_deref()), (WorkloadKind::Own, Some("bianque")));
    w.on_rmdir(id(0, 7));
    assert!(w.is_alive(own.key));
    assert_eq!(w.own().key, own.key, "as before its cgroup was known");
}

/// What others are below has their figures: units and containers stay, slices go, and so does a name that only
/// begins like another's.
#[test]
fn leaves_hold_no_others() {
    let (_d, _c, w) = table();
    let paths = ["/a.slice", "/a.slice/b.service", "/a.slice/b.service/sub", "/a-other", "/c", "/c/d"];
    for (i, path) in (1..).zip(paths) {
        w.on_mkdir(id(0, 10 + i), path);
    }
    let mut found: Vec<_> = w.leaves().iter().map(|w| w.cgroup.clone()).collect();
    found.sort();
    assert_eq!(found, ["/a-other", "/a.slice/b.service", "/c/d"]);
}

/// A listener hears of births and renames, of each workload the newest only, and of nothing that did not change.
#[test]
fn listeners_hear_the_newest() {
    let (_d, _c, w) = table();
    let changes = w.changes();
    w.on_mkdir(id(0, 1 << 33), &format!("/docker/{A}"));
    w.on_mkdir(id(0, 5), "/other");
    let key = w.of_cgroup(id(0, 1 << 33)).unwrap().key;
    w.update(key, |w| w.container_name = Some("shop".into()));
    let heard = changes.take();
    assert_eq!(heard.iter().map(|w| w.container_name.as_deref()).collect::<Vec<_>>(), [Some("shop"), None]);
    w.update(key, |w| w.container_name = Some("shop".into()));
    w.on_mkdir(id(0, 1 << 33), &format!("/docker/{A}"));
    assert!(changes.wait(Duration::from_millis(1)).is_empty());
    assert!(w.update(WorkloadKey(1), |_| ()).is_none());
}

/// Who waits on a thread is let go when woken, also when that came before the wait, and once only.
#[test]
fn a_thread_is_woken() {
    let (_d, _c, w) = table();
    let changes = w.changes();
    w.wake();
    let long = Duration::from_secs(3600);
    assert!(changes.wait(long).is_empty());
    let waiting = std::thread::spawn(move || (changes.wait(long).len(), changes.wait(Duration::from_millis(1)).len()));
    std::thread::sleep(Duration::from_millis(20));
    w.wake();
    assert_eq!(waiting.join().unwrap(), (0, 0));
}

/// A listener in a task is woken.
#[tokio::test]
async fn a_task_is_woken() {
    let (_d, _c, w) = table();
    let changes = w.changes();
    let feeder = w.clone();
    let waiting = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;
    feeder.on_mkdir(id(0, 5), "/other");
    assert_eq!(waiting.await.unwrap()[0].cgroup, "/other");
}

/// Churn does not let the table grow: the dead are bounded in number, too.
#[test]
fn churn_is_bounded() {
    let (_d, _c, w) = table();
    for i in 0..20_000u64 {
        w.on_mkdir(id(0, i), &format!("/batch/job-{i}"));
        w.on_rmdir(id(0, i));
    }
    let known = (0..20_000u64).filter(|i| w.of_cgroup(id(0, *i)).is_some()).count();
    assert_eq!(known, 8_192);
    assert!(w.of_cgroup(id(0, 19_999)).is_some());
}
