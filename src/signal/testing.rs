// SPDX-License-Identifier: Apache-2.0
//! A capture with one of each kind of evidence, for tests of what shows them.

use super::evidence::*;
use super::{Thread, Timestamp};
use crate::signal::entry::{Entry, EntryBuf};
use crate::signal::ids::{EventId, SpanId, StackKey, TraceId};
use crate::signal::otlp::{Place, span_at};
use crate::signal::{Attributes, Event, EventDef, Frame, Link, Links, Stack, StackNames, WorkloadKey, profile};

/// The stored entry of a capture that has one of each, and a link.
pub(crate) fn entry() -> Entry {
    let (evidence, (trace, span)) = (one_of_each(), (TraceId([1; 16]), SpanId([2; 8])));
    let (start, end) = (Timestamp(1_700_000_000_000_000_000), Timestamp(1_700_000_002_000_000_000));
    let mut links = Links::default();
    let mut attributes = Attributes::new();
    attributes.set_named("http.route".into(), "/orders".into());
    links.add(Link { trace: TraceId([3; 16]), span: SpanId([4; 8]), attributes });
    let place = Place { trace, span, parent: Some(SpanId([5; 8])) };
    let mut s = span_at(place, "stall", start, end, attribute(&evidence).into_iter().collect());
    links.put_on(&mut s);
    let of = profile::Origin { collector: "test", start, end, trace, span, id: [9; 16] };
    let mut e = Entry::new(EventId([6; 12]), "test", None);
    e.profile = profile::encode(profiles(&evidence), &of);
    e.spans = vec![s];
    e
}

/// One of each kind of evidence.
pub(crate) fn one_of_each() -> Vec<Evidence> {
    let frame = |name: &str| Frame { symbol: Some(name.into()), ..Frame::default() };
    let stack = |user: &[&str], value| StackSample {
        user: user.iter().map(|n| frame(n)).collect(),
        thread: Thread { pid: 7, tid: 8, comm: "app".into() },
        value,
        ..StackSample::default()
    };
    let profile = |kind, period, stacks| Evidence::Profile(Profile { kind, stacks, period, lost: 3 });
    let mut table = Table::new(
        "files",
        &[Column::text("path"), Column::int("read", "By"), Column::double("wait", "s"), Column::int("reads", "{read}")],
    );
    table.row(vec![Some("/data/a".into()), Some((3 << 20).into()), Some(0.0015.into()), Some(1_200.into())]);
    table.row(vec![Some("/data/b".into()), Some(512.into()), None, Some(1.into())]);
    let mut series = Series::new("pressure", "1");
    for (i, v) in [0.0, 0.5, 1.0].into_iter().enumerate() {
        series.point(Timestamp(1_700_000_000_000_000_000 + i as u64 * 1_000_000_000), v);
    }
    vec![
        profile(ProfileKind::CPU, 10_101_010, vec![stack(&["leaf", "main"], 5), stack(&["other", "main"], 2)]),
        profile(ProfileKind::OFF_CPU, 0, vec![stack(&["futex_wait", "main"], 1_500_000_000)]),
        Evidence::Table(table),
        Evidence::Series(series),
    ]
}

/// An event of process 7 whose stack nobody has named in time, and its name: `main`.
pub(crate) fn late(id: EventId, def: &'static EventDef, key: u64, w: Option<WorkloadKey>) -> (EntryBuf, StackNames) {
    let before = Stack::unnamed(7, &[0x10], Some(StackKey(key)));
    let named: Stack = [Frame { symbol: Some("main".into()), ..Frame::default() }].into_iter().collect();
    let mut e = Event::new(def, Timestamp(id.time_ns()), None, "it hurts".into());
    e.user_stack = before.clone();
    let mut entry = EntryBuf::new(id, "test", w);
    entry.log(&e, Some((TraceId([4; 16]), SpanId([4; 8]))));
    (entry, StackNames::new(StackKey(key), &before, &named).unwrap())
}
