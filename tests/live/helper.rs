// SPDX-License-Identifier: Apache-2.0
//! Files of strangers that do not answer, and what they must not hold up.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Agent, Group, Need, Process, events_of, is_about, place, program, shell, timeout, wait_for};

const OOM_KILL: &str = "linux.memory.oom_kill";

/// Takes memory in a function of its own, until another process of its cgroup is killed for it.
const GREEDY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
__attribute__((noinline)) void take_each_page(volatile char *at, long n)
{
    for (long i = 0; i < n; i += 4096)
        at[i] = 1;
}
static void take(long n)
{
    mlockall(MCL_FUTURE | MCL_ONFAULT);
    take_each_page(mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), n);
}
int main(void)
{
    if (fork() == 0) {
        int file = open("/proc/self/oom_score_adj", O_WRONLY);
        if (write(file, "1000", 4) < 0)
            _exit(1);
        take(10 << 20);
        for (;;)
            pause();
    }
    sleep(1);
    take(12 << 20);
    sleep(1);
    return 0;
}
"#;

/// Ends what is left in a cgroup: it holds the file system open.
struct Emptied(String);

impl Drop for Emptied {
    fn drop(&mut self) {
        shell(&format!("kill -9 $(cat {}/cgroup.procs)", self.0));
    }
}

/// A memory cgroup that may have 16 MiB.
fn small_group(label: &str) -> Group {
    let group = Group::of("memory", label);
    let limit = if Path::new(&group.dir()).join("memory.max").exists() { "max" } else { "limit_in_bytes" };
    std::fs::write(format!("{}/memory.{limit}", group.dir()), "16777216").unwrap();
    group
}

/// A program on a file system that does not answer is killed: its event comes without names, others with theirs,
/// it is said what is the matter, and nothing holds the agent when it is ended by force.
#[test]
fn a_file_system_that_does_not_answer_holds_up_nobody() {
    let _place = place!(Need::Agent, Need::Compiler);
    if !Path::new("/dev/fuse").exists() && !shell("modprobe fuse && test -e /dev/fuse").0 {
        eprintln!("skipped: no FUSE");
        return;
    }
    let mut agent = Agent::start("");
    let (silent, dir) = program("silentfs", include_str!("../provoke/silentfs.c"));
    let (greedy, _greedy) = program("greedy", GREEDY);
    let (group, beside) = (small_group("silent"), small_group("beside"));
    let (mount, said) = (dir.path().join("mnt"), dir.path().join("said"));
    std::fs::create_dir(&mount).unwrap();
    let (silent, said_to) = (silent.display(), said.display());
    let line = format!("exec unshare -m {silent} {} {} >{said_to}", mount.display(), group.dir());
    let server = Process::start(&line);
    let _rest = Emptied(group.dir());
    let first = agent.wait_event(OOM_KILL, timeout(20), |e| is_about(e, "linux.cgroup.path", &group.path()));
    assert!(!first["stacks"]["user"].to_string().contains("greedy"), "{first}");
    wait_for("somebody who is held", timeout(40), || {
        std::fs::read_to_string(&said).ok().filter(|t| t.contains("held"))
    });

    // On a busy machine not each gets its names in time, but each its event.
    let mut kills = 0;
    wait_for("kill with the names of its functions", timeout(20), || {
        let begin = Instant::now();
        let line = format!("echo $$ >{}/cgroup.procs; exec {}", beside.dir(), greedy.display());
        let _greedy = Process::start(&line);
        kills += 1;
        let of_it = || events_of(agent.json(&["events", "--name", OOM_KILL]), "linux.cgroup.path", &beside.path());
        let all = wait_for("its event", timeout(5), || Some(of_it()).filter(|all| all.len() == kills));
        // It sleeps for a second before it takes memory.
        let late = begin.elapsed().saturating_sub(Duration::from_secs(1));
        eprintln!("a kill beside a helper that hangs is reported within {late:?}");
        assert!(late < timeout(1), "reported after {late:?}");
        all.last().filter(|e| e["stacks"]["user"].to_string().contains("take_each_page")).map(drop)
    });
    // The helper cannot be ended while the file system holds it, and this is said.
    wait_for("word of the file system", timeout(20), || {
        agent.log().contains("file system does not answer").then_some(())
    });

    assert!(agent.get("/readyz").contains("not answer"), "{}", agent.get("/readyz"));
    let doctor = agent.cli(&["doctor", "oom"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("not answer"), "{doctor}");

    let begin = Instant::now();
    agent.kill();
    let took = begin.elapsed();
    eprintln!("SIGKILL ended the agent within {took:?}");
    assert!(took < timeout(1), "it took {took:?} to end it");
    drop(server);
}

/// A container of no runtime, by its cgroup alone, with a process in it.
struct Bare {
    id: String,
    dir: String,
    _process: Process,
}

impl Bare {
    fn start(within: &Group, digit: char, line: &str) -> Self {
        let id = format!("{:0>64}", format!("{:x}{digit}", std::process::id()));
        let dir = format!("{}/{id}", within.dir());
        std::fs::create_dir(&dir).unwrap();
        let process = Process::start(&format!("echo $$ >{dir}/cgroup.procs; {line}"));
        Bare { id, dir, _process: process }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let procs = format!("{}/cgroup.procs", self.dir);
        wait_for("an empty cgroup", timeout(10), || {
            shell(&format!("kill -9 $(cat {procs})"));
            std::fs::remove_dir(&self.dir).ok()
        });
    }
}

/// What a process publishes of itself from memory that lies on a file system which does not answer holds a helper:
/// other workloads are named by theirs, and nothing holds the agent when it is ended by force.
#[test]
fn memory_that_does_not_answer_holds_up_nobody() {
    let _place = place!(Need::Agent, Need::Compiler);
    if !Path::new("/dev/fuse").exists() && !shell("modprobe fuse && test -e /dev/fuse").0 {
        eprintln!("skipped: no FUSE");
        return;
    }
    let mut agent = Agent::start("");
    let (silent, dir) = program("silentmem", include_str!("../provoke/silentmem.c"));
    let group = Group::of("cpu", "silentmem");
    let (mount, said) = (dir.path().join("mnt"), dir.path().join("said"));
    std::fs::create_dir(&mount).unwrap();
    let line = format!("exec unshare -m {} {} >{}", silent.display(), mount.display(), said.display());
    let _silent = Bare::start(&group, 'a', &line);
    wait_for("somebody who is held", timeout(40), || {
        std::fs::read_to_string(&said).ok().filter(|t| t.contains("held"))
    });
    let line = "export OTEL_SERVICE_NAME=beside; exec sh -c 'while sleep 0.05; do :; done'";
    let beside = Bare::start(&group, 'b', line);
    wait_for("the service of a workload beside them", timeout(60), || {
        agent.metric("linux_workload_info", &[("container_id", &beside.id), ("service_name", "beside")])
    });
    wait_for("word of the file system", timeout(20), || {
        agent.get("/readyz").contains("1 helper process waits for a file system that does not answer").then_some(())
    });
    let begin = Instant::now();
    agent.kill();
    let took = begin.elapsed();
    eprintln!("SIGKILL ended the agent within {took:?}");
    assert!(took < timeout(1), "it took {took:?} to end it");
}

/// Takes memory, until another process of its cgroup is killed for it, in a function whose name is `BOMB`; that is
/// called by code of which nobody knows but its perf map: a FIFO, one of many lines, or one of a long name.
#[cfg(target_arch = "x86_64")]
const JIT: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
void take(volatile char *at, long n) __asm__("BOMB");
__attribute__((noinline)) void take(volatile char *at, long n)
{
    for (long i = 0; i < n; i += 4096)
        at[i] = 1;
}
static void use(long n, void (*caller)(void *, long, void *))
{
    mlockall(MCL_FUTURE | MCL_ONFAULT);
    void *at = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    caller ? caller(at, n, take) : take(at, n);
}
int main(int argc, char **argv)
{
    /* push %rbp; mov %rsp, %rbp; call *%rdx; pop %rbp; ret */
    const unsigned char code[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd2, 0x5d, 0xc3 };
    int others = PROT_READ | PROT_WRITE | PROT_EXEC;
    void *jit = memcpy(mmap(0, 4096, others, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), code, sizeof code);
    char path[64];
    if (argc < 2)
        return 1;
    if (fork() == 0) {
        int file = open("/proc/self/oom_score_adj", O_WRONLY);
        if (write(file, "1000", 4) < 0)
            _exit(1);
        use(10 << 20, 0);
        for (;;)
            pause();
    }
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    if (!strcmp(argv[1], "fifo")) {
        mkfifo(path, 0600);
    } else {
        FILE *map = fopen(path, "w");
        for (int i = 0; !strcmp(argv[1], "lines") && i < 1000000; i++)
            fprintf(map, "%lx 8 f\n", (long)jit);
        fprintf(map, "%lx 1000 ", (long)jit);
        for (int i = 0; !strcmp(argv[1], "name") && i < 8000000; i++)
            putc('x', map);
        fclose(map);
    }
    sleep(1);
    use(12 << 20, jit);
    sleep(1);
    unlink(path);
    return 0;
}
"#;

/// A name of a few hundred bytes that stands for some 16 GB: each parameter's text is twice as long as the last one's.
#[cfg(target_arch = "x86_64")]
fn bomb() -> String {
    let place = |i: u32| char::from_digit(i - 1, 36).map_or('0', |digit| digit.to_ascii_uppercase());
    let parameters = (2..35).map(|i| format!("S0_IS{0}_S{0}_E", place(i)));
    format!("_Z1f1A1BIS_S_E{}", parameters.collect::<String>())
}

/// Symbols that are made to break who reads them: each event comes, the agent's memory stays, and the functions of
/// another program are named.
#[cfg(target_arch = "x86_64")]
#[test]
fn hostile_symbols_hold_up_nobody() {
    let _place = place!(Need::Agent, Need::Compiler);
    let agent = Agent::start("");
    let (jit, _jit) = program("jit", &JIT.replace("BOMB", &bomb()));
    let killed = |group: &Group, line: &str| {
        let _program = Process::start(&format!("echo $$ >{}/cgroup.procs; exec {line}", group.dir()));
        agent.wait_event(OOM_KILL, timeout(20), |e| is_about(e, "linux.cgroup.path", &group.path()))
    };
    for map in ["fifo", "lines", "name"] {
        let group = small_group(map);
        let event = killed(&group, &format!("{} {map}", jit.display()));
        let longest = event["stacks"]["user"].as_array().into_iter().flatten().filter_map(|f| f.as_str()).map(str::len);
        assert!(longest.max().is_some_and(|n| n < 1024), "{map}: {event}");
    }
    let (greedy, _greedy) = program("greedy", GREEDY);
    let mut beside = 0;
    wait_for("a kill with the names of its functions", timeout(20), || {
        beside += 1;
        let event = killed(&small_group(&format!("beside{beside}")), &greedy.display().to_string());
        event["stacks"]["user"].to_string().contains("take_each_page").then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    eprintln!("the agent took {peak:?} KiB at most");
    assert!(peak.is_some_and(|kib| kib < 256 << 10), "{status}");
}
