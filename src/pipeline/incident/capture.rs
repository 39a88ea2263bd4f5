// SPDX-License-Identifier: Apache-2.0
//! What a capture brings into its incident, part by part.

use super::{MAX_SPANS, Moment};
use crate::pipeline::log::Append;
use crate::pipeline::spans;
use crate::signal::entry::{EntryBuf, IncidentRecord};
use crate::signal::ids::{EventId, SpanId, span_id};
use crate::signal::otlp::Place;
use crate::signal::{Capture, CaptureProgress, Timestamp};

/// A capture that is under way.
pub(super) struct UnderWay {
    /// The span that it will have: its parts hang below it.
    span: SpanId,
    /// What the first part was called, and when it began; `None`: there was none yet.
    first: Option<(&'static str, Timestamp)>,
}

/// One step of a capture: who takes it, and when.
pub(super) struct Step<'a> {
    pub collector: &'a str,
    pub id: EventId,
    pub now: Moment,
    /// Its incident is closed.
    pub late: bool,
}

impl Step<'_> {
    /// Counts it on the record; what it has to be logged.
    pub fn take(
        &self,
        progress: &CaptureProgress,
        under_way: &mut Option<UnderWay>,
        record: &mut IncidentRecord,
    ) -> Option<EntryBuf> {
        let trace = record.trace();
        let next = span_id(trace, &self.id.0);
        let span = under_way.as_ref().map_or(next, |c| c.span);
        let own = Place { trace, span, parent: Some(record.root_span()) };
        match progress {
            CaptureProgress::Begun(_) => {
                *under_way = Some(UnderWay { span, first: None });
                record.under_way += u32::from(!self.late);
                None
            }
            CaptureProgress::Part(c) => {
                under_way.get_or_insert(UnderWay { span, first: None }).first.get_or_insert((c.name, c.start));
                record.end = record.end.max(c.end.0);
                // One that nobody announced has its first id as the capture's, so a part needs another.
                let below = span_id(trace, &[&self.id.0[..], b"part"].concat());
                Some(self.entry(c, Place { trace, span: below, parent: Some(span) }))
            }
            CaptureProgress::Ended(c) => {
                *under_way = None;
                record.under_way = record.under_way.saturating_sub(1);
                record.captures += 1;
                record.end = record.end.max(c.end.0);
                Some(self.entry(c, own))
            }
            CaptureProgress::Failed(target) => {
                record.under_way = record.under_way.saturating_sub(1);
                let (name, start) = under_way.take()?.first?;
                let mut entry = EntryBuf::new(self.id, self.collector, target.workload);
                entry.span(&spans::failed_capture(name, self.collector, own, start, self.now.wall));
                Some(entry)
            }
        }
    }

    fn entry(&self, c: &Capture, place: Place) -> EntryBuf {
        let (span, profiles) = spans::capture(c, self.collector, self.id, place);
        let mut entry = EntryBuf::new(self.id, self.collector, c.target.workload);
        entry.span(&span);
        if let Some(p) = profiles {
            entry.profile(&p);
        }
        entry
    }
}

/// Adds an entry of one span while there is room.
pub(super) fn add_span(record: &mut IncidentRecord, entry: EntryBuf, out: &mut Append) {
    if record.spans < MAX_SPANS {
        record.spans += 1;
        record.raw_last = entry.id.0.to_vec();
        out.entries.push(entry);
    } else {
        record.uncounted_spans += 1;
    }
}
