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

fn podman() -> Command {
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
    static_program("busy", &text)
}

/// A program that reads UDP packets from a port, one after another.
pub fn reader_program(port: u16) -> (PathBuf, tempfile::TempDir) {
    let text = format!(
        "#include <arpa/inet.h>\n#include <sys/socket.h>\n\
         int main(void) {{ char data[2048]; int s = socket(AF_INET, SOCK_DGRAM, 0);\n\
         struct sockaddr_in at = {{ .sin_family = AF_INET, .sin_port = htons({port}) }};\n\
         if (bind(s, (struct sockaddr *)&at, sizeof(at))) return 1;\n\
         for (;;) if (recv(s, data, sizeof(data), 0) < 0) return 1; }}\n"
    );
    static_program("reader", &text)
}

fn static_program(name: &str, text: &str) -> (PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join(name).with_extension("c");
    std::fs::write(&source, text).unwrap();
    let program = dir.path().join(name);
    let mut cc = command("cc");
    cc.args(["-g", "-O1", "-static", "-fno-omit-frame-pointer", "-o"]).arg(&program).arg(&source);
    let out = cc.output().expect("cc");
    assert!(out.status.success(), "cc: {}", String::from_utf8_lossy(&out.stderr));
    (program, dir)
}
