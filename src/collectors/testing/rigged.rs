// SPDX-License-Identifier: Apache-2.0
//! A collector on the rig: what its loop would call, one call at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use zerocopy::{Immutable, IntoBytes};

use super::{Asked, Rig};
use crate::collectors::registry::Running;
use crate::collectors::sources::RING;
use crate::collectors::{Events, Info, Limits, Parts};
use crate::probe::Object;
use crate::probe::shared::{Cgroups, SharedRing};
use crate::signal::{Capture, Change, Event, Metrics, Trigger};

/// A collector that was built on a [`Rig`].
pub struct Rigged<'r> {
    rig: &'r Rig,
    info: &'static Info,
    running: Running,
    asked: Asked,
    /// Rings of shared probes that the probes themselves read.
    shared: Vec<SharedRing>,
    out: Events,
    parts: Arc<Mutex<Vec<Capture>>>,
}

impl<'r> Rigged<'r> {
    pub(super) fn new(rig: &'r Rig, info: &'static Info, running: Running, asked: Asked) -> Self {
        let workloads = rig.workloads.clone();
        if let Ok(cgroups) = asked.shared.get::<Cgroups>() {
            cgroups.on_change(move |change| workloads.on_change(change));
        }
        let shared = asked.shared.rings();
        Rigged { rig, info, running, asked, shared, out: Events::default(), parts: Arc::default() }
    }

    /// One run of a metrics collector.
    ///
    /// # Errors
    /// The collector's; what it wrote before is kept.
    pub fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        match &mut self.running {
            Running::Metrics(m) => m.collect(out),
            _ => bail!("{} is no metrics collector", self.info.name),
        }
    }

    /// Hands over a record of one of the rings that are read for the collector: of its own object, or of a
    /// shared probe.
    ///
    /// # Errors
    /// Why the record yields no event.
    pub fn record(&mut self, ring: &str, record: &(impl IntoBytes + Immutable)) -> anyhow::Result<Vec<Event>> {
        self.bytes(ring, record.as_bytes())
    }

    /// The same with any bytes, as a probe of another version might write.
    ///
    /// # Errors
    /// Why the record yields no event.
    pub fn bytes(&mut self, ring: &str, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        // The kernel's rings are aligned.
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        aligned.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        let bytes = &aligned.as_bytes()[..bytes.len()];
        let index = |o: &Object| o.skeleton().rings.iter().position(|r| r.name == ring);
        if let Some((shared, index)) = self.shared.iter().find_map(|s| Some((s, index(&s.object)?))) {
            (shared.on_record)(index, bytes);
            return Ok(Vec::new());
        }
        let taken = self.asked.rings.iter().find(|r| index(&r.object) == Some(r.ring)).map(|r| r.ring);
        let index = taken.or_else(|| self.asked.objects.iter().find_map(index));
        let index = index.with_context(|| format!("{} reads no ring {ring}", self.info.name))?;
        self.on_record(index, bytes)
    }

    /// The rings that are read for it: name, and bytes of a record.
    #[must_use]
    pub fn rings(&self) -> Vec<(&'static str, usize)> {
        let own = self.asked.objects.iter().chain(self.shared.iter().map(|s| &s.object));
        let own = own.flat_map(|o| o.skeleton().rings);
        let taken = self.asked.rings.iter().filter_map(|r| r.object.skeleton().rings.get(r.ring));
        own.chain(taken).map(|r| (r.name, r.size as usize)).collect()
    }

    /// Hands over what a source reads beside the rings.
    ///
    /// # Errors
    /// Why it yields no event.
    pub fn notice(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        ensure!(!self.asked.sources.is_empty(), "{} listens to nothing", self.info.name);
        self.on_record(RING, bytes)
    }

    fn on_record(&mut self, ring: usize, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        match &mut self.running {
            Running::Events(e) => e.on_record(ring, bytes, &mut self.out)?,
            _ => bail!("{} takes no records", self.info.name),
        }
        Ok(self.out.drain().collect())
    }

    /// Time until it wants its next tick or check.
    #[must_use]
    pub fn period(&self) -> Option<Duration> {
        match &self.running {
            Running::Metrics(_) => None,
            Running::Events(e) => e.period(),
            Running::Autotracing(t) => Some(t.period()),
        }
    }

    /// One tick of an event collector; the figures that it writes are in [`Self::metrics`].
    ///
    /// # Errors
    /// The collector's.
    pub fn tick(&mut self) -> anyhow::Result<Vec<Event>> {
        match &mut self.running {
            Running::Events(e) => e.tick(self.rig.clock.now(), &mut self.out)?,
            _ => bail!("{} has no ticks", self.info.name),
        }
        Ok(self.out.drain().collect())
    }

    /// What ticks wrote since the last call.
    pub fn metrics(&mut self) -> Metrics {
        std::mem::take(&mut self.out.metrics)
    }

    /// One check of an autotracing collector.
    ///
    /// # Errors
    /// The collector's.
    pub fn check(&mut self) -> anyhow::Result<Vec<Change>> {
        match &mut self.running {
            Running::Autotracing(t) => t.check(self.rig.clock.now()),
            _ => bail!("{} checks nothing", self.info.name),
        }
    }

    /// One capture; waits for it, at most `limits.duration`. What it sends before its end is in [`Self::parts`].
    ///
    /// # Errors
    /// The collector's.
    pub fn capture(&mut self, trigger: &Trigger, limits: Limits) -> anyhow::Result<Capture> {
        let Running::Autotracing(t) = &mut self.running else { bail!("{} captures nothing", self.info.name) };
        // Of the kind that the agent has: a capture may block its thread.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()?;
        let sent = self.parts.clone();
        let parts = Parts::new(trigger.target.clone(), move |part| {
            sent.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        });
        runtime.block_on(t.capture(trigger, limits, parts))
    }

    /// Parts of captures since the last call.
    pub fn parts(&mut self) -> Vec<Capture> {
        std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changed settings, as on SIGHUP.
    ///
    /// # Errors
    /// The settings are wrong, or the collector cannot take them while it runs.
    pub fn reload(&mut self, settings: &str) -> anyhow::Result<()> {
        let section = toml::from_str(settings)?;
        match &mut self.running {
            Running::Metrics(m) => m.reload(&section),
            Running::Events(e) => e.reload(&section),
            Running::Autotracing(t) => t.reload(&section),
        }
    }
}
