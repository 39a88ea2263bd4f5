// SPDX-License-Identifier: Apache-2.0
use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;

use super::*;
use crate::pipeline::testing::{DEF, INFO, event, workload};
use crate::signal::entry::Entry;
use crate::signal::event::Role;
use crate::signal::{Attributes, Evidence, Links, Profile, ProfileKind, StackSample, Thread, otlp};

const S: u64 = 1_000_000_000;
const START: u64 = 1_800_000_000 * S;

struct Rig {
    incidents: Incidents,
    ids: EventIds,
}

fn at(seconds: u64) -> Moment {
    Moment { wall: Timestamp(START + seconds * S), steady: Duration::from_secs(1000 + seconds) }
}

fn identity() -> Identity {
    Identity { host_id: "host".into(), boot_id: "boot".into() }
}

/// What was to be logged, as it will be read.
#[derive(Default)]
struct Out {
    entries: Vec<Entry>,
    workloads: Vec<Arc<Workload>>,
    incidents: Vec<IncidentRecord>,
}

impl From<Append> for Out {
    fn from(a: Append) -> Self {
        let entries = a.entries.iter().map(EntryBuf::entry).collect();
        Out { entries, workloads: a.workloads, incidents: a.incidents }
    }
}

impl Rig {
    fn new() -> Self {
        Rig { incidents: Incidents::new(identity(), Settings::default()), ids: EventIds::new("host", 0) }
    }

    /// What `f` wants logged.
    fn logged<T>(&mut self, f: impl FnOnce(&mut Incidents, &mut EventIds, &mut Append) -> T) -> (Out, T) {
        let mut out = Append::default();
        let answer = f(&mut self.incidents, &mut self.ids, &mut out);
        self.incidents.changed(&mut out);
        (out.into(), answer)
    }

    fn event(&mut self, e: &Event, s: u64) -> (Out, Option<TraceId>) {
        self.event_at(e, at(s))
    }

    fn event_at(&mut self, e: &Event, now: Moment) -> (Out, Option<TraceId>) {
        self.logged(|incidents, ids, out| incidents.event("test", e, ids, now, out))
    }

    fn onset(&mut self, w: Option<&Arc<Workload>>, s: u64) -> (Out, Option<TraceId>) {
        self.logged(|incidents, ids, out| incidents.onset("test", &trigger(w, s), ids, at(s), out))
    }

    fn recovered(&mut self, w: Option<&Arc<Workload>>, s: u64) -> Out {
        self.logged(|incidents, _, _| incidents.recovered(&target(w), Timestamp(START + s * S), at(s))).0
    }

    fn tick(&mut self, s: u64) -> Out {
        self.tick_at(at(s))
    }

    fn tick_at(&mut self, now: Moment) -> Out {
        self.logged(|incidents, ids, out| incidents.tick(ids, now, out)).0
    }

    fn capture(&mut self, w: Option<&Arc<Workload>>, s: u64) -> Option<Out> {
        let (out, known) = self.logged(|incidents, ids, out| incidents.capture("test", &ended(w, s), ids, at(s), out));
        known.then_some(out)
    }

    fn progress(&mut self, progress: &CaptureProgress, s: u64) -> Out {
        self.logged(|incidents, ids, out| incidents.capture("test", progress, ids, at(s), out)).0
    }
}

fn target(w: Option<&Arc<Workload>>) -> Target {
    Target { collector: "test", workload: w.map(|w| w.key), detail: None }
}

fn trigger(w: Option<&Arc<Workload>>, s: u64) -> Trigger {
    Trigger {
        target: target(w),
        def: &DEF,
        severity: Severity::Warn,
        onset: Timestamp(START + s.saturating_sub(10) * S),
        detected: Timestamp(START + s * S),
        workload: w.cloned(),
        message: "busy".into(),
        attributes: Attributes::new(),
        links: Links::default(),
        capture: true,
    }
}

fn capture(w: Option<&Arc<Workload>>, s: u64) -> Capture {
    let (start, end) = (Timestamp(START + s.saturating_sub(5) * S), Timestamp(START + s * S));
    let stacks = vec![StackSample {
        user: vec![crate::signal::Frame { symbol: Some("spin".into()), ..Default::default() }].into(),
        value: 42,
        ..StackSample::default()
    }];
    let profile = Profile { kind: ProfileKind::CPU, stacks, period: 10_101_010, lost: 2 };
    Capture { evidence: vec![Evidence::Profile(profile)], ..Capture::new("cpu_profile", target(w), start, end) }
}

fn ended(w: Option<&Arc<Workload>>, s: u64) -> CaptureProgress {
    CaptureProgress::Ended(capture(w, s))
}

fn roots(a: &Out) -> Vec<&Span> {
    a.entries.iter().flat_map(|e| &e.spans).filter(|s| s.parent_span_id.is_empty()).collect()
}

fn attribute(s: &Span, name: &str) -> Option<String> {
    let text = otlp::text(&s.attributes, name).map(str::to_owned);
    text.or_else(|| otlp::int(&s.attributes, name).map(|i| i.to_string()))
}

/// A warning opens an incident; a lower event joins it; 30 s after the last join it is closed,
/// with one root from the first onset to the last event.
#[test]
fn opens_joins_and_closes_quietly() {
    let w = workload(1);
    let mut rig = Rig::new();
    let mut first = event(&DEF, START, Some(&w));
    first.duration = Some(Duration::from_secs(2));
    let (out, trace) = rig.event(&first, 0);
    let trace = trace.expect("a warning opens");
    let entry = &out.entries[0];
    assert_eq!(entry.trace(), Some(trace));
    assert_eq!(entry.log.as_ref().unwrap().span_id, entry.spans[0].span_id, "the record points at its own span");
    assert_eq!(rig.event(&event(&INFO, START + 20 * S, Some(&w)), 20).1, Some(trace), "a lower one joins");
    assert!(rig.tick(49).entries.is_empty(), "only 29 s of quiet");
    let closed = rig.tick(50);
    let roots = roots(&closed);
    assert_eq!(roots.len(), 1);
    let root = roots[0];
    assert_eq!(root.span_id, entry.spans[0].parent_span_id);
    assert_eq!((root.start_time_unix_nano, root.end_time_unix_nano), (START - 2 * S, START + 20 * S));
    assert_eq!(attribute(root, "linux.incident.end_reason").as_deref(), Some("quiet"));
    assert_eq!(attribute(root, "linux.incident.events").as_deref(), Some("2"));
    assert_eq!(rig.incidents.open_count(), 0);
}

/// Events below WARN open nothing and then carry no trace id; so do all events of the agent itself.
#[test]
fn what_does_not_open() {
    let mut rig = Rig::new();
    let (out, trace) = rig.event(&event(&INFO, START, None), 0);
    assert!(trace.is_none() && out.entries[0].trace().is_none() && out.entries[0].spans.is_empty());
    let mut own = (*workload(7)).clone();
    own.kind = WorkloadKind::Own;
    let own = Arc::new(own);
    let (out, trace) = rig.event(&event(&DEF, START, Some(&own)), 0);
    assert!(trace.is_none() && out.entries[0].log.as_ref().unwrap().trace_id.is_empty());
    assert_eq!(rig.incidents.open_count(), 0);
}

/// Each workload has an incident of its own, and the node too.
#[test]
fn workloads_are_apart() {
    let mut rig = Rig::new();
    let traces = [None, Some(workload(1)), Some(workload(2))].map(|w| rig.event(&event(&DEF, START, w.as_ref()), 0).1);
    assert!(traces[0] != traces[1] && traces[1] != traces[2] && traces[0] != traces[2]);
    assert_eq!(rig.incidents.open_count(), 3);
}

/// A trigger keeps its incident open for as long as it is over; after its recovery comes the quiet.
#[test]
fn a_trigger_holds_it_open() {
    let w = workload(1);
    let mut rig = Rig::new();
    let (out, trace) = rig.onset(Some(&w), 10);
    let detection = &out.entries[0].spans[0];
    assert_eq!((detection.start_time_unix_nano, detection.end_time_unix_nano), (START, START + 10 * S));
    assert!(rig.tick(200).entries.is_empty(), "still over");
    let out = rig.capture(Some(&w), 201).expect("its incident is known");
    let span = &out.entries[0].spans[0];
    assert_eq!(span.trace_id, trace.unwrap().0);
    assert!(attribute(span, "linux.profile.id").is_some_and(|id| id.len() == 32));
    assert_eq!(span.events.len(), 1, "the top stack is a span event");
    assert!(out.entries[0].profile.is_some());
    rig.recovered(Some(&w), 210);
    assert!(rig.tick(239).entries.is_empty());
    let closed = rig.tick(240);
    let root = roots(&closed)[0];
    assert_eq!(attribute(root, "linux.incident.end_reason").as_deref(), Some("recovered"));
    assert_eq!(root.start_time_unix_nano, START, "from the onset");
    assert_eq!(root.end_time_unix_nano, START + 210 * S, "to the recovery");
    assert_eq!(attribute(root, "linux.incident.captures").as_deref(), Some("1"));
}

/// While a capture lasts the incident says so; its parts are stored as they come, below the span that
/// the capture has when it ends.
#[test]
fn a_capture_arrives_in_parts() {
    let w = workload(1);
    let mut rig = Rig::new();
    rig.onset(Some(&w), 10);
    let begun = rig.progress(&CaptureProgress::Begun(target(Some(&w))), 10);
    assert_eq!((begun.entries.len(), begun.incidents[0].under_way), (0, 1));
    let part = Capture { evidence: crate::signal::testing::one_of_each(), ..capture(Some(&w), 12) };
    let stored = rig.progress(&CaptureProgress::Part(part), 12);
    let (entry, span) = (&stored.entries[0], &stored.entries[0].spans[0]);
    assert!(entry.profile.is_some() && span.attributes.iter().any(|a| a.key == "linux.capture.evidence"));
    let out = rig.capture(Some(&w), 20).unwrap();
    let whole = &out.entries[0].spans[0];
    assert_eq!((&span.trace_id, &span.parent_span_id), (&whole.trace_id, &whole.span_id));
    let record = &out.incidents[0];
    assert_eq!((record.under_way, record.captures, record.spans), (0, 1, 3));
    assert_eq!(whole.parent_span_id, record.root_span().0);
}

/// A capture that fails is no longer under way; parts that it had sent hang below a span that says so.
#[test]
fn a_capture_fails() {
    let w = workload(1);
    let mut rig = Rig::new();
    rig.onset(Some(&w), 10);
    for (begin, part) in [(10, None), (20, Some(22))] {
        rig.progress(&CaptureProgress::Begun(target(Some(&w))), begin);
        let parent = part.map(|s| {
            let stored = rig.progress(&CaptureProgress::Part(capture(Some(&w), s)), s);
            stored.entries[0].spans[0].parent_span_id.clone()
        });
        let failed = rig.progress(&CaptureProgress::Failed(target(Some(&w))), begin + 5);
        assert_eq!((failed.incidents[0].under_way, failed.incidents[0].captures), (0, 0));
        let span = failed.entries.first().map(|e| &e.spans[0]);
        assert_eq!(span.map(|s| s.span_id.clone()), parent);
        assert_eq!(span.and_then(|s| s.status.as_ref()).map(|s| s.code), part.map(|_| 2));
    }
}

/// An incident that is closed says of no capture that it is under way.
#[test]
fn nothing_is_under_way_once_it_is_closed() {
    let mut rig = Rig::new();
    rig.onset(None, 10);
    rig.progress(&CaptureProgress::Begun(target(None)), 10);
    let closed = rig.tick(700);
    assert_eq!((closed.incidents[0].under_way, closed.incidents[0].is_open()), (0, false));
    let late = rig.capture(None, 701).unwrap();
    assert_eq!((late.incidents[0].under_way, late.incidents[0].captures), (0, 1));
}

/// A capture's span has its links, its structured evidence, what its first profile is, and the top
/// stacks of each profile in its own unit.
#[test]
fn a_capture_has_every_kind_of_evidence() {
    let mut rig = Rig::new();
    rig.onset(None, 10);
    let mut c = Capture { evidence: crate::signal::testing::one_of_each(), ..capture(None, 20) };
    c.links.add(crate::signal::Link { trace: TraceId([3; 16]), span: SpanId([4; 8]), attributes: Attributes::new() });
    let out = rig.progress(&CaptureProgress::Ended(c), 20);
    let span = &out.entries[0].spans[0];
    assert_eq!(span.links[0].span_id, [4; 8]);
    for (name, value) in [("linux.profile.kind", "cpu"), ("linux.profile.samples", "7"), ("linux.profile.lost", "6")] {
        assert_eq!(attribute(span, name).as_deref(), Some(value), "{name}");
    }
    let of_event = |i: usize, name: &str| otlp::int(&span.events[i].attributes, name);
    assert_eq!((span.events.len(), of_event(0, "linux.profile.samples")), (3, Some(5)));
    assert_eq!((of_event(2, "linux.profile.total"), of_event(2, "linux.profile.samples")), (Some(1_500_000_000), None));
}

/// After ten minutes it is closed whatever goes on, the next one links to it, and the trigger that
/// is still over holds that one open.
#[test]
fn lasts_ten_minutes_at_most() {
    let w = workload(1);
    let mut rig = Rig::new();
    let (_, first) = rig.onset(Some(&w), 0);
    let closed = rig.tick(600);
    assert_eq!(attribute(roots(&closed)[0], "linux.incident.end_reason").as_deref(), Some("max_duration"));
    let (_, second) = rig.event(&event(&DEF, START + 601 * S, Some(&w)), 601);
    assert_ne!(first, second);
    assert!(rig.tick(700).entries.is_empty(), "its trigger is still over");
    rig.recovered(Some(&w), 700);
    let closed = rig.tick(731);
    let root = roots(&closed)[0];
    assert_eq!(root.links[0].trace_id, first.unwrap().0);
    assert_eq!(attribute(root, "linux.incident.end_reason").as_deref(), Some("recovered"));
}

/// A capture that ends after its incident still belongs to its trace; one of an unknown trigger to none.
#[test]
fn late_and_lost_captures() {
    let w = workload(1);
    let mut rig = Rig::new();
    assert!(rig.capture(Some(&w), 0).is_none());
    let (_, trace) = rig.onset(Some(&w), 1);
    rig.recovered(Some(&w), 2);
    assert_eq!(roots(&rig.tick(32)).len(), 1);
    let late = rig.capture(Some(&w), 40).expect("still known");
    assert_eq!(late.entries[0].trace(), trace);
    assert!(roots(&late).is_empty(), "the root is sent once");
    let record = &late.incidents[0];
    assert!(!record.is_open() && record.captures == 1 && record.last() == late.entries[0].id());
}

/// Beyond 100 events there are no more spans; they are counted, and their records point at the root.
#[test]
fn event_spans_are_capped() {
    let w = workload(1);
    let mut rig = Rig::new();
    let outs: Vec<_> = (0..130).map(|_| rig.event(&event(&DEF, START, Some(&w)), 0).0).collect();
    let spans: usize = outs.iter().flat_map(|o| &o.entries).map(|e| e.spans.len()).sum();
    assert_eq!(spans, 100);
    let closed = rig.tick(30);
    let root = roots(&closed)[0];
    assert_eq!(outs[129].entries[0].log.as_ref().unwrap().span_id, root.span_id);
    assert_eq!(attribute(root, "linux.incident.events").as_deref(), Some("130"));
    assert_eq!(attribute(root, "linux.incident.uncounted.events").as_deref(), Some("30"));
}

/// Culprits and victims are children of the event; one of another workload is an entry of its own,
/// so that it is exported under its own resource.
#[test]
fn others_have_their_own_resource() {
    let (w, culprit) = (workload(1), workload(2));
    let mut rig = Rig::new();
    let mut e = event(&DEF, START, Some(&w));
    let thread = Thread { pid: 5, tid: 6, comm: "hog".into() };
    e.related.push(crate::signal::Related {
        role: Role::Culprit,
        workload: Some(culprit.clone()),
        thread: thread.clone(),
    });
    e.related.push(crate::signal::Related { role: Role::Victim, workload: Some(w), thread });
    let (out, _) = rig.event(&e, 0);
    assert_eq!(out.entries.len(), 2);
    let (own, other) = (&out.entries[0], &out.entries[1]);
    assert!(own.id() < other.id(), "in the order of the log");
    assert_eq!(own.spans.len(), 2);
    assert_eq!(other.workload(), Some(culprit.key));
    assert_eq!(other.spans[0].parent_span_id, own.spans[0].span_id);
    assert!(out.workloads.iter().any(|w| w.key == culprit.key), "its names are known to the log");
    assert_eq!(out.incidents[0].last(), other.id());
}

/// What an earlier agent left open is closed at its last entry, once.
#[test]
fn left_open_is_closed_at_its_last_entry() {
    let mut rig = Rig::new();
    let (out, _) = rig.event(&event(&DEF, START + 5 * S, None), 5);
    let left = out.incidents;
    let closed = Out::from(Incidents::close_left_open(left, &mut rig.ids, at(5000)));
    let root = roots(&closed)[0];
    assert_eq!(root.end_time_unix_nano, START + 5 * S);
    assert_eq!(attribute(root, "linux.incident.end_reason").as_deref(), Some("agent_restart"));
    assert_eq!(closed.incidents[0].end_reason, "agent_restart");
}

/// A wall clock that is set back or ahead neither closes an incident early nor makes ids repeat.
#[test]
fn a_stepped_clock_changes_nothing() {
    let mut rig = Rig::new();
    let (a, _) = rig.event(&event(&DEF, START, None), 0);
    let ahead = Moment { wall: Timestamp(START + 7200 * S), steady: at(1).steady };
    assert!(rig.tick_at(ahead).entries.is_empty());
    let back = Moment { wall: Timestamp(START - 7200 * S), steady: at(2).steady };
    let (b, _) = rig.event_at(&event(&DEF, START, None), back);
    assert!(a.entries[0].id() < b.entries[0].id());
}

#[derive(Debug, Clone)]
enum Step {
    Event { workload: u64, warn: bool, others: usize },
    Onset(u64),
    Recovered(u64),
    Capture(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u64, any::<bool>(), 0..4usize).prop_map(|(workload, warn, others)| Step::Event { workload, warn, others }),
        1 => (0..3u64).prop_map(Step::Onset),
        1 => (0..3u64).prop_map(Step::Recovered),
        2 => (0..3u64).prop_map(Step::Capture),
        1 => (1..400u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: ids of entries grow, span ids are unique, each incident
    /// sends its root exactly once, its children hang in its trace, and the caps hold.
    #[test]
    fn any_sequence_keeps_the_rules(steps in prop::collection::vec(step(), 1..600)) {
        let mut rig = Rig::new();
        let who = |k: u64| (k > 0).then(|| workload(k));
        let mut now = 0;
        let mut entries = Vec::new();
        let mut opened = std::collections::HashSet::new();
        for s in steps {
            let out = match s {
                Step::Event { workload, warn, others } => {
                    let mut e = event(if warn { &DEF } else { &INFO }, START + now * S, who(workload).as_ref());
                    for i in 0..others {
                        let workload = who(i as u64);
                        e.related.push(crate::signal::Related { role: Role::Victim, workload, thread: Thread::default() });
                    }
                    rig.event(&e, now).0
                }
                Step::Onset(k) => rig.onset(who(k).as_ref(), now).0,
                Step::Recovered(k) => rig.recovered(who(k).as_ref(), now),
                Step::Capture(k) => rig.capture(who(k).as_ref(), now).unwrap_or_default(),
                Step::Wait(s) => {
                    now += s;
                    rig.tick(now)
                }
            };
            opened.extend(out.incidents.iter().map(|i| i.raw_trace.clone()));
            entries.extend(out.entries);
        }
        // Everything ends some time.
        for _ in 0..3 {
            now += 601;
            entries.extend(rig.tick(now).entries);
        }
        prop_assert_eq!(rig.incidents.open_count(), 0);
        prop_assert!(entries.windows(2).all(|w| w[0].id() < w[1].id()));
        let mut spans: BTreeMap<Vec<u8>, Vec<&Span>> = BTreeMap::new();
        for span in entries.iter().flat_map(|e| &e.spans) {
            prop_assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            spans.entry(span.trace_id.clone()).or_default().push(span);
        }
        prop_assert_eq!(spans.len(), opened.len());
        for (trace, spans) in spans {
            let mut ids = HashMap::new();
            for s in &spans {
                prop_assert!(ids.insert(s.span_id.clone(), *s).is_none(), "a span id twice");
            }
            let roots: Vec<_> = spans.iter().filter(|s| s.parent_span_id.is_empty()).collect();
            prop_assert_eq!(roots.len(), 1, "trace {:?}", trace);
            prop_assert!(spans.iter().all(|s| s.parent_span_id.is_empty() || ids.contains_key(&s.parent_span_id)));
            prop_assert!(spans.len() <= 1 + MAX_SPANS as usize);
            prop_assert!(roots[0].links.len() <= MAX_LINKS);
            let of_events = entries.iter().filter(|e| e.log.is_some() && !e.spans.is_empty());
            let of_events = of_events.filter(|e| e.spans[0].trace_id == trace).count();
            prop_assert!(of_events <= MAX_EVENT_SPANS as usize);
        }
    }
}
