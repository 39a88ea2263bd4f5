// SPDX-License-Identifier: Apache-2.0
//! What the agent's process may do, and where: read the kernel's files, start threads and programs, and
//! leave what the compiler can check.

use super::{Source, has_word, literals, none, rust};

/// Readings of the kernel have roots that tests move: nobody else opens /proc or /sys.
#[test]
fn only_probe_and_host_read_proc_and_sys() {
    let problems = literals("src", |source, text| {
        let elsewhere = !matches!(source.module(), "probe" | "host" | "helper");
        let path = ["/proc", "/sys"].iter().any(|p| text == *p || text.starts_with(&format!("{p}/")));
        (elsewhere && path).then(|| format!("{text:?} is a path of the kernel's"))
    });
    none(&problems, "only src/probe, src/host and src/helper read /proc and /sys: add a reading to host");
}

/// What the memory of a process and its mappings lie on may not answer, and no more may any file system but
/// the kernel's own: `src/helper` asks them, in a process of its own.
#[test]
fn only_helpers_ask_what_strangers_have() {
    const FILES: &[&str] = &["maps", "smaps", "map_files", "numa_maps", "environ", "cmdline", "mem", "root", "cwd"];
    let of_process = |text: &str| FILES.iter().any(|f| text == *f || text.ends_with(&format!("/{f}")));
    let mut problems = literals("src", |source, text| {
        // The latter reads /proc/net/sockstat, which has a word "mem".
        let may = ["src/host/mod.rs", "src/host/proc/net.rs"].contains(&&*source.path);
        let elsewhere = source.module() != "helper" && !may;
        (elsewhere && of_process(text))
            .then(|| format!("{text:?} is a file of a process that may make its reader wait"))
    });
    for source in rust("src").into_iter().filter(|s| s.module() != "helper") {
        problems.extend(source.find(|l| {
            let calls = ["statfs", "statvfs", "process_vm_readv"];
            calls.iter().find(|c| has_word(l, c)).map(|c| format!("{c} may wait for a stranger's file system"))
        }));
    }
    none(&problems, "what is strangers' is read by src/helper: add a question to its messages");
}

/// What runs, and how it is stopped, is seen in one place. (`spawn_blocking` is fine: who calls it
/// waits for it.)
#[test]
fn only_agent_spawns() {
    const SPAWNS: &[&str] = &[
        "tokio::spawn",
        "task::spawn(",
        "thread::spawn",
        "thread::Builder",
        "thread::scope",
        "JoinSet",
        "Handle::current",
        // Programs: the agent starts itself alone, see clippy.toml.
        "process::Command",
        "Command::new",
    ];
    let sources = rust("src").into_iter().filter(|s| s.module() != "agent");
    let problems: Vec<_> = sources
        .flat_map(|s| {
            s.find(|l| SPAWNS.iter().find(|w| l.contains(*w)).map(|w| format!("{w} starts a task, thread or program")))
        })
        .collect();
    none(&problems, "only src/agent spawns: hand it a future or a closure");
}

/// Memory safety rests on few, named places.
#[test]
fn unsafe_stays_where_it_is_needed() {
    let allowed =
        |s: &Source| s.module() == "probe" || ["src/host/sys.rs", "src/helper/sandbox.rs"].contains(&&*s.path);
    let sources = rust("src").into_iter().filter(|s| !allowed(s));
    let problems: Vec<_> =
        sources.flat_map(|s| s.find(|l| has_word(l, "unsafe").then(|| "has unsafe code".to_owned()))).collect();
    none(&problems, "unsafe is for src/probe, src/host/sys.rs and src/helper/sandbox.rs");
}

/// Collectors run on fixtures and side by side in one process: nothing hides in a static.
#[test]
fn there_is_no_global_mutable_state() {
    const CELLS: &[&str] = &["Mutex", "RwLock", "Atomic", "OnceLock", "OnceCell", "RefCell", "ArcSwap"];
    let problems: Vec<_> = rust("src")
        .iter()
        .flat_map(|s| {
            s.find(|l| {
                let declares = has_word(l, "static") && l.contains(':') && !l.contains("'static");
                let mutable = l.contains("static mut ") || (declares && CELLS.iter().any(|c| l.contains(c)));
                mutable.then(|| "keeps state in a static".to_owned())
            })
        })
        .collect();
    none(&problems, "no global mutable state: hand it in");
}
