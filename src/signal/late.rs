// SPDX-License-Identifier: Apache-2.0
//! Names of a stack that came after its event was handed on: one record, joined to the event's entry wherever
//! that is read.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};

use super::Stack;
use super::entry::Entry;
use super::ids::StackKey;
use super::semconv::attr;

/// The names of one stack.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StackNames {
    /// [`StackKey`].
    #[prost(fixed64, tag = "1")]
    raw_key: u64,
    /// The stack's id in the entry, where it is addresses.
    #[prost(string, tag = "2")]
    before: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(string, tag = "4")]
    text: String,
}

impl StackNames {
    /// `before`: the stack as the event has it. `None`: one of them has no frames.
    #[must_use]
    pub fn new(key: StackKey, before: &Stack, named: &Stack) -> Option<Self> {
        let (before, id) = (before.id()?.to_string(), named.id()?.to_string());
        Some(StackNames { raw_key: key.0, before, id, text: named.text().to_owned() })
    }

    #[must_use]
    pub fn key(&self) -> StackKey {
        StackKey(self.raw_key)
    }

    /// Puts the names in the place of the addresses; nothing in an entry that does not wait for them.
    pub fn join(&self, entry: &mut Entry) {
        let waiting = entry.raw_late.len();
        entry.raw_late.retain(|k| *k != self.raw_key);
        let Some(log) = entry.log.as_mut().filter(|_| entry.raw_late.len() < waiting) else { return };
        let Some(addresses) = self.replace(&mut log.attributes) else { return };
        let of_spans = entry.spans.iter_mut().flat_map(|s| &mut s.events).flat_map(|e| &mut e.attributes);
        for a in of_spans.filter(|a| a.key == attr::EXCEPTION_STACKTRACE.name) {
            // Below the kernel's frames, if there are any.
            if let Some(text) = text_mut(&mut a.value).filter(|t| t.ends_with(&addresses)) {
                text.replace_range(text.len() - addresses.len().., &self.text);
            }
        }
    }

    /// In these attributes and in lists and tables among them. Returns what the stack was in these themselves.
    fn replace(&self, attributes: &mut [KeyValue]) -> Option<String> {
        let mut before = None;
        let id = attributes.iter_mut().find(|a| a.key == attr::LINUX_STACK_USER_ID.name);
        if let Some(id) = id.and_then(|a| text_mut(&mut a.value)).filter(|id| **id == self.before) {
            id.clone_from(&self.id);
            let stack = attributes.iter_mut().find(|a| a.key == attr::LINUX_STACK_USER.name);
            before = stack.and_then(|a| text_mut(&mut a.value)).map(|t| std::mem::replace(t, self.text.clone()));
        }
        attributes.iter_mut().filter_map(|a| a.value.as_mut()).for_each(|v| self.replace_in(v));
        before
    }

    fn replace_in(&self, value: &mut AnyValue) {
        match &mut value.value {
            Some(any_value::Value::ArrayValue(a)) => a.values.iter_mut().for_each(|v| self.replace_in(v)),
            Some(any_value::Value::KvlistValue(l)) => drop(self.replace(&mut l.values)),
            _ => {}
        }
    }
}

fn text_mut(value: &mut Option<AnyValue>) -> Option<&mut String> {
    match value.as_mut()?.value.as_mut()? {
        any_value::Value::StringValue(s) => Some(s),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entry::EntryBuf;
    use crate::signal::ids::{EventId, SpanId, TraceId};
    use crate::signal::otlp::{self, Place, text};
    use crate::signal::{Event, EventDef, Frame, MetricDef, Panel, Severity, Timestamp, Value};

    static METRIC: MetricDef = MetricDef::counter("linux.test", "{event}", "").shown_as(Panel::None);
    static DEF: EventDef = EventDef {
        name: "linux.test.event",
        summary: "",
        severity: Severity::Error,
        worst: Severity::Error,
        attributes: &[],
        counter: &METRIC,
        container_counter: None,
    };

    fn named(symbol: &str) -> Stack {
        Stack::from(vec![Frame { symbol: Some(symbol.into()), ..Frame::default() }])
    }

    /// Names replace addresses in the record, in the table of other stacks and in the span's exception, each of
    /// its own stack, and once.
    #[test]
    fn names_take_the_place_of_addresses() {
        let (own, other) = (StackKey(1), StackKey(2));
        let (mine, others) = (Stack::unnamed(7, &[0x10], Some(own)), Stack::unnamed(8, &[0x10], Some(other)));
        let mut e = Event::new(&DEF, Timestamp(5), None, String::new());
        (e.kernel_stack, e.user_stack) = (named("in_kernel"), mine.clone());
        let row = Value::table_row(vec![
            (attr::LINUX_STACK_USER, others.text().to_owned().into()),
            (attr::LINUX_STACK_USER_ID, others.id().unwrap().to_string().into()),
        ]);
        e.attributes.set(attr::LINUX_CULPRIT, Value::Array(vec![row]));
        e.late_stacks.push(other);
        let place = Place { trace: TraceId([1; 16]), span: SpanId([2; 8]), parent: None };
        let mut buf = EntryBuf::new(EventId([1; 12]), "test", None);
        buf.log(&e, None);
        buf.span(&otlp::event_span(&e, "test", place));
        let mut entry = buf.entry();
        assert_eq!((&entry.raw_late, &buf.late), (&vec![1, 2], &vec![own, other]));
        let before = entry.clone();
        let stray = StackNames::new(StackKey(3), &mine, &named("wrong")).unwrap();
        stray.join(&mut entry);
        assert_eq!(entry, before, "another event's, whose process had the same addresses");
        StackNames::new(own, &mine, &named("main")).unwrap().join(&mut entry);
        let log = entry.log.as_ref().unwrap();
        assert_eq!(text(&log.attributes, "linux.stack.user"), Some("main+0x0"));
        assert_eq!(text(&log.attributes, "linux.stack.user_id"), Some(&*named("main").id().unwrap().to_string()));
        let exception = &entry.spans[0].events[0].attributes;
        assert_eq!(text(exception, "exception.stacktrace"), Some("in_kernel+0x0\nmain+0x0"));
        assert!(format!("{log:?}").contains("0x10"), "the other stack waits on");
        StackNames::new(other, &others, &named("other")).unwrap().join(&mut entry);
        let joined = format!("{:?}", entry.log);
        assert!(joined.contains("other+0x0") && !joined.contains("0x10") && entry.raw_late.is_empty(), "{joined}");
    }
}
