// SPDX-License-Identifier: Apache-2.0
//! Routes signals between stages: events from collectors to the pipeline, metrics to the metric state;
//! counts what the pipeline accepts.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::kernel_filter::KernelFilter;
use super::occurrences::Occurrences;
use crate::collectors::run::{CollectorSink, Limited, State};
use crate::config::Config;
use crate::host::Clock;
use crate::pipeline::metrics::{MetricState, SelfMetrics};
use crate::pipeline::{Input, Observer, Sender};
use crate::probe::stacks::Symbols;
use crate::signal::ids::TraceId;
use crate::signal::{CaptureProgress, Change, Event, Metrics, Stage, Workload};
use crate::workload::{Filters, Workloads};

/// Receives the signals of all collectors.
pub(super) struct SignalRouter {
    pub sender: Sender,
    pub state: Arc<MetricState>,
    pub own: SelfMetrics,
    pub clock: Clock,
    pub runtime: Handle,
    pub captures: TaskTracker,
    pub workloads: Workloads,
    pub symbols: Symbols,
    /// As it was read last.
    pub config: Mutex<Config>,
    pub filters: Filters,
    pub kernel_filter: Arc<KernelFilter>,
    pub occurrences: Occurrences,
}

impl SignalRouter {
    /// Whether the collector's filter wants `n` events of this workload; counted where not.
    fn wants(&self, collector: &'static str, workload: Option<&Arc<Workload>>, n: u64) -> bool {
        let wants = self.filters.pass(collector, workload.map(AsRef::as_ref));
        if !wants {
            self.own.suppressed(Stage::Collector(collector), "filter", n);
        }
        wants
    }
}

impl CollectorSink for SignalRouter {
    fn metrics(&self, collector: &'static str, points: &mut Metrics) {
        if let Some(filter) = self.filters.of(collector) {
            points.retain(|p| filter.passes(p.workload.as_deref()));
        }
        self.state.update(collector, points, self.clock.now().wall);
    }

    fn event(&self, collector: &'static str, mut event: Event, limited: Limited) {
        event.workload = self.workloads.subject(event.workload, event.thread.as_ref());
        // What was suppressed before it was of the same workload.
        if self.wants(collector, event.workload.as_ref(), 1 + event.suppressed) {
            self.own.suppressed(Stage::Collector(collector), "limit", event.suppressed);
            event.suppressed += limited.suppressed;
            if let Some(key) = limited.key {
                self.occurrences.note(collector, key, &event);
            }
            self.sender.send(Input::Event { collector, event });
        }
    }

    fn change(&self, collector: &'static str, change: Change) -> bool {
        let wanted = match &change {
            Change::Onset(t) => self.wants(collector, t.workload.as_ref(), 1),
            _ => true,
        };
        if wanted {
            self.sender.send(Input::Change { collector, change });
        }
        wanted
    }

    fn capture(&self, collector: &'static str, progress: CaptureProgress) {
        if let CaptureProgress::Part(c) | CaptureProgress::Ended(c) = &progress {
            self.own.lost(collector, "ring_full", c.lost());
        }
        self.sender.send(Input::Capture { collector, progress });
    }

    fn dropped(&self, collector: &'static str, reason: &'static str, n: u64) {
        self.own.dropped(Stage::Collector(collector), reason, n);
    }

    fn suppressed(&self, collector: &'static str, reason: &'static str, n: u64) {
        self.own.suppressed(Stage::Collector(collector), reason, n);
    }

    fn ran(&self, collector: &'static str, took: Duration, ok: bool) {
        self.own.collector_ran(collector, took, !ok);
    }

    fn state(&self, collector: &'static str, state: State) {
        self.own.collector_state(collector, state.name());
    }

    fn spawn(&self, capture: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.captures.spawn_on(capture, &self.runtime);
    }
}

/// Counts what passes the pipeline.
pub(super) struct Counting {
    pub state: Arc<MetricState>,
    pub own: SelfMetrics,
}

impl Observer for Counting {
    fn event(&self, e: &Event, trace: Option<TraceId>) {
        self.state.count_event(e, trace);
    }

    fn dropped(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        self.own.dropped(stage, reason, n);
    }

    fn suppressed(&self, stage: Stage<'_>, reason: &'static str, n: u64) {
        self.own.suppressed(stage, reason, n);
    }

    fn accepted(&self, n: u64) {
        self.own.accepted("all", n);
    }

    fn incidents_open(&self, n: usize) {
        self.own.incidents_open(n);
    }

    fn store_state(&self, state: &'static str) {
        self.own.store_state(state);
    }

    fn store_size(&self, bytes: u64) {
        self.own.store_size(bytes);
    }

    fn store_committed(&self, took: Duration) {
        self.own.store_committed(took);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::pipeline::incident::{self, Identity, Moment};
    use crate::pipeline::log::Log;
    use crate::pipeline::testing::{DEF, Fake, event, workload};
    use crate::pipeline::{Pipeline, Setup};
    use crate::signal::ids::EventId;
    use crate::signal::{Thread, Timestamp, WorkloadKind};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    /// A router into a pipeline, and what becomes of an event there.
    fn routed(event: Event) -> (Arc<Fake>, Arc<MetricState>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let state = Arc::new(MetricState::new(100, NOW));
        let own = SelfMetrics::new(state.clone(), || NOW);
        let observer = Arc::new(Counting { state: state.clone(), own: own.clone() });
        let fake = Arc::new(Fake::default());
        let (log, committer) = Log::new(fake.clone(), observer.clone(), || NOW, EventId([0; 12]));
        let (sender, pipeline) = Pipeline::new(Setup {
            identity: Identity { host_id: "h".into(), boot_id: "b".into() },
            incidents: incident::Settings::default(),
            limit: crate::pipeline::limits::RateLimit::default(),
            log,
            observer,
            now: Box::new(|| Moment { wall: NOW, steady: Duration::from_secs(1) }),
            last_id: None,
            left_open: Vec::new(),
        });
        let (workloads, filters) = (Workloads::default(), Filters::default());
        let router = SignalRouter {
            sender,
            state: state.clone(),
            own,
            clock: Clock::fixed(NOW, 1),
            runtime: runtime.handle().clone(),
            captures: TaskTracker::new(),
            symbols: Symbols::default(),
            config: Mutex::new(Config::default()),
            kernel_filter: Arc::new(KernelFilter::new(&filters, &workloads, &[])),
            occurrences: Occurrences::default(),
            workloads,
            filters,
        };
        router.event("test", event, Limited::default());
        let stop = AtomicBool::new(true);
        pipeline.run(&stop);
        committer.run(&stop);
        (fake, state)
    }

    /// Whatever the collector found: what the agent's own thread met is counted under the agent, and is no incident.
    #[test]
    fn the_agents_own_thread_opens_no_incident() {
        for (pid, incidents) in [(4711, 1), (std::process::id(), 0)] {
            for subject in [None, Some(workload(1))] {
                let mut e = event(&DEF, 1, subject.as_ref());
                e.thread = Some(Thread { pid, ..Thread::default() });
                let (store, state) = routed(e);
                assert_eq!(store.ids().len(), 1, "it is stored");
                assert_eq!(store.incidents.lock().unwrap().len(), incidents, "pid {pid}");
                let own = state.read().workloads().filter(|w| w.workload().kind == WorkloadKind::Own).count();
                assert_eq!(own, 1 - incidents, "pid {pid}");
            }
        }
    }
}
