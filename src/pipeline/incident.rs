// SPDX-License-Identifier: Apache-2.0
//! Joins what happened to one workload in one stretch of time into an incident: one OTLP trace.
//!
//! A pure state machine: inputs and time come in, log entries go out. Children are sent when they
//! end, the root once, at close.

mod capture;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use capture::{Step, UnderWay, add_span};

use super::log::Append;
use super::spans;
use crate::signal::entry::{EntryBuf, IncidentRecord, SpanLink};
use crate::signal::ids::{EventId, EventIds, SpanId, TraceId, span_id, trace_id};
use crate::signal::otlp::{self, Place};
use crate::signal::{
    Capture, CaptureProgress, Event, Severity, Target, Timestamp, Trigger, Workload, WorkloadKey, WorkloadKind,
};

/// Children of an incident beyond these are only counted, on its root.
pub const MAX_EVENT_SPANS: u32 = 100;
/// The same for all children.
pub const MAX_SPANS: u32 = 200;
/// The same for links.
pub const MAX_LINKS: usize = 32;
/// A capture may end so long after its incident.
const LATE_CAPTURE: Duration = Duration::from_secs(900);

/// When incidents end.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `incident.quiet`: time without a further event after which an incident is over.
    pub quiet: Duration,
    /// The longest that one may last.
    pub max_duration: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { quiet: Duration::from_secs(30), max_duration: Duration::from_secs(600) }
    }
}

/// What ids are made from.
#[derive(Debug, Clone)]
pub struct Identity {
    pub host_id: String,
    pub boot_id: String,
}

/// One moment: in wall time, and on a clock that is never stepped.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub wall: Timestamp,
    pub steady: Duration,
}

/// Why an incident was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    Recovered,
    Quiet,
    MaxDuration,
    AgentRestart,
}

impl EndReason {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Recovered => "recovered",
            EndReason::Quiet => "quiet",
            EndReason::MaxDuration => "max_duration",
            EndReason::AgentRestart => "agent_restart",
        }
    }
}

/// The workload that an incident is about; `None`: the node.
type Subject = Option<WorkloadKey>;

struct Open {
    record: IncidentRecord,
    root: SpanId,
    /// Since it was last handed on, see [`Incidents::changed`].
    changed: bool,
    opened: Duration,
    joined: Duration,
    /// Triggers that are over their limit.
    over: HashSet<Target>,
    /// Whether there was any trigger.
    triggered: bool,
}

/// One that ended only because it had reached the longest duration.
struct TimedOut {
    link: SpanLink,
    over: HashSet<Target>,
    at: Duration,
}

/// The incident that a trigger belongs to, for captures that end later.
struct TriggerIncident {
    record: IncidentRecord,
    at: Duration,
    capture: Option<UnderWay>,
}

/// All open incidents.
pub struct Incidents {
    identity: Identity,
    settings: Settings,
    open: HashMap<Subject, Open>,
    timed_out: HashMap<Subject, TimedOut>,
    trigger_incidents: HashMap<Target, TriggerIncident>,
}

impl Incidents {
    #[must_use]
    pub fn new(identity: Identity, settings: Settings) -> Self {
        Incidents {
            identity,
            settings,
            open: HashMap::new(),
            timed_out: HashMap::new(),
            trigger_incidents: HashMap::new(),
        }
    }

    /// Takes changed settings; they hold for open incidents too.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Closes what an earlier agent left open, at its last entry.
    pub fn close_left_open(left: Vec<IncidentRecord>, ids: &mut EventIds, now: Moment) -> Append {
        let mut out = Append::default();
        for record in left {
            let closed = close(record, EndReason::AgentRestart, ids, now, &mut out);
            out.incidents.push(closed);
        }
        out
    }

    /// Adds the open incidents that have changed since the last time: once for all that came at once,
    /// as an incident in a storm changes with each event.
    pub fn changed(&mut self, out: &mut Append) {
        for open in self.open.values_mut().filter(|o| o.changed) {
            open.changed = false;
            out.incidents.push(open.record.clone());
        }
    }

    /// One event. Adds what to log, and returns the trace that it belongs to.
    pub fn event(
        &mut self,
        collector: &str,
        e: &Event,
        ids: &mut EventIds,
        now: Moment,
        out: &mut Append,
    ) -> Option<TraceId> {
        self.joining(collector, e, None, ids, now, out)
    }

    /// A trigger has crossed its limit: it is an event too, and keeps its incident open.
    pub fn onset(
        &mut self,
        collector: &str,
        t: &Trigger,
        ids: &mut EventIds,
        now: Moment,
        out: &mut Append,
    ) -> Option<TraceId> {
        self.joining(collector, &otlp::trigger_event(t), Some(&t.target), ids, now, out)
    }

    fn joining(
        &mut self,
        collector: &str,
        e: &Event,
        trigger: Option<&Target>,
        ids: &mut EventIds,
        now: Moment,
        out: &mut Append,
    ) -> Option<TraceId> {
        let id = ids.next(now.wall.0);
        let subject = e.workload.as_ref().map(|w| w.key);
        let own = e.workload.as_ref().is_some_and(|w| w.kind == WorkloadKind::Own);
        let opens = !own && (trigger.is_some() || e.severity >= Severity::Warn);
        out.workloads.extend(e.workload.iter().cloned());
        if opens && !self.open.contains_key(&subject) {
            let new = self.opened(collector, e, id, now);
            self.open.insert(subject, new);
        }
        let Some(open) = self.open.get_mut(&subject) else {
            let mut entry = EntryBuf::new(id, collector, subject);
            entry.log(e, None);
            out.entries.push(entry);
            return None;
        };
        if let Some(t) = trigger {
            open.over.insert(t.clone());
            open.triggered = true;
        }
        let trace = open.record.trace();
        join_event(open, collector, e, id, ids, now, out);
        open.joined = now.steady;
        open.changed = true;
        if let Some(t) = trigger {
            let same = |h: &TriggerIncident| h.record.trace() == trace;
            let capture = self.trigger_incidents.remove(t).filter(same).and_then(|h| h.capture);
            self.trigger_incidents
                .insert(t.clone(), TriggerIncident { record: open.record.clone(), at: now.steady, capture });
        }
        Some(trace)
    }

    fn opened(&mut self, collector: &str, e: &Event, id: EventId, now: Moment) -> Open {
        let subject = e.workload.as_ref().map(|w| w.key);
        let trace = trace_id(&self.identity.host_id, &self.identity.boot_id, id);
        let timed_out = self.timed_out.remove(&subject);
        let (links, over) = timed_out.map_or_else(Default::default, |c| (vec![c.link], c.over));
        let start = e.duration.map_or(e.time, |d| e.time.minus(d));
        let record = IncidentRecord {
            raw_trace: trace.0.to_vec(),
            raw_opening: id.0.to_vec(),
            raw_last: id.0.to_vec(),
            collector: collector.to_owned(),
            name: e.def.name.to_owned(),
            message: e.message.clone(),
            raw_workload: subject.map(|k| k.0),
            start: start.0,
            end: e.time.0,
            links,
            ..IncidentRecord::default()
        };
        let (root, triggered) = (record.root_span(), !over.is_empty());
        Open { record, root, changed: true, opened: now.steady, joined: now.steady, over, triggered }
    }

    /// A trigger is below its limit again.
    pub fn recovered(&mut self, target: &Target, at: Timestamp, now: Moment) {
        if let Some(timed_out) = self.timed_out.get_mut(&target.workload) {
            timed_out.over.remove(target);
        }
        if let Some(open) = self.open.get_mut(&target.workload)
            && open.over.remove(target)
        {
            open.record.end = open.record.end.max(at.0);
            open.joined = now.steady;
            open.changed = true;
        }
    }

    /// What becomes of a trigger's capture. `false`: no incident is known for it.
    pub fn capture(
        &mut self,
        collector: &str,
        progress: &CaptureProgress,
        ids: &mut EventIds,
        now: Moment,
        out: &mut Append,
    ) -> bool {
        let (CaptureProgress::Begun(target)
        | CaptureProgress::Failed(target)
        | CaptureProgress::Part(Capture { target, .. })
        | CaptureProgress::Ended(Capture { target, .. })) = progress;
        let Some(trigger_incident) = self.trigger_incidents.get_mut(target) else { return false };
        let trace = trigger_incident.record.trace();
        let open = self.open.get_mut(&target.workload).filter(|o| o.record.trace() == trace);
        // A late capture is sent beside its closed incident, whose root has been sent already.
        let late = open.is_none();
        let record = match open {
            Some(o) => {
                o.joined = now.steady;
                o.changed = true;
                &mut o.record
            }
            None => &mut trigger_incident.record,
        };
        let step = Step { collector, id: ids.next(now.wall.0), now, late };
        if let Some(entry) = step.take(progress, &mut trigger_incident.capture, record) {
            add_span(record, entry, out);
        }
        if late {
            out.incidents.push(record.clone());
        }
        true
    }

    /// Closes what is over. To be called about once a second.
    pub fn tick(&mut self, ids: &mut EventIds, now: Moment, out: &mut Append) {
        let settings = self.settings;
        let due: Vec<(Subject, EndReason)> =
            self.open.iter().filter_map(|(k, o)| Some((*k, end_of(o, settings, now)?))).collect();
        for (subject, reason) in due {
            let Some(mut open) = self.open.remove(&subject) else { continue };
            if reason == EndReason::MaxDuration {
                if !open.over.is_empty() {
                    open.record.end = open.record.end.max(now.wall.0);
                }
                let link = SpanLink { trace: open.record.raw_trace.clone(), span: open.record.root_span().0.to_vec() };
                self.timed_out.insert(subject, TimedOut { link, over: open.over, at: now.steady });
            }
            let closed = close(open.record, reason, ids, now, out);
            for trigger_incident in
                self.trigger_incidents.values_mut().filter(|h| h.record.raw_trace == closed.raw_trace)
            {
                trigger_incident.record = closed.clone();
            }
            out.incidents.push(closed);
        }
        let recent = |at: Duration, within: Duration| now.steady.saturating_sub(at) < within;
        self.timed_out.retain(|_, c| !c.over.is_empty() || recent(c.at, settings.max_duration));
        let open = &self.open;
        self.trigger_incidents
            .retain(|t, h| recent(h.at, LATE_CAPTURE) || open.get(&t.workload).is_some_and(|o| o.over.contains(t)));
    }
}

fn end_of(o: &Open, settings: Settings, now: Moment) -> Option<EndReason> {
    if now.steady.saturating_sub(o.opened) >= settings.max_duration {
        return Some(EndReason::MaxDuration);
    }
    let quiet = o.over.is_empty() && now.steady.saturating_sub(o.joined) >= settings.quiet;
    quiet.then_some(if o.triggered { EndReason::Recovered } else { EndReason::Quiet })
}

/// Adds an event to an open incident: its record, its span while there is room, and those of others in it.
fn join_event(
    open: &mut Open,
    collector: &str,
    e: &Event,
    id: EventId,
    ids: &mut EventIds,
    now: Moment,
    out: &mut Append,
) {
    let root = open.root;
    let r = &mut open.record;
    let trace = r.trace();
    r.events += 1;
    r.severity = r.severity.max(e.severity as i32);
    id.0.as_slice().clone_into(&mut r.raw_last);
    r.end = r.end.max(e.time.0);
    r.start = r.start.min(e.duration.map_or(e.time, |d| e.time.minus(d)).0);
    let mut entry = EntryBuf::new(id, collector, e.workload.as_ref().map(|w| w.key));
    if r.event_spans >= MAX_EVENT_SPANS || r.spans >= MAX_SPANS {
        r.uncounted_events += 1;
        entry.log(e, Some((trace, root)));
        out.entries.push(entry);
        return;
    }
    r.event_spans += 1;
    r.spans += 1;
    let span = span_id(trace, &id.0);
    entry.log(e, Some((trace, span)));
    entry.span(&otlp::event_span(e, collector, Place { trace, span, parent: Some(root) }));
    // In the order of their ids: the event came first.
    let mut of_others = Vec::new();
    for (workload, other) in others(e, collector, id, (trace, span), r) {
        match workload.filter(|w| Some(w.key) != entry.workload) {
            // A span of its own workload, so of its own resource, is an entry of its own.
            Some(w) => {
                let mut own = EntryBuf::new(ids.next(now.wall.0), collector, Some(w.key));
                own.span(&other);
                own.id.0.as_slice().clone_into(&mut r.raw_last);
                out.workloads.push(w);
                of_others.push(own);
            }
            None => entry.span(&other),
        }
    }
    out.entries.push(entry);
    out.entries.extend(of_others);
}

type OtherSpan = (Option<Arc<Workload>>, opentelemetry_proto::tonic::trace::v1::Span);

/// Culprits, triggers and victims: children of the event's span.
fn others(
    e: &Event,
    collector: &str,
    id: EventId,
    (trace, parent): (TraceId, SpanId),
    r: &mut IncidentRecord,
) -> Vec<OtherSpan> {
    let mut out = Vec::new();
    for (i, other) in e.related.iter().enumerate() {
        if r.spans >= MAX_SPANS {
            r.uncounted_spans += 1;
            continue;
        }
        r.spans += 1;
        let child = [&id.0[..], &(i as u64).to_be_bytes()].concat();
        let place = Place { trace, span: span_id(trace, &child), parent: Some(parent) };
        out.push((other.workload.clone(), spans::related(e, other, collector, place)));
    }
    out
}

/// Sends the root.
fn close(
    mut record: IncidentRecord,
    reason: EndReason,
    ids: &mut EventIds,
    now: Moment,
    out: &mut Append,
) -> IncidentRecord {
    let id = ids.next(now.wall.0);
    reason.name().clone_into(&mut record.end_reason);
    record.raw_last = id.0.to_vec();
    record.under_way = 0;
    let excess = record.links.len().saturating_sub(MAX_LINKS);
    record.links.truncate(MAX_LINKS);
    record.uncounted_links += excess as u64;
    let mut entry = EntryBuf::new(id, &record.collector, record.workload());
    entry.span(&spans::root(&record));
    out.entries.push(entry);
    record
}

#[cfg(test)]
mod tests;
