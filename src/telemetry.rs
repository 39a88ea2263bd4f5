// SPDX-License-Identifier: Apache-2.0
//! The agent's own logs and spans, and instruments that collectors make, through the OpenTelemetry SDK.
//! What the agent counts about itself is in the state of metrics, with all others.
//!
//! Logs go to standard error, and over OTLP with the spans where a back end is named. What the
//! export stack itself logs never goes over OTLP: it would feed itself. The SDK exports on threads
//! of its own, so a back end that hangs holds up nothing of the agent.

mod export;
mod instruments;
mod output;

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::exporters::otlp::{self, env};
use crate::signal::semconv::{AGENT, attr};
use crate::signal::{Attributes, Value};

pub use instruments::{Bounds, Instruments};
pub use output::Output;

/// Crates that carry our telemetry away: what they log stays on this machine.
const EXPORT_STACK: [&str; 8] =
    ["opentelemetry", "tonic", "hyper", "hyper_util", "hyper_rustls", "h2", "rustls", "tower"];

/// What the agent's own telemetry is made of.
#[derive(Debug)]
pub struct Options<'a> {
    /// The agent and its node: see [`resource`].
    pub resource: Attributes,
    /// Where to send; nothing goes out if no endpoint is named in it.
    pub otlp: &'a otlp::Settings,
    /// What is asked of instruments that are made through the OpenTelemetry API.
    pub instruments: Bounds,
}

/// The agent's own telemetry while it runs.
pub struct Telemetry {
    meters: SdkMeterProvider,
    instruments: Instruments,
    logs: Option<SdkLoggerProvider>,
    spans: Option<SdkTracerProvider>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// The resource of the agent: `node` (`host.*`, `os.*`), its service, and what `OTEL_SERVICE_NAME`
/// and `OTEL_RESOURCE_ATTRIBUTES` say; and a warning if those cannot be read.
#[must_use]
pub fn resource(node: &Attributes, vars: &env::Env) -> (Attributes, Option<String>) {
    let mut all = node.clone();
    all.set(attr::SERVICE_NAME, AGENT);
    all.set(attr::SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
    all.set_some(attr::SERVICE_INSTANCE_ID, node.get(attr::HOST_ID.name).cloned());
    let (named, warning) = env::resource(vars);
    all.extend(named);
    (all, warning)
}

impl Telemetry {
    /// Makes the SDK's providers. Must be called within a tokio runtime that outlives them.
    ///
    /// # Errors
    /// Which setting cannot be used, and why.
    pub fn start(options: Options<'_>) -> anyhow::Result<Telemetry> {
        let resource = sdk_resource(&options.resource);
        let (meters, instruments) = instruments::provider(resource.clone(), &options.instruments)?;
        let logs = export::logs(options.otlp)?
            .map(|e| SdkLoggerProvider::builder().with_resource(resource.clone()).with_batch_exporter(e).build());
        let spans = export::spans(options.otlp)?
            .map(|e| SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(e).build());
        Ok(Telemetry { meters, instruments, logs, spans })
    }

    /// What was made of [`Self::meters`], as it was read last.
    #[must_use]
    pub fn instruments(&self) -> Instruments {
        self.instruments.clone()
    }

    /// The provider of meters, to be made the global one, once, by the agent.
    #[must_use]
    pub fn meters(&self) -> SdkMeterProvider {
        self.meters.clone()
    }

    /// What takes the agent's `tracing` events and spans: to be installed once, by the agent.
    /// `filter` is in the form of `RUST_LOG`, e.g. `info` or `info,bianque::probe=debug`.
    ///
    /// # Errors
    /// What is wrong with the filter.
    pub fn subscriber(&self, filter: &str, output: Output) -> anyhow::Result<impl Subscriber + Send + Sync + 'static> {
        let bridge = self.logs.as_ref().map(OpenTelemetryTracingBridge::new);
        let spans = self.spans.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer(AGENT)));
        let goes_out = || filter_fn(|m| !is_export_stack(m.target()));
        Ok(Registry::default()
            .with(output::layer(output).with_filter(stderr_filter(filter)?))
            .with(bridge.with_filter(env_filter(filter)?).with_filter(goes_out()))
            .with(spans.with_filter(env_filter(filter)?).with_filter(goes_out())))
    }

    /// Sends what is left, for as long as `limit`. Blocks.
    pub fn shutdown(self, limit: Duration) {
        let each = limit / 3;
        let spans = self.spans.map(|p| p.shutdown_with_timeout(each));
        let logs = self.logs.map(|p| p.shutdown_with_timeout(each));
        let meters = self.meters.shutdown_with_timeout(each);
        for e in [spans, logs, Some(meters)].into_iter().flatten().filter_map(Result::err) {
            tracing::debug!("the agent's own telemetry could not all be sent: {e}");
        }
    }
}

fn is_export_stack(target: &str) -> bool {
    EXPORT_STACK.iter().any(|krate| {
        // `opentelemetry-otlp` and `opentelemetry_sdk` name themselves in several ways.
        target.strip_prefix(krate).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '-', '_']))
    })
}

fn env_filter(text: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(text)
        .with_context(|| format!("log.filter = {text}: not of the form \"info\" or \"info,bianque::probe=debug\""))
}

/// The SDK complains at every failed export: our own delivery to the same back end does so once a
/// minute, so those are only shown to who asks for them.
fn stderr_filter(text: &str) -> anyhow::Result<EnvFilter> {
    env_filter(text)?;
    let quiet =
        "opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off,opentelemetry-otlp=off,hyper=warn,h2=warn";
    env_filter(&format!("{quiet},{text}"))
}

fn sdk_resource(attributes: &Attributes) -> Resource {
    let all = attributes.iter().map(|(k, v)| opentelemetry::KeyValue::new(k.to_owned(), sdk_value(v)));
    Resource::builder_empty().with_attributes(all).build()
}

fn sdk_value(v: &Value) -> opentelemetry::Value {
    match v {
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::Double(d) => (*d).into(),
        Value::Str(s) => s.to_string().into(),
        // No resource of ours has one, and the SDK's resources cannot hold all of them.
        Value::Array(_) | Value::Map(_) => format!("{v:?}").into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::exporters::prometheus::{Format, Prometheus};
    use crate::pipeline::metrics::MetricState;
    use crate::signal::Timestamp;

    /// The export stack is told by crate, not by the beginning of a name.
    #[test]
    fn export_stack_is_recognised_by_crate() {
        for t in
            ["h2", "h2::codec", "opentelemetry_sdk", "opentelemetry-otlp", "tonic::transport", "hyper_util::client"]
        {
            assert!(is_export_stack(t), "{t}");
        }
        for t in ["bianque::exporters::otlp", "h2o", "towering", "bianque"] {
            assert!(!is_export_stack(t), "{t}");
        }
    }

    fn options(otlp: &otlp::Settings) -> Options<'_> {
        let instruments = Bounds { interval: Duration::from_secs(60), max_series: 10, declared: Vec::new() };
        Options { resource: Attributes::new(), otlp, instruments }
    }

    /// The environment has the last word on the agent's resource, also as Prometheus shows it; the node's id is the
    /// instance.
    #[test]
    fn resource_is_node_service_and_environment() {
        let mut node = Attributes::new();
        node.set(attr::HOST_ID, "abc");
        let given =
            [("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=pr%C3%BCf")];
        let vars: env::Env = given.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let (r, warning) = resource(&node, &vars);
        assert_eq!(warning, None);
        assert_eq!(r.get("service.name").and_then(Value::as_str), Some("mine"));
        assert_eq!(r.get("service.instance.id").and_then(Value::as_str), Some("abc"));
        let page = Prometheus::new(Arc::new(MetricState::new(1, Timestamp(0))), &r, Box::new(Vec::new));
        let page = String::from_utf8(page.scrape(Format::OpenMetrics).as_ref().to_vec()).unwrap();
        let target = page.lines().find(|l| l.starts_with("target_info{")).unwrap();
        for label in [r#"deployment_environment_name="prüf""#, r#"service_name="mine""#, r#"host_id="abc""#] {
            assert!(target.contains(label), "{target}");
        }
    }

    /// A filter that cannot be is an error that names it.
    #[test]
    fn bad_filter_is_named() {
        let t = Telemetry::start(options(&otlp::Settings::default())).unwrap();
        let e = t.subscriber("info,=x=y", Output::default()).err().unwrap().to_string();
        assert!(e.contains("info,=x=y"), "{e}");
    }
}
