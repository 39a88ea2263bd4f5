// SPDX-License-Identifier: Apache-2.0
//! The front of the data's way: probes, the table of workloads, and the collectors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use super::collectors::{Builder, Built, features};
use super::helper::Helpers;
use super::housekeeping::Housekeeping;
use super::kernel_filter::KernelFilter;
use super::outlet::Junction;
use super::rear::Rear;
use crate::collectors::Registration;
use crate::collectors::run::Statuses;
use crate::config::Config;
use crate::host::{Clock, Host};
use crate::probe::Loader;
use crate::probe::shared::{Cgroups, Shared, SharedProbe as _};
use crate::probe::stacks::Symbols;
use crate::workload::{Filters, Kubernetes, NameResolver, Workloads};

/// What makes signals, built but not yet running.
pub(super) struct Front {
    pub workloads: Workloads,
    pub resolver: NameResolver,
    pub kubernetes: Kubernetes,
    pub shared: Shared,
    pub junction: Arc<Junction>,
    pub built: Vec<Built>,
}

impl Front {
    pub fn build(
        registrations: &[Registration],
        (config, env): (&Config, &BTreeMap<String, String>),
        host: &Host,
        clock: &Clock,
        statuses: &Arc<Statuses>,
        rear: &Rear,
    ) -> Front {
        let workloads = Workloads::new(host, clock);
        let kubernetes = Kubernetes::new(&config.workload, env, &workloads);
        let resolver = NameResolver::new(&workloads).with_facts(kubernetes.facts());
        let helpers = Arc::new(Helpers::default());
        let resolver = resolver.with_strangers(helpers.clone());
        let mut loader = Loader::new();
        let shared = Shared::load(&mut loader, &features(registrations, config));
        // Births are recorded from now on, so the scan cannot miss one.
        if let Err(e) = workloads.scan() {
            tracing::error!("cgroups cannot be read, so nothing will be named: {e}");
        }
        let filters = Filters::default();
        filters.set(config.filters());
        let builder = Builder {
            registrations,
            host: host.clone(),
            clock: clock.clone(),
            workloads: workloads.clone(),
            filters: filters.clone(),
            symbols: Symbols::with_user(helpers),
            shared: shared.clone(),
            statuses: statuses.clone(),
            config,
        };
        let built = builder.build_all(&mut loader, &rear.state, &rear.own);
        let kernel_filter = Arc::new(KernelFilter::new(&filters, &workloads, &built));
        kernel_filter.judge();
        let junction = Arc::new(Junction {
            sender: rear.sender.clone(),
            state: rear.state.clone(),
            own: rear.own.clone(),
            clock: clock.clone(),
            runtime: tokio::runtime::Handle::current(),
            captures: TaskTracker::new(),
            workloads: workloads.clone(),
            symbols: builder.symbols,
            config: Mutex::new(config.clone()),
            filters,
            kernel_filter,
        });
        Front { workloads, resolver, kubernetes, shared, junction, built }
    }

    pub fn housekeeping(&self, config: &Config, rear: &Rear, clock: Clock) -> Housekeeping {
        let own_objects = self.built.iter().flat_map(|b| b.objects.iter().cloned());
        let sources = self.built.iter().flat_map(|b| b.sources.iter().map(|s| (b.name, s.lost.clone()))).collect();
        Housekeeping {
            objects: own_objects.chain(self.shared.objects()).collect(),
            sources,
            shared: self.shared.clone(),
            kernel_filter: self.junction.kernel_filter.clone(),
            births: self.shared.get::<Cgroups>().ok().map(|c| c.object().name()),
            workloads: self.workloads.clone(),
            facts: self.kubernetes.facts(),
            state: rear.state.clone(),
            own: rear.own.clone(),
            symbols: self.junction.symbols.clone(),
            interval: config.metrics.interval.get(),
            clock,
        }
    }
}
