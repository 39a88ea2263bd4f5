// SPDX-License-Identifier: Apache-2.0
//! What goes wrong beneath the agent: it goes on, says so, and loses nothing that it accepted.
//!
//! The same on every kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Need, Process, busy_program, is_about, place, provoke, shell, timeout, unique, wait_for,
};

const OOM: &str = "linux.memory.oom_kill";

fn ids(events: &[Json]) -> BTreeSet<String> {
    events.iter().map(|e| e["id"].as_str().unwrap_or_default().to_owned()).collect()
}

fn kill_in(group: &str) {
    provoke("oom-memcg", &["--limit-mb", "8", "--cgroup", group]);
}

/// What was accepted before a kill -9 under load is there after the restart, once.
#[test]
fn kill_under_load_loses_nothing_accepted() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::start("");
    let group = unique("load");
    let _load = Process::start(&format!(
        "exec 2>/dev/null; for i in 1 2 3 4 5 6; do tests/provoke/oom-memcg --limit-mb 8 --cgroup {group}-$i & done; wait"
    ));
    wait_for("three kills", timeout(20), || {
        let seen = agent.json(&["events", "--name", OOM]).iter().filter(|e| of_group(e, &group)).count();
        (seen >= 3).then_some(())
    });
    let accepted = ids(&agent.json(&["events"]));
    agent.kill();
    // Nobody listens now: the store itself is asked.
    let kept = ids(&agent.json(&["events"]));
    assert!(kept.is_superset(&accepted), "lost: {:?}", accepted.difference(&kept));
    agent.run();
    agent.wait_ready();
    let after = agent.json(&["events"]);
    assert!(ids(&after).is_superset(&accepted), "lost over the restart");
    assert_eq!(ids(&after).len(), after.len(), "an event is there twice");
    // Incidents that were open are closed, and say why.
    let open: Vec<Json> = agent.json(&["incidents"]).into_iter().filter(|i| i["state"] == "open").collect();
    assert!(open.is_empty(), "left open by the restart: {open:?}");
    assert!(agent.json(&["incidents"]).iter().any(|i| i["end_reason"] == "agent_restart"));
}

fn of_group(event: &Json, group: &str) -> bool {
    event["resource"]["linux.cgroup.path"].as_str().is_some_and(|p| p.contains(group))
}

/// SIGTERM in the middle of a capture: it ends soon and well, and the incident is kept.
#[test]
fn sigterm_during_a_capture_keeps_the_incident() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let mut agent = Agent::start("[collectors.cpuidle]\nwindow = \"3s\"\ncapture = \"60s\"\n");
    let (_program, dir) = busy_program("burn");
    let volume = format!("{}:/work:ro", dir.path().display());
    let busy = Container::start("busy", &["--cpus", "0.4", "--volume", &volume], &["/work/busy"]);
    let incident = agent.wait_incident(timeout(40), |i| is_about(i, "container.name", &busy.name));
    let status = agent.stop();
    assert!(status.success(), "{status}\n{}", agent.log());
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    let kept = agent.json(&["incidents"]);
    assert!(kept.iter().any(|i| i["id"] == incident["id"]), "the incident is gone: {kept:?}");
}

/// A damaged store is set aside and reported; the agent starts with a new one.
#[test]
fn damaged_store_is_set_aside() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::start("");
    let group = unique("damage");
    kill_in(&group);
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &group));
    agent.stop();
    let (ok, text) = shell(&format!(
        "find {} -type f -size +0 -exec sh -c 'head -c 4096 /dev/urandom >\"$1\"' _ {{}} ';'",
        agent.store().display()
    ));
    assert!(ok, "{text}");
    agent.run();
    agent.wait_ready();
    assert!(agent.log().contains("WARN") || agent.log().contains("ERROR"), "nothing is said:\n{}", agent.log());
    let aside = fs::read_dir(agent.store().parent().unwrap()).unwrap().flatten().filter(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        name != "store" && name.starts_with("store")
    });
    let inside = fs::read_dir(agent.store()).unwrap().flatten();
    assert!(aside.chain(inside).count() > 0);
    kill_in(&format!("{group}-2"));
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &format!("{group}-2")));
}

/// The store's disk is full: events are still reported, `/readyz` and the log say what is wrong.
#[test]
fn full_disk_degrades_and_is_reported() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::prepare("");
    let store = agent.store();
    fs::create_dir(&store).unwrap();
    // A mount of its own that goes away with the agent's mount namespace.
    let mount = format!("mount -t tmpfs -o size=24m none {} && exec \"$0\" \"$@\"", store.display());
    agent.wrapped(&["unshare", "-m", "sh", "-c", &mount]);
    agent.run();
    agent.wait_ready();
    let inside = format!("nsenter -t {} -m", agent.pid());
    let (_, _) = shell(&format!("{inside} dd if=/dev/zero of={}/filler bs=1M 2>/dev/null", store.display()));
    let group = unique("full");
    for i in 0..4 {
        kill_in(&format!("{group}-{i}"));
    }
    std::thread::sleep(timeout(2));
    assert!(agent.is_running(), "{}", agent.log());
    let (_, ready) = agent.try_get("/readyz").expect("an answer");
    let reported = ready.contains("degraded") || agent.log().contains("No space left");
    assert!(reported, "neither /readyz nor the log mentions the full disk: {ready}\n{}", agent.log());
    assert!(shell(&format!("{inside} rm {}/filler", store.display())).0);
    // It recovers by itself, and what was reported meanwhile is not lost.
    wait_for("store that works again", timeout(30), || agent.cli(&["events"]).status.success().then_some(()));
    wait_for("events of before", timeout(30), || {
        let seen = agent.json(&["events", "--name", OOM]).iter().filter(|e| of_group(e, &group)).count();
        (seen >= 4).then_some(())
    });
}

/// The store's device does 1 MiB/s, under load: the agent ends in ten seconds, and what it had accepted is there.
#[test]
fn a_slow_disk_does_not_delay_the_end() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::prepare("");
    let disk = Disk::at(&agent.store());
    // Kernels with the unified hierarchy alone have no limit at its root; there the disk is as it is.
    let limited = disk.limit(1 << 20);
    agent.run();
    agent.wait_ready();
    let group = unique("slow");
    kill_in(&group);
    agent.wait_event(OOM, timeout(30), |e| of_group(e, &group));
    let _load = Process::start(&format!(
        "exec 2>/dev/null; for i in $(seq 40); do tests/provoke/oom-memcg --limit-mb 4 --cgroup {group}-$i; done"
    ));
    std::thread::sleep(Duration::from_secs(2));
    let accepted = ids(&agent.json(&["events", "--name", OOM]));
    agent.signal("TERM");
    let status = agent.wait_end(Duration::from_secs(10));
    assert!(status.success(), "{status}\n{}", agent.log());
    eprintln!("limited: {limited}; {} accepted", accepted.len());
    assert!(disk.limit(0) || !limited);
    let kept = ids(&agent.json(&["events", "--name", OOM]));
    assert!(kept.is_superset(&accepted), "lost: {:?}\n{}", accepted.difference(&kept), agent.log());
}

/// The store's file system is frozen: the kernel does not let the agent go, but in ten seconds it no longer listens, its
/// probes are detached, and it has said what is not saved and that it has stopped. It is gone once the disk answers.
#[test]
fn a_frozen_disk_does_not_keep_the_probes() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::prepare("");
    let disk = Disk::at(&agent.store());
    agent.run();
    agent.wait_ready();
    let group = unique("frozen");
    kill_in(&group);
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &group));
    let accepted = ids(&agent.json(&["events", "--name", OOM]));
    let probes = agent.probes();
    disk.freeze();
    kill_in(&format!("{group}-last"));
    std::thread::sleep(Duration::from_secs(2));
    agent.signal("TERM");
    wait_for("the last line of the log", Duration::from_secs(10), || agent.log().contains("stopped").then_some(()));
    wait_for("the probes to be detached", Duration::from_secs(2), || (agent.probes() == 0).then_some(()));
    assert!(probes > 0 && agent.try_get("/healthz").is_none() && agent.log().contains("not saved"), "{}", agent.log());
    disk.thaw();
    agent.wait_end(timeout(2));
    let kept = ids(&agent.json(&["events", "--name", OOM]));
    assert!(kept.is_superset(&accepted), "lost: {:?}\n{}", accepted.difference(&kept), agent.log());
}

/// A file system in a file, on a device of its own.
struct Disk {
    mount: PathBuf,
    device: String,
    _image: tempfile::TempDir,
}

impl Disk {
    fn at(mount: &Path) -> Self {
        let image = tempfile::tempdir().unwrap();
        let (file, at) = (image.path().join("disk").display().to_string(), mount.display());
        let (ok, device) = shell(&format!(
            "mkdir -p {at} && truncate -s 256M {file} && mkfs.ext4 -q -F {file} && d=$(losetup -f --show {file}) && mount $d {at} && echo $d"
        ));
        assert!(ok, "{device}");
        Disk { mount: mount.to_owned(), device: device.trim().to_owned(), _image: image }
    }

    /// Bytes a second that may be written; 0: no limit. Whether that can be said here.
    fn limit(&self, bytes: u64) -> bool {
        let name = self.device.trim_start_matches("/dev/");
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap_or_default();
        let text = format!("{} {bytes}", number.trim());
        fs::write("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device", text).is_ok()
    }

    fn freeze(&self) {
        assert!(shell(&format!("fsfreeze -f {}", self.mount.display())).0);
    }

    fn thaw(&self) {
        shell(&format!("fsfreeze -u {}", self.mount.display()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        self.limit(0);
        shell(&format!("umount -l {}; losetup -d {}", self.mount.display(), self.device));
    }
}

/// Cgroups come and go faster than they can be read: no error, no crash, and the last is known.
#[test]
fn vanishing_cgroups_are_no_error() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::start("");
    let group = unique("gone");
    let root = "$([ -e /sys/fs/cgroup/cgroup.controllers ] && echo /sys/fs/cgroup || echo /sys/fs/cgroup/memory)";
    let (ok, text) = shell(&format!(
        "r={root}; for i in $(seq 300); do mkdir $r/{group}-$i && sh -c \"echo \\$\\$ > $r/{group}-$i/cgroup.procs; :\"; rmdir $r/{group}-$i; done"
    ));
    assert!(ok, "{text}");
    kill_in(&group);
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &group));
    agent.get("/metrics");
    assert!(agent.is_running());
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
}

/// More records than the ring holds while its reader is stopped, of as many cgroups as it takes for each to stay
/// within its limit: each kill is reported, suppressed or counted as lost.
#[test]
fn overrun_is_counted() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::start("");
    agent.signal("STOP");
    let group = unique("overrun");
    for i in 0..GROUPS {
        let group = format!("{group}-{i}");
        provoke("oom-memcg", &["--limit-mb", "4", "--times", &EACH.to_string(), "--cgroup", &group]);
    }
    agent.signal("CONT");
    let (reported, suppressed, lost) = wait_for("an account of all kills", timeout(30), || {
        let page = agent.try_get("/metrics")?.1;
        let reported = agent.json(&["events", "--name", OOM]).len() as f64;
        let (suppressed, lost) = (sum(&page, "bianque_events_suppressed"), sum(&page, "bianque_records_lost"));
        (reported + suppressed + lost >= f64::from(GROUPS * EACH)).then_some((reported, suppressed, lost))
    });
    assert!(lost >= 20.0, "{reported} reported, {suppressed} suppressed, {lost} lost: the ring did not overrun");
    assert!(reported >= 1.0 && agent.is_running(), "{}", agent.log());
}

/// Together more than the ring of `bpf/oom.bpf.c` holds; each no more than the limit of a cgroup.
const GROUPS: u32 = 13;
const EACH: u32 = 20;

/// All series of metrics whose names begin so.
fn sum(page: &str, name: &str) -> f64 {
    let series = page.lines().filter(|l| l.starts_with(name));
    series.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A clock that is set an hour ahead and back: ids stay in order and durations stay true.
#[test]
fn stepped_clock_hurts_nothing() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let mut agent = Agent::start("");
    let (before, ahead, back) = (unique("before"), unique("ahead"), unique("back"));
    kill_in(&before);
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &before));
    assert!(shell("date -s '+1 hour'").0);
    std::thread::sleep(Duration::from_secs(3));
    kill_in(&ahead);
    let event = agent.wait_event(OOM, timeout(10), |e| of_group(e, &ahead));
    let now = shell("date -u +%Y-%m-%dT%H").1;
    assert!(event["time"].as_str().unwrap().starts_with(now.trim()), "{} is not in the hour {now}", event["time"]);
    assert!(shell("date -s '-1 hour'").0);
    std::thread::sleep(Duration::from_secs(3));
    kill_in(&back);
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &back));
    let all = agent.json(&["events", "--name", OOM]);
    assert_eq!(ids(&all).len(), all.len(), "an id is there twice");
    assert!(all.len() >= 3 && agent.is_running());
}

/// A back end that nobody listens on: everything else works, and the log does not fill.
#[test]
fn dead_endpoint_is_reported_and_hurts_nothing() {
    let _place = place!(Need::Agent);
    let mut agent = Agent::prepare("");
    agent.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    agent.run();
    agent.wait_ready();
    let group = unique("dead");
    kill_in(&group);
    agent.wait_event(OOM, timeout(10), |e| of_group(e, &group));
    std::thread::sleep(timeout(5));
    let complaints = agent.log().lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).count();
    assert!((1..=6).contains(&complaints), "{complaints} complaints:\n{}", agent.log());
    assert!(agent.stop().success(), "the dead endpoint keeps it from ending");
}
