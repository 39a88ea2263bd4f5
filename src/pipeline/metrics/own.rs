// SPDX-License-Identifier: Apache-2.0
//! What the agent counts about itself: every loss by place and reason, states, costs. One line each,
//! as in a collector's file; kept in the state of metrics, and so exposed as all others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::series::total;
use super::{Family, MetricState, Series};
use crate::signal::metric::Reading;
use crate::signal::{Attributes, Histogram, Instrument, Key, MetricDef, Stage, Timestamp, Value};

pub const COLLECTOR: Key = Key::new("collector", "The collector");
pub const EXPORTER: Key = Key::new("exporter", "The exporter");
pub const HOOK: Key = Key::new("hook", "Where the BPF program is attached");
pub const METRIC: Key = Key::new("metric", "The metric");
pub const PROBE: Key = Key::new("probe", "The BPF object, or the source of records");
pub const REASON: Key = Key::new("reason", "Why, in a word");
pub const SIGNAL: Key = Key::new("signal", "logs, traces, metrics, profiles, entries");
pub const SOURCE: Key = Key::new("source", "cri, kubelet, api_server");
pub const STATE: Key = Key::new("state", "The state");

const BY_STAGE: &[Key] = &[COLLECTOR, EXPORTER, REASON];
const BY_HOOK: &[Key] = &[HOOK, PROBE];

pub static EVENTS_ACCEPTED: MetricDef =
    MetricDef::counter("bianque.events.accepted", "{event}", "Events whose commit to the store has returned")
        .by(&[COLLECTOR]);
pub static EVENTS_DROPPED: MetricDef = MetricDef::counter(
    "bianque.events.dropped",
    "{event}",
    "Events that are gone because the agent could not process (collector) or deliver (exporter) them",
)
.by(BY_STAGE);
pub static EVENTS_SUPPRESSED: MetricDef = MetricDef::counter(
    "bianque.events.suppressed",
    "{event}",
    "Events that were left out on purpose: `limit`, too many at once; `filter`, the workload is excluded; `did_not_last`, a \
     peak that was over before its window; `too_many_captures`; `unsupported`, the back end does not take such signals",
)
.by(BY_STAGE);
pub static RECORDS_LOST: MetricDef = MetricDef::counter(
    "bianque.records.lost",
    "{record}",
    "Records that the kernel could not hand over: `ring_full`; `overrun`, of a source; `limits_full`, more workloads at once \
     than a probe can limit apart; `map_full`, figures that are the node's only, as a probe's map had no room; \
     `unseen`, the same as the kernel ran no program",
)
.by(&[PROBE, REASON]);
pub static WORKLOAD_SUPPRESSED: MetricDef = MetricDef::counter(
    "bianque.workload.events.suppressed",
    "{event}",
    "The workload's events that were over its limit in a probe; an event says so of those before it",
)
.by(&[COLLECTOR]);
pub static WORKLOAD_LOST: MetricDef = MetricDef::counter(
    "bianque.workload.records.lost",
    "{record}",
    "The workload's events that a probe could not hand over, as its ring was full",
)
.by(&[COLLECTOR]);
pub static INCIDENT_COUNT: MetricDef =
    MetricDef::up_down_counter("bianque.incident.count", "{incident}", "Incidents that are open now");
pub static COLLECTOR_STATE: MetricDef = MetricDef::gauge(
    "bianque.collector.state",
    "{state}",
    "1 for the state that the collector is in, 0 for those it was in",
)
.by(&[COLLECTOR, STATE]);
pub static COLLECTOR_DURATION: MetricDef =
    MetricDef::histogram("bianque.collector.duration", "s", "Time that one run of the collector took").by(&[COLLECTOR]);
pub static COLLECTOR_FAILURES: MetricDef =
    MetricDef::counter("bianque.collector.failures", "{run}", "Runs of the collector that failed").by(&[COLLECTOR]);
pub static PROBE_RUNS: MetricDef =
    MetricDef::counter("bianque.probe.runs", "{run}", "Runs of the BPF program").by(BY_HOOK);
pub static PROBE_TIME: MetricDef =
    MetricDef::counter("bianque.probe.time", "s", "CPU time of the BPF program, from timing one run in 1,024")
        .by(BY_HOOK);
pub static PROBE_MISSED: MetricDef = MetricDef::counter(
    "bianque.probe.missed",
    "{run}",
    "Runs of the BPF program that the kernel left out, as an interrupt came while the program ran on that CPU",
)
.by(BY_HOOK);
pub static STORE_STATE: MetricDef = MetricDef::gauge(
    "bianque.store.state",
    "{state}",
    "1 for the state that the store is in (ok, degraded, off), 0 for those it was in",
)
.by(&[STATE]);
pub static STORE_SIZE: MetricDef = MetricDef::up_down_counter("bianque.store.size", "By", "Size of the store on disk");
pub static STORE_COMMIT_DURATION: MetricDef =
    MetricDef::histogram("bianque.store.commit.duration", "s", "Time that a commit to the store took");
pub static EXPORTER_SENT: MetricDef =
    MetricDef::counter("bianque.exporter.sent", "{record}", "What the back end has accepted").by(&[EXPORTER, SIGNAL]);
pub static EXPORTER_FAILURES: MetricDef =
    MetricDef::counter("bianque.exporter.failures", "{request}", "Requests that the back end did not accept")
        .by(&[EXPORTER, REASON, SIGNAL]);
pub static EXPORTER_BEHIND_COUNT: MetricDef = MetricDef::up_down_counter(
    "bianque.exporter.behind.count",
    "{event}",
    "Accepted entries that the exporter has still to send",
)
.by(&[EXPORTER]);
pub static EXPORTER_BEHIND_SIZE: MetricDef = MetricDef::up_down_counter(
    "bianque.exporter.behind.size",
    "By",
    "Encoded size of the entries that the exporter has still to send",
)
.by(&[EXPORTER]);
pub static EXPORTER_LAG: MetricDef =
    MetricDef::gauge("bianque.exporter.lag", "s", "Age of the oldest entry that the exporter has still to send")
        .by(&[EXPORTER]);
pub static SOURCE_STATE: MetricDef = MetricDef::gauge(
    "bianque.workload.source.state",
    "{state}",
    "1 for the state that a source of workloads' names (cri, kubelet, api_server) is in: ok, old (it was lost; its last answers are \
     kept), down, absent; 0 for those it was in",
)
.by(&[SOURCE, STATE]);
pub static HELPER_FAILURES: MetricDef = MetricDef::counter(
    "bianque.helper.failures",
    "{request}",
    "Requests to the processes that read strangers' files which had no answer: `timed_out`; `busy`, none was free in time; `ended`, \
     the process did; `refused`, what was asked about has made one fail within the last minute; `not_started`, none can be started, \
     or too many were. An event then has addresses, until names come late",
)
.by(&[REASON]);
pub static SERIES_COUNT: MetricDef =
    MetricDef::up_down_counter("bianque.series.count", "{series}", "Series of all metrics");
pub static SERIES_OVERFLOWED: MetricDef = MetricDef::counter(
    "bianque.series.overflowed",
    "{point}",
    "Points folded into overflow=\"true\" because the metric has too many series",
)
.by(&[METRIC]);

/// All of them, in the order of the reference.
pub const ALL: &[&MetricDef] = &[
    &EVENTS_ACCEPTED,
    &EVENTS_DROPPED,
    &EVENTS_SUPPRESSED,
    &RECORDS_LOST,
    &WORKLOAD_SUPPRESSED,
    &WORKLOAD_LOST,
    &INCIDENT_COUNT,
    &COLLECTOR_STATE,
    &COLLECTOR_DURATION,
    &COLLECTOR_FAILURES,
    &PROBE_RUNS,
    &PROBE_TIME,
    &PROBE_MISSED,
    &STORE_STATE,
    &STORE_SIZE,
    &STORE_COMMIT_DURATION,
    &EXPORTER_SENT,
    &EXPORTER_FAILURES,
    &EXPORTER_BEHIND_COUNT,
    &EXPORTER_BEHIND_SIZE,
    &EXPORTER_LAG,
    &SOURCE_STATE,
    &HELPER_FAILURES,
    &SERIES_COUNT,
    &SERIES_OVERFLOWED,
];

/// What the runs of one collector cost in user space since start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Runs {
    pub runs: u64,
    pub failures: u64,
    /// Time that they took.
    pub seconds: f64,
}

/// The agent's own counters. Cheap to clone; all methods may be called from any thread. A call costs
/// some hundreds of nanoseconds, none is made per kernel event.
#[derive(Clone)]
pub struct SelfMetrics {
    state: Arc<MetricState>,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for SelfMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfMetrics").finish_non_exhaustive()
    }
}

impl SelfMetrics {
    /// Counters in `state`; `now` is the wall clock.
    #[must_use]
    pub fn new(state: Arc<MetricState>, now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        SelfMetrics { state, now: Arc::new(now) }
    }

    /// Counters that nobody reads, for tests.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn unread() -> Self {
        Self::new(Arc::new(MetricState::new(1000, Timestamp(0))), || Timestamp(0))
    }

    /// `n` events of a collector are committed to the store.
    pub fn accepted(&self, collector: &str, n: u64) {
        self.add(&EVENTS_ACCEPTED, &[(COLLECTOR, collector)], n);
    }

    /// `n` events (records, points, captures) are gone.
    pub fn dropped(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        if n > 0 {
            self.add(&EVENTS_DROPPED, &[at(stage), (REASON, reason)], n);
        }
    }

    /// `n` events were left out on purpose.
    pub fn suppressed(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        if n > 0 {
            self.add(&EVENTS_SUPPRESSED, &[at(stage), (REASON, reason)], n);
        }
    }

    /// The kernel could not hand over `n` more records of a probe.
    pub fn lost(&self, probe: &str, reason: &'static str, n: u64) {
        self.add(&RECORDS_LOST, &[(PROBE, probe), (REASON, reason)], n);
    }

    /// The kernel left out `n` more runs of a program.
    pub fn probe_missed(&self, probe: &str, hook: &str, n: u64) {
        self.add(&PROBE_MISSED, &[(HOOK, hook), (PROBE, probe)], n);
    }

    pub fn incidents_open(&self, n: usize) {
        self.set(&INCIDENT_COUNT, &[], Reading::Int(n as u64));
    }

    /// `state`: running, disabled, unavailable, failed, stuck.
    pub fn collector_state(&self, collector: &str, state: &str) {
        self.enter(&COLLECTOR_STATE, &[(COLLECTOR, collector)], state);
    }

    /// `source`: cri, kubelet, api_server; `state`: ok, old, down, absent.
    pub fn source_state(&self, source: &'static str, state: &str) {
        self.enter(&SOURCE_STATE, &[(SOURCE, source)], state);
    }

    /// One run of a collector took `d` and succeeded or failed.
    pub fn collector_ran(&self, collector: &str, d: Duration, failed: bool) {
        self.took(&COLLECTOR_DURATION, &[(COLLECTOR, collector)], d);
        self.add(&COLLECTOR_FAILURES, &[(COLLECTOR, collector)], u64::from(failed));
    }

    /// A BPF program ran `runs` times more and took `time` more.
    pub fn probe_cost(&self, probe: &str, hook: &str, runs: u64, time: Duration) {
        let who = [(HOOK, hook), (PROBE, probe)];
        self.add(&PROBE_RUNS, &who, runs);
        self.change(&PROBE_TIME, &who, |r| *r = Reading::Double(total(r) + time.as_secs_f64()));
    }

    /// What each collector's runs cost in user space since start, by name.
    #[must_use]
    pub fn runs(&self) -> BTreeMap<String, Runs> {
        let mut out: BTreeMap<String, Runs> = BTreeMap::new();
        self.each(&COLLECTOR_DURATION, |s| {
            if let Reading::Histogram(h) = s.reading() {
                let runs = out.entry(text(s, COLLECTOR)).or_default();
                (runs.runs, runs.seconds) = (h.count(), h.sum.unwrap_or(0.0));
            }
        });
        self.each(&COLLECTOR_FAILURES, |s| {
            if let (Some(runs), Reading::Int(n)) = (out.get_mut(&text(s, COLLECTOR)), s.reading()) {
                runs.failures = *n;
            }
        });
        out
    }

    /// Runs and CPU seconds of each BPF program since it was loaded, by probe and hook.
    #[must_use]
    pub fn probe_costs(&self) -> BTreeMap<(String, String), (u64, f64)> {
        let mut out: BTreeMap<_, (u64, f64)> = BTreeMap::new();
        let who = |s: &Series| (text(s, PROBE), text(s, HOOK));
        self.each(&PROBE_RUNS, |s| {
            if let Reading::Int(n) = s.reading() {
                out.entry(who(s)).or_default().0 = *n;
            }
        });
        self.each(&PROBE_TIME, |s| out.entry(who(s)).or_default().1 = total(s.reading()));
        out
    }

    /// `state`: ok, degraded, off.
    pub fn store_state(&self, state: &str) {
        self.enter(&STORE_STATE, &[], state);
    }

    pub fn store_size(&self, bytes: u64) {
        self.set(&STORE_SIZE, &[], Reading::Int(bytes));
    }

    pub fn store_committed(&self, took: Duration) {
        self.took(&STORE_COMMIT_DURATION, &[], took);
    }

    /// The back end has accepted `n` records, spans or points.
    pub fn exporter_sent(&self, exporter: &str, signal: &'static str, n: u64) {
        self.add(&EXPORTER_SENT, &[(EXPORTER, exporter), (SIGNAL, signal)], n);
    }

    /// A request was not accepted.
    pub fn exporter_failed(&self, exporter: &str, signal: &'static str, reason: &'static str) {
        self.add(&EXPORTER_FAILURES, &[(EXPORTER, exporter), (REASON, reason), (SIGNAL, signal)], 1);
    }

    /// How far an exporter is behind the log.
    pub fn exporter_behind(&self, exporter: &str, events: u64, bytes: u64, oldest: Duration) {
        let who = [(EXPORTER, exporter)];
        self.set(&EXPORTER_BEHIND_COUNT, &who, Reading::Int(events));
        self.set(&EXPORTER_BEHIND_SIZE, &who, Reading::Int(bytes));
        self.set(&EXPORTER_LAG, &who, Reading::Double(oldest.as_secs_f64()));
    }

    /// A request to a helper process has no answer.
    pub fn helper_failed(&self, reason: &'static str) {
        self.add(&HELPER_FAILURES, &[(REASON, reason)], 1);
    }

    pub fn series(&self, n: usize) {
        self.set(&SERIES_COUNT, &[], Reading::Int(n as u64));
    }

    /// `n` points of a metric were folded into its overflow series.
    pub fn series_overflowed(&self, metric: &'static str, n: u64) {
        self.add(&SERIES_OVERFLOWED, &[(METRIC, metric)], n);
    }

    fn add(&self, def: &'static MetricDef, who: &[(Key, &str)], n: u64) {
        self.change(def, who, |r| {
            if let Reading::Int(sum) = r {
                *sum = sum.saturating_add(n);
            }
        });
    }

    fn set(&self, def: &'static MetricDef, who: &[(Key, &str)], reading: Reading) {
        self.change(def, who, |r| *r = reading);
    }

    fn took(&self, def: &'static MetricDef, who: &[(Key, &str)], time: Duration) {
        self.change(def, who, |r| {
            if let Reading::Histogram(h) = r {
                h.record(time.as_secs_f64());
            }
        });
    }

    /// Of the series of `who` by their state, the one of `state` becomes 1 and the others 0.
    fn enter(&self, def: &'static MetricDef, who: &[(Key, &str)], state: &str) {
        let is_of = |a: &Attributes| who.iter().all(|(k, v)| a.get(k.name).and_then(Value::as_str) == Some(v));
        let attributes = declared(def, &[who, &[(STATE, state)]].concat());
        let now = (self.now)();
        self.state.change_own(def, |family, room| {
            family.change_all(is_of, now, |r| *r = Reading::Int(0));
            family.change(attributes, Reading::Int(0), now, room, |r| *r = Reading::Int(1));
        });
    }

    fn change(&self, def: &'static MetricDef, who: &[(Key, &str)], change: impl FnOnce(&mut Reading)) {
        let (attributes, now) = (declared(def, who), (self.now)());
        let zero = match def.instrument {
            Instrument::Histogram => Reading::Histogram(Histogram { sum: Some(0.0), ..Histogram::default() }),
            _ => Reading::Int(0),
        };
        self.state.change_own(def, |family, room| family.change(attributes, zero, now, room, change));
    }

    fn each(&self, def: &'static MetricDef, each: impl FnMut(&Series)) {
        let view = self.state.read();
        view.families().filter(|f| f.def() == def).flat_map(Family::series).for_each(each);
    }
}

/// The attributes of a series; in debug builds, and so in tests, only as they are declared.
fn declared(def: &'static MetricDef, who: &[(Key, &str)]) -> Attributes {
    debug_assert!(ALL.contains(&def), "{} is not among the agent's own metrics", def.name);
    let mut out = Attributes::new();
    for (key, value) in who {
        debug_assert!(def.attributes.contains(key), "{} has no attribute {}", def.name, key.name);
        out.set(*key, (*value).to_owned());
    }
    out
}

fn at(stage: Stage<'_>) -> (Key, &str) {
    match stage {
        Stage::Collector(name) => (COLLECTOR, name),
        Stage::Exporter(name) => (EXPORTER, name),
    }
}

fn text(s: &Series, key: Key) -> String {
    s.attributes().get(key.name).and_then(Value::as_str).unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::FamilyStats;
    use super::*;

    fn own() -> SelfMetrics {
        SelfMetrics::new(Arc::new(MetricState::new(3, Timestamp(5))), || Timestamp(9))
    }

    /// `attributes = reading` of each series, in order.
    fn read(own: &SelfMetrics, def: &'static MetricDef) -> Vec<String> {
        let mut out = Vec::new();
        own.each(def, |s| {
            let values: Vec<_> = s.attributes().iter().filter_map(|(_, v)| v.as_str()).collect();
            out.push(format!("{} = {:?}", values.join(","), s.reading()));
        });
        out
    }

    /// Counters add up since the agent started; amounts are what was set last, and absent until then.
    #[test]
    fn counters_grow_and_amounts_are_set() {
        let own = own();
        assert_eq!(read(&own, &SERIES_COUNT), [""; 0]);
        own.series(7);
        own.series(3);
        own.dropped(Stage::Exporter("otlp"), "rejected", 0);
        own.dropped(Stage::Exporter("otlp"), "rejected", 3);
        own.dropped(Stage::Exporter("otlp"), "rejected", 2);
        own.exporter_behind("a", 5, 50, Duration::from_millis(1500));
        own.exporter_behind("a", 0, 0, Duration::ZERO);
        assert_eq!(read(&own, &SERIES_COUNT), [" = Int(3)"]);
        assert_eq!(read(&own, &EVENTS_DROPPED), ["otlp,rejected = Int(5)"]);
        assert_eq!(read(&own, &EXPORTER_BEHIND_COUNT), ["a = Int(0)"]);
        assert_eq!(read(&own, &EXPORTER_LAG), ["a = Double(0.0)"]);
        own.each(&EVENTS_DROPPED, |s| assert_eq!((s.start(), s.time()), (Timestamp(5), Timestamp(9))));
    }

    /// Of each collector one state is 1, and those that it was in are 0; another's are its own.
    #[test]
    fn states_are_left_when_another_is_entered() {
        let own = own();
        own.collector_state("oom", "running");
        own.collector_state("cpu", "running");
        own.collector_state("oom", "stuck");
        own.store_state("ok");
        let expected = ["oom,running = Int(0)", "cpu,running = Int(1)", "oom,stuck = Int(1)"];
        assert_eq!(read(&own, &COLLECTOR_STATE), expected);
        assert_eq!(read(&own, &STORE_STATE), ["ok = Int(1)"]);
    }

    /// What runs and programs cost is read back from the metrics.
    #[test]
    fn costs_are_read_back() {
        let own = own();
        own.collector_ran("cpu", Duration::from_millis(250), false);
        own.collector_ran("cpu", Duration::from_millis(750), true);
        own.probe_cost("oom", "tp_btf/mark_victim", 3, Duration::from_millis(1));
        own.probe_cost("oom", "tp_btf/mark_victim", 2, Duration::from_millis(1));
        assert_eq!(own.runs(), [("cpu".to_owned(), Runs { runs: 2, failures: 1, seconds: 1.0 })].into());
        let key = ("oom".to_owned(), "tp_btf/mark_victim".to_owned());
        assert_eq!(own.probe_costs(), [(key, (5, 0.002))].into());
    }

    /// They are bounded as all metrics are, and what found no room is said.
    #[test]
    fn own_series_are_bounded() {
        let own = own();
        for exporter in ["a", "b", "c", "d", "e"] {
            own.exporter_sent(exporter, "logs", 2);
        }
        let last = read(&own, &EXPORTER_SENT).pop();
        assert_eq!(last.as_deref(), Some(" = Int(4)"));
        let stats = own.state.stats();
        assert_eq!(stats, [FamilyStats { name: EXPORTER_SENT.name, series: 4, overflowed: 2 }]);
    }

    /// A histogram's buckets hold what lies in them, whichever came first.
    #[test]
    fn durations_are_distributed() {
        let own = own();
        for ms in [250, 0, 2000, 250] {
            own.store_committed(Duration::from_millis(ms));
        }
        own.each(&STORE_COMMIT_DURATION, |s| {
            let expected = Histogram { zero_count: 1, offset: -3, counts: vec![2, 0, 0, 1], sum: Some(2.5) };
            assert_eq!(s.reading(), &Reading::Histogram(expected));
        });
        let view = own.state.read();
        assert_eq!(view.families().next().and_then(Family::exponents), Some((-3, 1)));
    }
}
