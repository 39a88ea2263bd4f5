// SPDX-License-Identifier: Apache-2.0
//! What happens on the machine: provocations, containers, processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// A name that nothing else on this machine has.
pub fn unique(label: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("bq-{label}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut c = Command::new(program);
    c.stdin(Stdio::null()).current_dir(ROOT);
    // These programs have no business with the settings of an agent.
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("OTEL_")) {
        c.env_remove(name);
    }
    c
}

/// Runs a line of shell; whether it went well, and what it wrote.
pub fn shell(line: &str) -> (bool, String) {
    let out = command("bash").arg("-c").arg(line).output().expect("bash");
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// Runs `tests/provoke/NAME`, which sees for itself that it did what it should.
///
/// # Panics
/// When it did not, with what it wrote.
pub fn provoke(name: &str, args: &[&str]) -> String {
    let script = Path::new(ROOT).join("tests/provoke").join(name);
    let out = command(script).args(args).output().expect("provocation");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{name} {args:?} provoked nothing ({}): {text}", out.status);
    text
}

/// A provocation that runs beside the test; when it is dropped, it is waited for, so that it undoes
/// what it changed.
pub struct Provocation {
    child: Option<Child>,
    name: String,
}

/// Starts `tests/provoke/NAME`.
pub fn provoke_in_background(name: &str, args: &[&str]) -> Provocation {
    let script = Path::new(ROOT).join("tests/provoke").join(name);
    let child = command(script).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("provocation");
    Provocation { child: Some(child), name: name.to_owned() }
}

impl Provocation {
    /// Until it has seen for itself that it did what it should.
    ///
    /// # Panics
    /// When it did not, with what it wrote.
    pub fn wait(mut self) -> String {
        let out = self.child.take().expect("it runs").wait_with_output().expect("provocation");
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{} provoked nothing ({}): {text}", self.name, out.status);
        text
    }
}

impl Drop for Provocation {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        let Ok(out) = child.wait_with_output() else { return };
        if std::thread::panicking() {
            eprintln!("{}: {}{}", self.name, out.status, String::from_utf8_lossy(&out.stdout));
        }
    }
}

/// A cgroup of the cpu controller's hierarchy, removed with the test.
pub struct Group(String);

impl Group {
    pub fn new(label: &str) -> Self {
        Self::of("cpu", label)
    }

    /// Of another controller's hierarchy.
    pub fn of(controller: &str, label: &str) -> Self {
        let group = Group(format!("{}/{}", hierarchy(controller), unique(label)));
        std::fs::create_dir(&group.0).expect("a cgroup");
        group
    }

    /// Where it is in the file system.
    pub fn dir(&self) -> String {
        self.0.clone()
    }

    /// Below its hierarchy's root.
    pub fn path(&self) -> String {
        format!("/{}", self.0.rsplit('/').next().unwrap_or_default())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that are killed leave it a little later.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Where a controller's hierarchy is mounted.
pub fn hierarchy(controller: &str) -> String {
    let v1 = format!("/sys/fs/cgroup/{controller}");
    if Path::new(&v1).join("cgroup.procs").exists() { v1 } else { "/sys/fs/cgroup".to_owned() }
}

/// A process that ends with the test.
pub struct Process(Child);

impl Process {
    /// Starts a line of shell; `exec` its last command, or what it starts is left behind.
    pub fn start(line: &str) -> Self {
        let child = command("bash").arg("-c").arg(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Process(child.expect("bash"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Process(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A podman container that is removed with the test.
pub struct Container {
    pub name: String,
    pub id: String,
}

impl Container {
    /// Starts one with a name of its own. `options`: podman's, e.g. `--memory 64m`.
    pub fn start(label: &str, options: &[&str], args: &[&str]) -> Self {
        let name = unique(label);
        let out = podman().arg("start").args(options).arg(&name).args(args).output().expect("podman");
        let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        assert!(out.status.success(), "podman: {said}{}", String::from_utf8_lossy(&out.stderr));
        let id = said.lines().last().unwrap_or_default().to_owned();
        assert_eq!(id.len(), 64, "podman printed no container id: {said}");
        Container { name, id }
    }

    /// Starts one whose process is a program from [`program`] or the like, which has to outlive it.
    pub fn of_program(
        label: &str,
        options: &[&str],
        (program, dir): &(PathBuf, tempfile::TempDir),
        args: &[&str],
    ) -> Self {
        let mount = format!("{}:/test:ro", dir.path().display());
        let inside = format!("/test/{}", program.file_name().unwrap().to_string_lossy());
        Self::start(label, &[&["--volume", &mount], options].concat(), &[&[&*inside], args].concat())
    }

    /// The directory of its cgroup in a controller's hierarchy.
    pub fn cgroup(&self, controller: &str) -> String {
        // -H: cpu is a link to cpu,cpuacct on most machines with v1.
        let find = format!("find -H {} -type d -name '*{}*' | head -1", hierarchy(controller), self.id);
        let (found, dir) = shell(&find);
        assert!(found && !dir.trim().is_empty(), "no cgroup of {}: {dir}", self.name);
        dir.trim().to_owned()
    }

    /// Its first process.
    ///
    /// # Panics
    /// When it has none.
    pub fn pid(&self) -> u32 {
        let (_, text) = shell(&format!("grep -l 'libpod-{}' /proc/[0-9]*/cgroup 2>/dev/null", self.id));
        let pids = text.lines().filter_map(|l| l.split('/').nth(2)?.parse().ok());
        pids.min().unwrap_or_else(|| panic!("no process in container {}", self.name))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = podman().arg("stop").arg(&self.name).output();
    }
}

/// podman, as this machine must call it: see the head of the script.
pub fn podman() -> Command {
    command(Path::new(ROOT).join("tests/containers/podman"))
}

/// A program that burns CPU in a function of this name, without libraries, so that it runs in any
/// container; and the directory to mount.
pub fn busy_program(function: &str) -> (PathBuf, tempfile::TempDir) {
    let text = format!(
        "volatile unsigned long n;\n\
         __attribute__((noinline)) void {function}(void) {{ for (long i = 0; i < 100000000; i++) n += i; }}\n\
         int main(void) {{ for (;;) {function}(); }}\n"
    );
    program("busy", &text)
}

/// Whether the kernel says why it drops a packet (since 5.17).
pub fn has_drop_reasons() -> bool {
    shell("uname -r | awk -F'[.-]' '{exit !($1 > 5 || $1 == 5 && $2 >= 17)}'").0
}

/// A program that reads UDP packets from a port, of IPv4 and of IPv6, one after another.
pub fn reader_program(port: u16) -> (PathBuf, tempfile::TempDir) {
    let text = format!(
        "#include <arpa/inet.h>\n#include <sys/socket.h>\n\
         int main(void) {{ char data[2048]; int s = socket(AF_INET6, SOCK_DGRAM, 0);\n\
         struct sockaddr_in6 at = {{ .sin6_family = AF_INET6, .sin6_port = htons({port}) }};\n\
         if (bind(s, (struct sockaddr *)&at, sizeof(at))) return 1;\n\
         for (;;) if (recv(s, data, sizeof(data), 0) < 0) return 1; }}\n"
    );
    program("reader", &text)
}

/// Any C program, made the same way; it may include the headers of `tests/provoke`.
pub fn program(name: &str, text: &str) -> (PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("program.c");
    std::fs::write(&source, text).unwrap();
    let program = dir.path().join(name);
    let mut cc = command("cc");
    cc.args(["-g", "-O1", "-static", "-fno-omit-frame-pointer", "-I"]).arg(Path::new(ROOT).join("tests/provoke"));
    cc.arg("-o").arg(&program).arg(&source);
    let out = cc.output().expect("cc");
    assert!(out.status.success(), "cc: {}", String::from_utf8_lossy(&out.stderr));
    (program, dir)
}

/// A containerd of our own, with its socket for the kubelet; all of it goes with the test.
pub struct Containerd {
    version: &'static str,
}

/// A pod with one container, `main`.
pub struct CriPod {
    pub name: String,
    pub container: String,
    pub uid: String,
}

impl Containerd {
    /// `version`: 1.7, which has an event stream, or 1.6, which has none.
    pub fn start(version: &'static str) -> Self {
        let containerd = Containerd { version };
        containerd.bring_up();
        containerd
    }

    /// Brings the daemon up (again); the path of its socket.
    pub fn bring_up(&self) -> String {
        self.script(&["start"], &[]).trim().to_owned()
    }

    /// Ends the daemon; its containers go on.
    pub fn take_down(&self) {
        self.script(&["down"], &[]);
    }

    /// Starts a pod in the namespace `shop`. `env`: `CRI_LABELS` and the like.
    pub fn pod(&self, name: &str, env: &[(&str, &str)], command: &[&str]) -> CriPod {
        let said = self.script(&[&["run", name, "shop"], command].concat(), env);
        let ids: Vec<&str> = said.split_whitespace().collect();
        let [_, container, uid] = ids[..] else { panic!("no ids: {said}") };
        CriPod { name: name.to_owned(), container: container.to_owned(), uid: uid.to_owned() }
    }

    pub fn remove(&self, pod: &CriPod) {
        self.script(&["remove", &pod.name], &[]);
    }

    fn script(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let mut c = command(Path::new(ROOT).join("tests/containers/containerd"));
        c.args(args).env("CONTAINERD", self.version).envs(env.iter().copied());
        let out = c.output().expect("tests/containers/containerd");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "containerd {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let mut c = command(Path::new(ROOT).join("tests/containers/containerd"));
        let _ = c.arg("stop").env("CONTAINERD", self.version).output();
    }
}
