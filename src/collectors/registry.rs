// SPDX-License-Identifier: Apache-2.0
//! The one list of built-in collectors, and how a collector's type becomes an entry of it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{AutoTracer, Collector, Context, EventCollector, Events, Info, Kind, Limits, MetricCollector, Parts};
use super::{Settings, Unavailable, declared};
use crate::host::{Host, Now};
use crate::probe::{RecordSet, RingDef};
use crate::settings::{self, Misfit};
use crate::signal::{Capture, Change, MetricDef, Metrics, Trigger};

/// Every collector of this crate, in the order in which they are listed.
pub static BUILT_IN: &[Registration] = &[
    metrics::<super::metrics::cpu::Cpu>(),
    metrics::<super::metrics::cpufreq::CpuFreq>(),
    metrics::<super::metrics::runqlat::RunqLat>(),
    metrics::<super::metrics::schedstat::SchedStat>(),
    metrics::<super::metrics::load::Load>(),
    metrics::<super::metrics::interrupts::Interrupts>(),
    metrics::<super::metrics::processes::Processes>(),
    metrics::<super::metrics::memory::Memory>(),
    metrics::<super::metrics::pressure::Pressure>(),
    metrics::<super::metrics::disk::Disks>(),
    metrics::<super::metrics::iolat::IoLat>(),
    metrics::<super::metrics::filesystem::FileSystems>(),
    metrics::<super::metrics::netdev::NetDev>(),
    metrics::<super::metrics::netstat::Netstat>(),
    metrics::<super::metrics::neigh::Neigh>(),
    metrics::<super::metrics::conntrack::Conntrack>(),
    metrics::<super::metrics::softirqstat::SoftirqStat>(),
    events::<super::events::oom::Oom>(),
    events::<super::events::softirq::Softirq>(),
    events::<super::events::softlockup::SoftLockup>(),
    events::<super::events::hungtask::HungTask>(),
    events::<super::events::linkwatch::LinkWatch>(),
    events::<super::events::txtimeout::TxTimeout>(),
    events::<super::events::lacp::Lacp>(),
    events::<super::events::ras::Ras>(),
    events::<super::events::memreclaim::MemReclaim>(),
    events::<super::events::dropwatch::DropWatch>(),
    events::<super::events::tcp_retransmit::TcpRetransmit>(),
    events::<super::events::netrecvlat::NetRecvLat>(),
    autotracing::<super::autotracing::cpuidle::CpuIdle>(),
    autotracing::<super::autotracing::cpusys::CpuSys>(),
    autotracing::<super::autotracing::dload::DLoad>(),
];

/// A collector as the agent holds it: its declaration, its settings' shape, and how to build it.
#[derive(Clone, Copy)]
pub struct Registration {
    pub info: &'static Info,
    pub kind: Kind,
    /// JSON schema of its own settings, without the common keys.
    pub schema: fn() -> schemars::Schema,
    /// Its own settings at their defaults.
    pub defaults: fn() -> toml::Table,
    /// Whether a section (without the common keys `enabled` and `interval`) is valid.
    pub check: fn(&toml::Table) -> Result<(), SettingsError>,
    /// [`Collector::survey`]
    pub survey: fn(&Host) -> Result<Vec<String>, Unavailable>,
    /// [`MetricCollector::LEAST_INTERVAL`]
    pub least_interval: Duration,
    pub(crate) build: fn(&toml::Table, &mut Context<'_>) -> Result<Running, BuildError>,
}

impl Registration {
    /// Every metric of a collector, those that count its events included, each once.
    #[must_use]
    pub fn metrics(&self) -> Vec<&'static MetricDef> {
        let counters = self.info.events.iter().flat_map(|e| std::iter::once(e.counter).chain(e.container_counter));
        let mut out: Vec<&'static MetricDef> = Vec::new();
        for m in self.info.metrics.iter().copied().chain(counters) {
            if out.iter().all(|o| o.name != m.name) {
                out.push(m);
            }
        }
        out
    }
}

/// What is wrong with a collector's section.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Wrong type, unknown key: serde's word.
    #[error("{0}")]
    Shape(ShapeError),
    #[error(transparent)]
    Invalid(#[from] super::Invalid),
}

/// A value that does not fit its setting, with the setting's key.
#[derive(Debug)]
pub struct ShapeError(pub(crate) Box<Misfit>);

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a collector could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Registers a collector that reads on a timer.
#[must_use]
pub const fn metrics<C: MetricCollector>() -> Registration {
    let all = registration::<C>(Kind::Metrics, |t, cx| Ok(Running::Metrics(Box::new(build::<C>(t, cx)?))));
    Registration { least_interval: C::LEAST_INTERVAL, ..all }
}

/// Registers a collector that turns records into events.
#[must_use]
pub const fn events<C: EventCollector>() -> Registration {
    registration::<C>(Kind::Events, |t, cx| Ok(Running::Events(Box::new(build::<C>(t, cx)?))))
}

/// Registers a collector that watches and captures.
#[must_use]
pub const fn autotracing<C: AutoTracer>() -> Registration {
    registration::<C>(Kind::Autotracing, |t, cx| Ok(Running::Autotracing(Box::new(build::<C>(t, cx)?))))
}

const fn registration<C: Collector>(
    kind: Kind,
    build: fn(&toml::Table, &mut Context<'_>) -> Result<Running, BuildError>,
) -> Registration {
    Registration {
        info: const { &C::INFO },
        kind,
        schema: || {
            let inline = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
            inline.into_generator().into_root_schema_for::<C::Config>()
        },
        defaults: || toml::Table::try_from(C::Config::default()).unwrap_or_default(),
        check: |t| typed::<C>(t).map(drop),
        survey: C::survey,
        least_interval: Duration::ZERO,
        build,
    }
}

fn typed<C: Collector>(table: &toml::Table) -> Result<C::Config, SettingsError> {
    let config: C::Config = settings::read([table]).map_err(|e| SettingsError::Shape(ShapeError(Box::new(e))))?;
    config.validate()?;
    Ok(config)
}

fn build<C: Collector>(table: &toml::Table, cx: &mut Context<'_>) -> Result<C, BuildError> {
    let config = typed::<C>(table)?;
    cx.lost = C::survey(cx.host)?;
    Ok(C::new(config, cx)?)
}

/// A collector that was built.
pub(crate) enum Running {
    Metrics(Box<dyn RunningMetrics>),
    Events(Box<dyn RunningEvents>),
    Autotracing(Box<dyn RunningTracer>),
}

/// Object-safe form of [`MetricCollector`].
pub(crate) trait RunningMetrics: Send {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()>;
    fn reload(&mut self, section: &toml::Table) -> anyhow::Result<()>;
}

/// Object-safe form of [`EventCollector`].
pub(crate) trait RunningEvents: Send {
    fn on_record(&mut self, ring: usize, bytes: &[u8], out: &mut Events) -> anyhow::Result<()>;
    /// Its rings, by their index in a record's call.
    fn rings(&self) -> &'static [RingDef];
    /// [`EventCollector::COUNTS_LIMITED`]
    fn counts_limited(&self) -> bool {
        true
    }
    fn period(&self) -> Option<Duration>;
    fn tick(&mut self, now: Now, out: &mut Events) -> anyhow::Result<()>;
    fn reload(&mut self, section: &toml::Table) -> anyhow::Result<()>;
}

pub(crate) type CaptureFuture = Pin<Box<dyn Future<Output = anyhow::Result<Capture>> + Send>>;

/// Object-safe form of [`AutoTracer`].
pub(crate) trait RunningTracer: Send {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>>;
    fn capture(&mut self, trigger: &Trigger, limits: Limits, parts: Parts) -> CaptureFuture;
    fn period(&self) -> Duration;
    fn reload(&mut self, section: &toml::Table) -> anyhow::Result<()>;
}

impl<C: MetricCollector> RunningMetrics for C {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        let result = MetricCollector::collect(self, out);
        declared::assert_metrics(&C::INFO, out);
        result
    }
    fn reload(&mut self, section: &toml::Table) -> anyhow::Result<()> {
        Collector::reload(self, typed::<C>(section)?)
    }
}

impl<C: EventCollector> RunningEvents for C {
    fn on_record(&mut self, ring: usize, bytes: &[u8], out: &mut Events) -> anyhow::Result<()> {
        let result = EventCollector::on_record(self, C::Records::decode(ring, bytes)?, out);
        declared::assert_events(&C::INFO, out);
        result
    }
    fn rings(&self) -> &'static [RingDef] {
        C::Records::rings()
    }
    fn counts_limited(&self) -> bool {
        C::COUNTS_LIMITED
    }
    fn period(&self) -> Option<Duration> {
        EventCollector::period(self)
    }
    fn tick(&mut self, now: Now, out: &mut Events) -> anyhow::Result<()> {
        let result = EventCollector::tick(self, now, out);
        declared::assert_events(&C::INFO, out);
        result
    }
    fn reload(&mut self, section: &toml::Table) -> anyhow::Result<()> {
        Collector::reload(self, typed::<C>(section)?)
    }
}

impl<C: AutoTracer> RunningTracer for C {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        let changes = AutoTracer::check(self, now)?;
        declared::assert_changes(&C::INFO, &changes);
        Ok(changes)
    }
    fn capture(&mut self, trigger: &Trigger, limits: Limits, parts: Parts) -> CaptureFuture {
        Box::pin(AutoTracer::capture(self, trigger, limits, parts))
    }
    fn period(&self) -> Duration {
        AutoTracer::period(self)
    }
    fn reload(&mut self, section: &toml::Table) -> anyhow::Result<()> {
        Collector::reload(self, typed::<C>(section)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name means one collector, whatever its kind.
    #[test]
    fn names_are_unique_over_the_kinds() {
        let mut names: Vec<_> = BUILT_IN.iter().map(|r| r.info.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// What ships as default passes its own validation.
    #[test]
    fn defaults_are_valid() {
        for r in BUILT_IN {
            (r.check)(&(r.defaults)()).unwrap_or_else(|e| panic!("{}: {e}", r.info.name));
        }
    }
}
