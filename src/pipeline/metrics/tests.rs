// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::signal::metric::Reading;
use crate::signal::semconv::attr;
use crate::signal::{Histogram, Severity, Value, WorkloadKind};

static CPU: MetricDef = MetricDef::counter("linux.container.cpu.time", "s", "CPU time").by(&[attr::CPU_MODE]);
static DELAY: MetricDef = MetricDef::histogram("linux.delay", "s", "CPU time");
static LEVEL: MetricDef = MetricDef::gauge("linux.level", "s", "CPU time");
static KILLS: MetricDef = MetricDef::counter("linux.kills", "{kill}", "CPU time").by(&[attr::CPU_MODE]);
static CONTAINER_KILLS: MetricDef = MetricDef::counter("linux.container.kills", "{kill}", "CPU time");
static KILL: EventDef = EventDef {
    name: "linux.kill",
    summary: "",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[attr::CPU_MODE],
    counter: &KILLS,
    container_counter: Some(&CONTAINER_KILLS),
};

const SECOND: u64 = 1_000_000_000;

fn at(s: u64) -> Timestamp {
    Timestamp(s * SECOND)
}

fn workload(key: u64, name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        container_id: Some(format!("{key:064x}")),
        container_name: (!name.is_empty()).then(|| name.to_owned()),
        ..Workload::new(WorkloadKey(key), WorkloadKind::Container, format!("/c/{key}"))
    })
}

fn mode(m: &'static str) -> [(crate::signal::Key, Value); 1] {
    [(attr::CPU_MODE, m.into())]
}

fn kill(who: Option<&Arc<Workload>>, t: u64) -> Event {
    Event::new(&KILL, at(t), who.cloned(), String::new())
}

/// `workload/attribute = value` of each series, in order.
fn lines(state: &MetricState, name: &str) -> Vec<String> {
    let view = state.read();
    let Some(family) = view.families().find(|f| f.def().name == name) else { return Vec::new() };
    let line = |s: &Series| {
        let who = s.workload().map_or("node", |w| w.container_name.as_deref().unwrap_or("?"));
        let attrs: Vec<_> = s.attributes().iter().map(|(_, v)| format!("{v:?}")).collect();
        format!("{who}/{} = {:?}", attrs.join(","), s.reading())
    };
    family.series().map(line).collect()
}

/// The same series is overwritten, a different one is added, and both keep their place.
#[test]
fn latest_value_of_each_series() {
    let state = MetricState::new(10, at(0));
    let (a, mut m) = (workload(1, "a"), Metrics::default());
    for n in 1..3_u32 {
        m.value(&CPU, Some(&a), &mode("user"), f64::from(n));
        m.value(&CPU, Some(&a), &mode("system"), 0.5);
        m.value(&CPU, None, &mode("user"), 9.0);
        state.update("cpu", &mut m, at(n.into()));
    }
    let expected =
        [r#"a/Str("user") = Double(2.0)"#, r#"a/Str("system") = Double(0.5)"#, r#"node/Str("user") = Double(9.0)"#];
    assert_eq!(lines(&state, CPU.name), expected);
    assert!(m.points().is_empty());
    let view = state.read();
    assert_eq!(view.workloads().map(|o| o.workload().key).collect::<Vec<_>>(), [WorkloadKey(1)]);
}

/// A series ends when two runs of its own collector have not reported it; other collectors' runs don't count.
#[test]
fn series_end_two_runs_after_their_last() {
    let state = MetricState::new(10, at(0));
    let mut m = Metrics::default();
    m.value(&CPU, Some(&workload(1, "a")), &[], 1.0);
    m.value(&CPU, Some(&workload(2, "b")), &[], 1.0);
    state.update("cpu", &mut m, at(1));
    for (t, left) in [(2, 2), (3, 1)] {
        m.value(&CPU, Some(&workload(2, "b")), &[], 2.0);
        state.update("cpu", &mut m, at(t));
        for _ in 0..5 {
            state.update("other", &mut m, at(t));
        }
        assert_eq!(lines(&state, CPU.name).len(), left, "after run {t}");
    }
    assert_eq!(state.read().workloads().count(), 1);
    // What is left is still found after the index was built anew.
    m.value(&CPU, Some(&workload(2, "b")), &[], 7.0);
    state.update("cpu", &mut m, at(4));
    assert_eq!(lines(&state, CPU.name), ["b/ = Double(7.0)"]);
}

/// Over `max_series` the rest is summed under one series, counted, and a counter never falls when the set changes.
#[test]
fn overflow_is_one_series_and_counted() {
    let state = MetricState::new(2, at(0));
    let mut m = Metrics::default();
    for (run, keys) in [(1, 1..=5), (2, 1..=4)] {
        for key in keys {
            m.count(&CPU, Some(&workload(key, "c")), &[], key);
            m.value(&LEVEL, Some(&workload(key, "c")), &[], key as f64);
        }
        state.update("cpu", &mut m, at(run));
    }
    assert_eq!(lines(&state, CPU.name), ["c/ = Int(1)", "c/ = Int(2)", "node/Bool(true) = Int(12)"]);
    assert_eq!(lines(&state, LEVEL.name)[2], "node/Bool(true) = Double(4.0)", "of levels the highest");
    let stats = state.stats();
    assert_eq!(stats[0], FamilyStats { name: CPU.name, series: 3, overflowed: 5 });
    // With room again, all have their own series and the overflow ends.
    for run in 3..7 {
        m.count(&CPU, Some(&workload(4, "d")), &[], 4);
        state.update("cpu", &mut m, at(run));
    }
    assert_eq!(lines(&state, CPU.name), ["d/ = Int(4)"]);
}

/// Histograms of different reach are added up slot by slot, and the family knows the widest reach.
#[test]
fn histograms_overflow_and_widen() {
    let state = MetricState::new(1, at(0));
    let mut m = Metrics::default();
    let h = |offset, counts: &[u64], sum| Histogram { zero_count: 1, offset, counts: counts.to_vec(), sum };
    m.histogram(&DELAY, None, &mode("own"), h(-20, &[1, 2], Some(1.0)));
    m.histogram(&DELAY, None, &mode("x"), h(-10, &[3], Some(0.5)));
    m.histogram(&DELAY, None, &mode("y"), h(-12, &[1, 1, 1, 1], Some(0.25)));
    state.update("d", &mut m, at(1));
    let view = state.read();
    let family = view.families().next().unwrap();
    assert_eq!(family.exponents(), Some((-20, -8)));
    let Reading::Histogram(sum) = family.series().last().unwrap().reading() else { panic!("not a histogram") };
    assert_eq!(*sum, Histogram { zero_count: 2, offset: -12, counts: vec![1, 1, 4, 1], sum: Some(0.75) });
}

/// A counter whose source began anew, as that of a cgroup that was made again, goes on from what it had, from the same
/// start; a level that falls, falls.
#[test]
fn counters_never_fall() {
    let state = MetricState::new(10, at(5));
    let mut m = Metrics::default();
    for (t, v, sum) in [(10, 3, 3), (20, 4, 4), (30, 1, 5), (40, 2, 6), (50, 1, 7)] {
        m.count(&CPU, None, &[], v);
        m.value(&LEVEL, None, &[], v as f64);
        m.histogram(&DELAY, None, &[], Histogram { zero_count: v, ..Histogram::default() });
        state.update("cpu", &mut m, at(t));
        assert_eq!(lines(&state, CPU.name), [format!("node/ = Int({sum})")]);
        assert_eq!(lines(&state, LEVEL.name), [format!("node/ = Double({v}.0)")]);
        let view = state.read();
        let delay = view.families().find(|f| f.def().name == DELAY.name).unwrap().series().next().unwrap();
        assert!(matches!(delay.reading(), Reading::Histogram(h) if h.count() == sum));
        assert!(view.families().flat_map(Family::series).all(|s| s.start() == at(5) && s.time() == at(t)));
    }
}

/// A sum that its collector no longer reports ends on the page. If it comes back within minutes it goes on, with its
/// start; later it is a new one.
#[test]
fn who_comes_back_goes_on() {
    let state = MetricState::new(10, at(0));
    let mut m = Metrics::default();
    let mut run = |t, v: Option<u64>| {
        if let Some(v) = v {
            m.count(&CPU, Some(&workload(1, "a")), &[], v);
            m.value(&LEVEL, Some(&workload(1, "a")), &[], 1.0);
        }
        state.update("cpu", &mut m, at(t));
        let view = state.read();
        assert_eq!(view.workloads().count(), view.families().count().min(1));
        let series = view.families().find(|f| f.def().name == CPU.name).and_then(|f| f.series().next());
        series.map(|s| (s.reading().clone(), s.start(), s.time()))
    };
    assert_eq!(run(10, Some(7)), Some((Reading::Int(7), at(0), at(10))));
    assert!(run(20, None).is_some() && run(30, None).is_none() && run(40, None).is_none());
    assert_eq!(run(50, Some(2)), Some((Reading::Int(9), at(0), at(50))));
    assert!(run(60, None).is_some() && run(70, None).is_none() && run(369, None).is_none());
    assert!(run(380, None).is_none());
    assert_eq!(run(390, Some(1)), Some((Reading::Int(1), at(380), at(390))));
}

/// No point lies before its start, whatever the clock does: of readings, of events, of the agent's own.
#[test]
fn no_start_is_after_its_point() {
    let state = Arc::new(MetricState::new(10, at(1000)));
    let mut m = Metrics::default();
    state.register_events("kill", &[&KILL], at(1000));
    for t in [1010, 1020, 500, 510, 2000] {
        m.count(&CPU, None, &[], t);
        state.update("cpu", &mut m, at(t));
        state.count_event(&kill(Some(&workload(t, "a")), t - 1), None);
        SelfMetrics::new(state.clone(), move || at(t)).accepted("cpu", 1);
        state.sweep(at(t), |_| true);
        let view = state.read();
        for s in view.families().flat_map(Family::series) {
            assert!(s.start() <= s.time() && s.time() == at(t), "{:?} to {:?} at {t}", s.start(), s.time());
        }
    }
}

/// Events count on the node from a zero that was there before, per workload from the first hit, with
/// the declared attributes only and the incident as exemplar.
#[test]
fn events_are_counted() {
    let state = MetricState::new(10, at(0));
    state.register_events("kill", &[&KILL], at(0));
    assert_eq!(lines(&state, KILLS.name), ["node/ = Int(0)"]);
    assert!(lines(&state, CONTAINER_KILLS.name).is_empty());
    let mut attrs = Attributes::new();
    attrs.set(attr::PROCESS_PID, 7).set(attr::CPU_MODE, "user");
    let a = workload(1, "a");
    let kill = |who: Option<&Arc<Workload>>, t| Event { attributes: attrs.clone(), ..kill(who, t) };
    state.count_event(&kill(Some(&a), 3), Some(TraceId([1; 16])));
    state.count_event(&kill(None, 4), Some(TraceId([2; 16])));
    state.count_event(&kill(None, 5), None);
    assert_eq!(lines(&state, KILLS.name), ["node/ = Int(0)", r#"node/Str("user") = Int(3)"#]);
    assert_eq!(lines(&state, CONTAINER_KILLS.name), ["a/ = Int(1)"]);
    {
        let view = state.read();
        let family = view.families().find(|f| f.def().name == KILLS.name).unwrap();
        assert_eq!(family.collector(), "kill");
        let s = family.series().last().unwrap();
        assert_eq!(s.exemplar(), Some(&Exemplar { trace: TraceId([2; 16]), value: 1.0, time: at(4) }));
        assert!(s.start() < at(3));
    }
    // A run of the collector of the same name does not end what it did not count.
    for t in 6..10 {
        state.update("kill", &mut Metrics::default(), at(t));
    }
    assert_eq!(lines(&state, CONTAINER_KILLS.name), ["a/ = Int(1)"]);
}

/// Counters that declare it tell severities apart, which alerts read.
#[test]
fn severities_are_told_apart() {
    static HANGS: MetricDef =
        MetricDef::counter("linux.hangs", "{event}", "CPU time").by(&[attr::LINUX_EVENT_SEVERITY]);
    static HANG: EventDef = EventDef { counter: &HANGS, container_counter: None, ..KILL };
    let state = MetricState::new(10, at(0));
    for severity in [Severity::Warn, Severity::Info, Severity::Warn] {
        state.count_event(&Event { severity, ..Event::new(&HANG, at(1), None, String::new()) }, None);
    }
    assert_eq!(lines(&state, HANGS.name), [r#"node/Str("WARN") = Int(2)"#, r#"node/Str("INFO") = Int(1)"#]);
}

/// An event counter lives as long as its workload and five minutes more, even if it was hit long ago.
#[test]
fn event_counters_outlive_their_workload_by_five_minutes() {
    let state = MetricState::new(10, at(0));
    state.register_events("kill", &[&KILL], at(0));
    state.count_event(&kill(Some(&workload(1, "a")), 1), None);
    for (t, alive, left) in [(5000, true, 1), (5015, false, 1), (5314, false, 1), (5315, false, 0)] {
        state.sweep(at(t), |_| alive);
        assert_eq!(lines(&state, CONTAINER_KILLS.name).len(), left, "at {t}");
    }
    assert_eq!(lines(&state, KILLS.name), ["node/ = Int(1)"]);
    // The count is true until now, however long ago it was hit.
    let view = state.read();
    let counters = view.families().filter(|f| f.def().name == KILLS.name).flat_map(Family::series);
    assert!(counters.map(Series::time).eq([at(5315)]));
}

/// A name that comes late changes the series, and what writers keep with it, once.
#[test]
fn late_names_reach_their_series() {
    let state = MetricState::new(10, at(0));
    let mut m = Metrics::default();
    m.value(&CPU, Some(&workload(1, "")), &[], 1.0);
    state.update("cpu", &mut m, at(1));
    state.count_event(&kill(Some(&workload(1, "")), 1), None);
    let texts = || {
        let view = state.read();
        let name = |w: &Workload| w.container_name.clone().unwrap_or_default();
        let owner = view.workloads().map(|o| o.text(name).to_owned()).collect::<Vec<_>>();
        let series = view.families().flat_map(Family::series).filter(|s| s.workload().is_some());
        (owner, series.map(|s| s.text(|s| name(s.workload().unwrap())).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(texts(), (vec![String::new()], vec![String::new(); 2]));
    state.rename(&workload(1, "web"));
    assert_eq!(texts(), (vec!["web".to_owned()], vec!["web".to_owned(); 2]));
    // Also when the name comes with the next reading, and only to that series.
    m.value(&CPU, Some(&workload(1, "web2")), &[], 1.0);
    state.update("cpu", &mut m, at(2));
    assert_eq!(texts().1, ["web2", "web"]);
}
