// SPDX-License-Identifier: Apache-2.0
//! The collectors: traits, declarations and the one list.
//!
//! A collector is one file here, one BPF file of the same stem where it needs a probe of its own,
//! and its line in [`BUILT_IN`]. Everything else (config section, schema, CLI listing, reference
//! page) is derived from what the file declares.

pub mod accumulate;
pub mod autotracing;
mod cpu_profile;
mod declared;
pub mod detect;
pub mod drop_reason;
pub mod events;
mod history;
pub mod metrics;
pub mod netns;
pub mod network;
mod readings;
pub mod registry;
pub mod run;
mod settings;
pub mod sources;
pub mod suspects;
mod task_wait;
pub mod testing;
mod unwrapped;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::host::{Clock, Host, Now, Reading};
use crate::probe::shared::{Feature, Shared, SharedProbe};
use crate::probe::stacks::Symbols;
use crate::probe::{LoadError, Loader, Object, RecordSet, Skeleton};
use crate::signal::{Capture, Change, Event, EventDef, Evidence, MetricDef, Metrics, Target, Timestamp, Trigger};
use crate::workload::{Filters, Workloads};

pub use crate::probe::Optional;
pub use registry::{BUILT_IN, Registration, autotracing, events, metrics};
pub use settings::{Invalid, NoSettings, Settings};

/// When a collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// On a timer.
    Metrics,
    /// When a probe reports.
    Events,
    /// Watches cheaply; captures when its limit is crossed.
    Autotracing,
}

impl Kind {
    /// As it is written everywhere: `metrics`, `events`, `autotracing`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Metrics => "metrics",
            Kind::Events => "events",
            Kind::Autotracing => "autotracing",
        }
    }
}

/// What a collector declares about itself.
#[derive(Debug)]
pub struct Info {
    /// Unique over all kinds; the config section's name.
    pub name: &'static str,
    /// One line, for lists.
    pub summary: &'static str,
    /// The file's `//!` text: meaning, likely causes, what to do next.
    pub doc: &'static str,
    pub enabled: bool,
    /// Parts of shared probes that it reads; they know which of their hooks may be missing.
    pub needs: &'static [Feature],
    /// Its own BPF object, if it has one: `doctor` tries it.
    pub object: Option<&'static Skeleton>,
    /// Hooks of [`Self::object`] that may be missing: [`Context::load`] goes by this.
    pub optional: &'static [Optional],
    /// Capabilities that must be kept for it after start, e.g. `CAP_SYSLOG`, beside those that its
    /// probes take: [`Self::kept_capabilities`].
    pub capabilities: &'static [&'static str],
    pub metrics: &'static [&'static MetricDef],
    pub events: &'static [&'static EventDef],
}

impl Info {
    /// On, and nothing else: for `..Info::DEFAULT`.
    pub const DEFAULT: Info = Info {
        name: "",
        summary: "",
        doc: "",
        enabled: true,
        needs: &[],
        object: None,
        optional: &[],
        capabilities: &[],
        metrics: &[],
        events: &[],
    };

    /// Hooks that may be missing, those of the shared probes that it reads included.
    pub fn all_optional(&self) -> impl Iterator<Item = &'static Optional> {
        self.optional.iter().chain(self.needs.iter().flat_map(Feature::optional))
    }

    /// Capabilities that must be kept for it after start: to read its probes, and what it names itself.
    #[must_use]
    pub fn kept_capabilities(&self) -> Vec<&'static str> {
        let has_probe = self.object.is_some() || !self.needs.is_empty();
        let of_probe: &[&str] = if has_probe { &["CAP_BPF", "CAP_PERFMON"] } else { &[] };
        of_probe.iter().chain(self.capabilities).copied().collect()
    }

    /// [`Self::doc`] as plain markdown, where [`head_doc`] took it from the source.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |l: &'static str| l.strip_prefix("//!").map_or(l, |l| l.strip_prefix(' ').unwrap_or(l));
        self.doc.lines().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// The `//!` lines at the head of a source file, for [`Info::doc`]: `head_doc(include_str!("oom.rs"))`.
#[must_use]
pub const fn head_doc(source: &'static str) -> &'static str {
    let bytes = source.as_bytes();
    let (mut at, mut start, mut end) = (0, bytes.len(), bytes.len());
    // A line at a time: skip the licence, then take lines as long as they are `//!`.
    while at < bytes.len() {
        let is_doc = at + 2 < bytes.len() && bytes[at] == b'/' && bytes[at + 1] == b'/' && bytes[at + 2] == b'!';
        if is_doc && start == bytes.len() {
            start = at;
        } else if !is_doc && start != bytes.len() {
            end = at;
            break;
        }
        while at < bytes.len() && bytes[at] != b'\n' {
            at += 1;
        }
        at += 1;
    }
    source.split_at(end).0.split_at(start).1
}

/// For [`Collector::survey`]: what is lost if this cannot be read.
pub(crate) fn lost<T>(what: &str, reading: &Reading<T>) -> Option<String> {
    reading.as_ref().err().map(|why| format!("{what} ({why})"))
}

/// Why a collector does not run here, and what to do about it. Not a failure.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("{reason}")]
    Missing { reason: String, remedy: Option<String> },
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Unavailable {
    pub fn because(reason: impl Into<String>) -> Self {
        Unavailable::Missing { reason: reason.into(), remedy: None }
    }
}

/// What every collector has.
pub trait Collector: Sized + Send + 'static {
    const INFO: Info;
    type Config: Settings;

    /// What it does without here, as files of the node are absent or cannot be read, and why: for lists and `doctor`.
    /// What it loses with a hook is known from [`Info`].
    ///
    /// # Errors
    /// [`Unavailable`] where it has nothing to read at all; it is not built then.
    fn survey(host: &Host) -> Result<Vec<String>, Unavailable> {
        let _ = host;
        Ok(Vec::new())
    }

    /// Makes the collector ready to run: loads its object, opens what it reads.
    ///
    /// # Errors
    /// [`Unavailable`] where this node cannot run it.
    fn new(config: Self::Config, cx: &mut Context<'_>) -> Result<Self, Unavailable>;

    /// Takes changed settings while running (SIGHUP). A collector without one of its own keeps those it
    /// started with, and says so.
    ///
    /// # Errors
    /// What could not be applied; the old settings stay.
    fn reload(&mut self, config: Self::Config) -> anyhow::Result<()> {
        drop(config);
        anyhow::bail!("its settings take effect when the agent is started anew")
    }
}

/// Reads something on a timer.
pub trait MetricCollector: Collector {
    /// Its interval where the configuration sets none of its own and `metrics.interval` is shorter: for what is dear to
    /// read and changes slowly.
    const LEAST_INTERVAL: Duration = Duration::ZERO;

    /// # Errors
    /// What could not be read; what was written to `out` before is kept.
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()>;
}

/// Turns the records of its object into events.
pub trait EventCollector: Collector {
    /// All record types of its object: the skeleton's `Records`.
    type Records: RecordSet;

    /// Its events' counters are of all occurrences, those that the probe's limits left out too. `false`: they are of
    /// what was reported, and the probe has exact counts beside them.
    const COUNTS_LIMITED: bool = true;

    /// # Errors
    /// Why this record yields no event; it is counted as dropped.
    fn on_record(&mut self, record: <Self::Records as RecordSet>::Ref<'_>, out: &mut Events) -> anyhow::Result<()>;

    /// Time until the next [`Self::tick`]. Asked again after each record and each tick, so a collector
    /// that has to wait for something only now and then costs nothing in between. `None`: never.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// Called when the period is over, between two records: for what no record tells, such as that
    /// something lasts or has ended, or a shared probe that is to be asked.
    ///
    /// # Errors
    /// What could not be looked at; it is called again after the next period.
    fn tick(&mut self, now: Now, out: &mut Events) -> anyhow::Result<()> {
        let _ = (now, out);
        Ok(())
    }
}

/// Watches, and captures when a limit is crossed.
pub trait AutoTracer: Collector {
    /// Called every [`Self::period`]; must be cheap.
    ///
    /// # Errors
    /// What could not be read; it is called again next time.
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>>;

    /// Takes the evidence of one trigger; runs beside further checks. What is of use before the end goes
    /// to `parts`.
    fn capture(
        &mut self,
        trigger: &Trigger,
        limits: Limits,
        parts: Parts,
    ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static;

    /// Time between two checks.
    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// What a capture may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub duration: Duration,
    pub stacks: usize,
}

/// Where a capture puts what it has before it ends.
#[derive(Clone)]
pub struct Parts {
    target: Target,
    send: Arc<dyn Fn(Capture) + Send + Sync>,
}

impl Parts {
    pub(crate) fn new(target: Target, send: impl Fn(Capture) + Send + Sync + 'static) -> Self {
        Parts { target, send: Arc::new(send) }
    }

    /// Hands over a part: it is stored and delivered at once, below the capture that it is of.
    pub fn send(&self, name: &'static str, start: Timestamp, end: Timestamp, evidence: Vec<Evidence>) {
        (self.send)(Capture { evidence, ..Capture::new(name, self.target.clone(), start, end) });
    }
}

/// Where an event collector puts its events.
#[derive(Debug, Default)]
pub struct Events {
    events: Vec<Event>,
    /// Figures that a probe counts and no event tells, as a tick reads them; the collector's
    /// `INFO.metrics` declares them. Series that are not there at two ticks in a row end.
    pub metrics: Metrics,
}

impl Events {
    pub fn emit(&mut self, e: Event) {
        self.events.push(e);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub fn drain(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }
}

/// What a collector may use. Roots and clock are handed in, so that it runs on fixtures.
pub struct Context<'a> {
    pub host: &'a Host,
    pub workloads: &'a Workloads,
    /// Of whom to tell. What is told of others is thrown away behind a collector: it asks only where
    /// that would have cost much.
    pub filters: &'a Filters,
    pub clock: &'a Clock,
    pub symbols: &'a Symbols,
    pub(crate) info: &'static Info,
    /// Loaded with the union of what enabled collectors need.
    pub(crate) shared: &'a Shared,
    pub(crate) loader: &'a mut Loader,
    /// Objects loaded so far; their records are read on behalf of this collector.
    pub(crate) objects: Vec<Object>,
    /// Sources handed in so far, the same.
    pub(crate) sources: Vec<sources::Named>,
    /// Rings of shared probes whose records it takes.
    pub(crate) rings: Vec<SharedRecords>,
    /// What it said in [`Collector::survey`].
    pub(crate) lost: Vec<String>,
}

/// What all collectors of an agent, or of a rig, have in common.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub host: &'a Host,
    pub workloads: &'a Workloads,
    pub filters: &'a Filters,
    pub clock: &'a Clock,
    pub symbols: &'a Symbols,
    pub shared: &'a Shared,
}

/// One ring of a shared probe.
#[derive(Clone)]
pub(crate) struct SharedRecords {
    pub object: Object,
    pub ring: usize,
}

impl<'a> Context<'a> {
    /// What a collector of `around` is built with.
    pub(crate) fn new(around: Around<'a>, info: &'static Info, loader: &'a mut Loader) -> Self {
        let Around { host, workloads, filters, clock, symbols, shared } = around;
        let (objects, sources, rings, lost) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Context { host, workloads, filters, clock, symbols, info, shared, loader, objects, sources, rings, lost }
    }
}

impl Context<'_> {
    /// Loads and attaches the collector's own object. Slots not declared in [`Info::optional`] must attach.
    ///
    /// # Errors
    /// Which program failed, on which hook, and the kernel's reason.
    pub fn load(&mut self, options: crate::probe::LoadOptions) -> Result<Object, LoadError> {
        let optional: Vec<_> = self.info.optional.iter().map(|o| o.slot).collect();
        let object = self.loader.load(options.optional(&optional))?;
        self.objects.push(object.clone());
        Ok(object)
    }

    /// A shared probe, of which [`Info::needs`] must name a feature.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn shared<P: SharedProbe>(&self) -> Result<P, LoadError> {
        self.shared.get()
    }

    /// Has a source read beside the collector's object. `hook`: how it is called in lists, `rtnetlink`.
    pub fn listen(&mut self, hook: &'static str, source: impl sources::Counted + 'static) {
        self.sources.push(sources::Named { hook, lost: source.lost(), source: Box::new(source) });
    }

    /// Has the records of one ring of a shared probe handed to this collector, and to no other.
    ///
    /// # Errors
    /// The object has no such ring.
    pub fn take_records(&mut self, probe: &impl SharedProbe, ring: &str) -> Result<(), Unavailable> {
        let object = probe.object();
        let rings = object.skeleton().rings;
        let found = rings.iter().position(|r| r.name == ring);
        let ring = found.ok_or_else(|| Unavailable::because(format!("{} has no ring {ring}", object.name())))?;
        self.rings.push(SharedRecords { object: object.clone(), ring });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A collector's page is the head of its file: all of it, and nothing of the code.
    #[test]
    fn head_of_a_file() {
        const DOC: &str = head_doc("// SPDX\n//! # What\n//!\n//! Text.\n\n//! no\nuse x;\n");
        assert_eq!(DOC, "//! # What\n//!\n//! Text.\n");
        assert_eq!(head_doc("use x;\n"), "");
    }
}
