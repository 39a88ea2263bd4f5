// SPDX-License-Identifier: Apache-2.0
//! Processes and threads.

use crate::support::{Agent, Container, Need, place, program, timeout, wait_for};

/// Ten children, of which one is stopped; then it stays in vfork(2), uninterruptible, for as long as the last one sleeps.
const FAMILY: &str = r"
#include <signal.h>
#include <unistd.h>
int main(void)
{
    for (int i = 0; i < 10; i++) {
        int child = fork();
        if (child == 0)
            for (;;)
                pause();
        if (i == 0)
            kill(child, SIGSTOP);
    }
    if (vfork() == 0) {
        sleep(3600);
        _exit(0);
    }
}
";

/// What the processes of a container do is its own figure, exactly, beside its limit; the node's holds at least that and
/// about what /proc has.
///
/// On every kernel.
#[test]
fn states_are_the_containers() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let agent = Agent::shared("[metrics]\ninterval = \"2s\"\n");
    let family = Container::of_program("family", &["--pids-limit", "40"], &program("family", FAMILY), &[]);
    let of = |metric: &str, state: Option<&str>| {
        let labels = [("container_name", family.name.as_str())];
        let state = state.map(|s| ("linux_thread_state", s));
        agent.metric(metric, &labels.into_iter().chain(state).collect::<Vec<_>>())
    };
    wait_for("its processes", timeout(20), || of("linux_container_process_count", None).filter(|n| *n == 12.0));
    let states = ["blocked", "stopped", "sleeping", "running", "defunct"];
    let found = states.map(|s| of("linux_container_thread_count", Some(s)));
    assert_eq!(found, [1.0, 1.0, 10.0, 0.0, 0.0].map(Some));
    assert_eq!(of("linux_container_thread_limit", None), Some(40.0));

    let processes = std::fs::read_dir("/proc").unwrap();
    let there = processes.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().parse::<u32>().is_ok()).count();
    let states = ["running", "sleeping", "blocked", "idle", "stopped", "frozen", "defunct"];
    let counted: f64 =
        states.map(|s| agent.metric("system_process_count", &[("process_state", s)]).unwrap()).iter().sum();
    let there = there as f64;
    assert!((there * 0.7..there * 1.3).contains(&counted), "{counted} counted, {there} there");
    assert!(agent.metric("linux_file_count", &[]).is_some_and(|n| n > 100.0));
}
