// SPDX-License-Identifier: Apache-2.0
//! The agent under test: the real binary, with its own port, socket and store.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::{timeout, wait_for};

/// The binary, without what the tests' own environment would set in it.
pub fn bianque() -> Command {
    clean(Path::new(env!("CARGO_BIN_EXE_bianque")))
}

/// Collectors that nobody could run on this kernel, as `doctor` says to root.
fn not_on_this_kernel() -> Vec<String> {
    let out = bianque().args(["doctor", "-o", "json"]).output().expect("doctor");
    let rows = String::from_utf8_lossy(&out.stdout);
    let rows = rows.lines().filter_map(|l| serde_json::from_str::<Json>(l).ok());
    let lacking = rows.filter(|r| r["type"] == "collector" && r["state"] == "unavailable");
    lacking.filter_map(|r| r["name"].as_str().map(str::to_owned)).collect()
}

/// # Panics
/// When a collector of `list` does not run that could on this kernel.
pub fn assert_all_run(list: &[Json], log: &str) {
    let absent = not_on_this_kernel();
    for row in list {
        let state = row["state"].as_str().unwrap_or_default();
        let impossible = row["name"].as_str().is_some_and(|name| absent.iter().any(|a| a == name));
        assert!(matches!(state, "running" | "disabled") || (impossible && state == "unavailable"), "{row}\n{log}");
    }
}

/// The end of an agent's status where every collector runs that can on this kernel.
pub fn status_of_all() -> String {
    match not_on_this_kernel() {
        none if none.is_empty() => "collectors run".to_owned(),
        absent => format!("collectors run; unavailable: {}", absent.join(", ")),
    }
}

fn clean(program: &Path) -> Command {
    let mut c = Command::new(program);
    c.stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("BIANQUE_") || n.starts_with("OTEL_")) {
        c.env_remove(name);
    }
    c
}

pub struct Agent {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    env: Vec<(String, String)>,
    /// Put before the binary: `setpriv …`, `unshare …`.
    wrapper: Vec<String>,
    /// Its binary.
    program: PathBuf,
    /// Where it is shared: when its present test began.
    since: String,
}

impl Agent {
    /// Starts it with defaults, a reading every second, and `config` (more TOML); returns when ready.
    pub fn start(config: &str) -> Self {
        let mut agent = Self::prepare(config);
        agent.run();
        agent.wait_ready();
        agent
    }

    /// Writes its configuration; [`Self::run`] starts it.
    pub fn prepare(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bianque-live").tempdir().unwrap();
        let port = free_port();
        let here = dir.path().display();
        let mut text = format!(
            "[store]\npath = \"{here}/store\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[api]\nsocket = \"{here}/api.sock\"\n"
        );
        if !config.contains("[metrics]") {
            text.push_str("[metrics]\ninterval = \"1s\"\n");
        }
        let _ = writeln!(text, "{config}");
        fs::write(dir.path().join("config.toml"), text).unwrap();
        let program = bianque().get_program().into();
        Agent { child: None, dir, port, env: Vec::new(), wrapper: Vec::new(), program, since: String::new() }
    }

    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another binary, built from the same library: an example.
    pub fn program(&mut self, path: PathBuf) -> &mut Self {
        self.program = path;
        self
    }

    pub fn wrapped(&mut self, words: &[&str]) -> &mut Self {
        self.wrapper = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// Runs it as nobody, with these capabilities alone: `+bpf,+perfmon`.
    pub fn as_nobody(&mut self, capabilities: &str) -> &mut Self {
        const NOBODY: &str = "65534";
        let caps = if capabilities.is_empty() { "-all".to_owned() } else { format!("-all,{capabilities}") };
        let copy = self.dir.path().join("bianque");
        // Where it was built nobody may not go.
        fs::copy(bianque().get_program(), &copy).unwrap();
        std::os::unix::fs::chown(self.dir.path(), Some(65534), Some(65534)).unwrap();
        self.program = copy;
        // As the unit has it: kernels before 5.11 count maps against the limit. Not every root may raise it.
        let unlimited = "ulimit -l unlimited 2>/dev/null; exec \"$@\"";
        let who = ["sh", "-c", unlimited, "sh", "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        self.wrapped(&[&who[..], &["--inh-caps", &caps, "--ambient-caps", &caps]].concat())
    }

    /// A new configuration; takes effect at the next start or SIGHUP.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        let file = self.dir.path().join("config.toml");
        fs::write(&file, change(fs::read_to_string(&file).unwrap())).unwrap();
    }

    pub fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut c = self.command();
        c.arg("run").arg("--config").arg(self.config_file()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(c.spawn().expect("the agent starts"));
    }

    fn command(&self) -> Command {
        let plain = clean(&self.program);
        let mut c = match self.wrapper.split_first() {
            None => plain,
            Some((first, rest)) => {
                let mut c = Command::new(first);
                c.args(rest).arg(&self.program).stdin(Stdio::null());
                for (name, _) in plain.get_envs() {
                    c.env_remove(name);
                }
                c
            }
        };
        c.envs(self.env.iter().map(|(n, v)| (n, v)));
        c
    }

    /// # Panics
    /// When it ends, or is not ready in time; its log is shown.
    pub fn wait_ready(&mut self) {
        let limit = timeout(30);
        let start = Instant::now();
        loop {
            if matches!(self.try_get("/readyz"), Some((200, _))) {
                return;
            }
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().unwrap()) {
                panic!("the agent ended ({status}) before it was ready:\n{}", self.log());
            }
            assert!(start.elapsed() < limit, "not ready in {limit:?}: {:?}\n{}", self.try_get("/readyz"), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// How many probes it has attached: BPF links and programs among the files that its threads have open, also when
    /// the first of them has ended.
    pub fn probes(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let of_task = |task: fs::DirEntry| {
            let files = fs::read_dir(task.path().join("fdinfo")).into_iter().flatten().flatten();
            let infos = files.filter_map(|f| fs::read_to_string(f.path()).ok());
            infos.filter(|i| i.contains("link_type:") || i.contains("prog_tag:")).count()
        };
        tasks.map(of_task).max().unwrap_or(0)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "kill -s {name}");
    }

    /// SIGTERM, and its exit status.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_end(timeout(20))
    }

    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log_file();
        let child = self.child.as_mut().expect("it runs");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(start.elapsed() < limit, "it did not end in {limit:?}:\n{}", tail(&log));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.wait_end(timeout(10));
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Its configuration, store and log, which go with it.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// [`Self::wait_event`] finds no event of before.
    pub(super) fn seen_since(&mut self, time: &str) {
        time.clone_into(&mut self.since);
    }

    /// Where it answers over HTTP.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A command of the same configuration: `events`, `incidents`, `show` …
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut c = clean(&self.program);
        c.args(args).arg("--config").arg(self.config_file()).envs(self.env.iter().map(|(n, v)| (n, v)));
        c.output().unwrap()
    }

    /// What a command prints with `-o json`, one value a line; of events and incidents all.
    ///
    /// # Panics
    /// When it fails.
    pub fn json(&self, args: &[&str]) -> Vec<Json> {
        let all: &[&str] = if matches!(args[0], "events" | "incidents") { &["--limit", "10000"] } else { &[] };
        let out = self.cli(&[args, all, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{args:?}: {} {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
        text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{args:?}: {e}: {l}"))).collect()
    }

    /// The first event of this name that fits.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn wait_event(&self, name: &str, limit: Duration, fits: impl Fn(&Json) -> bool) -> Json {
        wait_for(&format!("event {name}"), limit, || {
            let fresh = |e: &Json| e["time"].as_str() >= Some(&*self.since);
            self.json(&["events", "--name", name]).into_iter().find(|e| fresh(e) && fits(e))
        })
    }

    /// The first incident that fits.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn wait_incident(&self, limit: Duration, fits: impl Fn(&Json) -> bool) -> Json {
        wait_for("incident", limit, || self.json(&["incidents"]).into_iter().find(|i| fits(i)))
    }

    /// # Panics
    /// When the answer is not 200.
    pub fn get(&self, path: &str) -> String {
        let (status, body) = self.try_get(path).unwrap_or_else(|| panic!("{path}: no answer\n{}", self.log()));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut s = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).ok()?;
        s.set_read_timeout(Some(timeout(10))).ok()?;
        // HTTP/1.0: the answer comes in one piece, and its end is the connection's.
        write!(s, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = Vec::new();
        s.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Value of the one series of a metric that has all these labels; none when there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let page = self.get("/metrics");
        let series = page.lines().find(|l| {
            l.strip_prefix(name).is_some_and(|r| r.starts_with([' ', '{']))
                && labels.iter().all(|(k, v)| l.contains(&format!("{k}=\"{v}\"")))
        });
        series?.split("} ").last()?.split(' ').find_map(|n| n.parse().ok())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // What it did see helps to find out why the test failed.
        if std::thread::panicking() && self.child.is_some() {
            let events = self.cli(&["events", "--limit", "40"]);
            eprintln!("--- the agent's last events:\n{}", String::from_utf8_lossy(&events.stdout));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the agent's log:\n{}---", tail(&self.log_file()));
        }
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let skip = text.lines().count().saturating_sub(60);
    text.lines().skip(skip).fold(String::new(), |s, l| s + l + "\n")
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Is this event or incident about the workload with this resource attribute?
pub fn is_about(signal: &Json, attribute: &str, value: &str) -> bool {
    signal["resource"][attribute].as_str() == Some(value)
}

/// The text of an event's attribute; empty where it has none.
pub fn attribute<'a>(e: &'a Json, name: &str) -> &'a str {
    e["attributes"][name].as_str().unwrap_or_default()
}

/// Those of the events that are about it.
pub fn events_of(events: Vec<Json>, attribute: &str, value: &str) -> Vec<Json> {
    events.into_iter().filter(|e| is_about(e, attribute, value)).collect()
}
