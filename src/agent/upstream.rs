// SPDX-License-Identifier: Apache-2.0
//! The upstream half of the data path: probes, the table of workloads, and the collectors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use super::collectors::{Builder, Built, features};
use super::downstream::Downstream;
use super::helper::Helpers;
use super::housekeeping::Housekeeping;
use super::kernel_filter::KernelFilter;
use super::kernel_limits::KernelLimits;
use super::occurrences::Occurrences;
use super::router::SignalRouter;
use crate::collectors::Registration;
use crate::collectors::run::Statuses;
use crate::config::Config;
use crate::host::{Clock, Host};
use crate::probe::Loader;
use crate::probe::shared::{Cgroups, Shared, SharedProbe as _};
use crate::probe::stacks::Symbols;
use crate::workload::{Filters, Kubernetes, NameResolver, Workloads};

/// What makes signals, built but not yet running.
pub(super) struct Upstream {
    pub workloads: Workloads,
    pub resolver: NameResolver,
    pub kubernetes: Kubernetes,
    pub shared: Shared,
    pub router: Arc<SignalRouter>,
    pub built: Vec<Built>,
    pub helpers: Arc<Helpers>,
}

impl Upstream {
    pub fn build(
        registrations: &[Registration],
        (config, env): (&Config, &BTreeMap<String, String>),
        host: &Host,
        clock: &Clock,
        statuses: &Arc<Statuses>,
        downstream: &Downstream,
    ) -> Upstream {
        let workloads = Workloads::new(host, clock);
        let kubernetes = Kubernetes::new(&config.workload, env, &workloads);
        let resolver = NameResolver::new(&workloads).with_facts(kubernetes.facts());
        let helpers = Arc::new(Helpers::new(downstream.own.clone()));
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
            host: host.clone().with_spaces(helpers.clone()),
            clock: clock.clone(),
            workloads: workloads.clone(),
            filters: filters.clone(),
            symbols: Symbols::new().with_user(helpers.clone()),
            shared: shared.clone(),
            statuses: statuses.clone(),
            config,
        };
        let built = builder.build_all(&mut loader, &downstream.state, &downstream.own);
        let kernel_filter = Arc::new(KernelFilter::new(&filters, &workloads, &built));
        kernel_filter.judge();
        let router = Arc::new(SignalRouter {
            sender: downstream.sender.clone(),
            state: downstream.state.clone(),
            own: downstream.own.clone(),
            clock: clock.clone(),
            runtime: tokio::runtime::Handle::current(),
            captures: TaskTracker::new(),
            workloads: workloads.clone(),
            symbols: builder.symbols,
            config: Mutex::new(config.clone()),
            filters,
            kernel_filter,
            occurrences: Occurrences::default(),
        });
        Upstream { workloads, resolver, kubernetes, shared, router, built, helpers }
    }

    pub fn housekeeping(&self, config: &Config, downstream: &Downstream, clock: Clock) -> Housekeeping {
        let own_objects = self.built.iter().flat_map(|b| b.objects.iter().cloned());
        let sources = self.built.iter().flat_map(|b| b.sources.iter().map(|s| (b.name, s.lost.clone()))).collect();
        Housekeeping {
            objects: own_objects.chain(self.shared.objects()).collect(),
            sources,
            shared: self.shared.clone(),
            kernel_filter: self.router.kernel_filter.clone(),
            kernel_limits: KernelLimits::new(&self.built),
            occurrences: self.router.occurrences.clone(),
            births: self.shared.get::<Cgroups>().ok().map(|c| c.object().name()),
            workloads: self.workloads.clone(),
            facts: self.kubernetes.facts(),
            state: downstream.state.clone(),
            own: downstream.own.clone(),
            symbols: self.router.symbols.clone(),
            interval: config.metrics.interval.get(),
            clock,
        }
    }
}
