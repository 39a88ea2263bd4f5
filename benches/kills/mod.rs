// SPDX-License-Identifier: Apache-2.0
//! OOM kills in cgroups of a bench, and the time until `events --follow` shows them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::rig::{self, Agent};

/// Memory that a process of the bench is killed over.
const OOM_LIMIT: usize = 8 << 20;

/// Number `i`: a process of this program eats memory (see [`eat`]) until it is killed.
pub fn one(i: u64) {
    let group = Group::memory(&format!("bianque-bench-oom.{}.{i}", std::process::id()));
    let mut victim = Command::new(std::env::current_exe().unwrap());
    assert!(!victim.arg("eat").arg(&group.0).status().unwrap().success(), "nobody was killed");
}

/// `events --follow`, and from each of its lines the time that has passed since the event.
pub fn follow(agent: &Agent) -> (Child, Receiver<Duration>) {
    let mut c = Command::new(rig::binary());
    c.args(["events", "--follow", "-o", "json"]).env("BIANQUE_API__SOCKET", agent.socket());
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let now = jiff::Timestamp::now();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["collector"] == "oom" {
                let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
                // Nobody waits for more.
                let _ = tx.send(now.duration_since(time).unsigned_abs());
            }
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    (child, rx)
}

pub fn join(group: &Path) {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// Takes memory until it is killed.
pub fn eat(group: &Path) {
    join(group);
    let mut memory = vec![0_u8; 8 * OOM_LIMIT];
    memory.iter_mut().step_by(4096).for_each(|b| *b = 1);
    std::hint::black_box(&memory);
    std::process::exit(0)
}

/// A cgroup of the bench's own; removed when dropped.
pub struct Group(pub PathBuf);

impl Group {
    fn new(controller: &str, name: &str) -> Group {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if unified { PathBuf::new() } else { controller.into() };
        if unified {
            // On already, or the limit's file will be missing.
            drop(fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}")));
        }
        let path = Path::new("/sys/fs/cgroup").join(root).join(name);
        fs::create_dir(&path).unwrap();
        Group(path)
    }

    pub fn memory(name: &str) -> Group {
        let group = Group::new("memory", name);
        let limit = OOM_LIMIT.to_string();
        if fs::write(group.0.join("memory.max"), &limit).is_err() {
            fs::write(group.0.join("memory.limit_in_bytes"), &limit).unwrap();
        }
        drop(fs::write(group.0.join("memory.swap.max"), "0"));
        group
    }

    /// Half a CPU.
    pub fn cpu(name: &str) -> Group {
        let group = Group::new("cpu", name);
        if fs::write(group.0.join("cpu.max"), "50000 100000").is_err() {
            fs::write(group.0.join("cpu.cfs_quota_us"), "50000").unwrap();
        }
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Busy until its last process is reaped.
        let end = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
