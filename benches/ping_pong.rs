// SPDX-License-Identifier: Apache-2.0
//! What the agent costs where it is felt most: two processes that wake each other over pipes on one
//! CPU, so that nearly all they do is switch. Rounds alternate between nothing, an empty program on
//! `sched_switch` and the whole agent; the best round of each counts, as user and system time.
//!
//!     cargo bench --bench ping_pong -- [--check] [--rounds N] [--trips N] [--probe]
//!
//! `--check` fails above the bar; `--probe` loads the shared probe alone, without the agent. Root.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark may end so")]
#![expect(clippy::disallowed_methods, reason = "the processes that are measured have to be started")]

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use bianque::probe::shared::{Sched, Shared};
use bianque::probe::{Loader, Object};
use rig::Agent;

#[expect(dead_code, reason = "only that it runs is of interest")]
mod rig;

#[expect(dead_code, reason = "only the object is of interest")]
mod fixtures {
    bianque::include_skeletons!("fixtures");
}

/// The agent may cost so much more than an empty program.
const BAR: f64 = 1.03;

/// Pairs of players in a round.
const PAIRS: u32 = 48;

struct Options {
    check: bool,
    rounds: u32,
    trips: u32,
    probe_only: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, who, trips] = args.as_slice()
        && first == "player"
    {
        play(who == "ping", trips.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let number = |name: &str, default| {
        let at = args.iter().position(|a| a == name);
        at.map_or(default, |i| args[i + 1].parse().unwrap())
    };
    let has = |name: &str| args.iter().any(|a| a == name);
    let options = Options {
        check: has("--check"),
        rounds: number("--rounds", 12),
        trips: number("--trips", 240_000),
        probe_only: has("--probe"),
    };
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("ping_pong: skipped: loading BPF programs needs root");
        return ExitCode::from(u8::from(options.check));
    }
    let statistics = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap_or_default();
    if statistics.trim() == "1" {
        eprintln!(
            "ping_pong: the kernel's BPF statistics are on and would cost more than what is measured: sysctl kernel.bpf_stats_enabled=0"
        );
        return ExitCode::FAILURE;
    }
    if compare(&options) || !options.check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures and prints; whether the bar was kept.
fn compare(options: &Options) -> bool {
    let mut best = [f64::INFINITY; 3];
    for _ in 0..options.rounds {
        best[0] = best[0].min(best_pair_ns(options.trips));
        let empty = load_empty();
        best[1] = best[1].min(best_pair_ns(options.trips));
        drop(empty);
        let under_test = UnderTest::start(options.probe_only);
        best[2] = best[2].min(best_pair_ns(options.trips));
        drop(under_test);
    }
    let last = if options.probe_only { "shared probe" } else { "agent" };
    for (what, ns) in ["nothing", "empty program", last].into_iter().zip(best) {
        println!("{what:<14} {ns:6.0} ns a round trip  {:.4} × nothing  {:.4} × empty", ns / best[0], ns / best[1]);
    }
    let ratio = best[2] / best[1];
    let kept = ratio <= BAR;
    println!("{} {ratio:.4}, bar {BAR} × an empty program", if kept { "ok" } else { "ABOVE" });
    kept
}

fn load_empty() -> Object {
    Loader::new().load(fixtures::switch_empty::SKELETON.options()).unwrap()
}

/// The cheapest of a round's pairs of players: where in memory a process happens to lie makes a
/// difference of some per cent, more than what is measured.
fn best_pair_ns(trips: u32) -> f64 {
    (0..PAIRS).map(|_| round_trip_ns(trips / PAIRS)).fold(f64::INFINITY, f64::min)
}

/// CPU time of both players, in nanoseconds a round trip.
fn round_trip_ns(trips: u32) -> f64 {
    let (ping_in, pong_out) = std::io::pipe().unwrap();
    let (pong_in, ping_out) = std::io::pipe().unwrap();
    let pong = player("pong", trips, pong_in.into(), pong_out.into());
    let ping = player("ping", trips, ping_in.into(), ping_out.into());
    let total: f64 = [ping, pong].into_iter().map(cpu_ns).sum();
    total / f64::from(trips)
}

/// Starts one on the last CPU.
fn player(who: &str, trips: u32, input: OwnedFd, output: OwnedFd) -> Child {
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    let mut c = Command::new("taskset");
    c.arg("-c").arg(last.to_string()).arg(std::env::current_exe().unwrap());
    c.args(["player", who, &trips.to_string()]).stdin(input).stdout(output).stderr(Stdio::piped()).spawn().unwrap()
}

fn cpu_ns(player: Child) -> f64 {
    let out = player.wait_with_output().unwrap();
    String::from_utf8_lossy(&out.stderr).trim().parse().unwrap()
}

/// A player: reads and writes single bytes without a buffer, and says what CPU time that took.
fn play(first: bool, trips: u32) {
    let mut input = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut output = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap());
    let mut byte = [1];
    let before = bianque::host::sys::process_cpu_ns();
    for _ in 0..trips {
        if first {
            output.write_all(&byte).unwrap();
        }
        input.read_exact(&mut byte).unwrap();
        if !first {
            output.write_all(&byte).unwrap();
        }
    }
    eprintln!("{}", bianque::host::sys::process_cpu_ns() - before);
}

/// The agent with all default collectors, or its shared probe alone; ends when dropped.
enum UnderTest {
    Agent { _agent: Agent },
    Probe { _sched: Sched },
}

impl UnderTest {
    fn start(probe_only: bool) -> Self {
        if probe_only {
            let shared = Shared::load(&mut Loader::new(), &[Sched::CPU_TIME, Sched::RUN_QUEUE]);
            return UnderTest::Probe { _sched: shared.get().unwrap() };
        }
        let agent = Agent::start();
        // Its own start is not what is measured.
        std::thread::sleep(Duration::from_secs(1));
        UnderTest::Agent { _agent: agent }
    }
}
