// SPDX-License-Identifier: Apache-2.0
//! Lives of workloads, all the way to what is exported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use proptest::prelude::*;
use prost::Message as _;
use zerocopy::FromZeros as _;

use crate::collectors::events::oom;
use crate::collectors::metrics::cpu::Cpu;
use crate::collectors::testing::{Rig, Rigged};
use crate::exporters::node::Node;
use crate::exporters::otlp::metrics::requests;
use crate::exporters::prometheus::openmetrics::{self, Page};
use crate::exporters::prometheus::{Format, Prometheus};
use crate::pipeline::metrics::MetricState;
use crate::probe::CgroupId;
use crate::probe::skeletons::sched::{SKELETON, SchedGroup};
use crate::signal::{Attributes, Event, Metrics, WorkloadKey};

const INTERVAL: Duration = Duration::from_secs(15);

/// A unit, a user's, a container, a pod and its container, two cgroups of which one has an odd name; each with what
/// names its series.
const PATHS: [(&str, &str); 7] = [
    ("/system.slice/flaky.service", "flaky.service"),
    ("/user.slice/user-1.slice/user@1.service/app.slice/dbus.service", USERS_UNIT),
    (
        "/docker/28d402025fb48c08c89210e4aff98eac4086db94f8874abe933d2b07a68495e7",
        "28d402025fb48c08c89210e4aff98eac4086db94f8874abe933d2b07a68495e7",
    ),
    ("/kubepods/burstable/pod0c9ae52b-8b5f-4a8a-a0c5-8a3a4a9d6c11", POD),
    (
        "/kubepods/burstable/pod0c9ae52b-8b5f-4a8a-a0c5-8a3a4a9d6c11/\
         45d402025fb48c08c89210e4aff98eac4086db94f8874abe933d2b07a68495e7",
        "45d402025fb48c08c89210e4aff98eac4086db94f8874abe933d2b07a68495e7",
    ),
    ("/batch", "/batch"),
    ("/batch/a\"b\\x", "/batch/a\"b\\x"),
];
const USERS_UNIT: &str = "/user.slice/user-1.slice/user@1.service/app.slice/dbus.service";
const POD: &str = "/kubepods/burstable/pod0c9ae52b-8b5f-4a8a-a0c5-8a3a4a9d6c11";
/// Labels of which several make one name in Prometheus.
const LABELS: [&str; 5] = ["app.name", "app-name", "app_name", "größe", "ba\"d\\\n"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Born(usize),
    Gone(usize),
    /// Removed and made again under the same path, having worked before and after.
    Restarted(usize),
    Worked(usize, u64),
    Killed(usize),
    Labelled(usize, usize),
    /// Readings after which what is gone is forgotten.
    Pause,
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..PATHS.len();
    prop_oneof![
        who.clone().prop_map(Step::Born),
        who.clone().prop_map(Step::Gone),
        who.clone().prop_map(Step::Restarted),
        (who.clone(), 1..5000_u64).prop_map(|(w, ms)| Step::Worked(w, ms)),
        who.clone().prop_map(Step::Killed),
        (who, 0..LABELS.len()).prop_map(|(w, l)| Step::Labelled(w, l)),
        Just(Step::Pause),
        Just(Step::Read),
        Just(Step::Read),
    ]
}

/// A node with the agent's way from cgroups to what is exported.
struct Way<'r> {
    rig: &'r Rig,
    cpu: Rigged<'r>,
    state: Arc<MetricState>,
    page: Prometheus,
    hierarchy: u32,
    ids: u64,
    /// Living cgroups by place in [`PATHS`].
    living: BTreeMap<usize, CgroupId>,
    /// What each has used and how often it was killed since the last reading, in ms.
    grown: BTreeMap<usize, (u64, u64)>,
    last: Page,
}

impl<'r> Way<'r> {
    fn on(rig: &'r Rig) -> Self {
        let state = Arc::new(MetricState::new(1000, rig.clock().now().wall));
        let mut node = Attributes::new();
        for (name, value) in [("host.name", "n1"), ("a.b", "1"), ("a_b", "2")] {
            node.set_named(name.into(), value.into());
        }
        Way {
            cpu: rig.run(&crate::collectors::metrics::<Cpu>(), "").unwrap(),
            page: Prometheus::new(state.clone(), &node, Box::new(Vec::new)),
            hierarchy: rig.cgroup("/system.slice").unwrap().hierarchy,
            state,
            rig,
            ids: 1 << 40,
            living: BTreeMap::new(),
            grown: BTreeMap::new(),
            last: Page::default(),
        }
    }

    fn live(&mut self, steps: &[Step]) {
        steps.iter().for_each(|s| self.take(*s));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Born(who) => self.born(who),
            Step::Gone(who) => self.gone(who),
            Step::Restarted(who) if self.living.contains_key(&who) => {
                self.work(who, 700);
                self.gone(who);
                self.born(who);
                self.work(who, 30);
            }
            Step::Worked(who, ms) => self.work(who, ms),
            Step::Killed(who) => self.kill(who),
            Step::Labelled(who, label) => self.label(who, label),
            Step::Pause => (0..24).for_each(|_| self.read()),
            Step::Restarted(_) | Step::Read => self.read(),
        }
    }

    fn born(&mut self, who: usize) {
        if !self.living.contains_key(&who) {
            self.ids += 1;
            let id = CgroupId { hierarchy: self.hierarchy, id: self.ids };
            self.rig.workloads().on_mkdir(id, PATHS[who].0);
            self.living.insert(who, id);
        }
    }

    fn gone(&mut self, who: usize) {
        if let Some(id) = self.living.remove(&who) {
            self.rig.workloads().on_rmdir(id);
        }
    }

    fn work(&mut self, who: usize, ms: u64) {
        let Some(cgroup) = self.living.get(&who) else { return };
        let table = self.rig.kernel().table::<u64, SchedGroup>(&SKELETON, "sched_evicted").unwrap();
        let before = table.get(&cgroup.id).unwrap().map_or(0, |g| g.run_ns);
        let now = SchedGroup { run_ns: before + ms * 1_000_000, ..SchedGroup::new_zeroed() };
        self.rig.kernel().put(&SKELETON, "sched_evicted", &cgroup.id, &[now]).unwrap();
        self.grown.entry(who).or_default().0 += ms;
    }

    fn kill(&mut self, who: usize) {
        let Some(workload) = self.living.get(&who).and_then(|id| self.rig.workloads().of_cgroup(*id)) else { return };
        let now = self.rig.clock().now().wall;
        self.state.count_event(&Event::new(&oom::OOM_KILL, now, Some(workload), String::new()), None);
        self.grown.entry(who).or_default().1 += 1;
    }

    fn label(&mut self, who: usize, label: usize) {
        let Some(key) = self.living.get(&who).and_then(|id| self.rig.workloads().of_cgroup(*id)).map(|w| w.key) else {
            return;
        };
        let name = format!("container.label.{}", LABELS[label]);
        let named = self.rig.workloads().update(key, |w| drop(w.chosen.insert(name, format!("{label};\"\n"))));
        self.state.rename(&named.unwrap());
    }

    /// One reading of all, as the agent makes it, and what is then exported.
    fn read(&mut self) {
        self.rig.advance(INTERVAL);
        let now = self.rig.clock().now().wall;
        let mut metrics = Metrics::default();
        self.cpu.collect(&mut metrics).unwrap();
        self.state.update("cpu", &mut metrics, now);
        let workloads = self.rig.workloads();
        self.state.sweep(now, |key: WorkloadKey| workloads.is_alive(key));
        self.check_page();
        self.check_otlp();
        self.grown.clear();
    }

    fn check_page(&mut self) {
        let page = self.page.scrape(Format::OpenMetrics);
        let text = std::str::from_utf8(page.as_ref()).unwrap();
        let page = openmetrics::parse(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
        for series in &page.cumulative {
            let (before, now) = (self.last.samples.get(series), page.samples[series]);
            assert!(before.is_none_or(|b| *b <= now), "{series:?} fell from {before:?} to {now}");
        }
        for (who, (_, identity)) in PATHS.iter().enumerate() {
            let (ms, kills) = self.grown.get(&who).copied().unwrap_or_default();
            let of = |metric| (self.last.get(metric, identity), page.get(metric, identity));
            let (before, now) = of("linux_container_memory_oom_kills_total");
            assert!(kills == 0 || now == Some(before.unwrap_or(0.0) + kills as f64), "{before:?} + {kills} is {now:?}");
            let (before, now) = of("container_cpu_time_seconds_total");
            let grown = ms as f64 / 1e3;
            assert!(ms == 0 || now.is_some_and(|n| n >= grown - 1e-6), "{identity}: {grown} is {now:?}");
            if let (Some(before), Some(now)) = (before, now) {
                assert!((now - before - grown).abs() < 1e-6, "{identity}: {before} + {grown} is {now}");
            }
        }
        self.last = page;
    }

    /// Each point has an identity of its own, and lies after its start.
    fn check_otlp(&self) {
        let mut seen = BTreeSet::new();
        let bodies = requests(&self.state.read(), &Node::new(&Attributes::new()));
        for (body, _) in bodies {
            let request = ExportMetricsServiceRequest::decode(body).unwrap();
            for of in request.resource_metrics {
                let resource = format!("{:?}", of.resource);
                for metric in of.scope_metrics.into_iter().flat_map(|s| s.metrics) {
                    let Some(Data::Sum(sum)) = metric.data else { continue };
                    for p in sum.data_points {
                        assert!(p.start_time_unix_nano <= p.time_unix_nano);
                        let point = format!("{resource} {} {:?}", metric.name, p.attributes);
                        assert!(seen.insert(point.clone()), "twice: {point}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever workloads live through, a page is one that a strict parser takes, each series is on it once, no counter
    /// falls, and what happened between two pages is what it grew by; in OTLP no point is there twice or before its
    /// start.
    #[test]
    fn any_lives(steps in prop::collection::vec(step(), 1..60)) {
        let rig = Rig::new().unwrap();
        let mut way = Way::on(&rig);
        way.live(&steps);
        way.read();
    }
}

/// A unit that is restarted in one interval, with what it did before and after; then gone, back, forgotten, back again.
#[test]
fn a_unit_has_one_series() {
    let rig = Rig::new().unwrap();
    let mut way = Way::on(&rig);
    let value = |way: &Way<'_>| way.last.get("container_cpu_time_seconds_total", "flaky.service");
    let (unit, again) = (Step::Born(0), Step::Restarted(0));
    way.live(&[unit, Step::Worked(0, 1000), Step::Read, again, again, Step::Killed(0), Step::Read]);
    assert_eq!(value(&way), Some(2.46));
    way.live(&[Step::Gone(0), Step::Read, Step::Read, Step::Read]);
    assert_eq!(value(&way), None);
    way.live(&[unit, Step::Worked(0, 40), Step::Read]);
    assert_eq!(value(&way), Some(2.5));
    way.live(&[Step::Gone(0), Step::Pause, unit, Step::Worked(0, 40), Step::Read]);
    assert_eq!(value(&way), Some(0.04));
}
