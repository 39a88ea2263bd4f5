// SPDX-License-Identifier: Apache-2.0
//! Adding up readings; and, as root, the probe against the kernel's own figures.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use zerocopy::FromZeros as _;

use super::totals::{CROWDED, IDLE_CROWDED_NS, IDLE_NS};
use super::*;
use crate::host::{Cgroups, Host};
use crate::probe::shared::Shared;
use crate::probe::{Latencies, Loader, Memory};
use crate::signal::Growing as _;

const S: u64 = 1_000_000_000;

fn figures(run_ns: u64, slot: usize, n: u64) -> Figures {
    let mut waits = Latencies { total_ns: n * 1000, ..Latencies::default() };
    waits.slots[slot] = n;
    Figures { run_ns, waits }
}

fn cpu(groups: Vec<(u64, Figures)>, running: Option<(u64, u64)>) -> Cpu {
    Cpu { at_rest: true, groups, running, ..Cpu::default() }
}

fn run_ns(t: &Totals) -> BTreeMap<u64, u64> {
    t.groups.iter().map(|(id, g)| (*id, g.figures.run_ns)).collect()
}

/// A cgroup's figures are the sum over CPUs, the hash and the run under way; key 0 is the root.
#[test]
fn parts_add_up() {
    let mut t = Totals::default();
    let evicted = [(7, figures(5, 3, 1)), (0, figures(1, 0, 0))];
    let cpus = [cpu(vec![(7, figures(10, 3, 2))], Some((8, S - 100))), cpu(vec![(7, figures(20, 4, 1))], None)];
    assert!(t.absorb(&evicted, &cpus, S).is_empty());
    assert_eq!(run_ns(&t), BTreeMap::from([(1, 1), (7, 35), (8, 100)]));
    let seven = &t.groups[&7].figures.waits;
    assert_eq!((seven.slots[3], seven.slots[4], seven.total_ns), (3, 1, 4000));
    assert_eq!((t.node.count(), t.node.total_ns), (4, 4000));
}

/// Figures that are just on their way from a CPU to the hash are missing for a moment: what was
/// told before stays, and nothing is counted twice when they are back.
#[test]
fn figures_never_fall() {
    let mut t = Totals::default();
    t.absorb(&[], &[cpu(vec![(7, figures(100, 3, 10))], None)], S);
    t.absorb(&[], &[cpu(vec![], None)], 2 * S);
    assert_eq!((run_ns(&t)[&7], t.node.count()), (100, 10));
    t.absorb(&[(7, figures(100, 3, 10))], &[cpu(vec![(7, figures(3, 3, 1))], None)], 3 * S);
    assert_eq!((run_ns(&t)[&7], t.groups[&7].figures.waits.slots[3]), (103, 11));
}

/// A cgroup that is idle for five minutes leaves the hash, unless a CPU has it at hand; when it is back, it is
/// counted from zero, as a new generation. The node's waits stay.
#[test]
fn the_idle_leave() {
    let mut t = Totals::default();
    let hash = [(7, figures(100, 0, 5))];
    let cached = [cpu(vec![(8, figures(1, 0, 0))], None)];
    assert!(t.absorb(&hash, &cached, S).is_empty());
    let first = t.groups[&7].generation;
    assert!(t.absorb(&hash, &cached, S + IDLE_NS - 1).is_empty());
    assert_eq!(t.groups[&7].generation, first);
    assert_eq!(t.absorb(&hash, &cached, S + IDLE_NS), [7]);
    assert_eq!(run_ns(&t), BTreeMap::from([(8, 1)]));
    t.absorb(&[(7, figures(30, 0, 1))], &cached, S + IDLE_NS + 1);
    assert_eq!((run_ns(&t)[&7], t.node.count()), (30, 6));
    assert_ne!(t.groups[&7].generation, first);
}

/// A crowded hash is cleared of who has been idle for a minute.
#[test]
fn a_crowd_leaves_sooner() {
    let mut t = Totals::default();
    let hash: Vec<_> = (100..100 + CROWDED as u64).map(|id| (id, figures(1, 0, 1))).collect();
    assert!(t.absorb(&hash, &[], S).is_empty());
    assert!(t.absorb(&hash[1..], &[], S + IDLE_CROWDED_NS).is_empty());
    assert_eq!(t.absorb(&hash, &[], S + IDLE_CROWDED_NS + 1).len(), CROWDED);
}

/// What found no room in the hash is gone, and counted as lost; the cgroup's figures go on from what was reported
/// before, instead of standing still until the kernel side has caught up with it.
#[test]
fn figures_go_on_after_a_loss() {
    let mut t = Totals::default();
    let at = |n, lost| Cpu {
        lost: Lost { figures: lost, ..Lost::default() },
        ..cpu(if n == 0 { vec![] } else { vec![(7, figures(n, 3, n))] }, None)
    };
    let figures_of_7 = |t: &Totals| (run_ns(t)[&7], t.groups[&7].figures.waits.slots[3]);
    t.absorb(&[], &[at(100, 0)], S);
    // All of it went to the overflow; the second time after it had run a little.
    for (n, lost, expected) in [(0, 1, 100), (5, 1, 105), (9, 1, 109), (2, 2, 109), (6, 2, 113), (7, 2, 114)] {
        t.absorb(&[], &[at(n, lost)], 2 * S);
        assert_eq!((figures_of_7(&t), t.lost.figures), ((expected, expected), lost), "with {n}");
    }
}

/// Figures that are missing while others are lost, and turn up in the hash, were on their way.
#[test]
fn figures_on_their_way_are_not_lost() {
    let mut t = Totals::default();
    t.absorb(&[], &[cpu(vec![(7, figures(100, 3, 10))], None)], S);
    let lost = Lost { figures: 1, ..Lost::default() };
    t.absorb(&[], &[Cpu { lost, ..Cpu::default() }], 2 * S);
    t.absorb(&[(7, figures(100, 3, 10))], &[Cpu { lost, ..cpu(vec![(7, figures(3, 3, 1))], None) }], 3 * S);
    assert_eq!((run_ns(&t)[&7], t.groups[&7].figures.waits.slots[3]), (103, 11));
}

/// The number of the hierarchy as `/proc/cgroups` has it; 0 where v1 does not know the controller.
#[test]
fn hierarchy_numbers() {
    let d = tempfile::tempdir().unwrap();
    let file = d.path().join("cgroups");
    std::fs::write(&file, "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ncpu\t12\t1\t1\n").unwrap();
    assert_eq!((hierarchy_of("cpu", &file), hierarchy_of("io", &file)), (12, 0));
    assert_eq!(hierarchy_of("cpu", &d.path().join("absent")), 0);
}

/// A cgroup of the cpu controller for one test, with processes that end with it.
struct Group {
    dir: PathBuf,
    children: Vec<Child>,
}

impl Group {
    fn new(name: &str) -> Self {
        let cgroups = Cgroups::read(&Host::default()).unwrap();
        let tree = cgroups.of_controller("cpu").or_else(|| cgroups.hierarchy(0)).unwrap();
        let dir = tree.mount.join(format!("bianque-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Group { dir, children: Vec::new() }
    }

    fn id(&self) -> u64 {
        std::fs::metadata(&self.dir).unwrap().ino()
    }

    /// A process that never sleeps, on the last CPU.
    #[expect(clippy::disallowed_methods, reason = "a test needs somebody to watch")]
    fn spin(&mut self) -> u32 {
        let last = std::thread::available_parallelism().unwrap().get() - 1;
        let script = format!(
            "echo $$ > {}/cgroup.procs; exec taskset -c {last} sh -c 'while :; do :; done'",
            self.dir.display()
        );
        self.children.push(Command::new("sh").args(["-c", &script]).spawn().unwrap());
        self.children.last().unwrap().id()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let gone = (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::remove_dir(&self.dir).is_ok()
        });
        assert!(gone || std::thread::panicking(), "{} could not be removed", self.dir.display());
    }
}

/// Time on a CPU and time that it waited for one, as the kernel has it for a process.
fn schedstat(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let mut words = text.split_whitespace().map(|w| w.parse().unwrap());
    (words.next().unwrap(), words.next().unwrap())
}

/// CPU time of process 1, all its threads; one that has just ended has none.
fn process_1() -> u64 {
    let threads = std::fs::read_dir("/proc/1/task").unwrap().flatten();
    let text = threads.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok());
    text.filter_map(|t| t.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

/// Those who spin do so one after another.
static ALONE: Mutex<()> = Mutex::new(());

fn load() -> Option<(Sched, MutexGuard<'static, ()>)> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("skipped: loading BPF programs needs root");
        return None;
    }
    let shared = Shared::load(&mut Loader::new(), &[Sched::CPU_TIME, Sched::RUN_QUEUE]);
    Some((shared.get().unwrap(), alone))
}

/// What the probe says, between two looks at what the kernel says: who reads may lose the CPU in between.
struct Reading<T> {
    kernel_before: u64,
    probe: T,
    kernel_after: u64,
    /// CPU time of process 1's threads: some hosted kernels run no program while one is on the CPU, so that it counts
    /// as the time of who was there before, and what follows it is not seen until the next switch.
    unseen: u64,
}

impl<T> Reading<T> {
    fn take(probe: impl Fn() -> T, kernel: impl Fn() -> u64) -> Self {
        Reading { kernel_before: kernel(), probe: probe(), kernel_after: kernel(), unseen: process_1() }
    }
}

/// Whether the probe saw as much happen from one reading to the other as the kernel. If not, it is wrong, unless process 1
/// ran meanwhile: then it may be tried again.
fn agree<T>(from: &Reading<T>, to: &Reading<T>, got: u64, percent: u64, slack_ns: u64) -> bool {
    let (least, most) = (to.kernel_before - from.kernel_after, to.kernel_after - from.kernel_before);
    eprintln!("{} ms by the probe, {} to {} ms by the kernel", got / 1_000_000, least / 1_000_000, most / 1_000_000);
    let slack = most * percent / 100 + slack_ns;
    let near = (least.saturating_sub(slack)..=most + slack).contains(&got);
    assert!(near || to.unseen != from.unseen, "{got} against {least} to {most}");
    near
}

/// One of a few attempts has to hold.
fn once_in_five(attempt: impl FnMut() -> bool) -> bool {
    std::iter::repeat_with(attempt).take(5).any(|holds| holds)
}

/// A spinning process's cgroup gets the CPU time that the kernel accounts to the process, the run
/// under way included: readings follow each other closely.
#[test]
fn a_spinning_cgroup_is_seen() {
    let Some((sched, _alone)) = load() else { return };
    let mut group = Group::new("spin");
    let id = group.id();
    let pid = group.spin();
    std::thread::sleep(Duration::from_millis(500));
    let used = || sched.cpu_time().unwrap().into_iter().find(|t| t.key.id == id).map_or(0, |t| t.total);
    let reading = || Reading::take(used, || schedstat(pid).0);
    let as_the_kernel = || {
        let (start, from) = (Instant::now(), reading());
        let mut last = from.probe;
        while start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(100));
            let now = used();
            assert!(now >= last);
            last = now;
        }
        let to = reading();
        let got = to.probe - from.probe;
        assert!(got > S / 10, "the machine is too busy: the process hardly ran");
        // The kernel's own figure is as of the last tick.
        agree(&from, &to, got, 5, 12_000_000)
    };
    assert!(once_in_five(as_the_kernel));
}

/// Two spinning processes on one CPU wait for each other: their cgroup's waits are what the kernel
/// says that both waited, and the slices show in the histogram.
#[test]
fn waiting_for_each_other_is_seen() {
    let Some((sched, _alone)) = load() else { return };
    let mut group = Group::new("wait");
    let id = group.id();
    let pids = [group.spin(), group.spin()];
    std::thread::sleep(Duration::from_millis(500));
    let waits = || {
        let reading = sched.run_queue().unwrap();
        let own = reading.cgroups.into_iter().find(|t| t.key.id == id).map(|t| t.total).unwrap_or_default();
        (own, reading.node)
    };
    let kernel = || pids.iter().map(|p| schedstat(*p).1).sum::<u64>();
    let reading = || Reading::take(waits, kernel);
    let as_the_kernel = || {
        let from = reading();
        std::thread::sleep(Duration::from_secs(3));
        let to = reading();
        let (own, node) = (to.probe.0.since(&from.probe.0), to.probe.1.since(&from.probe.1));
        // A slice of the scheduler is between 0.5 and 125 ms; beside others there are short waits, too.
        let long: u64 = own.slots[9..=17].iter().sum();
        assert!(long > 10, "{own:?}");
        assert!(node.count() >= own.count() && node.total_ns >= own.total_ns);
        agree(&from, &to, own.total_ns, 10, 0)
    };
    assert!(once_in_five(as_the_kernel));
}

/// Tasks that are sent from CPU to CPU while they wait: what they waited before is part of the wait.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test needs somebody to send them")]
fn waits_go_on_on_another_cpu() {
    let Some((sched, _alone)) = load() else { return };
    let mut group = Group::new("sent");
    let id = group.id();
    let pids = [group.spin(), group.spin(), group.spin()];
    std::thread::sleep(Duration::from_millis(500));
    let waits = || {
        let cgroups = sched.run_queue().unwrap().cgroups;
        cgroups.into_iter().find(|t| t.key.id == id).map_or(0, |t| t.total.total_ns)
    };
    let reading = || Reading::take(waits, || pids.iter().map(|p| schedstat(*p).1).sum());
    let send = |cpu: usize| {
        for pid in pids {
            let done = Command::new("taskset").args(["-apc", &cpu.to_string(), &pid.to_string()]).output();
            assert!(done.unwrap().status.success());
        }
    };
    let as_the_kernel = || {
        let (start, from) = (Instant::now(), reading());
        for turn in 0.. {
            send(turn % 2);
            if start.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
        let to = reading();
        agree(&from, &to, to.probe - from.probe, 2, 150_000_000)
    };
    assert!(once_in_five(as_the_kernel));
    assert_eq!(sched.lost(), 0);
}

/// Waits that are no cgroup's are the node's, and counted by why they are not.
#[test]
fn waits_of_nobody_are_the_nodes() {
    let memory = Memory::new("/nowhere", 2);
    let cpu = |unplaced, unseen, ns: u64| {
        let mut v = SchedCpu::new_zeroed();
        (v.unplaced, v.unseen) = (unplaced, unseen);
        v.overflow.wait = figures(0, 4, ns / 1000).waits;
        v
    };
    memory.put(&sched::SKELETON, "sched_cpus", &0_u32, &[cpu(1, 2, 3000), cpu(4, 0, 5000)]).unwrap();
    let shared = Shared::load(&mut Loader::in_memory(&memory), &[Sched::RUN_QUEUE]);
    let reading = shared.get::<Sched>().unwrap().run_queue().unwrap();
    assert_eq!((reading.node.total_ns, reading.node.slots[4], reading.cgroups.len()), (8000, 8, 0));
    assert_eq!(shared.lost(), [("sched", "map_full", 5), ("sched", "unseen", 2)]);
}

/// Nobody looks at waits: the hook of tasks that are moved costs nothing.
#[test]
fn without_waits_moves_are_not_hooked() {
    let slots = |feature| {
        let shared = Shared::load(&mut Loader::in_memory(&Memory::new("/nowhere", 1)), &[feature]);
        shared.get::<Sched>().unwrap().object.hooks().iter().map(|h| h.slot).collect::<Vec<_>>()
    };
    assert_eq!(slots(Sched::CPU_TIME), ["switched"]);
    assert_eq!(slots(Sched::RUN_QUEUE), ["moved", "switched"]);
}

/// More cgroups than a CPU has at hand: what makes room is found again, nothing is lost or counted twice.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test needs somebody to watch")]
fn more_cgroups_than_are_cached() {
    let Some((sched, _alone)) = load() else { return };
    let groups: Vec<_> = (0..130).map(|i| Group::new(&format!("many{i}"))).collect();
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    let script = "echo $$ > $0/cgroup.procs; sleep 0.1; read a b < /proc/$$/schedstat; i=0; \
        while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; read c d < /proc/$$/schedstat; echo $((c-a))";
    let start = |g: &Group| {
        let mut c = Command::new("taskset");
        c.args(["-c", &last.to_string(), "sh", "-c", script]).arg(&g.dir).stdout(std::process::Stdio::piped());
        c.spawn().unwrap()
    };
    let children: Vec<_> = groups.iter().map(start).collect();
    let printed = children.into_iter().map(|c| String::from_utf8(c.wait_with_output().unwrap().stdout).unwrap());
    let want: u64 = printed.map(|t| t.trim().parse::<u64>().unwrap()).sum();
    let ids: BTreeSet<_> = groups.iter().map(Group::id).collect();
    let own = sched.cpu_time().unwrap().into_iter().filter(|t| ids.contains(&t.key.id)).map(|t| t.total);
    let (seen, got) = own.fold((0, 0), |(n, sum), ns| (n + 1, sum + ns));
    let in_hash = sched.readings.lock().unwrap().evicted.for_each(|_, _| ()).unwrap();
    eprintln!(
        "{seen} cgroups, {in_hash} in the hash, {} ms by the probe, {} ms by the kernel",
        got / 1_000_000,
        want / 1_000_000
    );
    assert!(in_hash > 0 && seen == 130 && sched.lost() == 0);
    // Beyond what the shells measured, they forked and ended in the cgroup.
    assert!((want..=want + want * 2 / 5).contains(&got), "{got} against {want}");
}
