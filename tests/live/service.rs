// SPDX-License-Identifier: Apache-2.0
//! As a service of systemd: `deploy/systemd/bianque.service` started by systemd itself, with all its
//! hardening; and how the agent notifies a service manager.
//!
//! Where systemd is not process 1 it runs beside it, as a manager of root's own services: that one
//! applies the same capabilities, namespaces and filters. Only its directories are elsewhere.
//!
//! The same on every kernel.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{
    Agent, Need, Process, assert_all_run, bianque, is_about, place, provoke, shell, status_of_all, timeout, unique,
    wait_for,
};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/bianque.service");
const SYSTEMD: &str = "/lib/systemd/systemd";

/// systemd knows every line of the unit, and holds it to be hardened: of 10 points of exposure,
/// those remain that come with watching a whole node.
#[test]
fn unit_is_valid_and_hardened() {
    let _place = place!(Need::Agent, Need::Systemd);
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("bianque.service");
    let binary = bianque().get_program().to_string_lossy().into_owned();
    fs::write(&unit, fs::read_to_string(UNIT).unwrap().replace("/usr/bin/bianque", &binary)).unwrap();
    let unit = unit.display();
    let (ok, said) = shell(&format!("systemd-analyze verify --man=no {unit}"));
    assert!(ok && said.is_empty(), "{said}");
    let (ok, said) = shell(&format!("systemd-analyze security --no-pager --offline=yes --threshold=40 {unit}"));
    assert!(ok, "{said}");
}

/// Started from the unit, with its capabilities and filter of system calls, every collector runs, and
/// a kill for want of memory is found; a reload is waited for; the end is clean.
#[test]
fn runs_under_systemd() {
    let _place = place!(Need::Agent, Need::Systemd);
    let systemd = Systemd::start("60s");
    let status = fs::read_to_string(format!("/proc/{}/status", systemd.main_pid())).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map_or("", str::trim);
    // Those of bits 12, 19, 2, 34, 38, 39 of include/uapi/linux/capability.h that the collectors need.
    let all = 1 << 12 | 1 << 19 | 1 << 2 | 1 << 34 | 1 << 38 | 1_u64 << 39;
    let effective = u64::from_str_radix(field("CapEff:"), 16).unwrap();
    assert!(effective & !all == 0 && effective != 0, "{status}");
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2", "1"), "{status}");
    assert!(systemd.show()["StatusText"].ends_with(&status_of_all()), "{:?}", systemd.show());
    assert_all_run(&systemd.json(&["list"]), &systemd.log());
    let group = unique("service");
    provoke("oom-memcg", &["--cgroup", &group]);
    wait_for("event of the kill", timeout(20), || {
        let events = systemd.json(&["events", "--name", "linux.memory.oom_kill"]);
        events.into_iter().find(|e| is_about(e, "linux.cgroup.path", &format!("/{group}")))
    });

    let out = systemd.control(&["reload", "bianque.service"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    wait_for("service with its new settings", timeout(10), || {
        (systemd.show()["ActiveState"] == "active" && systemd.log().contains("read the configuration again"))
            .then_some(())
    });
    let out = systemd.control(&["stop", "bianque.service"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let end = systemd.show();
    assert_eq!((end["Result"].as_str(), end["ExecMainStatus"].as_str()), ("success", "0"), "{end:?}");
}

/// A loop of the agent that no longer turns is enough: systemd ends the agent and starts another. A collector that
/// hangs is not.
#[test]
fn watchdog_ends_an_agent_that_hangs() {
    let _place = place!(Need::Agent, Need::Systemd, Need::Compiler);
    let systemd = Systemd::start("6s");
    let first = systemd.main_pid();
    // Longer than the watchdog's time: an agent that is well is left alone, whatever one collector does.
    let collector = StoppedThread::new(first, "hungtask");
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(systemd.main_pid(), first, "{}", systemd.log());
    drop(collector);
    let stopped = StoppedThread::new(first, "supervisor");
    wait_for("words about the loop", timeout(30), || {
        systemd.show()["StatusText"].starts_with("no answer from supervisor").then_some(())
    });
    wait_for("another agent", timeout(60), || {
        let now = systemd.show();
        (now["NRestarts"] == "1" && now["ActiveState"] == "active" && now["MainPID"] != first.to_string()).then_some(())
    });
    drop(stopped);
    assert!(systemd.log().contains("no answer from supervisor"), "{}", systemd.log());
}

/// Each notification to the manager, on a socket of our own.
#[test]
fn notifies_the_service_manager() {
    let _place = place!(Need::Agent, Need::Compiler);
    let mut agent = Agent::prepare("");
    let socket = agent.config_file().with_file_name("notify");
    let notified = NotifySocket::at(&socket);
    agent.env("NOTIFY_SOCKET", socket.to_str().unwrap()).env("WATCHDOG_USEC", "3000000");
    agent.run();
    let ready = notified.next("READY=1", timeout(60));
    let all = status_of_all();
    assert!(ready.lines().any(|l| l.starts_with("STATUS=") && l.ends_with(&all)), "{ready}");
    assert_eq!(agent.try_get("/readyz").map(|(code, _)| code), Some(200), "it said that it is ready");
    notified.next("WATCHDOG=1", timeout(5));

    agent.signal("HUP");
    let reloading = notified.next("RELOADING=1", timeout(10));
    let at = reloading.lines().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).map(str::parse::<u64>);
    assert!(matches!(at, Some(Ok(_))), "{reloading}");
    notified.next("READY=1", timeout(10));

    let stopped = StoppedThread::new(agent.pid(), "pipeline");
    let status = notified.next("STATUS=no answer", timeout(10));
    assert!(status.starts_with("STATUS=no answer from pipeline; "), "{status}");
    assert!(!notified.within("WATCHDOG=1", Duration::from_secs(4)), "it says that it is alive, and is not");
    drop(stopped);
    notified.next("WATCHDOG=1", timeout(10));
    assert!(agent.log().contains("all loops answer again"), "{}", agent.log());

    agent.signal("TERM");
    notified.next("STOPPING=1", timeout(10));
    assert!(agent.wait_end(timeout(20)).success());
}

/// The manager's end of the notify protocol.
struct NotifySocket(UnixDatagram);

impl NotifySocket {
    fn at(path: &Path) -> Self {
        NotifySocket(UnixDatagram::bind(path).unwrap())
    }

    /// The next message with a line that begins so; others are passed over.
    fn find(&self, line: &str, limit: Duration) -> Option<String> {
        let end = std::time::Instant::now() + limit;
        let mut buffer = [0; 4096];
        while let Some(left) = end.checked_duration_since(std::time::Instant::now()).filter(|d| !d.is_zero()) {
            self.0.set_read_timeout(Some(left)).unwrap();
            let Ok(n) = self.0.recv(&mut buffer) else { continue };
            let message = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if message.lines().any(|l| l.starts_with(line)) {
                return Some(message);
            }
        }
        None
    }

    fn next(&self, line: &str, limit: Duration) -> String {
        self.find(line, limit).unwrap_or_else(|| panic!("{line:?} was not said in {limit:?}"))
    }

    fn within(&self, line: &str, time: Duration) -> bool {
        self.find(line, time).is_some()
    }
}

/// A thread of another process that does not go on until this is dropped: a debugger holds it, and
/// takes note of its end.
struct StoppedThread {
    _holder: Process,
    _dir: tempfile::TempDir,
}

impl StoppedThread {
    fn new(pid: u32, name: &str) -> Self {
        const HOLDER: &str = "#include <stdlib.h>\n#include <sys/ptrace.h>\n#include <sys/wait.h>\n\
            int main(int c, char **v) {\n\
              int t = atoi(v[1]);\n\
              if (ptrace(PTRACE_SEIZE, t, 0, 0) || ptrace(PTRACE_INTERRUPT, t, 0, 0)) return 1;\n\
              if (waitpid(t, &c, __WALL) != t) return 1;\n\
              return waitpid(t, &c, __WALL) != t;\n\
            }\n";
        let tid = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().find_map(|t| {
            let comm = fs::read_to_string(t.path().join("comm")).ok()?;
            (comm.trim() == name).then(|| t.file_name().to_string_lossy().into_owned())
        });
        let tid = tid.unwrap_or_else(|| panic!("{pid} has no thread {name}"));
        let dir = tempfile::tempdir().unwrap();
        let (source, holder) = (dir.path().join("hold.c"), dir.path().join("hold"));
        fs::write(&source, HOLDER).unwrap();
        let (ok, said) = shell(&format!("cc -o {} {}", holder.display(), source.display()));
        assert!(ok, "{said}");
        let holder = Process::start(&format!("exec {} {tid}", holder.display()));
        wait_for("stopped thread", timeout(10), || {
            let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
            stat.rsplit(") ").next().is_some_and(|s| s.starts_with('t')).then_some(())
        });
        StoppedThread { _holder: holder, _dir: dir }
    }
}

/// A systemd of our own that has started the unit.
struct Systemd {
    manager: Child,
    dir: tempfile::TempDir,
}

impl Systemd {
    /// Starts the unit with this watchdog's time, and waits until it says that it is ready.
    fn start(watchdog: &str) -> Self {
        // Not below /tmp: the service has one of its own.
        let dir = tempfile::Builder::new().prefix("bianque-live").tempdir_in("/run").unwrap();
        let here = dir.path();
        let units = here.join("config/systemd/user");
        fs::create_dir_all(units.join("bianque.service.d")).unwrap();
        fs::create_dir_all(here.join("run")).unwrap();
        fs::copy(UNIT, units.join("bianque.service")).unwrap();
        let drop_in = format!(
            "[Service]\nExecStart=\nExecStart={} run --config {}/none.toml --listen 127.0.0.1:0\nWatchdogSec={watchdog}\n\
             Environment=BIANQUE_STORE__PATH=%S/bianque BIANQUE_API__SOCKET=%t/bianque/api.sock\n\
             StandardOutput=append:{}/log\nStandardError=inherit\n",
            bianque().get_program().display(),
            here.display(),
            here.display(),
        );
        fs::write(here.join("none.toml"), "").unwrap();
        fs::write(units.join("bianque.service.d/here.conf"), drop_in).unwrap();
        // Its mounts are its own. It runs only where it believes that systemd has booted the machine.
        let run = format!(
            "mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system && exec {SYSTEMD} --user --log-target=console --unit=bianque.service"
        );
        let mut c = Command::new("unshare");
        // Its services inherit what it has, unlike those of a real process 1.
        c.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", here).envs(Self::environment(here));
        c.args(["--mount", "bash", "-c", &run]).stdin(Stdio::null());
        let log = fs::File::create(here.join("manager.log")).unwrap();
        c.stdout(log.try_clone().unwrap()).stderr(log);
        fs::create_dir_all("/run/systemd").unwrap();
        let systemd = Systemd { manager: c.spawn().expect("unshare"), dir };
        wait_for("service that is ready", timeout(60), || {
            let state = systemd.show();
            let failed = state.get("ActiveState").is_some_and(|s| s == "failed");
            assert!(!failed, "{state:?}\n{}", systemd.log());
            state.get("ActiveState").filter(|s| *s == "active").map(|_| ())
        });
        systemd
    }

    fn environment(dir: &Path) -> [(&'static str, PathBuf); 3] {
        let of = |name| dir.join(name);
        [("XDG_RUNTIME_DIR", of("run")), ("XDG_CONFIG_HOME", of("config")), ("XDG_STATE_HOME", of("state"))]
    }

    fn control(&self, args: &[&str]) -> Output {
        let mut c = Command::new("systemctl");
        c.arg("--user").args(args).envs(Self::environment(self.dir.path())).stdin(Stdio::null());
        c.output().expect("systemctl")
    }

    /// Properties of the service.
    fn show(&self) -> BTreeMap<String, String> {
        const OF: &str = "ActiveState,SubState,StatusText,MainPID,NRestarts,Result,ExecMainStatus";
        let out = self.control(&["show", "--property", OF, "bianque.service"]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn main_pid(&self) -> u32 {
        self.show()["MainPID"].parse().unwrap()
    }

    fn log(&self) -> String {
        let of = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        of("log") + &of("manager.log")
    }

    fn json(&self, args: &[&str]) -> Vec<Json> {
        let mut c = bianque();
        c.args(args).args(["-o", "json", "--socket"]).arg(self.dir.path().join("run/bianque/api.sock"));
        let out = c.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the service's log:\n{}---", self.log());
        }
        // It stops its services, then ends.
        let _ = shell(&format!("kill {}", self.manager.id()));
        for _ in 0..200 {
            if self.manager.try_wait().is_ok_and(|s| s.is_some()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.manager.kill();
        let _ = self.manager.wait();
        let _ = shell("rmdir /sys/fs/cgroup/{,*/}{app.slice,init.scope}");
    }
}
