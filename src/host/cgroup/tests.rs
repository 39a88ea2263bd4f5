// SPDX-License-Identifier: Apache-2.0
//! Layouts and files of cgroups, from trees as real nodes have them.

use proptest::prelude::*;

use super::files::{cpu_list_len, parse_cpu_max};
use super::*;
use crate::host::keyed;

const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const HYBRID_SELF: &str = "9:name=systemd:/\n4:memory:/a\n2:cpu,cpuacct:/a\n0::/\n";

struct Tree(#[expect(dead_code, reason = "removes the tree when dropped")] tempfile::TempDir, Host);

fn tree(mountinfo: &str, own: &str, files: &[(&str, &str)]) -> Tree {
    let d = tempfile::tempdir().unwrap();
    let host = Host::under(d.path());
    let put = |path: PathBuf, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(host.proc.join("self/mountinfo"), mountinfo);
    put(host.proc.join("self/cgroup"), own);
    for (path, text) in files {
        put(host.sys.join("fs/cgroup").join(path), text);
    }
    Tree(d, host)
}

/// A hybrid node: numbers from `/proc/self/cgroup`, mounts from mountinfo, moved below the roots.
#[test]
fn hybrid_layout() {
    let t = tree(HYBRID_MOUNTS, HYBRID_SELF, &[("unified/cgroup.controllers", "\n")]);
    let c = Cgroups::read(&t.1).unwrap();
    assert_eq!(c.mode, Mode::Hybrid);
    assert_eq!(c.hierarchies.iter().map(|h| h.number).collect::<Vec<_>>(), [0, 2, 4, 9]);
    let cpu = c.of_controller("cpu").unwrap();
    assert_eq!((cpu.number, &cpu.mount), (2, &t.1.sys.join("fs/cgroup/cpu,cpuacct")));
    assert!(c.of_controller("io").is_none());
}

/// A v2 node, and a v1 node without a unified tree.
#[test]
fn pure_layouts() {
    let v2 = tree(
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        "0::/x\n",
        &[("cgroup.controllers", "cpuset cpu io memory pids\n")],
    );
    let c = Cgroups::read(&v2.1).unwrap();
    assert_eq!((c.mode, c.of_controller("memory").unwrap().number), (Mode::V2, 0));
    let v1 = tree(HYBRID_MOUNTS.rsplit_once("41 31").unwrap().0, HYBRID_SELF, &[]);
    assert_eq!(Cgroups::read(&v1.1).unwrap().mode, Mode::V1);
    assert_eq!(Cgroups::read(&tree("", "", &[]).1).unwrap().mode, Mode::None);
}

/// In a pod with the node's `/sys` mounted elsewhere, the node's whole tree wins over the pod's own part,
/// and the `/..` that a cgroup namespace shows is the real root.
#[test]
fn the_nodes_tree_wins_in_a_pod() {
    let d = tempfile::tempdir().unwrap();
    let sys = d.path().join("host/sys");
    let mounts = format!(
        "1 0 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n2 0 0:26 /../../.. {}/fs/cgroup rw - cgroup2 cgroup rw\n",
        sys.display()
    );
    let proc = d.path().join("proc");
    std::fs::create_dir_all(proc.join("self")).unwrap();
    std::fs::write(proc.join("self/mountinfo"), mounts).unwrap();
    std::fs::write(proc.join("self/cgroup"), "0::/\n").unwrap();
    let c = Cgroups::read(&Host { proc, sys: sys.clone(), ..Host::default() }).unwrap();
    assert_eq!((&c.hierarchies[0].mount, c.hierarchies[0].root.as_str()), (&sys.join("fs/cgroup"), ""));
    assert_eq!(c.dir(0, "/a/b"), Some(sys.join("fs/cgroup/a/b")));
}

/// Where only a part of a tree is mounted, paths are still those of the whole tree.
#[test]
fn a_part_of_a_tree() {
    let t = tree("1 0 0:9 /kube /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/kube/x\n", &[("pod/cpu.max", "max 1\n")]);
    let c = Cgroups::read(&t.1).unwrap();
    assert!(c.dir(0, "/kube/pod").unwrap().is_dir());
    assert_eq!(c.dir(0, "/kubepods"), None);
    let mut seen = vec![];
    c.walk(|d| seen.push(d.path));
    assert_eq!(seen, ["/kube", "/kube/pod"]);
}

/// A limit's processes are mostly in cgroups below it.
#[test]
fn processes_of_a_subtree() {
    let files = [
        ("a/cgroup.procs", ""),
        ("a/b/cgroup.procs", "7\n8\n"),
        ("a/b/c/cgroup.procs", "9\n"),
        ("d/cgroup.procs", "1\n"),
    ];
    let t = tree("1 0 0:9 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/\n", &files);
    let c = Cgroups::read(&t.1).unwrap();
    assert_eq!(c.pids(0, "/a").unwrap(), [] as [u32; 0]);
    assert_eq!(c.pids_below(0, "/a", 10).unwrap(), [7, 8, 9]);
    assert_eq!(c.pids_below(0, "/a", 1).unwrap(), [7]);
    assert!(c.pids_below(0, "/x", 10).unwrap_err().is_missing());
}

/// A name that is no UTF-8 is found, kept apart from others, and its files are read; systemd's escapes are names.
#[test]
fn names_of_any_bytes() {
    let t = tree("1 0 0:9 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/\n", &[("a\\x2db/cgroup.procs", "1\n")]);
    for (name, pid) in [(&b"bad\xff"[..], "7\n"), (b"bad\xfe", "8\n")] {
        let dir = t.1.sys.join("fs/cgroup").join(std::ffi::OsStr::from_bytes(name));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), pid).unwrap();
    }
    let c = Cgroups::read(&t.1).unwrap();
    let mut seen = vec![];
    c.walk(|d| seen.push(d.path));
    seen.sort();
    assert_eq!(seen, ["/", "/a\\x2db", "/bad\\xfe", "/bad\\xff"]);
    let pids: Vec<_> = seen[1..].iter().map(|path| c.pids(0, path).unwrap()).collect();
    assert_eq!(pids, [[1], [8], [7]]);
}

/// The walk finds every folder of every hierarchy with its inode, parents first.
#[test]
fn walk_finds_all() {
    let t = tree(HYBRID_MOUNTS, HYBRID_SELF, &[("memory/a/b/x", ""), ("unified/a/x", "")]);
    let mut seen = vec![];
    Cgroups::read(&t.1).unwrap().walk(|d| seen.push(d));
    let paths: Vec<_> = seen.iter().map(|d| (d.hierarchy, d.path.as_str())).collect();
    assert_eq!(paths, [(0, "/"), (0, "/a"), (4, "/"), (4, "/a"), (4, "/a/b")]);
    let inode = std::fs::metadata(t.1.sys.join("fs/cgroup/memory/a/b")).unwrap().ino();
    assert_eq!(seen[4].id, inode);
}

/// v2's files, with limits of an ancestor.
#[test]
fn v2_files() {
    let t = tree(
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "0::/\n",
        &[
            ("cgroup.controllers", "cpuset cpu memory"),
            ("pod/cpu.max", "150000 100000\n"),
            ("pod/memory.max", "1000\n"),
            ("pod/c/cpu.max", "max 100000\n"),
            ("pod/c/cpuset.cpus.effective", "0-1,4\n"),
            ("pod/c/cpu.stat", "usage_usec 7\nnr_periods 3\nnr_throttled 2\nthrottled_usec 5\n"),
            ("pod/c/memory.current", "500\n"),
            ("pod/c/memory.max", "max\n"),
            ("pod/c/memory.swap.max", "0\n"),
            ("pod/c/memory.stat", "anon 400\nfile 100\n"),
            ("pod/c/memory.events", "low 0\nhigh 1\nmax 22\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ],
    );
    let c = Cgroups::read(&t.1).unwrap();
    assert_eq!(c.cpu_limit("/pod/c").unwrap(), CpuLimit { quota_us: None, period_us: 100_000 });
    assert_eq!(c.cpus_allowed("/pod/c"), Some(1.5));
    assert_eq!(c.cpuset_cpus("/pod/c").unwrap(), 3);
    let want = Throttling { periods: 3, throttled: 2, throttled_ns: 5000, usage_ns: Some(7000) };
    assert_eq!(c.throttling("/pod/c").unwrap(), want);
    let m = c.memory("/pod/c").unwrap();
    assert_eq!((m.current, m.max, m.swap_max, m.stat("anon")), (500, None, Some(0), Some(400)));
    assert_eq!(c.memory_events("/pod/c").unwrap().oom_kill, Some(2));
    assert!(c.memory("/pod/gone").unwrap_err().is_missing());
}

/// v1's files in v2's terms.
#[test]
fn v1_files() {
    let t = tree(
        HYBRID_MOUNTS,
        HYBRID_SELF,
        &[
            ("cpu,cpuacct/a/cpu.cfs_quota_us", "50000\n"),
            ("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/a/cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 123456\n"),
            ("cpu,cpuacct/b/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/b/cpu.cfs_period_us", "100000\n"),
            ("memory/a/memory.usage_in_bytes", "4096\n"),
            ("memory/a/memory.limit_in_bytes", "67108864\n"),
            ("memory/a/memory.memsw.limit_in_bytes", "67108864\n"),
            ("memory/a/memory.memsw.usage_in_bytes", "5000\n"),
            ("memory/a/memory.failcnt", "12\n"),
            ("memory/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ],
    );
    let c = Cgroups::read(&t.1).unwrap();
    assert_eq!(c.cpu_limit("/a").unwrap().cpus(), Some(0.5));
    assert_eq!(c.cpu_limit("/b").unwrap().cpus(), None);
    assert_eq!(c.throttling("/a").unwrap().throttled_ns, 123_456);
    let m = c.memory("/a").unwrap();
    assert_eq!((m.max, m.swap_max, m.swap_current, m.under_oom), (Some(67_108_864), Some(0), Some(904), Some(true)));
    let e = c.memory_events("/a").unwrap();
    assert_eq!((e.max, e.oom_kill, e.oom), (Some(12), Some(3), None));
    assert!(matches!(c.cpuset_cpus("/a"), Err(ReadError::NoController { controller: "cpuset" })));
}

/// The real node: something is mounted, each hierarchy's root has an id and the walk finds it.
#[test]
fn the_real_node_has_cgroups() {
    let c = Cgroups::read(&Host::default()).unwrap();
    if c.mode == Mode::None {
        return;
    }
    let mut roots = 0;
    c.walk(|d| roots += usize::from(d.path == "/"));
    assert!(roots >= 1);
}

proptest! {
    /// No bytes make a parser panic.
    #[test]
    fn parsers_never_panic(text in "(?s).{0,200}", own in "([0-9]{0,11}:?[a-z,=]{0,9}:?/?.{0,9}\n){0,4}") {
        let _ = cgroup_mounts(&text);
        let _: Vec<_> = memberships(&text).chain(memberships(&own)).collect();
        let _ = parse_cpu_max(&text);
        let _ = keyed(&text);
        let _ = cpu_list_len(&text);
    }

    /// Ranges of CPUs, however large, are counted or refused.
    #[test]
    fn cpu_lists(a in any::<u32>(), b in any::<u32>()) {
        let got = cpu_list_len(&format!("{a}-{b}"));
        prop_assert_eq!(got, b.checked_sub(a).and_then(|d| d.checked_add(1)));
    }
}
