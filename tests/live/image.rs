// SPDX-License-Identifier: Apache-2.0
//! The container image, built from `deploy/image/Containerfile` and run as the README beside it says.
//!
//! The same on every kernel.

use std::fs;

use serde_json::Value as Json;

use crate::support::{
    Container, Need, assert_all_run, bianque, is_about, place, podman, shell, timeout, unique, wait_for,
};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/image");

/// The agent in its image, in a container.
struct Contained {
    name: String,
    store: tempfile::TempDir,
}

impl Contained {
    /// Builds the image of the binary that the tests run, and starts it by the README's command.
    fn start() -> Self {
        let name = unique("agent");
        let image = format!("localhost/{name}:test");
        let binary = bianque().get_program().to_string_lossy().into_owned();
        let (ok, said) = shell(&format!("{DIR}/build --binary {binary} --tag {image} -- --runtime $(command -v runc)"));
        assert!(ok, "{said}");
        let agent = Contained { name, store: tempfile::tempdir().unwrap() };
        let options = agent.options();
        assert!(options.iter().all(|o| !o.contains("privileged") || o == "no-new-privileges"), "{options:?}");
        let mut c = podman();
        c.arg("run").args(&options).arg(&image).args(["run", "--listen", "127.0.0.1:0"]);
        let out = c.output().expect("podman");
        assert!(out.status.success(), "{options:?}: {}", String::from_utf8_lossy(&out.stderr));
        wait_for("agent in its container", timeout(60), || agent.said(&["logs"]).contains("running").then_some(()));
        agent
    }

    /// The options of `podman run` in the README, with a name and a store of this test's.
    fn options(&self) -> Vec<String> {
        let readme = fs::read_to_string(format!("{DIR}/README.md")).unwrap();
        let command = readme.split("podman run ").nth(1).and_then(|c| c.split("\n```").next()).expect("its command");
        let (options, image) = command.trim().rsplit_once(char::is_whitespace).unwrap();
        assert!(image.starts_with("localhost/bianque:"), "{image}");
        let store = format!("{}:/var/lib/bianque", self.store.path().display());
        let ours = |word: &str| match word {
            "bianque" => self.name.clone(),
            "/var/lib/bianque:/var/lib/bianque" => store.clone(),
            _ => word.replace("deploy/image", DIR),
        };
        options.split_whitespace().filter(|w| *w != "\\").map(ours).collect()
    }

    /// What podman's command about the container writes.
    fn said(&self, command: &[&str]) -> String {
        let out = podman().arg("podman").args(command).arg(&self.name).output().expect("podman");
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    }

    /// The answer of the command line inside.
    fn json(&self, args: &[&str]) -> Vec<Json> {
        let mut c = podman();
        c.args(["podman", "exec", &self.name, "/usr/bin/bianque"]).args(args).args(["-o", "json"]);
        let out = c.output().expect("podman");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log:\n{}---", self.said(&["logs"]));
        }
        let _ = podman().args(["stop", &self.name]).output();
        let _ = podman().args(["podman", "rmi", "-f", &format!("localhost/{}:test", self.name)]).output();
    }
}

/// Not privileged, with named capabilities and a filter of system calls, all collectors run, and a
/// kill in another container is found and named; its end is clean.
#[test]
fn finds_a_kill_in_another_container() {
    let _place = place!(Need::Agent, Need::Podman, Need::Dpkg);
    let agent = Contained::start();
    let pid = agent.said(&["inspect", "--format", "{{.State.Pid}}"]);
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map_or("", str::trim);
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2", "1"), "{status}");
    // include/uapi/linux/capability.h
    let bounding = u64::from_str_radix(field("CapBnd:"), 16).unwrap();
    assert_eq!(bounding, 1 << 2 | 1 << 11 | 1 << 12 | 1 << 19 | 1 << 34 | 1 << 38 | 1 << 39, "{status}");
    assert_all_run(&agent.json(&["list"]), "");
    let greedy = ["sh", "-c", "head -c 200m /dev/zero | tail -c 200m >/dev/null"];
    let greedy = Container::start("greedy", &["--memory", "48m"], &greedy);
    let event = wait_for("event of the kill", timeout(30), || {
        let events = agent.json(&["events", "--name", "linux.memory.oom_kill"]);
        events.into_iter().find(|e| is_about(e, "container.id", &greedy.id))
    });
    assert_eq!(event["resource"]["container.name"], greedy.name.as_str(), "{event}");
    assert_eq!(event["attributes"]["linux.oom.constraint"], "memcg", "{event}");
    let host = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    assert_eq!(event["resource"]["host.id"], host.trim(), "the node's id, not the container's");

    agent.said(&["stop", "--time", "15"]);
    assert_eq!(agent.said(&["inspect", "--format", "{{.State.ExitCode}}"]).trim(), "0");
    assert!(fs::read_dir(agent.store.path()).unwrap().count() > 0, "the store outlives the container");
}
