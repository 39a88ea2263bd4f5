// SPDX-License-Identifier: Apache-2.0
//! Instruments that collectors, or libraries they use, make through the OpenTelemetry API: the SDK's
//! meter provider behind `opentelemetry::global::meter`.
//!
//! The SDK reads them on a thread of its own, as callbacks of strangers run there, every interval as
//! collectors run; the page and the delivery over OTLP take what was read last. A metric has as many
//! series at most as one of ours, and no name that another one has: such an instrument is refused.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::metrics::v1::ScopeMetrics;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument as SdkInstrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream, Temporality,
};
use prometheus::Registry;
use prometheus::proto::MetricFamily;

use crate::exporters::prometheus::names::{Name, word};
use crate::exporters::prometheus::{INFO, WORKLOAD_INFO};
use crate::signal::{Instrument, MetricDef};

/// So many of them the agent keeps.
const MAX_INSTRUMENTS: usize = 1000;

/// What was read last.
#[derive(Debug, Default)]
struct Snapshot {
    families: Vec<MetricFamily>,
    scopes: Vec<ScopeMetrics>,
}

/// The instruments as they were read last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Instruments(Arc<Mutex<Snapshot>>);

impl Instruments {
    /// For the one writer of `/metrics`.
    #[must_use]
    pub fn families(&self) -> Vec<MetricFamily> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).families.clone()
    }

    /// For the delivery over OTLP.
    #[must_use]
    pub fn scopes(&self) -> Vec<ScopeMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).scopes.clone()
    }
}

/// What is asked of instruments.
#[derive(Debug)]
pub struct Bounds {
    /// Time between two readings.
    pub interval: Duration,
    /// How many series a metric may have.
    pub max_series: usize,
    /// What the agent itself reports, and what its collectors declare: nobody else has such a name.
    pub declared: Vec<&'static MetricDef>,
}

/// Makes the provider, and where its readings are found.
pub(super) fn provider(resource: Resource, bounds: &Bounds) -> anyhow::Result<(SdkMeterProvider, Instruments)> {
    let registry = Registry::new();
    let text = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()
        .context("make the registry of the OpenTelemetry API's instruments")?;
    let instruments = Instruments::default();
    let reader = PeriodicReader::builder(Readings { registry, instruments: instruments.clone() });
    let names = Names::new(&bounds.declared);
    let max_series = bounds.max_series.max(1);
    let meters = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(text)
        .with_reader(reader.with_interval(bounds.interval).build())
        .with_view(move |i: &SdkInstrument| names.stream(i, max_series))
        .build();
    Ok((meters, instruments))
}

/// Keeps each reading, in both forms.
struct Readings {
    registry: Registry,
    instruments: Instruments,
}

impl PushMetricExporter for Readings {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let scopes = metrics.scope_metrics().map(Into::into).collect();
        let now = Snapshot { families: self.registry.gather(), scopes };
        *self.instruments.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// An instrument by what makes it another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Made {
    name: String,
    unit: String,
    kind: Instrument,
    scope: String,
}

impl Made {
    fn of(i: &SdkInstrument) -> Self {
        let kind = match i.kind() {
            InstrumentKind::Counter | InstrumentKind::ObservableCounter => Instrument::Counter,
            InstrumentKind::UpDownCounter | InstrumentKind::ObservableUpDownCounter => Instrument::UpDownCounter,
            InstrumentKind::Gauge | InstrumentKind::ObservableGauge => Instrument::Gauge,
            InstrumentKind::Histogram => Instrument::Histogram,
        };
        // To the SDK, case makes no difference.
        let name = i.name().to_ascii_lowercase();
        Made { name, unit: i.unit().to_owned(), kind, scope: i.scope().name().to_owned() }
    }
}

/// Which names are taken, by us and by instruments that were made before.
struct Names {
    declared: HashSet<String>,
    made: Mutex<MadeNames>,
}

#[derive(Default)]
struct MadeNames {
    by_name: HashMap<String, Made>,
    accepted: HashSet<Made>,
    refused: HashSet<Made>,
}

impl Names {
    fn new(declared: &[&MetricDef]) -> Self {
        let infos = ["target", WORKLOAD_INFO].map(|name| format!("{name}{INFO}"));
        let ours = declared.iter().flat_map(|m| names(m.name, m.unit, m.instrument));
        Names { declared: ours.chain(infos).collect(), made: Mutex::default() }
    }

    /// How the SDK is to keep an instrument; not at all when it is refused.
    fn stream(&self, i: &SdkInstrument, max_series: usize) -> Option<Stream> {
        let made = Made::of(i);
        if let Err(why) = self.admit(&made) {
            if self.is_first_refusal(&made) {
                tracing::error!(metric = made.name, meter = made.scope, "instrument refused: {why}");
            }
            return Stream::builder().with_aggregation(Aggregation::Drop).build().ok();
        }
        Stream::builder().with_cardinality_limit(max_series).build().ok()
    }

    fn admit(&self, new: &Made) -> Result<(), String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // The SDK asks for each reader.
        if made.accepted.contains(new) {
            return Ok(());
        }
        let names = names(&new.name, &new.unit, new.kind);
        if let Some(name) = names.iter().find(|n| self.declared.contains(*n)) {
            return Err(format!("the agent has a metric {name} already; rename it"));
        }
        if let Some((name, other)) = names.iter().find_map(|n| made.by_name.get_key_value(n)) {
            return Err(format!("the meter {:?} has a metric {name} already; rename one", other.scope));
        }
        if made.accepted.len() >= MAX_INSTRUMENTS {
            return Err(format!("there are {MAX_INSTRUMENTS} already"));
        }
        made.by_name.extend(names.into_iter().map(|n| (n, new.clone())));
        made.accepted.insert(new.clone());
        Ok(())
    }

    fn is_first_refusal(&self, new: &Made) -> bool {
        let refused = &mut self.made.lock().unwrap_or_else(PoisonError::into_inner).refused;
        refused.len() < MAX_INSTRUMENTS && refused.insert(new.clone())
    }
}

/// All that a metric is called: in OTLP, as far as case and separators go, and its samples in Prometheus.
fn names(name: &str, unit: &str, instrument: Instrument) -> Vec<String> {
    let Name { family, sample, .. } = Name::new(name, unit, instrument);
    let mut out = vec![word(name).to_ascii_lowercase(), sample];
    if instrument == Instrument::Histogram {
        out.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{family}{suffix}")));
    }
    out.push(family);
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;

    use super::*;

    static TAKEN: MetricDef = MetricDef::histogram("linux.wait", "s", "Wait");

    fn start(max_series: usize) -> (SdkMeterProvider, Instruments) {
        let bounds = Bounds { interval: Duration::from_secs(3600), max_series, declared: vec![&TAKEN] };
        provider(Resource::builder_empty().build(), &bounds).unwrap()
    }

    /// Names of the metrics on the page, and of those that OTLP gets.
    fn seen(read: &Instruments) -> (Vec<String>, Vec<String>) {
        let page = read.families().iter().map(|f| f.name().to_owned()).collect();
        let otlp = read.scopes().into_iter().flat_map(|s| s.metrics).map(|m| m.name).collect();
        (page, otlp)
    }

    /// An instrument is in both forms, under its own name and scope in OTLP.
    #[test]
    fn instruments_are_read() {
        let (meters, read) = start(10);
        let counter = meters.meter("acme").u64_counter("acme.reads").with_unit("{read}").build();
        counter.add(3, &[KeyValue::new("acme.state", "open")]);
        assert_eq!(seen(&read), (vec![], vec![]), "nothing was read yet");
        meters.force_flush().unwrap();
        assert_eq!(seen(&read), (vec!["acme_reads_total".into()], vec!["acme.reads".into()]));
        assert_eq!(read.scopes()[0].scope.as_ref().unwrap().name, "acme");
    }

    /// A name that the agent has, in either form, and one that another meter has, is neither on the page nor
    /// in OTLP.
    #[test]
    fn names_that_are_taken_are_refused() {
        let (meters, read) = start(10);
        let (acme, other) = (meters.meter("acme"), meters.meter("other"));
        acme.u64_counter("Linux.Wait").build().add(1, &[]);
        acme.i64_up_down_counter("linux_wait_seconds_count").build().add(1, &[]);
        acme.u64_counter("acme.reads").build().add(1, &[]);
        acme.u64_counter("acme.reads").build().add(1, &[]);
        other.u64_counter("acme_reads").build().add(1, &[]);
        acme.f64_gauge("acme.reads").build().record(1.0, &[]);
        meters.force_flush().unwrap();
        assert_eq!(seen(&read), (vec!["acme_reads_total".into()], vec!["acme.reads".into()]));
    }

    /// The refusal says what is in the way, once for each instrument.
    #[test]
    fn refusals_say_why() {
        let names = Names::new(&[&TAKEN]);
        let made = |name: &str, scope: &str| Made {
            name: name.into(),
            unit: String::new(),
            kind: Instrument::Gauge,
            scope: scope.into(),
        };
        let why = names.admit(&made("linux.wait", "a")).unwrap_err();
        assert_eq!(why, "the agent has a metric linux_wait already; rename it");
        assert!(names.is_first_refusal(&made("linux.wait", "a")) && !names.is_first_refusal(&made("linux.wait", "a")));
        assert_eq!(names.admit(&made("acme.x", "a")), Ok(()));
        assert_eq!(names.admit(&made("acme.x", "a")), Ok(()), "the same again");
        let why = names.admit(&made("acme.x", "b")).unwrap_err();
        assert_eq!(why, "the meter \"a\" has a metric acme_x already; rename one");
        for n in 0..MAX_INSTRUMENTS - 1 {
            assert_eq!(names.admit(&made(&format!("acme.n{n}"), "a")), Ok(()));
        }
        assert_eq!(names.admit(&made("acme.more", "a")), Err("there are 1000 already".into()));
    }

    /// A metric has as many series as one of ours may have, and one more for the rest.
    #[test]
    fn series_are_bounded() {
        let (meters, read) = start(5);
        let counter = meters.meter("acme").u64_counter("acme.reads").build();
        for n in 0..100 {
            counter.add(1, &[KeyValue::new("acme.n", n)]);
        }
        meters.force_flush().unwrap();
        assert_eq!(read.families()[0].get_metric().len(), 6);
        let Some(Data::Sum(sum)) = &read.scopes()[0].metrics[0].data else { panic!("{:?}", read.scopes()) };
        assert_eq!(sum.data_points.len(), 6);
    }
}
