// SPDX-License-Identifier: Apache-2.0
//! What probes do before they take room in a ring.

use std::fs;

use super::{files, has_extension, none, relative};

/// Every ring of events limits each workload before it takes room, by `RECORDS` of `limit.h`; a ring without
/// limits is for what is no event, and named here.
#[test]
fn rings_of_events_are_limited() {
    const NO_EVENTS: &[(&str, &str)] = &[
        ("cgroup_change", "none may be missing: after a loss all cgroups are read anew"),
        ("cpu_sample", "its rate is its setting, and each subscriber counts its own losses"),
    ];
    let mut problems = Vec::new();
    for skeleton in bianque::probe::skeletons::ALL {
        for ring in skeleton.rings {
            let excepted = NO_EVENTS.iter().any(|(name, _)| *name == ring.name);
            if ring.limited == excepted {
                problems.push(format!("{}: ring {}, limited: {}", skeleton.name, ring.name, ring.limited));
            }
        }
    }
    for path in files("bpf", |p| has_extension(p, "c") || has_extension(p, "h")) {
        let text = fs::read_to_string(&path).unwrap();
        if relative(&path).starts_with("bpf/include/") {
            continue;
        }
        if text.contains("bpf_ringbuf_") {
            problems.push(format!("{}: takes room in a ring past RESERVE", relative(&path)));
        }
        if text.contains("bpf_seq_write") {
            problems.push(format!("{}: writes a record past WRITE, so that it has no type", relative(&path)));
        }
    }
    none(&problems, "a flood of one workload must not hide the events of another");
}
