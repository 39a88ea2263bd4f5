// SPDX-License-Identifier: Apache-2.0
//! What the whole agent costs and how fast it is, on this node, with all default collectors: CPU time
//! of its start and of an idle minute beside ten containers and a scrape every 15 s; memory, idle and
//! while it captures; the time from an OOM kill to `events --follow`; the time from a CPU limit
//! reached to the first moment of sampling.
//!
//!     cargo bench --bench agent_cost -- [--check] [--seconds N] [--kills N] [--containers N]
//!
//! `--check` fails above a bar. Root. CPU time is the scheduler's own count of every thread.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark may end so")]
#![expect(clippy::disallowed_methods, reason = "the processes that are measured have to be started")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use kills::{Group, eat, join};
use rig::Agent;
use table::{Table, pss};

mod kills;
mod rig;
mod table;

const SCRAPE: Duration = Duration::from_secs(15);
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["eat", group] => eat(Path::new(group)),
        ["spin", group] => spin(Path::new(group)),
        _ => {}
    }
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|a| a == name);
        at.map_or(default, |i| args[i + 1].parse().unwrap())
    };
    let check = args.iter().any(|a| a == "--check");
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("agent_cost: skipped: loading BPF programs needs root");
        return ExitCode::from(u8::from(check));
    }
    let mut table = Table::default();
    let containers = Containers::start(number("--containers", 10));
    let agent = Agent::start();
    let mut cpu = CpuTime::of(agent.pid());
    table.row("start-up, CPU", cpu.total().as_secs_f64(), "s");
    idle(&agent, &mut cpu, Duration::from_secs(number("--seconds", 60)), containers.names.len(), &mut table);
    kills(&agent, number("--kills", 50), &mut table);
    captures(&agent, &mut table);
    drop((agent, containers));
    if table.kept() || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An idle node: nothing happens but the scrapes.
fn idle(agent: &Agent, cpu: &mut CpuTime, lasts: Duration, containers: usize, table: &mut Table) {
    // The names of what was there at the start are looked up within two seconds.
    std::thread::sleep(Duration::from_secs(5));
    let bpf_before = bpf_seconds(agent);
    let (before, start) = (cpu.total(), Instant::now());
    while start.elapsed() < lasts {
        std::thread::sleep(SCRAPE.min(lasts.saturating_sub(start.elapsed())));
        agent.get("/metrics").unwrap();
        // Threads that end are still counted as of here.
        cpu.total();
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    let used = (cpu.total() - before).as_secs_f64();
    table.barred(&format!("CPU a minute, idle, {containers} containers"), used / minutes, "s", 0.10);
    table.row("  BPF programs beside it, as they time themselves", (bpf_seconds(agent) - bpf_before) / minutes, "s");
    for (name, ns) in cpu.by_name() {
        table.row(&format!("  thread {name}, since the start"), ns as f64 / 1e9, "s");
    }
    table.barred("PSS, idle", pss(agent.pid()) / MIB, "MiB", 40.0);
    table.barred("BPF maps", map_bytes(agent.pid()) / MIB, "MiB", 12.0);
}

/// OOM kills, one after another, each in a cgroup of its own.
fn kills(agent: &Agent, n: u64, table: &mut Table) {
    let (mut follower, arrivals) = kills::follow(agent);
    let mut delays = Vec::new();
    for i in 0..n {
        kills::one(i);
        match arrivals.recv_timeout(Duration::from_secs(10)) {
            Ok(delay) => delays.push(delay),
            Err(_) => eprintln!("agent_cost: kill {i} was not reported within 10 s"),
        }
    }
    drop(follower.kill());
    drop(follower.wait());
    let reported = delays.len() as u64;
    assert!(reported > 0, "no kill was reported");
    table.row("first kill -> events --follow", delays[0].as_secs_f64() * 1e3, "ms");
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).ceil() as usize].as_secs_f64() * 1e3;
    table.row("kill -> events --follow, p50", at(0.5), "ms");
    table.barred(&format!("kill -> events --follow, p99 of {reported}"), at(0.99), "ms", 200.0);
    table.barred("kills that were not reported", (n - reported) as f64, "", 0.0);
    table.barred("PSS, after the kills", pss(agent.pid()) / MIB, "MiB", 64.0);
}

/// A cgroup reaches its CPU limit: a few times until sampling begins, once for a whole capture.
fn captures(agent: &Agent, table: &mut Table) {
    let mut worst = Duration::ZERO;
    let at_rest = sampling_timers();
    let samples = || sampling_timers() > at_rest;
    for i in 0..5 {
        let group = Group::cpu(&format!("bianque-bench-cpu.{}.{i}", std::process::id()));
        let busy = Busy::start(&group);
        let start = Instant::now();
        while !samples() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        worst = worst.max(start.elapsed());
        let most = if i == 4 { while_captured(agent) } else { 0.0 };
        drop((busy, group));
        let end = Instant::now() + Duration::from_secs(10);
        while samples() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        if i == 4 {
            table.barred("CPU limit reached -> sampling, worst of 5", worst.as_secs_f64(), "s", 2.0);
            table.barred("PSS at most, while capturing", most / MIB, "MiB", 64.0);
        }
    }
    std::thread::sleep(Duration::from_secs(5));
    table.row("PSS, after the capture", pss(agent.pid()) / MIB, "MiB");
    let incidents = agent.get("/v1/incidents").unwrap_or_default();
    if !incidents.contains("\"captures\":1") {
        eprintln!("agent_cost: no capture came of it");
    }
}

/// The window and the capture with their default lengths, and what comes after.
fn while_captured(agent: &Agent) -> f64 {
    let start = Instant::now();
    let mut most = 0.0_f64;
    while start.elapsed() < Duration::from_secs(25) {
        most = most.max(pss(agent.pid()));
        std::thread::sleep(Duration::from_millis(250));
    }
    most
}

/// Containers that do nothing; removed when dropped.
struct Containers {
    script: PathBuf,
    names: Vec<String>,
}

impl Containers {
    fn start(n: u64) -> Containers {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/podman");
        let mut it = Containers { script, names: Vec::new() };
        for i in 0..n {
            let name = format!("bianque-bench-{}-{i}", std::process::id());
            let mut c = Command::new(&it.script);
            let started = c.args(["start", &name, "sleep", "3600"]).stdout(Stdio::null()).status();
            if !started.is_ok_and(|s| s.success()) {
                eprintln!("agent_cost: podman starts no container here; measured beside {i}");
                break;
            }
            it.names.push(name);
        }
        it
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if !self.names.is_empty() {
            drop(Command::new(&self.script).arg("stop").args(&self.names).stdout(Stdio::null()).status());
        }
    }
}

/// CPU time of a process's threads, those that have ended meanwhile as of the last look.
struct CpuTime {
    tasks: PathBuf,
    seen: HashMap<String, (String, u64)>,
}

impl CpuTime {
    fn of(pid: u32) -> CpuTime {
        CpuTime { tasks: format!("/proc/{pid}/task").into(), seen: HashMap::new() }
    }

    fn total(&mut self) -> Duration {
        for task in fs::read_dir(&self.tasks).unwrap().flatten() {
            let text = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let ns = text("schedstat").split_whitespace().next().and_then(|n| n.parse().ok());
            if let Some(ns) = ns {
                let tid = task.file_name().to_string_lossy().into_owned();
                self.seen.insert(tid, (text("comm").trim().to_owned(), ns));
            }
        }
        Duration::from_nanos(self.seen.values().map(|(_, ns)| ns).sum())
    }

    fn by_name(&self) -> Vec<(String, u64)> {
        let mut sums: HashMap<&str, u64> = HashMap::new();
        self.seen.values().for_each(|(name, ns)| *sums.entry(name).or_default() += ns);
        let mut sorted: Vec<_> = sums.into_iter().map(|(name, ns)| (name.to_owned(), ns)).collect();
        sorted.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        sorted
    }
}

/// What the programs used, by their own sampled clock.
fn bpf_seconds(agent: &Agent) -> f64 {
    let metrics = agent.get("/metrics").unwrap();
    let lines = metrics.lines().filter(|l| l.starts_with("bianque_probe_time_seconds_total"));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find(|l| l.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
}

/// Memory of the maps that the process holds, each once: /proc/PID/fdinfo as bpf_map_show_fdinfo() writes it.
fn map_bytes(pid: u32) -> f64 {
    let mut maps = HashMap::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = fs::read_to_string(fd.path()).unwrap_or_default();
        if let (Some(id), Some(bytes)) = (field(&text, "map_id:"), field(&text, "memlock:")) {
            maps.insert(id.to_bits(), bytes);
        }
    }
    maps.values().sum()
}

/// Timers of sampling perf events on all CPUs: they exist from the moment at which sampling begins.
fn sampling_timers() -> usize {
    let timers = fs::read_to_string("/proc/timer_list").unwrap();
    timers.lines().filter(|l| l.contains("perf_swevent_hrtimer")).count()
}

/// A process that only computes, in a cgroup; ends when dropped.
struct Busy(Child);

impl Busy {
    fn start(group: &Group) -> Busy {
        let mut c = Command::new("nice");
        c.args(["-n", "-10"]).arg(std::env::current_exe().unwrap()).arg("spin").arg(&group.0);
        let busy = Busy(c.spawn().unwrap());
        while fs::read_to_string(group.0.join("cgroup.procs")).unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        busy
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn spin(group: &Path) -> ! {
    join(group);
    let end = SystemTime::now() + Duration::from_secs(120);
    let mut n = 0_u64;
    while !n.is_multiple_of(1 << 20) || SystemTime::now() < end {
        n = std::hint::black_box(n.wrapping_add(1));
    }
    std::process::exit(0)
}
