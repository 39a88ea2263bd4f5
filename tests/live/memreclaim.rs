// SPDX-License-Identifier: Apache-2.0
//! Tasks that stand still to free memory.

use serde_json::Value as Json;

use crate::support::{
    Agent, Container, Group, Need, Process, events_of, is_about, place, program, provoke, timeout, wait_for,
};

const NAME: &str = "linux.memory.reclaim_stall";
/// Many short stalls: reclaim of page cache is cheap.
const SENSITIVE: &str = "[collectors.memreclaim]\nwindow_limit = \"1ms\"\n";

/// A task whose memory cgroup is full of page cache is named, with the cgroup that was reclaimed, its
/// limit, and what was done; a second time as well. Of one that has room nothing is said.
#[test]
fn full_memory_cgroup_is_named() {
    let _place = place!(Need::Agent);
    let agent = Agent::shared(SENSITIVE);
    let others = Group::of("memory", "roomy");
    let _io = Process::start(&format!(
        "echo $$ > {}/cgroup.procs; while :; do dd if=/dev/zero of=/tmp/bq-io.$$ bs=1M count=8 2>/dev/null; rm -f /tmp/bq-io.$$; done",
        others.dir()
    ));
    for round in 0..2 {
        let group = Group::of("memory", "full");
        provoke("reclaim-memcg", &["--in", &group.dir(), "--limit-mb", "16", "--file-mb", "512"]);
        let path = group.path();
        // Read-ahead asks for large blocks: there may be compaction as well.
        let event = agent.wait_event(NAME, timeout(10), |e| {
            is_about(e, "linux.cgroup.path", &path) && e["attributes"]["linux.reclaim.kind"] == "memcg"
        });
        let a = &event["attributes"];
        assert_eq!((&event["severity"], &a["thread.name"]), (&"WARN".into(), &"dd".into()), "round {round}: {event}");
        assert_eq!(a["linux.reclaim.cgroup.path"], path.as_str(), "{event}");
        assert_eq!(a["linux.reclaim.limit"], 16 << 20, "{event}");
        let int = |key: &str| a[key].as_u64().unwrap_or(0);
        assert!(int("linux.reclaim.scanned") > 0 && int("linux.reclaim.reclaimed") > 0, "{event}");
        assert!(int("linux.reclaim.stalls") > 0 && int("linux.reclaim.window") > 0, "{event}");
        assert!(a["linux.reclaim.gfp_mask"].as_str().is_some_and(|g| g.starts_with("GFP_")), "{event}");
        assert!(event["stacks"]["kernel"].to_string().contains("try_to_free_mem_cgroup_pages"), "{event}");
        assert!(a["linux.pressure.memory.after"]["some"]["total"].is_u64(), "{event}");
    }
    assert_eq!(
        events_of(agent.json(&["events", "--name", NAME]), "linux.cgroup.path", &others.path()),
        [] as [Json; 0]
    );
}

/// Where the program was that had to wait is named, by its own function.
#[test]
fn programs_own_function_is_named() {
    let _place = place!(Need::Agent, Need::Compiler);
    let agent = Agent::shared(SENSITIVE);
    let (reader, _dir) = program("reader", MAPPED_READER);
    let group = Group::of("memory", "mapped");
    let reader = reader.display().to_string();
    provoke("reclaim-memcg", &["--in", &group.dir(), "--file-mb", "512", "--reader", &reader]);
    let event = agent.wait_event(NAME, timeout(10), |e| {
        is_about(e, "linux.cgroup.path", &group.path()) && e["stacks"]["user"].to_string().contains("touch_each_page")
    });
    let innermost = event["stacks"]["user"][0].as_str().unwrap_or_default();
    assert!(innermost.starts_with("touch_each_page+"), "{event}");
    assert!(event["attributes"]["linux.stack.kernel_id"].is_string(), "{event}");
}

/// Reads its standard input through a mapping: the faults are in its own function, with no library between.
const MAPPED_READER: &str = r"
#include <sys/mman.h>
#include <unistd.h>
volatile unsigned long sum;
__attribute__((noinline)) void touch_each_page(const unsigned char *p, long n)
{
    for (long i = 0; i < n; i += 4096)
        sum += p[i];
}
int main(void)
{
    long n = lseek(0, 0, SEEK_END);
    unsigned char *p = mmap(0, n, PROT_READ, MAP_SHARED, 0, 0);
    if (p == MAP_FAILED)
        return 1;
    for (int i = 0; i < 4; i++)
        touch_each_page(p, n);
    return 0;
}
";

/// The process of a container that pays is the container's.
///
/// On every kernel.
#[test]
fn full_container_is_named() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::shared(SENSITIVE);
    let container = Container::start("full", &[], &["sleep", "1000"]);
    provoke("reclaim-memcg", &["--in", &container.cgroup("memory"), "--limit-mb", "16", "--file-mb", "512"]);
    let event = agent.wait_event(NAME, timeout(10), |e| {
        is_about(e, "container.name", &container.name) && e["attributes"]["linux.reclaim.kind"] == "memcg"
    });
    assert_eq!(event["resource"]["container.id"], container.id.as_str());
    wait_for("counter of the container's stalls", timeout(10), || {
        let labels = [("container_name", container.name.as_str()), ("linux_reclaim_kind", "memcg")];
        agent.metric("linux_container_memory_reclaim_stalls_total", &labels).filter(|n| *n >= 1.0)
    });
}

/// Over a slow swap device the stalls are long: found with the limits as they are by default.
#[test]
fn slow_swap_is_found_by_default() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::start("");
    let group = Group::of("memory", "swapping");
    provoke("reclaim-memcg", &["--in", &group.dir(), "--limit-mb", "16", "--swap"]);
    let event = agent.wait_event(NAME, timeout(10), |e| is_about(e, "linux.cgroup.path", &group.path()));
    assert!(event["duration_ns"].as_u64().is_some_and(|ns| ns >= 500_000_000), "{event}");
}

/// The node is short of memory: nobody's cgroup was reclaimed.
#[test]
fn short_node_is_distinguished() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::shared(SENSITIVE);
    provoke("reclaim-direct", &[]);
    let event = agent.wait_event(NAME, timeout(20), |e| e["attributes"]["linux.reclaim.kind"] == "direct");
    assert!(event["attributes"]["linux.reclaim.cgroup.path"].is_null(), "{event}");
    assert!(event["attributes"]["linux.reclaim.order"].is_u64(), "{event}");
}

/// Memory is there, but in pieces.
#[test]
fn compaction_is_distinguished() {
    let _place = place!(Need::Agent, Need::OwnMachine);
    let agent = Agent::shared(SENSITIVE);
    provoke("compaction", &[]);
    let event = agent.wait_event(NAME, timeout(20), |e| e["attributes"]["linux.reclaim.kind"] == "compaction");
    assert!(event["attributes"]["linux.reclaim.order"].as_u64().is_some_and(|o| o > 3), "{event}");
}
