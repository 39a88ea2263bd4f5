// SPDX-License-Identifier: Apache-2.0
//! Links to spans of applications: what was being done when something happened.

use opentelemetry_proto::tonic::trace::v1::span;

use super::ids::{SpanId, TraceId};
use super::key_value::key_values;
use super::{Attributes, Value};

/// Links of one signal; further ones are counted.
pub const MAX_LINKS: usize = 32;

/// A span of an application.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub trace: TraceId,
    pub span: SpanId,
    pub attributes: Attributes,
}

/// At most [`MAX_LINKS`] links to different spans.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Links {
    links: Vec<Link>,
    dropped: u32,
}

impl Links {
    /// Adds a link; one to the same span is no other.
    pub fn add(&mut self, link: Link) {
        if self.links.iter().any(|l| (l.trace, l.span) == (link.trace, link.span)) {
            return;
        }
        if self.links.len() < MAX_LINKS {
            self.links.push(link);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Those that had no room.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Puts them on a span.
    pub fn put_on(&self, s: &mut opentelemetry_proto::tonic::trace::v1::Span) {
        s.links.extend(self.links.iter().map(|l| span::Link {
            trace_id: l.trace.0.to_vec(),
            span_id: l.span.0.to_vec(),
            attributes: key_values(&l.attributes),
            ..span::Link::default()
        }));
        s.dropped_links_count = s.dropped_links_count.saturating_add(self.dropped);
    }

    /// As an attribute of a log record, which has no field for them.
    #[must_use]
    pub fn value(&self) -> Value {
        let link = |l: &Link| {
            let ids = [("trace_id", l.trace.to_string()), ("span_id", l.span.to_string())];
            let mut cells: Vec<_> = ids.into_iter().map(|(k, id)| (k.into(), Value::from(id))).collect();
            if !l.attributes.is_empty() {
                cells.push(("attributes".into(), Value::Map(l.attributes.clone().into_iter().collect())));
            }
            Value::Map(cells)
        };
        Value::Array(self.links.iter().map(link).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links are bounded and each is there once; what had no room is on the span as a count.
    #[test]
    fn links_are_bounded() {
        let mut links = Links::default();
        let link = |n: u8| Link { trace: TraceId([n; 16]), span: SpanId([n; 8]), attributes: Attributes::new() };
        links.add(link(0));
        (0..35).for_each(|n| links.add(link(n)));
        let mut s = opentelemetry_proto::tonic::trace::v1::Span::default();
        links.put_on(&mut s);
        assert_eq!((s.links.len(), s.dropped_links_count), (MAX_LINKS, 3));
    }
}
