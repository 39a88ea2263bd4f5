// SPDX-License-Identifier: Apache-2.0
//! What one run of each program costs, where it has nothing to report (a miss) and where it does (a
//! hit), as the kernel's own BPF statistics have it.
//!
//!     cargo bench --bench probes -- [NAME…]
//!
//! A probe is added as one entry of `CASES`: how it is loaded, and what makes its hooks run. Root. The
//! statistics themselves add some 20 ns to a run (two readings of the clock).

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark may end so")]
#![expect(clippy::disallowed_methods, reason = "what makes the hooks run has to be started")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bianque::host::sys::{process_cpu_ns, stamping_socket};
use bianque::probe::shared::{Feature, Net, Shared, SharedProbe, Softirqs, Tasks};
use bianque::probe::skeletons::{hungtask, linkwatch, memreclaim, net, netrecvlat, oom, ras, softlockup, txtimeout};
use bianque::probe::{CgroupRef, LoadError, LoadOptions, Loader, Object, Reader, Stop};

/// One probe in one situation.
struct Case {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Loader) -> Result<Costs, String>,
}

static CASES: &[Case] = &[
    Case { name: "softirq", what: "miss: packets on loopback", run: |l| softirqs(l, &[Softirqs::DELAYS], DELAY) },
    Case {
        name: "softirq",
        what: "hit: the same, every delay over the limit",
        run: |l| softirqs(l, &[Softirqs::DELAYS], Duration::ZERO),
    },
    Case {
        name: "softirq",
        what: "how long each vector waits and runs: packets on loopback",
        run: |l| softirqs(l, &[Softirqs::LATENCIES], DELAY),
    },
    Case {
        name: "softirq",
        what: "miss, and how long each vector waits and runs: the same",
        run: |l| softirqs(l, &[Softirqs::DELAYS, Softirqs::LATENCIES], DELAY),
    },
    Case { name: "tasks", what: "miss: a walk, a run a task", run: |l| walks(l, None) },
    Case { name: "tasks", what: "hit: a walk with 50 blocked tasks", run: |l| walks(l, Some(50)) },
    Case { name: "softlockup", what: "miss: looks at CPUs, half of them busy", run: looks },
    Case { name: "memreclaim", what: "miss: reclaim of page cache", run: |l| reclaims(l, None) },
    Case { name: "memreclaim", what: "hit: the same, every stall over the limit", run: |l| reclaims(l, Some(0)) },
    Case { name: "net", what: "floor: an empty program on the same drops", run: empty_on_drops },
    Case {
        name: "net",
        what: "drops, but for a few suppressed (bar: 200 ns above the floor): a filter drops what all CPUs send",
        run: |l| network(l, Net::DROPS, 0, &DROPS),
    },
    Case {
        name: "net",
        what: "the same with a filter of 1,000 other cgroups (bar: 1.1 of the one before)",
        run: |l| network(l, Net::DROPS, 1000, &DROPS),
    },
    Case {
        name: "net",
        what: "segments sent again, but for a few suppressed: a filter drops one in five",
        run: |l| network(l, Net::RETRANSMITS, 0, &["tcpretransmit", "--seconds", "5"]),
    },
    Case { name: "netrecvlat", what: "what the stamps cost, without a program", run: stamps },
    Case { name: "netrecvlat", what: "miss: packets on loopback, stamped", run: |l| waits(l, 60_000_000_000) },
    Case { name: "netrecvlat", what: "hit: the same, each over the limit, most suppressed", run: |l| waits(l, 0) },
    Case {
        name: "oom",
        what: "hit: kills in a cgroup (its hooks run for nothing else)",
        run: |l| provoked(l, oom::SKELETON.options().optional(&["kill"]), &["oom-memcg", "--times", "50"]),
    },
    Case {
        name: "hungtask",
        what: "hit: the kernel's detector speaks (for a miss, see tasks)",
        run: |l| {
            let what = ["hungtask", "--seconds", "6", "--writers", "20", "--kernel", "2"];
            provoked(l, hungtask::SKELETON.options().optional(&["hang"]), &what)
        },
    },
    Case {
        name: "linkwatch",
        what: "hit: a device is set up and down (a miss, only with fentry; its other notifications)",
        run: |l| {
            let options = linkwatch::SKELETON.options().optional(&["admin", "first_up"]);
            provoked(l, options, &["linkflap", "--times", "20"])
        },
    },
    Case {
        name: "txtimeout",
        what: "hit: a queue stands still (its hook runs for nothing else)",
        run: |l| provoked(l, txtimeout::SKELETON.options(), &["txtimeout"]),
    },
    Case { name: "ras", what: "miss: signals of no bad page", run: |l| signals(l, &SIGNALS) },
    Case { name: "ras", what: "hit: signals of a bad page, but for a few suppressed", run: |l| signals(l, &BAD_PAGES) },
    Case { name: "ras", what: "hit: machine checks", run: |l| provoked(l, hardware(), &["mce"]) },
];
// lacp has no probe: it listens to rtnetlink.

/// Nobody waits for this signal, so it is thrown away.
const SIGNALS: [&str; 3] = ["bash", "-c", "for ((i = 0; i < 100000; i++)); do kill -URG $$; done"];
/// rt_sigqueueinfo(2) to itself with what the kernel sends of a bad page (BUS_MCEERR_AO).
const BAD_PAGES: [&str; 4] = [
    "perl",
    "-e",
    r#"$SIG{BUS} = "IGNORE"; $i = pack("i3x4Qx104", 7, 0, 5, 4096); for (1..100000) { syscall(0 + $ARGV[0], 0 + $$, 7, $i) == 0 or die }"#,
    if cfg!(target_arch = "aarch64") { "138" } else { "129" },
];

/// From when on softirqs are reported by default.
const DELAY: Duration = Duration::from_millis(100);

/// A filter drops what all CPUs send.
const DROPS: [&str; 3] = ["dropstorm", "--seconds", "5"];

#[expect(dead_code, reason = "only the object is of interest")]
mod fixtures {
    bianque::include_skeletons!("fixtures");
}

/// Runs and their time, by program.
type Costs = BTreeMap<String, (u64, u64)>;

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

fn main() -> ExitCode {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("probes: skipped: loading BPF programs needs root");
        return ExitCode::SUCCESS;
    }
    let before = std::fs::read_to_string(STATISTICS).unwrap_or_default();
    std::fs::write(STATISTICS, "1").unwrap();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for case in CASES.iter().filter(|c| wanted.is_empty() || wanted.iter().any(|w| w == c.name)) {
        println!("{}, {}", case.name, case.what);
        match (case.run)(&mut Loader::new()) {
            Ok(costs) => {
                for (program, (runs, ns)) in costs.into_iter().filter(|(_, (runs, _))| *runs > 0) {
                    println!("  {program:<16} {runs:>9} runs {:>7.0} ns a run", ns as f64 / runs as f64);
                }
            }
            Err(why) => println!("  not here: {why}"),
        }
    }
    std::fs::write(STATISTICS, before.trim()).unwrap();
    ExitCode::SUCCESS
}

/// What the programs that `load` loads cost while `work` goes on; their records are read.
fn measure<T>(load: impl FnOnce() -> T, objects: impl FnOnce(&T) -> Vec<Object>, work: impl FnOnce(&T)) -> Costs {
    let others: BTreeSet<u32> = programs().map(|p| p.id()).collect();
    let loaded = load();
    let (stop, reader) = (Stop::new().unwrap(), Reader::new(&objects(&loaded)).unwrap());
    std::thread::scope(|s| {
        s.spawn(|| reader.run(&stop, |_, _, _| ()).unwrap());
        work(&loaded);
        stop.stop();
    });
    let ours = programs().filter(|p| !others.contains(&p.id()));
    ours.map(|p| {
        let name = p.name_as_str().unwrap_or("?").to_owned();
        (name, (p.run_count(), u64::try_from(p.run_time().as_nanos()).unwrap()))
    })
    .collect()
}

fn programs() -> impl Iterator<Item = aya::programs::ProgramInfo> {
    aya::programs::loaded_programs().filter_map(Result::ok)
}

fn load_one(loader: &mut Loader, options: LoadOptions) -> Object {
    loader.load(options).unwrap_or_else(|e| panic_with(&e.to_string()))
}

fn panic_with(why: &str) -> ! {
    eprintln!("probes: {why}");
    std::process::exit(1)
}

fn softirqs(loader: &mut Loader, features: &[Feature], limit: Duration) -> Result<Costs, String> {
    let load = || {
        let probe: Softirqs = Shared::load(loader, features).get().unwrap_or_else(|e| panic_with(&e.to_string()));
        probe.set_limits(limit, DELAY).unwrap();
        probe
    };
    Ok(measure(load, |p| vec![p.object().clone()], |_| packets()))
}

/// Two seconds of packets to ourselves.
fn packets() {
    let to = UdpSocket::bind("127.0.0.1:0").unwrap();
    let from = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (address, mut buffer) = (to.local_addr().unwrap(), [0; 64]);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        from.send_to(&[0; 32], address).unwrap();
        to.recv(&mut buffer).unwrap();
    }
}

fn walks(loader: &mut Loader, blocked: Option<u32>) -> Result<Costs, String> {
    let hang = match blocked {
        None => None,
        Some(n) => {
            let mut c = provocation("hungtask");
            let child = c.args(["--seconds", "8", "--writers", &n.to_string()]).spawn().map_err(|e| e.to_string())?;
            std::thread::sleep(Duration::from_secs(4));
            Some(child)
        }
    };
    let load = || shared::<Tasks>(loader, Tasks::BLOCKED).unwrap_or_else(|e| panic_with(&e.to_string()));
    let costs = measure(
        load,
        |t| vec![t.object().clone()],
        |t| {
            let (start, mut found) = (Instant::now(), 0);
            for _ in 0..100 {
                found += t.blocked(Duration::from_millis(100)).unwrap().len();
            }
            println!("  a walk: {} us of wall time, {} found", start.elapsed().as_micros() / 100, found / 100);
        },
    );
    if let Some(mut child) = hang {
        child.wait().map_err(|e| e.to_string())?;
    }
    Ok(costs)
}

fn looks(loader: &mut Loader) -> Result<Costs, String> {
    let options = softlockup::SKELETON.options().switch(softlockup::switch::PERIOD_NS, 500_000_000_u64);
    Ok(measure(
        || load_one(loader, options),
        |o| vec![o.clone()],
        |o| {
            let sampling = o.sample("look", 500).unwrap();
            sampling.start().unwrap();
            let end = Instant::now() + Duration::from_secs(4);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        },
    ))
}

fn reclaims(loader: &mut Loader, limit: Option<u64>) -> Result<Costs, String> {
    let v1 = "/sys/fs/cgroup/memory";
    let root = if std::path::Path::new(v1).exists() { v1 } else { "/sys/fs/cgroup" };
    let group = format!("{root}/bianque-bench-{}", std::process::id());
    std::fs::create_dir(&group).map_err(|e| format!("{group}: {e}"))?;
    let mut options = memreclaim::SKELETON.options();
    if let Some(ns) = limit {
        options = options.setting(memreclaim::setting::STALL_LIMIT_NS, ns);
    }
    let costs = measure(
        || load_one(loader, options),
        |o| vec![o.clone()],
        |_| {
            let done = provocation("reclaim-memcg").args(["--in", &group, "--file-mb", "2048"]).status();
            if !done.is_ok_and(|s| s.success()) {
                println!("  nothing was reclaimed");
            }
        },
    );
    std::fs::remove_dir(&group).map_err(|e| format!("{group}: {e}"))?;
    Ok(costs)
}

fn shared<P: SharedProbe>(loader: &mut Loader, feature: Feature) -> Result<P, LoadError> {
    Shared::load(loader, &[feature]).get()
}

/// `denied`: cgroups that somebody's filter denies; none of them is what the packets are of.
fn network(loader: &mut Loader, feature: Feature, denied: u64, what: &[&str]) -> Result<Costs, String> {
    let load = || {
        let probe = shared::<Net>(loader, feature).unwrap_or_else(|e| panic_with(&e.to_string()));
        let filtered = probe.object().table::<CgroupRef, u64>("filtered").unwrap();
        for id in 1 << 40..(1 << 40) + denied {
            filtered.put(&CgroupRef { id, hierarchy: 0, reserved: 0 }, &u64::MAX).unwrap();
        }
        probe.object().set(net::setting::FILTERING, u32::from(denied > 0)).unwrap();
        probe
    };
    storm(what, |work| measure(load, |n| vec![n.object().clone()], |_| work()))
}

fn empty_on_drops(loader: &mut Loader) -> Result<Costs, String> {
    let load = || load_one(loader, fixtures::drop_empty::SKELETON.options());
    storm(&DROPS, |work| measure(load, |o| vec![o.clone()], |_| work()))
}

/// What `measured` makes of a provocation, which sees for itself that it did what it should.
fn storm(what: &[&str], measured: impl FnOnce(&mut dyn FnMut()) -> Costs) -> Result<Costs, String> {
    let mut done = None;
    let costs = measured(&mut || done = provocation(what[0]).args(&what[1..]).stdout(Stdio::piped()).output().ok());
    match done {
        Some(done) if done.status.success() => Ok(costs),
        done => {
            let said = done.map(|d| String::from_utf8_lossy(&d.stdout).trim().to_owned());
            Err(format!("tests/provoke/{}: {}", what[0], said.as_deref().unwrap_or("does not start")))
        }
    }
}

/// What a provocation makes of a probe.
fn provoked(loader: &mut Loader, options: LoadOptions, what: &[&str]) -> Result<Costs, String> {
    storm(what, |work| measure(|| load_one(loader, options), |o| vec![o.clone()], |_| work()))
}

/// A packet to ourselves without and with stamps: rounds alternate, the best of each counts.
fn stamps(_: &mut Loader) -> Result<Costs, String> {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..20 {
        best[0] = best[0].min(packet_ns());
        let socket = stamping_socket().map_err(|e| e.to_string())?;
        // The kernel switches it on in a work item of its own (net_enable_timestamp).
        std::thread::sleep(Duration::from_millis(50));
        best[1] = best[1].min(packet_ns());
        drop(socket);
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "  a packet: {:.0} ns of CPU without, {:.0} ns with stamps ({:+.1} ns)",
        best[0],
        best[1],
        best[1] - best[0]
    );
    Ok(Costs::new())
}

/// CPU time of a packet to ourselves, in nanoseconds.
fn packet_ns() -> f64 {
    const PACKETS: u32 = 20_000;
    let to = UdpSocket::bind("127.0.0.1:0").unwrap();
    let from = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (address, mut buffer) = (to.local_addr().unwrap(), [0; 64]);
    let before = process_cpu_ns();
    for _ in 0..PACKETS {
        from.send_to(&[0; 32], address).unwrap();
        to.recv(&mut buffer).unwrap();
    }
    (process_cpu_ns() - before) as f64 / f64::from(PACKETS)
}

/// The probe of hardware errors while a program runs, which sends signals.
fn signals(loader: &mut Loader, program: &[&str]) -> Result<Costs, String> {
    let mut sent = false;
    let costs = measure(
        || load_one(loader, hardware()),
        |o| vec![o.clone()],
        |_| sent = Command::new(program[0]).args(&program[1..]).status().is_ok_and(|s| s.success()),
    );
    if sent { Ok(costs) } else { Err(format!("{} sent nothing", program[0])) }
}

fn hardware() -> LoadOptions {
    ras::SKELETON.options().optional(&["mce", "edac", "aer", "ghes", "extlog", "arm", "page", "victim"])
}

fn waits(loader: &mut Loader, limit: u64) -> Result<Costs, String> {
    let _stamps = stamping_socket().map_err(|e| e.to_string())?;
    let now = bianque::host::Clock::default().now();
    let offset = i64::try_from(i128::from(now.wall.0) - i128::from(now.boot_ns)).map_err(|e| e.to_string())?;
    let mut options = netrecvlat::SKELETON.options().optional(&["datagram"]);
    options =
        options.setting(netrecvlat::setting::WALL_OFFSET_NS, offset).setting(netrecvlat::setting::SINCE_NS, 0_u64);
    for limited in [
        netrecvlat::setting::STACK_LIMIT_NS,
        netrecvlat::setting::TRANSPORT_LIMIT_NS,
        netrecvlat::setting::USER_LIMIT_NS,
    ] {
        options = options.setting(limited, limit);
    }
    Ok(measure(|| load_one(loader, options), |o| vec![o.clone()], |_| packets()))
}

fn provocation(name: &str) -> Command {
    let mut c = Command::new(format!("{}/tests/provoke/{name}", env!("CARGO_MANIFEST_DIR")));
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c
}
