// SPDX-License-Identifier: Apache-2.0
//! Where a test can run. It says what it needs; where that is not had, its name is left for the
//! next place, and in the last place it fails.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::agent::bianque;
use super::machine::{on_path, shell};
use super::shared::leave_to;

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
    /// A file system on a loop device that can be frozen.
    Freeze,
    /// A loop device.
    LoopDevice,
    /// containerd with its socket for the kubelet, and a client of it: `tests/containers/containerd`.
    Containerd,
    /// The module that provokes, built for this kernel (`tests/provoke/module/build`).
    Module,
    /// Network devices of our own.
    Iproute,
    /// Programs can be attached to functions of the kernel (fentry).
    Fentry,
    /// A kernel module that is loaded on a machine of our own: bonding, mce-inject, aer_inject.
    KernelModule(&'static str),
    /// A bad page can be pretended (CONFIG_MEMORY_FAILURE), and a tool that does it.
    PageFailure,
    /// The emulator causes hardware events (`tests/vm/run --events`).
    HardwareEvents,
    /// The unified hierarchy holds the controllers.
    CgroupV2,
    /// A second NUMA node with memory, which may be filled.
    SecondNode,
    /// A machine that may be ruined: its clock, its memory.
    OwnMachine,
    /// A C compiler.
    Compiler,
    /// Prometheus' own tool, of Debian's package `prometheus`.
    Promtool,
    /// The servers of `tests/backends`, built; not in a VM, where they would take minutes to start.
    Servers,
    /// The same of Tempo, Elasticsearch and Elastic APM.
    EveryServer,
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
/// Where `BIANQUE_UNSERVED` names a file, a test that needs servers returns as well, and its name is
/// there: they are still being built, and `tests/run` runs it once they are.
///
/// # Panics
/// In the last place (`BIANQUE_PLACE=last`): nobody else would run it.
pub fn find(name: &str, needs: &[Need]) -> Option<Place> {
    let waits = needs.iter().any(|n| matches!(n, Need::Servers | Need::EveryServer));
    if waits && let Some(list) = std::env::var_os("BIANQUE_UNSERVED") {
        eprintln!("later: {name}: needs servers");
        leave(name, &list);
        return None;
    }
    let missing: Vec<String> = needs.iter().filter_map(|n| missing(*n).map(|why| format!("{n:?}: {why}"))).collect();
    if missing.is_empty() {
        leave_to(name.split("::").next().unwrap_or(name));
        return Some(Place { _lock: lock() });
    }
    let why = missing.join("; ");
    assert!(std::env::var("BIANQUE_PLACE").as_deref() != Ok("last"), "{name} has no place: {why}");
    eprintln!("not here: {name}: {why}");
    if let Some(list) = std::env::var_os("BIANQUE_UNPLACED") {
        leave(name, &list);
    }
    None
}

/// Leaves the name of a test for whoever runs it next.
fn leave(name: &str, list: &OsStr) {
    let mut list = OpenOptions::new().append(true).create(true).open(list).expect("list of tests put off");
    writeln!(list, "{name}").expect("list of tests put off");
}

/// `place!(Need::Podman, …)`: the place of the test that it stands in, see [`find`].
macro_rules! place {
    ($($need:expr),+ $(,)?) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        // An async test is a closure in the function that has its name.
        let name = name.trim_end_matches("::{{closure}}");
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
        Need::Containerd => (
            on_path("runc")
                && shell("tests/containers/containerd fetch && CONTAINERD=1.6 tests/containers/containerd fetch").0,
            "no containerd: tests/containers/containerd fetch says why",
        ),
        Need::Spin => {
            (kernel() >= (5, 17) || module_built(), "the kernel is older than 5.17 and the module is not built")
        }
        Need::Freeze => (on_path("mkfs.ext4") && on_path("fsfreeze"), "no mkfs.ext4 or fsfreeze"),
        Need::LoopDevice => {
            let load = own_machine() && shell("modprobe -q loop").0;
            (load || Path::new("/dev/loop-control").exists(), "no loop devices")
        }
        Need::Module => (own_machine() && module_built(), "the module is not built for this kernel"),
        Need::Iproute => (on_path("ip"), "no iproute2"),
        Need::Fentry => {
            let out = bianque().args(["doctor", "-o", "json"]).output();
            let said = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            (said.contains("fentry/skb_consume_udp, "), "no program can be attached to a function of this kernel")
        }
        Need::KernelModule(name) => {
            let there = shell(&format!("modinfo {name} >/dev/null 2>&1")).0;
            (own_machine() && there, "a module of the kernel that is not here, or not ours to load")
        }
        Need::PageFailure => {
            let there = Path::new("/proc/sys/vm/memory_failure_recovery").exists();
            (own_machine() && there && on_path("perl"), "no page may be spoilt here")
        }
        Need::HardwareEvents => (Path::new("/run/vm/port/vm.hw").exists(), "no emulator that pulls cables"),
        Need::CgroupV2 => {
            let root = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
            (root.contains("memory"), "cgroup v2 has no memory controller here")
        }
        Need::SecondNode => {
            let there = Path::new("/sys/devices/system/node/node1").exists();
            (own_machine() && there, "no second NUMA node (a VM with numa=fake=2)")
        }
        Need::OwnMachine => (own_machine(), "would ruin this machine"),
        Need::Compiler => (on_path("cc"), "no C compiler"),
        Need::Promtool => (on_path("promtool"), "no promtool"),
        Need::Servers => {
            let cache = "${BACKENDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bianque/backends}";
            let built = format!("test -x {cache}/collector/bin/otelcol && test -x {cache}/jaeger/bin/jaeger");
            (!own_machine() && shell(&built).0, "no Collector and Jaeger: run tests/backends/*/install")
        }
        Need::EveryServer => {
            let cache = "${BACKENDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bianque/backends}";
            let all = ["tempo/bin/tempo", "elasticsearch/home/bin/elasticsearch", "elastic-apm/bin/otelcol-apm"];
            let built = all.map(|program| format!("test -x {cache}/{program}")).join(" && ");
            (!own_machine() && shell(&built).0, "not all servers are built: run tests/backends/*/install")
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
