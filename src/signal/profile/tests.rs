// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::signal::ProfileKind;
use crate::signal::{StackSample, Thread};

const OF: Origin<'_> = Origin {
    collector: "cpuidle",
    start: Timestamp(1_000),
    end: Timestamp(3_000),
    trace: TraceId([1; 16]),
    span: SpanId([2; 8]),
    id: [9; 16],
};

fn frame(name: &str) -> Frame {
    Frame { symbol: Some(name.into()), module: Some("/bin/app".into()), address: 0x10, ..Frame::default() }
}

fn cpu() -> evidence::Profile {
    let sample = |user: &[&str], value| StackSample {
        kernel: crate::signal::Stack::default(),
        user: user.iter().map(|n| frame(n)).collect(),
        thread: Thread { pid: 1, tid: 1, comm: "app".into() },
        value,
    };
    evidence::Profile {
        kind: ProfileKind::CPU,
        stacks: vec![sample(&["leaf", "main"], 5), sample(&["other", "main"], 2)],
        period: 10_101_010,
        lost: 0,
    }
}

fn encoded(profiles: &[evidence::Profile]) -> ProfilesData {
    ProfilesData::decode(encode(profiles, &OF).unwrap().as_slice()).unwrap()
}

/// Every index points into its table, index 0 is the zero value, nothing is listed twice, and
/// each sample links to the capture's span: what the schema asks for.
#[test]
fn dictionary_is_well_formed() {
    let data = encoded(&[cpu()]);
    let d = data.dictionary.unwrap();
    assert_eq!(d.string_table[0], "");
    assert_eq!(d.mapping_table[0], Mapping::default());
    assert_eq!(d.location_table[0], Location::default());
    assert_eq!(d.stack_table[0], Stack::default());
    assert_eq!(d.function_table.len(), 1 + 3, "leaf, other and one main");
    assert_eq!(d.mapping_table.len(), 1 + 1);
    assert_eq!(d.link_table[1].span_id, vec![2; 8]);
    let p = &data.resource_profiles[0].scope_profiles[0].profiles[0];
    assert_eq!(p.profile_id, vec![9; 16]);
    assert_eq!((p.time_unix_nano, p.duration_nano, p.period), (1_000, 2_000, 10_101_010));
    for s in &p.samples {
        assert_eq!(s.link_index, 1);
        let stack = at(&d.stack_table, s.stack_index).unwrap();
        for l in &stack.location_indices {
            let location = at(&d.location_table, *l).unwrap();
            assert!(at(&d.mapping_table, location.mapping_index).is_some());
            assert!(location.lines.iter().all(|l| at(&d.function_table, l.function_index).is_some()));
        }
        assert!(s.attribute_indices.iter().all(|a| at(&d.attribute_table, *a).is_some()));
    }
}

/// What was captured comes back, outermost first.
#[test]
fn folded_gives_the_stacks_back() {
    let mut profile = cpu();
    profile.stacks[1].kernel = vec![frame("fault"), frame("entry")].into();
    let want = [(vec!["main", "leaf"], 0, 5), (vec!["main", "other", "entry", "fault"], 2, 2)]
        .map(|(f, kernel, value)| Folded { frames: f.into_iter().map(Cow::from).collect(), kernel, value });
    let data = encoded(&[profile]);
    let stored: Vec<_> = stored(&data).collect();
    assert_eq!(stored[0].folded(), want);
    assert_eq!(Vec::from_iter(stored[0].functions()), ["entry", "fault", "leaf", "main", "other"]);
    assert_eq!(stored[0].span(), Some((&[1; 16][..], &[2; 8][..])));
}

/// Each kind has its own types and units, an id of its own, and what it lost.
#[test]
fn kinds_have_their_own_types() {
    let of_kind = |kind, period| evidence::Profile { kind, period, lost: 3, ..cpu() };
    let data = encoded(&[
        of_kind(ProfileKind::CPU, 7),
        of_kind(ProfileKind::OFF_CPU, 0),
        of_kind(ProfileKind::ALLOCATED, 512),
    ]);
    let all: Vec<_> = stored(&data).map(|p| (p.kind(), p.sample_type(), p.period_type(), p.profile.period)).collect();
    let want = [
        ("cpu", ("samples", "count"), ("cpu", "nanoseconds"), 7),
        ("off_cpu", ("off_cpu", "nanoseconds"), ("", ""), 0),
        ("allocated", ("allocated", "bytes"), ("space", "bytes"), 512),
    ];
    assert_eq!(all, want);
    assert!(stored(&data).all(|p| (p.total(), p.lost()) == (7, 3)));
    let ids: Vec<_> = stored(&data).map(|p| p.profile.profile_id.clone()).collect();
    assert_eq!(ids[0], [9; 16]);
    assert_eq!(ids[2], nth_id([9; 16], 2));
    assert_ne!(ids[1], ids[2]);
}

/// A profile without stacks is none, and has no id that points nowhere.
#[test]
fn no_stacks_no_profile() {
    let empty = evidence::Profile { stacks: Vec::new(), ..cpu() };
    assert_eq!(encode(std::slice::from_ref(&empty), &OF), None);
    let data = encoded(&[empty, cpu()]);
    assert_eq!(stored(&data).map(|p| p.profile.profile_id.clone()).collect::<Vec<_>>(), [[9; 16]]);
}
