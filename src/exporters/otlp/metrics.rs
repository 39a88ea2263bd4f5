// SPDX-License-Identifier: Apache-2.0
//! Metrics over OTLP: every interval the latest value of every series. Nothing is queued, as the
//! next interval's values stand for those that could not be sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::{EXPORTER, Outcome, STAGE, Signal, Transport};
use crate::exporters::health::{ExporterStatus, Health};
use crate::exporters::node::Node;
use crate::exporters::retry::{OnceAMinute, Shutdown, Stop};
use crate::pipeline::metrics::{Exemplar, Family, MetricState, SelfMetrics, Series, View};
use crate::signal::metric::Reading;
use crate::signal::semconv::SCHEMA_URL;
use crate::signal::{Histogram, Instrument, Workload, WorkloadKey, ids, otlp, wire};

/// Reads what was made through the OpenTelemetry API.
pub type Scopes = Box<dyn Fn() -> Vec<ScopeMetrics> + Send + Sync>;

/// Size from which a request is closed: gRPC servers take 4 MiB at most by default.
const FULL: usize = 2 << 20;
/// OTLP's `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u64 = 2;
/// Exponent of the resolution of histograms in seconds: what is below lies in the zero bucket.
const RESOLUTION_EXPONENT: i32 = -20;

/// Sends the state of all metrics. [`Self::run`] is a future for the agent to spawn.
pub struct MetricDelivery {
    state: Arc<MetricState>,
    transport: Transport,
    node: Node,
    interval: Duration,
    own: SelfMetrics,
    scopes: Scopes,
    complaints: OnceAMinute,
    failing: bool,
    health: Health,
    /// Not before, by the server's wish.
    not_before: Option<Instant>,
}

impl MetricDelivery {
    pub fn new(
        state: Arc<MetricState>,
        transport: Transport,
        node: Node,
        interval: Duration,
        own: SelfMetrics,
    ) -> Self {
        let complaints = OnceAMinute::default();
        MetricDelivery {
            state,
            transport,
            node,
            interval,
            own,
            scopes: Box::new(Vec::new),
            complaints,
            failing: false,
            health: Health::default(),
            not_before: None,
        }
    }

    /// Sends also what was made through the OpenTelemetry API.
    #[must_use]
    pub fn with_instruments(mut self, scopes: Scopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// Reports its status there.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self.set_status(ExporterStatus::Healthy);
        self
    }

    fn set_status(&self, status: ExporterStatus) {
        self.health.set(&format!("{EXPORTER}/{}", Signal::Metrics.name()), status);
    }

    /// Sends every interval until `shutdown` yields, and then once more.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut stop = Stop::new(shutdown);
        info!("delivery of metrics over OTLP to {} begins", self.transport.target());
        let mut ticks = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_ending() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.begun() => {}
            }
            if self.not_before.is_some_and(|t| t > Instant::now()) && !stop.is_ending() {
                continue;
            }
            if stop.within(self.send()).await.is_none() {
                break;
            }
        }
    }

    /// Sends the state once; stops at the first request that is not accepted.
    async fn send(&mut self) {
        let mut requests = requests(&self.state.read(), &self.node);
        requests.extend(requests_of((self.scopes)(), &self.node));
        for (body, points) in requests {
            let (reason, why) = match self.transport.export(body).await {
                Outcome::Accepted { rejected, message } => {
                    self.own.exporter_sent(EXPORTER, Signal::Metrics.name(), points.saturating_sub(rejected));
                    self.own.dropped(STAGE, "rejected", rejected);
                    if rejected > 0 && self.complaints.may_speak() {
                        warn!("{} rejected {rejected} metric points: {message}", self.transport.target());
                    }
                    if std::mem::take(&mut self.failing) {
                        self.set_status(ExporterStatus::Healthy);
                        info!("{} takes metrics again", self.transport.target());
                    }
                    continue;
                }
                Outcome::Retry { after, why } => {
                    self.not_before = after.map(|a| Instant::now() + a);
                    ("unavailable", why)
                }
                Outcome::Suspect(why) => ("error", why),
                Outcome::TooLarge(why) => ("too_large", why),
                Outcome::Refused(why) => ("refused", why),
                Outcome::Denied(why) | Outcome::Unserved(why) => ("denied", why),
            };
            self.failing = true;
            self.set_status(ExporterStatus::Failing(why.clone()));
            self.own.exporter_failed(EXPORTER, Signal::Metrics.name(), reason);
            if self.complaints.may_speak() {
                warn!("cannot deliver metrics to {}: {why}; the next interval's follow", self.transport.target());
            }
            if matches!(reason, "unavailable" | "denied") {
                return;
            }
        }
    }
}

/// The metrics of one workload by one collector: a `ScopeMetrics` less its head.
struct Unit<'a> {
    workload: Option<&'a Workload>,
    metrics: Vec<u8>,
    points: u64,
}

/// All series as export requests, each with its number of points.
#[must_use]
pub fn requests(view: &View<'_>, node: &Node) -> Vec<(Bytes, u64)> {
    let mut units: BTreeMap<(Option<WorkloadKey>, &'static str), Unit<'_>> = BTreeMap::new();
    for family in view.families() {
        add_family(&mut units, family);
    }
    let mut out = Vec::new();
    let (mut body, mut points) = (Vec::new(), 0);
    for ((_, collector), unit) in &units {
        wire::nested(&mut body, 1, |body| {
            let own = unit.workload.map(|w| otlp::key_values(&w.resource()));
            wire::resource(body, 1, &node.resource(own.as_deref()));
            wire::nested(body, 2, |body| {
                wire::scope(body, 1, collector);
                body.extend_from_slice(&unit.metrics);
                wire::bytes(body, 3, SCHEMA_URL.as_bytes());
            });
            wire::bytes(body, 3, SCHEMA_URL.as_bytes());
        });
        points += unit.points;
        if body.len() >= FULL {
            out.push((std::mem::take(&mut body).into(), std::mem::take(&mut points)));
        }
    }
    if points > 0 {
        out.push((body.into(), points));
    }
    out
}

/// Metrics as the OpenTelemetry SDK has them, as export requests with the agent's resource, each with its
/// number of points.
fn requests_of(scopes: Vec<ScopeMetrics>, node: &Node) -> Vec<(Bytes, u64)> {
    let mut out = Vec::new();
    for scope in scopes {
        let (mut metrics, mut size) = (Vec::new(), 0);
        let mut last = scope.metrics.len();
        for metric in scope.metrics {
            last -= 1;
            size += metric.encoded_len();
            metrics.push(metric);
            if last > 0 && size < FULL {
                continue;
            }
            let points = metrics.iter().map(points_of).sum();
            let scope = ScopeMetrics {
                scope: scope.scope.clone(),
                schema_url: scope.schema_url.clone(),
                metrics: std::mem::take(&mut metrics),
            };
            size = 0;
            let of_node = ResourceMetrics {
                resource: Some(Resource { attributes: node.resource(None), ..Resource::default() }),
                scope_metrics: vec![scope],
                schema_url: SCHEMA_URL.to_owned(),
            };
            out.push((ExportMetricsServiceRequest { resource_metrics: vec![of_node] }.encode_to_vec().into(), points));
        }
    }
    out
}

fn points_of(metric: &Metric) -> u64 {
    let n = match &metric.data {
        Some(Data::Gauge(g)) => g.data_points.len(),
        Some(Data::Sum(s)) => s.data_points.len(),
        Some(Data::Histogram(h)) => h.data_points.len(),
        Some(Data::ExponentialHistogram(h)) => h.data_points.len(),
        Some(Data::Summary(s)) => s.data_points.len(),
        None => 0,
    };
    n as u64
}

/// Writes a metric's series, sorted by workload, as one `Metric` for each.
fn add_family<'a>(units: &mut BTreeMap<(Option<WorkloadKey>, &'static str), Unit<'a>>, family: &'a Family) {
    let mut series: Vec<&Series> = family.series().collect();
    series.sort_by_key(|s| key_of(s));
    for group in series.chunk_by(|a, b| key_of(a) == key_of(b)) {
        let workload = group.first().and_then(|s| s.workload()).map(Arc::as_ref);
        let unit = units.entry((workload.map(|w| w.key), family.collector())).or_insert_with(|| Unit {
            workload,
            metrics: Vec::new(),
            points: 0,
        });
        unit.points += group.len() as u64;
        wire::nested(&mut unit.metrics, 2, |out| metric(out, family, group));
    }
}

fn key_of(s: &Series) -> Option<WorkloadKey> {
    s.workload().map(|w| w.key)
}

/// The fields of a `Metric`.
fn metric(out: &mut Vec<u8>, family: &Family, series: &[&Series]) {
    let def = family.def();
    wire::bytes(out, 1, def.name.as_bytes());
    wire::bytes(out, 2, def.help.as_bytes());
    wire::bytes(out, 3, def.unit.as_bytes());
    let numbers = |out: &mut Vec<u8>, with_start: bool| {
        for s in series {
            wire::nested(out, 1, |out| number(out, s, with_start));
        }
    };
    match def.instrument {
        Instrument::Gauge => wire::nested(out, 5, |out| numbers(out, false)),
        Instrument::Counter | Instrument::UpDownCounter => wire::nested(out, 7, |out| {
            numbers(out, true);
            wire::uint(out, 2, CUMULATIVE);
            wire::uint(out, 3, u64::from(def.instrument == Instrument::Counter));
        }),
        Instrument::Histogram => wire::nested(out, 10, |out| {
            for s in series {
                if let Reading::Histogram(h) = s.reading() {
                    wire::nested(out, 1, |out| histogram(out, s, h, def.unit));
                }
            }
            wire::uint(out, 2, CUMULATIVE);
        }),
    }
}

/// The fields of a `NumberDataPoint`.
fn number(out: &mut Vec<u8>, s: &Series, with_start: bool) {
    if with_start {
        wire::fixed64(out, 2, s.start().0);
    }
    wire::fixed64(out, 3, s.time().0);
    match s.reading() {
        Reading::Int(n) => wire::fixed64(out, 6, i64::try_from(*n).unwrap_or(i64::MAX) as u64),
        Reading::Double(v) => wire::double(out, 4, *v),
        Reading::Histogram(_) => {}
    }
    s.exemplar().into_iter().for_each(|e| exemplar(out, 5, e));
    wire::attributes(out, 7, s.attributes());
}

/// The fields of an `ExponentialHistogramDataPoint`.
fn histogram(out: &mut Vec<u8>, s: &Series, h: &Histogram, unit: &str) {
    wire::attributes(out, 1, s.attributes());
    wire::fixed64(out, 2, s.start().0);
    wire::fixed64(out, 3, s.time().0);
    wire::fixed64(out, 4, h.count());
    if let Some(sum) = h.sum {
        wire::double(out, 5, sum);
    }
    wire::sint(out, 6, 0);
    wire::fixed64(out, 7, h.zero_count);
    wire::nested(out, 8, |out| {
        wire::sint(out, 1, h.offset);
        wire::nested(out, 2, |out| h.counts.iter().for_each(|n| wire::varint(out, *n)));
    });
    if unit == "s" && h.offset >= RESOLUTION_EXPONENT {
        wire::double(out, 14, f64::from(RESOLUTION_EXPONENT).exp2());
    }
}

fn exemplar(out: &mut Vec<u8>, field: u32, e: &Exemplar) {
    wire::nested(out, field, |out| {
        wire::fixed64(out, 2, e.time.0);
        wire::double(out, 3, e.value);
        // An incident's root span.
        wire::bytes(out, 4, &ids::span_id(e.trace, &e.trace.0).0);
        wire::bytes(out, 5, &e.trace.0);
    });
}

#[cfg(test)]
mod tests;
