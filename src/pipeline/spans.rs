// SPDX-License-Identifier: Apache-2.0
//! The spans of an incident's trace that are not events.

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, span};

use crate::signal::entry::IncidentRecord;
use crate::signal::ids::{EventId, profile_id};
use crate::signal::otlp::{self, Place, key_value, span_at};
use crate::signal::semconv::{Key, attr};
use crate::signal::{
    Capture, Event, Hex, Profile, ProfileKind, Related, Severity, Timestamp, Value, evidence, profile,
};

/// Stacks that a capture's span shows, as back ends show no profiles yet.
const TOP_STACKS: usize = 10;

fn pair(key: Key, v: impl Into<Value>) -> KeyValue {
    key_value(key.name, &v.into())
}

/// The root: from the onset to the end, with what was counted.
pub(super) fn root(r: &IncidentRecord) -> Span {
    let mut attributes = vec![
        pair(attr::LINUX_COLLECTOR, r.collector.clone()),
        pair(attr::LINUX_INCIDENT_MESSAGE, r.message.clone()),
        pair(attr::LINUX_INCIDENT_STATE, "closed"),
        pair(attr::LINUX_INCIDENT_END_REASON, r.end_reason.clone()),
        pair(attr::LINUX_INCIDENT_EVENTS, r.events),
        pair(attr::LINUX_INCIDENT_CAPTURES, r.captures),
    ];
    let uncounted = [
        (attr::LINUX_INCIDENT_UNCOUNTED_EVENTS, r.uncounted_events),
        (attr::LINUX_INCIDENT_UNCOUNTED_SPANS, r.uncounted_spans),
    ];
    attributes.extend(uncounted.into_iter().filter(|(_, n)| *n > 0).map(|(k, n)| pair(k, n)));
    let place = Place { trace: r.trace(), span: r.root_span(), parent: None };
    let mut s = span_at(place, &r.name, Timestamp(r.start), Timestamp(r.end), attributes);
    let links = r.links.iter();
    s.links = links
        .map(|l| span::Link { trace_id: l.trace.clone(), span_id: l.span.clone(), ..span::Link::default() })
        .collect();
    s.dropped_links_count = u32::try_from(r.uncounted_links).unwrap_or(u32::MAX);
    let severity = if r.severity >= Severity::Error as i32 { Severity::Error } else { Severity::Warn };
    s.status = otlp::status(severity, &r.message);
    s
}

/// The span of a capture or of a part of one, with the top stacks of its profiles as span events, and
/// its encoded profiles.
pub(super) fn capture(c: &Capture, collector: &str, id: EventId, place: Place) -> (Span, Option<Vec<u8>>) {
    let id = profile_id(place.trace, &id.0);
    let of = profile::Origin { collector, start: c.start, end: c.end, trace: place.trace, span: place.span, id };
    let profiles = profile::encode(evidence::profiles(&c.evidence), &of);
    let mut attributes = vec![pair(attr::LINUX_COLLECTOR, collector.to_owned())];
    if let Some(first) = evidence::profiles(&c.evidence).find(|p| !p.stacks.is_empty()) {
        let hex = Hex(&id).to_string();
        attributes.push(pair(attr::LINUX_PROFILE_ID, hex.clone()));
        attributes.push(pair(attr::PYROSCOPE_PROFILE_ID, hex));
        attributes.extend(values(first, first.total()));
    }
    if c.lost() > 0 {
        attributes.push(pair(attr::LINUX_PROFILE_LOST, c.lost()));
    }
    attributes.extend(otlp::key_values(&c.attributes));
    attributes.extend(evidence::attribute(&c.evidence));
    let mut s = span_at(place, c.name, c.start, c.end, attributes);
    s.events = evidence::profiles(&c.evidence).flat_map(|p| top_stacks(p, c.end)).collect();
    c.links.put_on(&mut s);
    (s, profiles)
}

/// What a profile measures, and a value of it: a count of samples under the name that is theirs.
fn values(p: &Profile, value: u64) -> Vec<KeyValue> {
    let kind = pair(attr::LINUX_PROFILE_KIND, p.kind.name());
    if p.kind.sample == ProfileKind::CPU.sample {
        return vec![pair(attr::LINUX_PROFILE_SAMPLES, value), kind];
    }
    vec![pair(attr::LINUX_PROFILE_TOTAL, value), pair(attr::LINUX_PROFILE_UNIT, p.kind.sample.unit), kind]
}

fn top_stacks(p: &Profile, at: Timestamp) -> Vec<span::Event> {
    // Threads share stacks; a human wants to see where the time goes.
    let mut sums: HashMap<(&str, &str), u64> = HashMap::new();
    for s in &p.stacks {
        let sum = sums.entry((s.kernel.text(), s.user.text())).or_default();
        *sum = sum.saturating_add(s.value);
    }
    let mut top: Vec<_> = sums.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    top.truncate(TOP_STACKS);
    let event = |((kernel, user), value): ((&str, &str), u64)| {
        let mut attributes = values(p, value);
        for (key, stack) in [(attr::LINUX_STACK_KERNEL, kernel), (attr::LINUX_STACK_USER, user)] {
            otlp::push_stack(&mut attributes, key.name, stack);
        }
        span::Event { time_unix_nano: at.0, name: "stack".to_owned(), attributes, ..span::Event::default() }
    };
    top.into_iter().map(event).collect()
}

/// The span of a capture that failed after it had sent parts, so that they hang below something.
pub(super) fn failed_capture(name: &str, collector: &str, place: Place, start: Timestamp, end: Timestamp) -> Span {
    let mut s = span_at(place, name, start, end, vec![pair(attr::LINUX_COLLECTOR, collector.to_owned())]);
    s.status = otlp::status(Severity::Error, "the capture failed before it was whole");
    s
}

/// Another party of an event, for as long as the event lasted.
pub(super) fn related(e: &Event, other: &Related, collector: &str, place: Place) -> Span {
    let mut attributes =
        vec![pair(attr::LINUX_COLLECTOR, collector.to_owned()), pair(attr::LINUX_ROLE, other.role.name())];
    otlp::push_thread(&mut attributes, &other.thread);
    let start = e.duration.map_or(e.time, |d| e.time.minus(d));
    span_at(place, other.role.name(), start, e.time, attributes)
}
