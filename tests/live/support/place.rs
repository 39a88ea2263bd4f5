// SPDX-License-Identifier: Apache-2.0
//! Where a test can run. It says what it needs; where that is not had, its name is left for the
//! next place, and in the last place it fails.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::machine::{on_path, shell};

/// What a test needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root, and a kernel with BTF.
    Agent,
    /// Debian's tools for packages, here: a package in a VM would take minutes.
    Dpkg,
    /// systemd's programs; it need not be process 1.
    Systemd,
    /// Containers.
    Podman,
    /// A BPF program that spins (`bpf_loop`, Linux 5.17), or the module built for this kernel.
    Spin,
    /// The unified hierarchy holds the controllers.
    CgroupV2,
    /// A machine that may be ruined: its clock, its memory.
    OwnMachine,
    /// A C compiler.
    Compiler,
    /// Prometheus' own tool, of Debian's package `prometheus`.
    Promtool,
    /// The servers of `tests/backends`, built; not in a VM, where they would take minutes to start.
    Servers,
}

/// Is this a machine of our own, started for the tests?
pub fn own_machine() -> bool {
    std::env::var_os("IN_VM").is_some()
}

/// Keeps other live tests of this machine waiting until it is dropped.
pub struct Place {
    _lock: File,
}

/// A place for the test `name` (use [`crate::support::place!`], which knows it), or none: then the
/// test returns, and its name is in the file `BIANQUE_UNPLACED` for whoever runs the next place.
///
/// # Panics
/// In the last place (`BIANQUE_PLACE=last`): nobody else would run it.
pub fn find(name: &str, needs: &[Need]) -> Option<Place> {
    let missing: Vec<String> = needs.iter().filter_map(|n| missing(*n).map(|why| format!("{n:?}: {why}"))).collect();
    if missing.is_empty() {
        return Some(Place { _lock: lock() });
    }
    let why = missing.join("; ");
    assert!(std::env::var("BIANQUE_PLACE").as_deref() != Ok("last"), "{name} has no place: {why}");
    eprintln!("not here: {name}: {why}");
    if let Some(list) = std::env::var_os("BIANQUE_UNPLACED") {
        let mut list = OpenOptions::new().append(true).create(true).open(list).expect("list of unplaced tests");
        writeln!(list, "{name}").expect("list of unplaced tests");
    }
    None
}

/// `place!(Need::Podman, …)`: the place of the test that it stands in, see [`find`].
macro_rules! place {
    ($($need:expr),+ $(,)?) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        match $crate::support::find(name, &[$($need),+]) {
            Some(place) => place,
            None => return,
        }
    }};
}
pub(crate) use place;

fn lock() -> File {
    let path = std::env::temp_dir().join("bianque-live.lock");
    let file = OpenOptions::new().create(true).append(true).open(&path).expect("lock of the live tests");
    file.lock().expect("lock of the live tests");
    file
}

/// Why the machine has not got it.
fn missing(need: Need) -> Option<String> {
    let (there, why) = match need {
        Need::Agent => match (is_root(), Path::new("/sys/kernel/btf/vmlinux").exists()) {
            (false, _) => (false, "not root"),
            (_, there) => (there, "the kernel has no BTF"),
        },
        Need::Dpkg => {
            (!own_machine() && ["dpkg-shlibdeps", "lintian"].iter().all(|p| on_path(p)), "no dpkg-dev with lintian")
        }
        Need::Systemd => (Path::new("/lib/systemd/systemd").exists() && on_path("systemd-analyze"), "no systemd"),
        Need::Podman => (on_path("podman") && on_path("runc"), "no podman with runc"),
        Need::Spin => {
            (kernel() >= (5, 17) || module_built(), "the kernel is older than 5.17 and the module is not built")
        }
        Need::CgroupV2 => {
            let root = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
            (root.contains("memory"), "cgroup v2 has no memory controller here")
        }
        Need::OwnMachine => (own_machine(), "would ruin this machine"),
        Need::Compiler => (on_path("cc"), "no C compiler"),
        Need::Promtool => (on_path("promtool"), "no promtool"),
        Need::Servers => {
            let cache = "${BACKENDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bianque/backends}";
            let built = format!("test -x {cache}/collector/bin/otelcol && test -x {cache}/jaeger/bin/jaeger");
            (!own_machine() && shell(&built).0, "no Collector and Jaeger: run tests/backends/*/install")
        }
    };
    (!there).then(|| why.to_owned())
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t0\t")))
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn module_built() -> bool {
    let cache = "${BIANQUE_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bianque/vm}";
    shell(&format!("test -e {cache}/provoke/$(uname -r)/provoke.ko")).0
}
