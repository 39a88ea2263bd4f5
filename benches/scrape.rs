// SPDX-License-Identifier: Apache-2.0
//! What a scrape of 20,000 series costs in CPU time, ours and, in the same run, the OpenTelemetry
//! SDK's own exporter over as many series with the same labels. The bar: ours takes at most 2 ms.

#![expect(clippy::expect_used, reason = "a bench that cannot run has nothing better to do")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bianque::exporters::prometheus::{Format, Prometheus};
use bianque::pipeline::metrics::MetricState;
use bianque::signal::semconv::attr;
use bianque::signal::{Attributes, MetricDef, Metrics, Pod, Timestamp, Workload, WorkloadKey, WorkloadKind};
use criterion::{Criterion, criterion_group, criterion_main};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::{Instrument as SdkInstrument, SdkMeterProvider, Stream};

const SERIES: usize = 2000;

macro_rules! defs {
    ($($name:literal),*) => {
        [$(MetricDef::counter($name, "s", "Time that the workload's threads spent in one state").by(&[attr::CPU_MODE])),*]
    };
}
static DEFS: [MetricDef; 10] = defs![
    "linux.container.time.a",
    "linux.container.time.b",
    "linux.container.time.c",
    "linux.container.time.d",
    "linux.container.time.e",
    "linux.container.time.f",
    "linux.container.time.g",
    "linux.container.time.h",
    "linux.container.time.i",
    "linux.container.time.j"
];

fn workload(n: u64) -> Arc<Workload> {
    Arc::new(Workload {
        container_id: Some(format!("{:064x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        container_name: Some(format!("server-{n}")),
        image_name: Some("registry.example.org/shop/server".into()),
        image_tag: Some("1.27".into()),
        runtime: Some("containerd"),
        pod: Some(Pod {
            uid: format!("{n:032x}").into(),
            name: Some(format!("server-7d9f8c6b5-{n:05}").into()),
            namespace: Some("shop-production".into()),
            container: Some("server".into()),
            ..Pod::default()
        }),
        ..Workload::new(WorkloadKey(n), WorkloadKind::Container, format!("/kubepods.slice/{n}"))
    })
}

fn value(series: usize) -> f64 {
    1_234.567_891 * (series + 1) as f64
}

/// 1,000 workloads, two series each, ten metrics.
fn ours() -> Prometheus {
    let state = Arc::new(MetricState::new(SERIES, Timestamp(0)));
    let mut m = Metrics::default();
    for n in 0..SERIES {
        let who = workload(n as u64 / 2);
        let mode = if n % 2 == 0 { "user" } else { "system" };
        for (i, def) in DEFS.iter().enumerate() {
            // Half of them whole numbers, as counters of events are.
            match i % 2 {
                0 => m.count(def, Some(&who), &[(attr::CPU_MODE, mode.into())], 123_456 * n as u64),
                _ => m.value(def, Some(&who), &[(attr::CPU_MODE, mode.into())], value(n)),
            }
        }
    }
    state.update("bench", &mut m, Timestamp(1));
    Prometheus::new(state, &Attributes::new(), Box::new(Vec::new))
}

fn sdk() -> (SdkMeterProvider, prometheus::Registry) {
    let registry = prometheus::Registry::new();
    let exporter =
        opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().expect("the SDK's exporter");
    let all = |_: &SdkInstrument| Stream::builder().with_cardinality_limit(10 * SERIES).build().ok();
    let provider = SdkMeterProvider::builder().with_reader(exporter).with_view(all).build();
    let meter = provider.meter("bench");
    for def in &DEFS {
        let sets: Vec<Vec<KeyValue>> = (0..SERIES)
            .map(|n| {
                let w = workload(n as u64 / 2);
                let pod = w.pod.clone().unwrap_or_default();
                vec![
                    KeyValue::new("container_id", w.container_id.clone().unwrap_or_default()),
                    KeyValue::new("container_name", w.container_name.clone().unwrap_or_default()),
                    KeyValue::new("k8s_namespace_name", pod.namespace.unwrap_or_default()),
                    KeyValue::new("k8s_pod_name", pod.name.unwrap_or_default()),
                    KeyValue::new("k8s_container_name", pod.container.unwrap_or_default()),
                    KeyValue::new("cpu_mode", if n % 2 == 0 { "user" } else { "system" }),
                ]
            })
            .collect();
        let observe = move |o: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            sets.iter().enumerate().for_each(|(n, set)| o.observe(value(n), set));
        };
        meter.f64_observable_counter(def.name).with_description(def.help).with_callback(observe).build();
    }
    (provider, registry)
}

/// CPU time of this thread; the kernel's `schedstat`, exact to a tick.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("/proc/thread-self/schedstat");
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("nanoseconds"))
}

fn timed(mut f: impl FnMut(), times: u64) -> Duration {
    let start = cpu_time();
    (0..times).for_each(|_| f());
    cpu_time() - start
}

/// The lower quartile of many runs, each long against a tick: what the work takes when nothing else on the
/// machine gets in its way.
fn each(f: impl Fn(), times: u64) -> Duration {
    let mut runs: Vec<_> = (0..15).map(|_| timed(&f, times) / times as u32).collect();
    runs.sort();
    runs[runs.len() / 4]
}

fn scrape(c: &mut Criterion) {
    // As the agent does.
    bianque::host::sys::limit_malloc();
    let ours = ours();
    let (provider, registry) = sdk();
    let text = || drop(black_box(ours.scrape(Format::Text)));
    let open_metrics = || drop(black_box(ours.scrape(Format::OpenMetrics)));
    let theirs = || drop(black_box(prometheus::TextEncoder::new().encode_to_string(&registry.gather())));
    let lines = |text: &str| text.lines().filter(|l| l.starts_with("linux_container_time")).count();
    assert_eq!(lines(std::str::from_utf8(ours.scrape(Format::Text).as_ref()).expect("text")), 10 * SERIES);
    assert_eq!(lines(&prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text")), 10 * SERIES);
    let mut group = c.benchmark_group("scrape of 20,000 series, CPU time");
    group.sample_size(15);
    group.bench_function("text", |b| b.iter_custom(|n| timed(text, n)));
    group.bench_function("OpenMetrics", |b| b.iter_custom(|n| timed(open_metrics, n)));
    group.bench_function("the SDK's exporter", |b| b.iter_custom(|n| timed(theirs, n)));
    group.finish();
    report(each(text, 400), each(theirs, 2), ours.scrape(Format::Text).as_ref().len());
    drop(provider);
}

#[expect(clippy::print_stdout, reason = "a bench prints its results")]
fn report(ours: Duration, theirs: Duration, bytes: usize) {
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!(
        "scrape: {bytes} bytes in {ours:.2?} of CPU time (bar: 2 ms); the SDK's exporter {theirs:.2?}, {ratio:.0} times as much"
    );
}

criterion_group!(benches, scrape);
criterion_main!(benches);
