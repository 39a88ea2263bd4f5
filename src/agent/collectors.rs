// SPDX-License-Identifier: Apache-2.0
//! Builds the enabled collectors, and records the state of each.

use std::sync::Arc;
use std::time::Duration;

use crate::collectors::registry::{BuildError, Running};
use crate::collectors::run::{State, Statuses};
use crate::collectors::sources::Named;
use crate::collectors::{Around, Context, Registration, SharedRecords};
use crate::config::Config;
use crate::host::{Clock, Host};
use crate::pipeline::metrics::{MetricState, SelfMetrics};
use crate::probe::shared::{Cgroups, Feature, Shared};
use crate::probe::stacks::Symbols;
use crate::probe::{Loader, Object};
use crate::workload::{Filters, Workloads};

/// All that building a collector takes.
pub(super) struct Builder<'a> {
    pub registrations: &'a [Registration],
    pub host: Host,
    pub clock: Clock,
    pub workloads: Workloads,
    pub filters: Filters,
    pub symbols: Symbols,
    pub shared: Shared,
    pub statuses: Arc<Statuses>,
    pub config: &'a Config,
}

/// A collector that was built, and what is read on its behalf.
pub(super) struct Built {
    pub name: &'static str,
    pub running: Running,
    /// Of a metrics collector.
    pub interval: Duration,
    /// It has a copy of its own.
    pub symbols: Symbols,
    pub objects: Vec<Object>,
    pub sources: Vec<Named>,
    /// Rings of shared probes.
    pub rings: Vec<SharedRecords>,
    /// What it does without, for want of files.
    lost: Vec<String>,
}

impl Built {
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

/// What enabled collectors need of shared probes, and what the table of workloads does.
pub(super) fn features(registrations: &[Registration], config: &Config) -> Vec<Feature> {
    let enabled = registrations.iter().filter(|r| config.collector(r.info.name).enabled);
    [Cgroups::LIVES].into_iter().chain(enabled.flat_map(|r| r.info.needs.iter().copied())).collect()
}

impl Builder<'_> {
    /// Builds every enabled collector. One that cannot run here is said to be unavailable; the others run.
    pub fn build_all(&self, loader: &mut Loader, state: &MetricState, own: &SelfMetrics) -> Vec<Built> {
        let mut all = Vec::new();
        for r in self.registrations {
            let name = r.info.name;
            let section = self.config.collector(name);
            if !section.enabled {
                self.say(own, name, State::Disabled, Some("switched off in the configuration".to_owned()));
                continue;
            }
            let interval = interval(r, section.interval.map(|own| own.get()), self.config.metrics.interval.get());
            match self.build(r, &section.settings, interval, loader) {
                Ok(built) => {
                    let hooked = built.hooked();
                    state.register_events(name, r.info.events, self.clock.now().wall);
                    self.say(own, name, State::Running, lost(r, &hooked, &built.lost));
                    let heard = built.sources.iter().map(|s| s.hook.to_owned());
                    self.statuses.set_hooks(name, hooked.iter().flat_map(Object::hooks), heard);
                    all.push(built);
                }
                Err(e) => {
                    tracing::warn!(collector = name, "does not run here: {e}");
                    self.say(own, name, State::Unavailable, Some(e.to_string()));
                }
            }
        }
        all
    }

    fn build(
        &self,
        r: &Registration,
        settings: &toml::Table,
        interval: Duration,
        loader: &mut Loader,
    ) -> Result<Built, BuildError> {
        let symbols = self.symbols.for_collector();
        let around = Around {
            host: &self.host,
            workloads: &self.workloads,
            filters: &self.filters,
            clock: &self.clock,
            symbols: &symbols,
            shared: &self.shared,
        };
        let mut cx = Context::new(around, r.info, loader);
        let running = (r.build)(settings, &mut cx)?;
        let (objects, sources, rings, lost) = (cx.objects, cx.sources, cx.rings, cx.lost);
        Ok(Built { name: r.info.name, running, interval, symbols, objects, sources, rings, lost })
    }

    fn say(&self, own: &SelfMetrics, name: &'static str, state: State, reason: Option<String>) {
        own.collector_state(name, state.name());
        self.statuses.set(name, state, reason);
    }
}

/// The interval of a collector: its own where the configuration has one.
fn interval(r: &Registration, own: Option<Duration>, of_all: Duration) -> Duration {
    own.unwrap_or(of_all.max(r.least_interval))
}

/// What is lost for want of hooks that are optional, and of files.
fn lost(r: &Registration, objects: &[Object], files: &[String]) -> Option<String> {
    let missing = objects.iter().flat_map(Object::hooks).filter(|h| h.attached.is_none());
    let mut words: Vec<String> = missing
        .filter_map(|h| {
            let optional = r.info.all_optional().find(|o| o.slot == h.slot)?;
            let why = h.refused.first().map(|w| format!(" ({w})")).unwrap_or_default();
            Some(format!("without {}{why}: {}", h.slot, optional.lost))
        })
        .collect();
    words.extend_from_slice(files);
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::BUILT_IN;

    /// What is dear to read is read less often than all else, unless the configuration says otherwise.
    #[test]
    fn intervals() {
        let of = |name, own: Option<u64>, all| {
            let r = BUILT_IN.iter().find(|r| r.info.name == name).unwrap();
            interval(r, own.map(Duration::from_secs), Duration::from_secs(all)).as_secs()
        };
        assert_eq!((of("load", None, 15), of("load", Some(1), 15)), (15, 1));
        assert_eq!([of("cpufreq", None, 15), of("cpufreq", None, 120), of("cpufreq", Some(1), 15)], [60, 120, 1]);
    }
}
