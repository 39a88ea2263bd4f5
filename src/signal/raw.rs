// SPDX-License-Identifier: Apache-2.0
//! Stored entries as they are handed on over OTLP: taken apart only where their parts begin.
//!
//! An entry holds its log record, spans and profile as OTLP has them, so a request can be put
//! together from their bytes: to decode and encode them again costs ten times as much.

use std::ops::Range;
use std::sync::Arc;

use prost::{DecodeError, Message as _};

use super::entry::Entry;
use super::ids::{EventId, StackKey};
use super::workload::WorkloadKey;

/// Fields of [`Entry`].
const COLLECTOR: u32 = 2;
const WORKLOAD: u32 = 3;
const LOG: u32 = 4;
const SPANS: u32 = 5;
const PROFILE: u32 = 6;
const LATE: u32 = 7;

/// Wire types of protobuf (protobuf.dev, "Encoding").
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

/// An encoded [`Entry`] whose top-level fields are known to be whole.
#[derive(Debug, Clone)]
pub struct RawEntry {
    bytes: Arc<[u8]>,
    id: EventId,
    workload: Option<WorkloadKey>,
    collector: Range<usize>,
}

impl RawEntry {
    /// # Errors
    /// The bytes are no entry.
    pub fn new(id: EventId, bytes: Arc<[u8]>) -> Result<Self, Damaged> {
        let (mut workload, mut collector) = (None, 0..0);
        for field in (Fields { bytes: &bytes, at: 0 }) {
            let (number, range) = field?;
            match number {
                COLLECTOR => {
                    std::str::from_utf8(&bytes[range.clone()]).map_err(|_| Damaged)?;
                    collector = range;
                }
                WORKLOAD => {
                    let key = bytes[range].try_into().map_err(|_| Damaged)?;
                    workload = Some(WorkloadKey(u64::from_le_bytes(key)));
                }
                _ => {}
            }
        }
        Ok(RawEntry { bytes, id, workload, collector })
    }

    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }

    #[must_use]
    pub fn workload(&self) -> Option<WorkloadKey> {
        self.workload
    }

    /// The collector that reported.
    #[must_use]
    pub fn collector(&self) -> &str {
        // Checked when it was made.
        std::str::from_utf8(&self.bytes[self.collector.clone()]).unwrap_or_default()
    }

    /// The encoded `LogRecord`.
    #[must_use]
    pub fn log(&self) -> Option<&[u8]> {
        self.parts(LOG).next()
    }

    /// The encoded `Span`s.
    pub fn spans(&self) -> impl Iterator<Item = &[u8]> {
        self.parts(SPANS)
    }

    /// The encoded `ProfilesData`.
    #[must_use]
    pub fn profile(&self) -> Option<&[u8]> {
        self.parts(PROFILE).next()
    }

    /// Under which names of its stacks may still come.
    pub fn late(&self) -> impl Iterator<Item = StackKey> {
        self.parts(LATE).filter_map(|key| Some(StackKey(u64::from_le_bytes(key.try_into().ok()?))))
    }

    /// All of it.
    ///
    /// # Errors
    /// A part is damaged.
    pub fn decode(&self) -> Result<Entry, DecodeError> {
        Entry::decode(&*self.bytes)
    }

    /// Its encoded size.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn parts(&self, wanted: u32) -> impl Iterator<Item = &[u8]> {
        fields(&self.bytes, wanted)
    }
}

/// The contents of each field of that number in a message that is known to be whole.
pub fn fields(message: &[u8], wanted: u32) -> impl Iterator<Item = &[u8]> {
    let all = Fields { bytes: message, at: 0 };
    all.map_while(Result::ok).filter(move |(n, _)| *n == wanted).map(move |(_, range)| &message[range])
}

/// What was read is no protobuf message, or not the one that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored entry is damaged")]
pub struct Damaged;

/// The fields of one message: each one's number and where its value stands.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            v |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(v);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u32, Range<usize>)> {
        let key = u32::try_from(self.varint()?).ok()?;
        let mut start = self.at;
        let length = match key & 7 {
            VARINT => {
                self.varint()?;
                self.at - start
            }
            FIXED64 => 8,
            FIXED32 => 4,
            DELIMITED => {
                let length = usize::try_from(self.varint()?).ok()?;
                start = self.at;
                length
            }
            _ => return None,
        };
        self.at = start.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        Some((key >> 3, start..self.at))
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u32, Range<usize>), Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.at = self.bytes.len();
        }
        Some(field.ok_or(Damaged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use proptest::prelude::*;

    fn entry(collector: String, workload: Option<u64>, log: Option<u32>, spans: usize) -> Entry {
        let mut e = Entry::new(EventId([7; 12]), &collector, workload.map(WorkloadKey));
        e.log = log.map(|flags| LogRecord { flags, event_name: collector.clone(), ..Default::default() });
        e.spans = (0..spans).map(|i| Span { name: format!("s{i}"), ..Default::default() }).collect();
        e.profile = (spans == 1).then(|| vec![1; 300]);
        e.raw_late = vec![7; spans / 2];
        e
    }

    proptest! {
        /// The parts are those that were encoded, whatever is there and whatever is not.
        #[test]
        fn parts_are_what_was_encoded(
            c in ".{0,200}", w in any::<Option<u64>>(), log in any::<Option<u32>>(), spans in 0usize..4,
        ) {
            let e = entry(c, w, log, spans);
            let raw = RawEntry::new(e.id(), e.encode_to_vec().into()).unwrap();
            prop_assert_eq!(raw.collector(), e.collector.as_str());
            prop_assert_eq!((raw.id(), raw.workload()), (e.id(), e.workload()));
            prop_assert_eq!(raw.late().map(|k| k.0).collect::<Vec<_>>(), e.raw_late.clone());
            prop_assert_eq!(raw.log().map(|l| LogRecord::decode(l).unwrap()), e.log.clone());
            prop_assert_eq!(raw.spans().map(|s| Span::decode(s).unwrap()).collect::<Vec<_>>(), e.spans.clone());
            prop_assert_eq!(raw.profile(), e.profile.as_deref());
            prop_assert_eq!(raw.decode().unwrap(), e);
        }

        /// No bytes make it panic, and cut ones are found out or leave a whole message.
        #[test]
        fn damage_is_reported(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let whole = entry("oom".into(), Some(1), Some(2), 3).encode_to_vec();
            let cut = whole[..whole.len() - cut.min(whole.len())].to_vec();
            for bytes in [bytes, cut] {
                let length = bytes.len();
                if let Ok(r) = RawEntry::new(EventId([0; 12]), bytes.into()) {
                    prop_assert!(r.spans().map(<[u8]>::len).sum::<usize>() + r.collector().len() <= length);
                }
            }
        }
    }

    /// An entry that was cut off within a field is told apart from a whole one.
    #[test]
    fn cut_entry_is_damaged() {
        let whole = entry("oom".into(), Some(1), Some(2), 3).encode_to_vec();
        assert_eq!(RawEntry::new(EventId([0; 12]), whole[..whole.len() - 1].into()).err(), Some(Damaged));
    }
}
