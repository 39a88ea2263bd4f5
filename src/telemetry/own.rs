// SPDX-License-Identifier: Apache-2.0
//! What the agent counts about itself: every loss by place and reason, states, costs.
//!
//! Kept in the OpenTelemetry SDK, so that they leave by `/metrics` and by OTLP alike. The set is
//! small: a call costs some tens of nanoseconds, none is made per kernel event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use crate::signal::semconv::own::{self, key};
use crate::signal::{Instrument, Stage};

/// A counter of the agent itself, for the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfMetricDef {
    pub name: &'static str,
    pub instrument: Instrument,
    pub unit: &'static str,
    pub help: &'static str,
    pub attributes: &'static [&'static str],
}

const fn def(
    name: &'static str,
    instrument: Instrument,
    unit: &'static str,
    attributes: &'static [&'static str],
    help: &'static str,
) -> SelfMetricDef {
    SelfMetricDef { name, instrument, unit, help, attributes }
}

const COUNTER: Instrument = Instrument::Counter;
const UP_DOWN_COUNTER: Instrument = Instrument::UpDownCounter;
const GAUGE: Instrument = Instrument::Gauge;
const HISTOGRAM: Instrument = Instrument::Histogram;

/// All of them, in the order of the reference.
pub const SELF_METRICS: &[SelfMetricDef] = &[
    def(own::EVENTS_ACCEPTED, COUNTER, "{event}", &[key::COLLECTOR], "Events whose commit to the store has returned"),
    def(
        own::EVENTS_DROPPED,
        COUNTER,
        "{event}",
        &[key::COLLECTOR, key::EXPORTER, key::REASON],
        "Events that are gone because the agent could not process (collector) or deliver (exporter) them",
    ),
    def(
        own::EVENTS_SUPPRESSED,
        COUNTER,
        "{event}",
        &[key::COLLECTOR, key::EXPORTER, key::REASON],
        "Events that were left out on purpose: `limit`, too many at once; `filter`, the workload is excluded; `did_not_last`, a \
         peak that was over before its window; `too_many_captures`; `unsupported`, the back end does not take such signals",
    ),
    def(
        own::RECORDS_LOST,
        COUNTER,
        "{record}",
        &[key::PROBE, key::REASON],
        "Records that the kernel could not hand over",
    ),
    def(
        own::RECORDS_REJECTED,
        COUNTER,
        "{record}",
        &[key::COLLECTOR, key::REASON],
        "Records that yielded no event because they could not be read",
    ),
    def(own::INCIDENT_COUNT, UP_DOWN_COUNTER, "{incident}", &[], "Incidents that are open now"),
    def(
        own::COLLECTOR_STATE,
        GAUGE,
        "{state}",
        &[key::COLLECTOR, key::STATE],
        "1 for the state that the collector is in, 0 for those it was in",
    ),
    def(own::COLLECTOR_DURATION, HISTOGRAM, "s", &[key::COLLECTOR], "Time that one run of the collector took"),
    def(own::COLLECTOR_FAILURES, COUNTER, "{run}", &[key::COLLECTOR], "Runs of the collector that failed"),
    def(own::PROBE_RUNS, COUNTER, "{run}", &[key::PROBE, key::HOOK], "Runs of the BPF program"),
    def(
        own::PROBE_TIME,
        COUNTER,
        "s",
        &[key::PROBE, key::HOOK],
        "CPU time of the BPF program, from timing one run in 1,024",
    ),
    def(
        own::PROBE_MISSED,
        COUNTER,
        "{run}",
        &[key::PROBE, key::HOOK],
        "Runs of the BPF program that the kernel left out, as an interrupt came while the program ran on that CPU",
    ),
    def(
        own::STORE_STATE,
        GAUGE,
        "{state}",
        &[key::STATE],
        "1 for the state that the store is in (ok, degraded, off), 0 for those it was in",
    ),
    def(own::STORE_SIZE, UP_DOWN_COUNTER, "By", &[], "Size of the store on disk"),
    def(own::STORE_COMMIT_DURATION, HISTOGRAM, "s", &[], "Time that a commit to the store took"),
    def(own::EXPORTER_SENT, COUNTER, "{record}", &[key::EXPORTER, key::SIGNAL], "What the back end has accepted"),
    def(
        own::EXPORTER_FAILURES,
        COUNTER,
        "{request}",
        &[key::EXPORTER, key::SIGNAL, key::REASON],
        "Requests that the back end did not accept",
    ),
    def(
        own::EXPORTER_BEHIND_COUNT,
        UP_DOWN_COUNTER,
        "{event}",
        &[key::EXPORTER],
        "Accepted entries that the exporter has still to send",
    ),
    def(
        own::EXPORTER_BEHIND_SIZE,
        UP_DOWN_COUNTER,
        "By",
        &[key::EXPORTER],
        "Encoded size of the entries that the exporter has still to send",
    ),
    def(own::EXPORTER_LAG, GAUGE, "s", &[key::EXPORTER], "Age of the oldest entry that the exporter has still to send"),
    def(
        own::SOURCE_STATE,
        GAUGE,
        "{state}",
        &[key::SOURCE, key::STATE],
        "1 for the state that a source of workloads' names (cri, kubelet, api_server) is in: ok, old (it was lost; what it told is \
         kept), down, absent; 0 for those it was in",
    ),
    def(own::SERIES_COUNT, UP_DOWN_COUNTER, "{series}", &[], "Series of all metrics"),
    def(
        own::SERIES_OVERFLOWED,
        COUNTER,
        "{point}",
        &[key::METRIC],
        "Points folded into overflow=\"true\" because the metric has too many series",
    ),
];

/// Cost of each BPF program since it was loaded: runs and seconds, by probe and hook.
type Costs = Arc<Mutex<BTreeMap<(String, String), (u64, f64)>>>;

/// What the runs of one collector cost in user space since start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Runs {
    pub runs: u64,
    pub failures: u64,
    /// Time that they took.
    pub seconds: f64,
}

/// The agent's own counters. Cheap to clone; all methods may be called from any thread.
#[derive(Clone)]
pub struct SelfMetrics {
    accepted: Counter<u64>,
    dropped: Counter<u64>,
    suppressed: Counter<u64>,
    lost: Counter<u64>,
    missed: Counter<u64>,
    rejected: Counter<u64>,
    incidents: Amount,
    state: Gauge<u64>,
    source_state: Gauge<u64>,
    duration: Histogram<f64>,
    failures: Counter<u64>,
    store_state: Gauge<u64>,
    store_size: Amount,
    commit: Histogram<f64>,
    sent: Counter<u64>,
    export_failures: Counter<u64>,
    behind: Amount,
    behind_bytes: Amount,
    lag: Gauge<f64>,
    series: Amount,
    overflowed: Counter<u64>,
    states: Arc<Mutex<BTreeMap<String, String>>>,
    costs: Costs,
    runs: Arc<Mutex<BTreeMap<String, Runs>>>,
}

impl std::fmt::Debug for SelfMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfMetrics").finish_non_exhaustive()
    }
}

fn of_stage(stage: Stage<'_>, reason: &'static str) -> [KeyValue; 2] {
    let (label, name) = stage.label();
    [KeyValue::new(label, name.to_owned()), KeyValue::new(key::REASON, reason)]
}

fn unit_and_help(name: &str) -> (&'static str, &'static str) {
    SELF_METRICS.iter().find(|d| d.name == name).map_or(("", ""), |d| (d.unit, d.help))
}

fn counter(meter: &Meter, name: &'static str) -> Counter<u64> {
    let (unit, help) = unit_and_help(name);
    meter.u64_counter(name).with_unit(unit).with_description(help).build()
}

fn gauge(meter: &Meter, name: &'static str) -> Gauge<u64> {
    let (unit, help) = unit_and_help(name);
    meter.u64_gauge(name).with_unit(unit).with_description(help).build()
}

fn histogram(meter: &Meter, name: &'static str) -> Histogram<f64> {
    let (unit, help) = unit_and_help(name);
    let bounds = vec![0.001, 0.01, 0.1, 1.0, 10.0];
    meter.f64_histogram(name).with_unit(unit).with_description(help).with_boundaries(bounds).build()
}

/// An up-down counter that is set to what there is now, of the agent or of each exporter: the SDK's own
/// takes differences only. Read when somebody looks; absent until it was set.
#[derive(Clone, Default)]
struct Amount(Arc<Mutex<BTreeMap<Option<String>, u64>>>);

impl Amount {
    fn new(meter: &Meter, name: &'static str) -> Self {
        let amount = Amount::default();
        let all = amount.clone();
        let (unit, help) = unit_and_help(name);
        let _registered = meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit)
            .with_description(help)
            .with_callback(move |o| {
                for (exporter, n) in all.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let attributes = exporter.clone().map(|e| KeyValue::new(key::EXPORTER, e));
                    o.observe(i64::try_from(*n).unwrap_or(i64::MAX), attributes.as_slice());
                }
            })
            .build();
        amount
    }

    fn set(&self, exporter: Option<&str>, n: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(exporter.map(str::to_owned), n);
    }
}

/// Costs come from the kernel as totals, so they are read when somebody looks.
fn observe_costs(meter: &Meter, costs: &Costs) {
    let attributes = |(probe, hook): &(String, String)| {
        [KeyValue::new(key::PROBE, probe.clone()), KeyValue::new(key::HOOK, hook.clone())]
    };
    let all = Arc::clone(costs);
    let (unit, help) = unit_and_help(own::PROBE_RUNS);
    let _registered = meter
        .u64_observable_counter(own::PROBE_RUNS)
        .with_unit(unit)
        .with_description(help)
        .with_callback(move |o| {
            for (who, (runs, _)) in all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                o.observe(*runs, &attributes(who));
            }
        })
        .build();
    let all = Arc::clone(costs);
    let (unit, help) = unit_and_help(own::PROBE_TIME);
    let _registered = meter
        .f64_observable_counter(own::PROBE_TIME)
        .with_unit(unit)
        .with_description(help)
        .with_callback(move |o| {
            for (who, (_, seconds)) in all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                o.observe(*seconds, &attributes(who));
            }
        })
        .build();
}

impl SelfMetrics {
    /// Counters of `meter`.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let costs = Costs::default();
        observe_costs(meter, &costs);
        let (lag_unit, lag_help) = unit_and_help(own::EXPORTER_LAG);
        SelfMetrics {
            accepted: counter(meter, own::EVENTS_ACCEPTED),
            dropped: counter(meter, own::EVENTS_DROPPED),
            suppressed: counter(meter, own::EVENTS_SUPPRESSED),
            lost: counter(meter, own::RECORDS_LOST),
            missed: counter(meter, own::PROBE_MISSED),
            rejected: counter(meter, own::RECORDS_REJECTED),
            incidents: Amount::new(meter, own::INCIDENT_COUNT),
            state: gauge(meter, own::COLLECTOR_STATE),
            source_state: gauge(meter, own::SOURCE_STATE),
            duration: histogram(meter, own::COLLECTOR_DURATION),
            failures: counter(meter, own::COLLECTOR_FAILURES),
            store_state: gauge(meter, own::STORE_STATE),
            store_size: Amount::new(meter, own::STORE_SIZE),
            commit: histogram(meter, own::STORE_COMMIT_DURATION),
            sent: counter(meter, own::EXPORTER_SENT),
            export_failures: counter(meter, own::EXPORTER_FAILURES),
            behind: Amount::new(meter, own::EXPORTER_BEHIND_COUNT),
            behind_bytes: Amount::new(meter, own::EXPORTER_BEHIND_SIZE),
            lag: meter.f64_gauge(own::EXPORTER_LAG).with_unit(lag_unit).with_description(lag_help).build(),
            series: Amount::new(meter, own::SERIES_COUNT),
            overflowed: counter(meter, own::SERIES_OVERFLOWED),
            states: Arc::default(),
            costs,
            runs: Arc::default(),
        }
    }

    /// Counters that nobody reads: for tests and for commands that only query.
    #[must_use]
    pub fn unread() -> Self {
        use opentelemetry::metrics::MeterProvider as _;
        Self::new(&opentelemetry_sdk::metrics::SdkMeterProvider::builder().build().meter("unread"))
    }

    /// `n` events of a collector are committed to the store.
    pub fn accepted(&self, collector: &str, n: u64) {
        self.accepted.add(n, &[KeyValue::new(key::COLLECTOR, collector.to_owned())]);
    }

    /// `n` events (records, points, captures) are gone.
    pub fn dropped(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        if n > 0 {
            self.dropped.add(n, &of_stage(stage, reason));
        }
    }

    /// `n` events were left out on purpose.
    pub fn suppressed(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        if n > 0 {
            self.suppressed.add(n, &of_stage(stage, reason));
        }
    }

    /// The kernel could not hand over `n` more records of a probe.
    pub fn lost(&self, probe: &str, reason: &'static str, n: u64) {
        let attributes = [KeyValue::new(key::PROBE, probe.to_owned()), KeyValue::new(key::REASON, reason)];
        self.lost.add(n, &attributes);
    }

    /// The kernel left out `n` more runs of a program.
    pub fn probe_missed(&self, probe: &str, hook: &str, n: u64) {
        self.missed.add(n, &[KeyValue::new(key::PROBE, probe.to_owned()), KeyValue::new(key::HOOK, hook.to_owned())]);
    }

    /// A record of a collector could not be read.
    pub fn record_rejected(&self, collector: &str, reason: &'static str) {
        let attributes = [KeyValue::new(key::COLLECTOR, collector.to_owned()), KeyValue::new(key::REASON, reason)];
        self.rejected.add(1, &attributes);
    }

    pub fn incidents_open(&self, n: usize) {
        self.incidents.set(None, n as u64);
    }

    /// `state`: running, disabled, unavailable, failed, stuck.
    pub fn collector_state(&self, collector: &str, state: &str) {
        let who = KeyValue::new(key::COLLECTOR, collector.to_owned());
        self.change_state(collector, state, |value, state| {
            self.state.record(value, &[who.clone(), KeyValue::new(key::STATE, state)]);
        });
    }

    /// `source`: cri, kubelet, api_server; `state`: ok, old, down, absent.
    pub fn source_state(&self, source: &'static str, state: &str) {
        // A collector may have the same name.
        self.change_state(&format!("source/{source}"), state, |value, state| {
            self.source_state.record(value, &[KeyValue::new(key::SOURCE, source), KeyValue::new(key::STATE, state)]);
        });
    }

    /// One run of a collector took `d` and succeeded or failed.
    pub fn collector_ran(&self, collector: &str, d: Duration, failed: bool) {
        let who = [KeyValue::new(key::COLLECTOR, collector.to_owned())];
        self.duration.record(d.as_secs_f64(), &who);
        self.failures.add(u64::from(failed), &who);
        let mut all = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = all.entry(collector.to_owned()).or_default();
        runs.runs += 1;
        runs.failures += u64::from(failed);
        runs.seconds += d.as_secs_f64();
    }

    /// A BPF program ran `runs` times more and took `time` more.
    pub fn probe_cost(&self, probe: &str, hook: &str, runs: u64, time: Duration) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let total = costs.entry((probe.to_owned(), hook.to_owned())).or_default();
        total.0 += runs;
        total.1 += time.as_secs_f64();
    }

    /// What each collector's runs cost in user space since start, by name.
    #[must_use]
    pub fn runs(&self) -> BTreeMap<String, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs and CPU seconds of each BPF program since it was loaded, by probe and hook.
    #[must_use]
    pub fn probe_costs(&self) -> BTreeMap<(String, String), (u64, f64)> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `state`: ok, degraded, off.
    pub fn store_state(&self, state: &str) {
        self.change_state("", state, |value, state| {
            self.store_state.record(value, &[KeyValue::new(key::STATE, state)]);
        });
    }

    pub fn store_size(&self, bytes: u64) {
        self.store_size.set(None, bytes);
    }

    pub fn store_committed(&self, took: Duration) {
        self.commit.record(took.as_secs_f64(), &[]);
    }

    /// The back end has accepted `n` records, spans or points.
    pub fn exporter_sent(&self, exporter: &str, signal: &'static str, n: u64) {
        let attributes = [KeyValue::new(key::EXPORTER, exporter.to_owned()), KeyValue::new(key::SIGNAL, signal)];
        self.sent.add(n, &attributes);
    }

    /// A request was not accepted.
    pub fn exporter_failed(&self, exporter: &str, signal: &'static str, reason: &'static str) {
        let attributes = [
            KeyValue::new(key::EXPORTER, exporter.to_owned()),
            KeyValue::new(key::SIGNAL, signal),
            KeyValue::new(key::REASON, reason),
        ];
        self.export_failures.add(1, &attributes);
    }

    /// How far an exporter is behind the log.
    pub fn exporter_behind(&self, exporter: &str, events: u64, bytes: u64, oldest: Duration) {
        let who = [KeyValue::new(key::EXPORTER, exporter.to_owned())];
        self.behind.set(Some(exporter), events);
        self.behind_bytes.set(Some(exporter), bytes);
        self.lag.record(oldest.as_secs_f64(), &who);
    }

    pub fn series(&self, n: usize) {
        self.series.set(None, n as u64);
    }

    /// `n` points of a metric were folded into its overflow series.
    pub fn series_overflowed(&self, metric: &'static str, n: u64) {
        self.overflowed.add(n, &[KeyValue::new(key::METRIC, metric)]);
    }

    fn change_state(&self, who: &str, state: &str, record: impl Fn(u64, String)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = states.insert(who.to_owned(), state.to_owned()).filter(|old| old != state) {
            record(0, old);
        }
        record(1, state.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An amount is what was set last, as a sum that may fall, and is absent until then.
    #[test]
    fn amounts_fall_again() {
        use opentelemetry::metrics::MeterProvider as _;
        let registry = prometheus::Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
        let provider = opentelemetry_sdk::metrics::SdkMeterProvider::builder().with_reader(reader).build();
        let own = SelfMetrics::new(&provider.meter("test"));
        let read = |name: &str| {
            let family = registry.gather().into_iter().find(|f| f.name() == name)?;
            assert_eq!(family.get_field_type(), prometheus::proto::MetricType::GAUGE);
            Some(family.get_metric().iter().map(|m| m.get_gauge().get_value()).collect::<Vec<_>>())
        };
        assert_eq!(read("bianque_series_count"), None);
        own.series(7);
        own.series(3);
        for (exporter, n) in [("a", 5), ("b", 9), ("a", 0)] {
            own.exporter_behind(exporter, n, 10 * n, Duration::ZERO);
        }
        assert_eq!(read("bianque_series_count"), Some(vec![3.0]));
        assert_eq!(read("bianque_exporter_behind_count"), Some(vec![0.0, 9.0]));
        assert_eq!(read("bianque_exporter_behind_size_bytes"), Some(vec![0.0, 90.0]));
    }

    /// Every name is declared once, with a unit and a help text, so the reference and the help lines are complete.
    #[test]
    fn definitions_are_complete_and_unique() {
        let mut names: Vec<_> = SELF_METRICS.iter().map(|d| d.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SELF_METRICS.len());
        assert!(SELF_METRICS.iter().all(|d| !d.help.is_empty() && !d.unit.is_empty()));
    }
}
