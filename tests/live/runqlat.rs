// SPDX-License-Identifier: Apache-2.0
//! Waiting for a CPU.

use std::time::Duration;

use crate::support::{Agent, Group, Need, Process, own_machine, place, program, timeout, wait_for};

/// `threads SECONDS`: six threads, every other one of which sleeps now and then, and which all stand still in the end.
/// `beside`: two pairs that wake each other, four that are half busy, and one that never sleeps.
const LOAD: &str = r#"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
static volatile long turns;
static double end;
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
static void busy(double seconds)
{
    for (double until = now() + seconds; now() < until;)
        turns++;
}
static void *waits(void *number)
{
    while (now() < end) {
        busy(0.004);
        if ((long)number % 2)
            usleep(1500);
    }
    for (;;)
        pause();
}
static void half_busy(void)
{
    for (;;) {
        busy(0.003);
        usleep(3000);
    }
}
static void wake(int from, int to)
{
    for (char byte = 0;;)
        if (write(to, &byte, 1) != 1 || read(from, &byte, 1) != 1)
            _exit(1);
}
static int child(void)
{
    int pid = fork();
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid == 0;
}
int main(int argc, char **argv)
{
    if (argc == 3) {
        end = now() + atof(argv[2]);
        for (long i = 1; i < 6; i++) {
            pthread_t thread;
            if (pthread_create(&thread, 0, waits, (void *)i))
                return 1;
        }
        waits(0);
    }
    for (int i = 0; i < 2; i++) {
        int there[2], back[2];
        if (pipe(there) || pipe(back))
            return 1;
        if (child())
            wake(there[0], back[1]);
        if (child())
            wake(back[0], there[1]);
    }
    for (int i = 0; i < 4; i++)
        if (child())
            half_busy();
    for (;;)
        turns++;
}
"#;

/// What the threads of a process waited, in seconds, as the kernel has it.
fn waited(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let texts = threads.map(|t| std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap());
    texts.map(|t| t.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e9).sum()
}

/// What ended waits on all CPUs came to, in seconds, as the kernel has it: the eighth number of a CPU. Nothing on a
/// kernel without `CONFIG_SCHEDSTATS`.
fn node_waited() -> f64 {
    let text = std::fs::read_to_string("/proc/schedstat").unwrap_or_default();
    let cpus = text.lines().filter(|l| l.starts_with("cpu"));
    cpus.map(|l| l.split_whitespace().nth(8).unwrap().parse::<f64>().unwrap() / 1e9).sum()
}

const NODE: &str = "linux_sched_runqueue_latency_seconds_sum";
const WORKLOAD: &str = "linux_container_sched_runqueue_latency_seconds_sum";

/// The node's figure lies between two of the kernel's own: the agent reads once a second.
struct Node {
    before: f64,
    agents: f64,
    after: f64,
}

impl Node {
    fn read(agent: &Agent) -> Self {
        let before = node_waited();
        std::thread::sleep(timeout(2));
        let agents = agent.metric(NODE, &[]).unwrap_or(0.0);
        Node { before, agents, after: node_waited() }
    }
}

/// What the threads of a cgroup waited is, within 2 %, what the kernel has of them, also where the longest waits go on on
/// another CPU than they began on; the same of the node.
///
/// On every kernel.
#[test]
fn waits_that_move_between_cpus_are_whole() {
    let _place = place!(Need::Agent, Need::Compiler);
    let agent = Agent::shared("");
    let load = program("waiting", LOAD);
    let run = |group: &Group, args: &str| {
        Process::start(&format!("echo $$ > {}/cgroup.procs && exec {} {args}", group.dir(), load.0.display()))
    };
    let (group, crowd) = (Group::new("waits"), Group::new("beside"));
    let from = Node::read(&agent);
    let (seconds, others) = (timeout(8), run(&crowd, "beside"));
    let threads = run(&group, &format!("threads {}", seconds.as_secs()));
    std::thread::sleep(seconds);
    wait_for("threads that stand still", timeout(20), || {
        let sum = waited(threads.pid());
        std::thread::sleep(Duration::from_millis(500));
        (waited(threads.pid()) == sum).then_some(())
    });
    drop(others);
    let to = Node::read(&agent);

    let kernels = waited(threads.pid());
    let agents = agent.metric(WORKLOAD, &[("container_name", &group.path())]).unwrap_or(0.0);
    let (least, most, node) = (to.before - from.after, to.after - from.before, to.agents - from.agents);
    eprintln!("threads: {agents:.3} s of {kernels:.3} s; node: {node:.3} s of {least:.3} to {most:.3} s");
    assert!(kernels > seconds.as_secs_f64(), "they waited only {kernels} s");
    assert!((agents - kernels).abs() < 0.02 * kernels, "threads: {agents} s of {kernels} s");
    let sums = to.after > 0.0;
    assert!(!sums || node > 0.98 * least && node < 1.02 * most, "node: {node} s of {least} to {most} s");
    let lost = |reason| agent.metric("bianque_records_lost_total", &[("probe", "sched"), ("reason", reason)]);
    assert_eq!(lost("map_full").unwrap_or(0.0), 0.0);
    // Hosted kernels may run no program at a few switches.
    if own_machine() {
        assert_eq!(lost("unseen").unwrap_or(0.0), 0.0);
    }
}
