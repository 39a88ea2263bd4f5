// SPDX-License-Identifier: Apache-2.0
//! Builds the enabled collectors, says what became of each, and builds one again after it failed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::collectors::registry::{BuildError, Running};
use crate::collectors::run::{AutotracingSlot, MetricsSlot, Slot, State, Statuses};
use crate::collectors::sources::Named;
use crate::collectors::{Context, Registration, SharedRecords};
use crate::config::Config;
use crate::host::{Clock, Host};
use crate::pipeline::metrics::MetricState;
use crate::probe::shared::{Feature, Shared};
use crate::probe::stacks::Symbols;
use crate::probe::{Loader, Object};
use crate::telemetry::SelfMetrics;
use crate::workload::{Filters, Workloads};

/// All that building a collector takes.
pub(super) struct Builder {
    pub registrations: Vec<Registration>,
    pub host: Host,
    pub clock: Clock,
    pub workloads: Workloads,
    pub filters: Filters,
    pub symbols: Symbols,
    pub shared: Shared,
    pub statuses: Arc<Statuses>,
    pub config: Mutex<Config>,
}

/// Objects of one collector, to be read on its behalf.
pub(super) struct Owned {
    /// Index of an event collector in its loop.
    pub slot: Option<usize>,
    pub object: Object,
}

/// A source of one event collector, to be read on its behalf.
pub(super) struct Listening {
    /// The collector's index in its loop.
    pub slot: usize,
    pub name: &'static str,
    pub source: Named,
}

/// A ring of a shared probe that an event collector takes.
pub(super) struct Taken {
    pub slot: usize,
    pub records: SharedRecords,
}

/// The collectors that run, by kind.
#[derive(Default)]
pub(super) struct Built {
    pub metrics: Vec<MetricsSlot>,
    pub events: Vec<Slot<Box<dyn crate::collectors::registry::RunningEvents>>>,
    pub autotracing: Vec<AutotracingSlot>,
    pub read: ToRead,
}

/// What is read on behalf of collectors.
#[derive(Default)]
pub(super) struct ToRead {
    pub objects: Vec<Owned>,
    pub sources: Vec<Listening>,
    pub taken: Vec<Taken>,
}

/// A collector that was built, and what is read on its behalf.
struct Made {
    running: Running,
    objects: Vec<Object>,
    sources: Vec<Named>,
    rings: Vec<SharedRecords>,
}

impl Made {
    /// Its hooks, those of shared probes included.
    fn hooked(&self) -> Vec<Object> {
        let mut all = self.objects.clone();
        for r in &self.rings {
            if all.iter().all(|o| o.name() != r.object.name()) {
                all.push(r.object.clone());
            }
        }
        all
    }
}

/// Shared probes that enabled collectors need.
pub(super) fn features(registrations: &[Registration], config: &Config) -> BTreeSet<Feature> {
    let enabled = registrations.iter().filter(|r| config.collector(r.info.name).enabled);
    enabled.flat_map(|r| r.info.needs.iter().copied()).collect()
}

impl Builder {
    /// Builds every enabled collector. One that cannot run here is said to be unavailable; the others run.
    pub fn build_all(&self, loader: &mut Loader, state: &MetricState, own: &SelfMetrics) -> Built {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut built = Built::default();
        for r in &self.registrations {
            let name = r.info.name;
            let section = config.collector(name);
            if !section.enabled {
                self.say(own, name, State::Disabled, Some("switched off in the configuration".to_owned()));
                continue;
            }
            match self.build(r, &section.settings, loader) {
                Ok(made) => {
                    let hooked = made.hooked();
                    state.register_events(name, r.info.events, self.clock.now().wall);
                    self.say(own, name, State::Running, lost_hooks(r, &hooked));
                    let heard = made.sources.iter().map(|s| s.hook.to_owned());
                    self.statuses.set_hooks(name, hooked.iter().flat_map(Object::hooks), heard);
                    let interval = section.interval.unwrap_or(config.metrics.interval).get();
                    self.take_in(&mut built, name, made, interval);
                }
                Err(e) => {
                    tracing::warn!(collector = name, "does not run here: {e}");
                    self.say(own, name, State::Unavailable, Some(e.to_string()));
                }
            }
        }
        built
    }

    fn take_in(&self, built: &mut Built, name: &'static str, made: Made, interval: Duration) {
        let statuses = self.statuses.clone();
        let mut slot = None;
        match made.running {
            Running::Metrics(m) => {
                built.metrics.push(MetricsSlot { slot: Slot::new(name, m, statuses), interval });
            }
            Running::Events(e) => {
                slot = Some(built.events.len());
                built.events.push(Slot::keeping(name, e, statuses));
            }
            Running::Autotracing(t) => built.autotracing.push(Slot::new(name, t, statuses)),
        }
        built.read.objects.extend(made.objects.into_iter().map(|object| Owned { slot, object }));
        if let Some(slot) = slot {
            built.read.sources.extend(made.sources.into_iter().map(|source| Listening { slot, name, source }));
            built.read.taken.extend(made.rings.into_iter().map(|records| Taken { slot, records }));
        }
    }

    fn build(&self, r: &Registration, settings: &toml::Table, loader: &mut Loader) -> Result<Made, BuildError> {
        let mut cx = Context {
            host: &self.host,
            workloads: &self.workloads,
            filters: &self.filters,
            clock: &self.clock,
            symbols: &self.symbols,
            shared: &self.shared,
            loader,
            objects: Vec::new(),
            sources: Vec::new(),
            rings: Vec::new(),
        };
        let running = (r.build)(settings, &mut cx)?;
        Ok(Made { running, objects: cx.objects, sources: cx.sources, rings: cx.rings })
    }

    /// Builds one collector again, after it panicked.
    pub fn rebuild(&self, name: &'static str) -> Result<Running, BuildError> {
        let settings = self.config.lock().unwrap_or_else(PoisonError::into_inner).collector(name).settings;
        let Some(r) = self.registrations.iter().find(|r| r.info.name == name) else {
            return Err(crate::collectors::Unavailable::because("it is not registered").into());
        };
        Ok(self.build(r, &settings, &mut Loader::new())?.running)
    }

    fn say(&self, own: &SelfMetrics, name: &'static str, state: State, reason: Option<String>) {
        own.collector_state(name, state.name());
        self.statuses.set(name, state, reason);
    }
}

/// What is lost for want of hooks that are optional.
fn lost_hooks(r: &Registration, objects: &[Object]) -> Option<String> {
    let missing = objects.iter().flat_map(Object::hooks).filter(|h| h.attached.is_none());
    let words: Vec<String> = missing
        .filter_map(|h| {
            let optional = r.info.optional.iter().find(|o| o.slot == h.slot)?;
            let why = h.refused.first().map(|w| format!(" ({w})")).unwrap_or_default();
            Some(format!("without {}{why}: {}", h.slot, optional.lost))
        })
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}
