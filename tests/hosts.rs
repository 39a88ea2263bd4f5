// SPDX-License-Identifier: Apache-2.0
//! Every collector on the trees that were taken of real kernels (tests/fixtures/hosts), and the page that
//! Prometheus would scrape there; `make regen` writes the pages anew.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bianque::collectors::{BUILT_IN, Kind};
use bianque::exporters::prometheus::{Format, Prometheus};
use bianque::pipeline::metrics::MetricState;
use bianque::prelude::{Attributes, Metrics, Timestamp};
use bianque::probe::skeletons::block::{self, IoKey, IoLatencies, IoOperation};
use bianque::probe::skeletons::sched::{SKELETON, SchedGroup};
use bianque::signal::metric::Reading;
use bianque::testing::{Rig, Rigged};
use bianque::zerocopy::FromZeros as _;

/// The cgroups that the trees have under load, and the CPU time and waits that the kernel's table is given for
/// them.
fn cgroups() -> Vec<(String, u64)> {
    let pod =
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice";
    let container = format!("{pod}/cri-containerd-{}.scope", "c".repeat(64));
    vec![(container, 5), ("/system.slice/web.service".to_owned(), 2), ("/batch".to_owned(), 1)]
}

fn trees() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hosts");
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    all.sort();
    all
}

/// What the agent's loop would call.
fn run(c: &mut Rigged<'_>, kind: Kind, out: &mut Metrics) -> anyhow::Result<()> {
    match kind {
        Kind::Metrics => c.collect(out),
        Kind::Events => c.tick().map(drop),
        Kind::Autotracing => c.check().map(drop),
    }
}

/// The kernel's table after so many seconds of this load.
fn use_cpus(rig: &Rig, seconds: u64) {
    for (path, share) in cgroups() {
        let id = rig.cgroup(&path).unwrap().id;
        let mut group = SchedGroup { run_ns: share * seconds * 100_000_000, ..SchedGroup::new_zeroed() };
        (group.wait.slots[10], group.wait.total_ns) = (seconds, seconds * 1_000_000);
        rig.kernel().put(&SKELETON, "sched_evicted", &id, &[group]).unwrap();
    }
}

/// The kernel's table of a disk after so many seconds of this load.
fn use_disk(rig: &Rig, seconds: u64) {
    let owners = cgroups().into_iter().map(|(path, share)| (Some(rig.cgroup(&path).unwrap()), share));
    for (cgroup, share) in owners.chain([(None, 1)]) {
        let mut key = IoKey { operation: IoOperation::IO_WRITE, ..IoKey::new_zeroed() };
        key.device[..3].copy_from_slice(b"vda");
        if let Some(cgroup) = cgroup {
            (key.cgroup, key.hierarchy) = (cgroup.id, cgroup.hierarchy);
        }
        let n = share * seconds;
        let mut times = IoLatencies { last_ns: rig.kernel().monotonic_ns(), ..IoLatencies::new_zeroed() };
        (times.request.slots[10], times.request.total_ns) = (n, n * 1_000_000);
        (times.device.slots[9], times.device.total_ns) = (n, n * 500_000);
        rig.kernel().put(&block::SKELETON, "block_ios", &key, &[times]).unwrap();
    }
}

/// The page after two runs of all metrics collectors, ten seconds apart.
fn page(tree: &Path) -> String {
    let rig = Rig::of(tree).unwrap();
    let state = Arc::new(MetricState::new(10_000, Timestamp(0)));
    let metrics = BUILT_IN.iter().filter(|r| r.kind == Kind::Metrics);
    let mut running: Vec<_> = metrics.map(|r| (r.info.name, rig.run(r, "").unwrap())).collect();
    for seconds in [10, 20] {
        use_cpus(&rig, seconds);
        use_disk(&rig, seconds);
        for (name, c) in &mut running {
            let mut out = Metrics::default();
            c.collect(&mut out).unwrap();
            state.update(name, &mut out, rig.clock().now().wall);
        }
        rig.advance(Duration::from_secs(10));
        let stat = fs::read_to_string(rig.host().proc.join("stat")).unwrap();
        rig.write("proc/stat", twice_as_long(&stat)).unwrap();
    }
    let page = Prometheus::new(state, &Attributes::new(), Box::new(Vec::new)).scrape(Format::Text);
    in_order(std::str::from_utf8(page.as_ref()).unwrap())
}

/// A `/proc/stat` after the same time again.
fn twice_as_long(stat: &str) -> String {
    let word = |w: &str| w.parse::<u64>().map_or_else(|_| w.to_owned(), |n| (n * 2).to_string());
    let line = |l: &str| l.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n";
    stat.lines().map(|l| if l.starts_with("cpu") { line(l) } else { l.to_owned() + "\n" }).collect()
}

/// Series of a family in the order of their text: workloads come in that of their keys, which have the inode
/// numbers of this copy in them.
fn in_order(page: &str) -> String {
    let (mut out, mut series) = (Vec::new(), Vec::new());
    for line in page.lines() {
        if line.starts_with('#') {
            series.sort_by_key(|l: &&str| bucket_free(l));
            out.append(&mut series);
            out.push(line);
        } else {
            series.push(line);
        }
    }
    series.sort_by_key(|l| bucket_free(l));
    out.append(&mut series);
    out.join("\n") + "\n"
}

/// Without the bound of a bucket: buckets are ordered as numbers.
fn bucket_free(line: &str) -> String {
    line.find("le=\"").map_or(line, |at| &line[..at]).to_owned()
}

/// What a scrape of each node would give.
#[test]
fn pages_are_as_expected() {
    let mut stale = Vec::new();
    for tree in trees() {
        let (file, text) = (tree.join("metrics.txt"), page(&tree));
        if std::env::var_os("BIANQUE_REGEN").is_some() {
            fs::write(&file, text).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != text {
            stale.push(file.display().to_string());
        }
    }
    assert!(trees().len() >= 5);
    assert!(stale.is_empty(), "not as expected, see `make regen && git diff`: {stale:#?}");
}

/// Every collector can be built on every node, and runs there.
#[test]
fn every_collector_runs_on_every_tree() {
    for tree in trees() {
        let rig = Rig::of(&tree).unwrap();
        for r in BUILT_IN {
            let mut c = rig.run(r, "").unwrap_or_else(|e| panic!("{} on {}: {e:#}", r.info.name, tree.display()));
            for _ in 0..2 {
                use_cpus(&rig, 10);
                run(&mut c, r.kind, &mut Metrics::default())
                    .unwrap_or_else(|e| panic!("{} on {}: {e:#}", r.info.name, tree.display()));
                rig.advance(Duration::from_secs(1));
            }
        }
    }
}

type Spoil = fn(&[u8]) -> Vec<u8>;

/// What a kernel, or who writes into a container's files, might leave in a file.
const SPOILED: &[(&str, Spoil)] = &[
    ("empty", |_| Vec::new()),
    ("truncated", |b| b[..b.len() / 2].to_vec()),
    ("huge", |b| b.iter().copied().cycle().take(if b.is_empty() { 0 } else { 64 << 10 }).collect()),
    ("binary", |b| (0..b.len().max(64)).map(|i| (i * 151 % 256) as u8).collect()),
    ("negative", |b| replaced(b, b"-1")),
    ("too large", |b| replaced(b, b"99999999999999999999999999")),
    ("one line", |b| b.iter().map(|c| if *c == b'\n' { b' ' } else { *c }).collect()),
];

/// With this in place of every number.
fn replaced(bytes: &[u8], number: &[u8]) -> Vec<u8> {
    let words = bytes.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    words.flat_map(|w| if w[0].is_ascii_digit() { number } else { w }).copied().collect()
}

fn each_file(dir: &Path, f: &dyn Fn(&Path)) {
    for path in fs::read_dir(dir).unwrap().flatten().map(|e| e.path()) {
        if path.is_dir() { each_file(&path, f) } else { f(&path) }
    }
}

/// A run may fail, but it ends, and what it gives is a number that can be.
fn bear(c: &mut Rigged<'_>, kind: Kind, what: &str) {
    let mut out = Metrics::default();
    // An error is an answer.
    drop(run(c, kind, &mut out));
    for p in out.points() {
        let valid = !matches!(p.reading, Reading::Double(d) if !d.is_finite() || d < 0.0);
        assert!(valid, "{what}: {} is {:?}", p.def.name, p.reading);
    }
}

/// Whatever the files hold, at the start or from some moment on, no collector panics or makes figures up.
#[test]
fn spoiled_files_are_borne() {
    // It has the files of both kinds of cgroups.
    let trees = trees();
    let tree = trees.iter().find(|t| t.ends_with("6.1-hybrid")).unwrap();
    for (what, spoil) in SPOILED {
        let rig = Rig::of(tree).unwrap();
        use_cpus(&rig, 10);
        let mut early: Vec<_> = BUILT_IN.iter().map(|r| (rig.run(r, "").unwrap(), r.kind)).collect();
        each_file(&rig.host().root, &|file| fs::write(file, spoil(&fs::read(file).unwrap())).unwrap());
        rig.advance(Duration::from_secs(10));
        early.iter_mut().for_each(|(c, kind)| bear(c, *kind, what));
        let late = BUILT_IN.iter().filter_map(|r| Some((rig.run(r, "").ok()?, r.kind)));
        late.for_each(|(mut c, kind)| bear(&mut c, kind, what));
    }
}

/// Files that go away while a collector runs, all of them or one folder after another, are borne too.
#[test]
fn vanishing_files_are_borne() {
    for tree in trees() {
        for folder in ["sys/fs/cgroup", "sys", "proc"] {
            let rig = Rig::of(&tree).unwrap();
            use_cpus(&rig, 10);
            let mut all: Vec<_> = BUILT_IN.iter().map(|r| (rig.run(r, "").unwrap(), r.kind)).collect();
            rig.remove(folder).unwrap();
            rig.advance(Duration::from_secs(10));
            all.iter_mut().for_each(|(c, kind)| bear(c, *kind, folder));
        }
    }
}
