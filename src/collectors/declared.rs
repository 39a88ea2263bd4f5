// SPDX-License-Identifier: Apache-2.0
//! What a collector emits, against what it declares: reference, dashboards, alerts and schemas of
//! back ends are made from the declaration, so what it does not name would reach users unannounced.
//!
//! Checked in debug builds, and so in every test; a release build has none of it.

use super::{Events, Info};
use crate::signal::semconv::attr;
use crate::signal::{Attributes, Change, EventDef, Key, Metrics, Severity};

/// Every point is of a metric in [`Info::metrics`], with attributes of that metric.
pub(super) fn assert_metrics(info: &Info, metrics: &Metrics) {
    if !cfg!(debug_assertions) {
        return;
    }
    for p in metrics.points() {
        debug_assert!(
            info.metrics.contains(&p.def),
            "{} emits the metric {}, but INFO lacks it",
            info.name,
            p.def.name
        );
        assert_attributes(info, p.def.name, p.def.attributes, &p.attributes);
    }
}

/// The same of events, and of the figures beside them.
pub(super) fn assert_events(info: &Info, out: &Events) {
    if !cfg!(debug_assertions) {
        return;
    }
    for e in &out.events {
        assert_event(info, e.def, e.severity, &e.attributes);
    }
    assert_metrics(info, &out.metrics);
}

/// The same of what triggers a capture.
pub(super) fn assert_changes(info: &Info, changes: &[Change]) {
    if !cfg!(debug_assertions) {
        return;
    }
    for change in changes {
        if let Change::Onset(t) = change {
            assert_event(info, t.def, t.severity, &t.attributes);
        }
    }
}

fn assert_event(info: &Info, def: &'static EventDef, severity: Severity, attributes: &Attributes) {
    debug_assert!(info.events.contains(&def), "{} emits the event {}, but INFO lacks it", info.name, def.name);
    assert_attributes(info, def.name, def.attributes, attributes);
    let counters = [Some(def.counter), def.container_counter];
    let tells_apart = counters.iter().flatten().all(|c| c.attributes.contains(&attr::LINUX_EVENT_SEVERITY));
    debug_assert!(
        severity == def.severity || tells_apart && severity <= def.worst,
        "{} emits {} as {}, but that is graver than its definition allows, or its counters have no label for the severity",
        info.name,
        def.name,
        severity.name()
    );
}

fn assert_attributes(info: &Info, signal: &str, declared: &[Key], attributes: &Attributes) {
    for (name, _) in attributes.iter() {
        let found = declared.iter().any(|k| k.name == name);
        debug_assert!(found, "{} gives {signal} the attribute {name}, but its definition lacks it", info.name);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::collectors::Unavailable;
    use crate::collectors::registry::{RunningEvents, RunningMetrics, RunningTracer};
    use crate::collectors::{AutoTracer, Collector, Context, EventCollector, Limits, MetricCollector, NoSettings};
    use crate::host::Now;
    use crate::probe::RecordSet;
    use crate::signal::{Capture, Event, MetricDef, Severity, Target, Timestamp, Trigger, Value};

    const KNOWN: Key = Key::new("known", "");
    const OTHER: Key = Key::new("other", "");
    static METRIC: MetricDef = MetricDef::gauge("declared", "1", "").by(&[KNOWN]);
    static STRAY_METRIC: MetricDef = MetricDef::gauge("stray", "1", "");
    static EVENT: EventDef = EventDef {
        name: "declared",
        summary: "",
        severity: Severity::Warn,
        worst: Severity::Warn,
        attributes: &[KNOWN],
        counter: &METRIC,
        container_counter: None,
    };
    static STRAY_EVENT: EventDef = EventDef { name: "stray", ..EVENT };

    /// Emits what it is made of, by whichever of the three ways it is asked.
    #[derive(Clone, Copy)]
    struct Emits {
        metric: &'static MetricDef,
        event: &'static EventDef,
        key: Key,
    }
    const HONEST: Emits = Emits { metric: &METRIC, event: &EVENT, key: KNOWN };

    impl Collector for Emits {
        const INFO: Info = Info { name: "emits", metrics: &[&METRIC], events: &[&EVENT], ..Info::DEFAULT };
        type Config = NoSettings;
        fn new(_: NoSettings, _: &mut Context<'_>) -> Result<Self, Unavailable> {
            Ok(HONEST)
        }
    }

    impl MetricCollector for Emits {
        fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
            out.value(self.metric, None, &[(self.key, Value::from(1))], 1.0);
            anyhow::bail!("and the rest could not be read")
        }
    }

    struct Empty;
    impl RecordSet for Empty {
        type Ref<'a> = ();
        fn decode(_: usize, _: &[u8]) -> Result<(), crate::probe::DecodeError> {
            Ok(())
        }
    }

    impl EventCollector for Emits {
        type Records = Empty;
        fn on_record(&mut self, (): (), out: &mut Events) -> anyhow::Result<()> {
            let mut e = Event::new(self.event, Timestamp(1), None, String::new());
            e.attributes.set(self.key, 1);
            out.emit(e);
            Ok(())
        }
        fn tick(&mut self, _: Now, out: &mut Events) -> anyhow::Result<()> {
            out.metrics.value(self.metric, None, &[(self.key, Value::from(1))], 1.0);
            Ok(())
        }
    }

    impl AutoTracer for Emits {
        fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
            let mut attributes = Attributes::new();
            attributes.set(self.key, 1);
            Ok(vec![Change::Onset(Trigger {
                target: Target { collector: "emits", workload: None, detail: None },
                def: self.event,
                severity: Severity::Warn,
                onset: now.wall,
                detected: now.wall,
                workload: None,
                message: String::new(),
                attributes,
                links: crate::signal::Links::default(),
                capture: false,
            })])
        }
        fn capture(
            &mut self,
            _: &Trigger,
            _: Limits,
            _: crate::collectors::Parts,
        ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static {
            std::future::ready(Err(anyhow::anyhow!("none")))
        }
    }

    /// What each way of emitting says, through the form in which the loops hold a collector.
    fn complaints(emits: Emits) -> [Option<String>; 4] {
        let now = crate::host::Clock::fixed(Timestamp(1), 1).now();
        let said = |f: &mut dyn FnMut()| {
            let panic = catch_unwind(AssertUnwindSafe(f)).err()?;
            panic.downcast_ref::<String>().cloned()
        };
        [
            said(&mut || drop(RunningMetrics::collect(&mut emits.clone(), &mut Metrics::default()))),
            said(&mut || drop(RunningEvents::on_record(&mut emits.clone(), 0, &[], &mut Events::default()))),
            said(&mut || drop(RunningEvents::tick(&mut emits.clone(), now, &mut Events::default()))),
            said(&mut || drop(RunningTracer::check(&mut emits.clone(), now))),
        ]
    }

    /// What is declared goes through.
    #[test]
    fn declared_is_fine() {
        assert_eq!(complaints(HONEST), [None, None, None, None]);
    }

    /// A definition that INFO does not name ends the run, whichever way it comes; before an error of
    /// the run too, as what was emitted until then is kept.
    #[test]
    fn an_undeclared_definition_is_refused() {
        let all = complaints(Emits { metric: &STRAY_METRIC, event: &STRAY_EVENT, ..HONEST });
        for (said, what) in all.iter().zip(["metric", "event", "metric", "event"]) {
            assert_eq!(said.as_deref(), Some(format!("emits emits the {what} stray, but INFO lacks it").as_str()));
        }
    }

    /// So does an attribute that the definition does not list.
    #[test]
    fn an_undeclared_attribute_is_refused() {
        for said in complaints(Emits { key: OTHER, ..HONEST }) {
            let expected = "emits gives declared the attribute other, but its definition lacks it";
            assert_eq!(said.as_deref(), Some(expected));
        }
    }
}
