// SPDX-License-Identifier: Apache-2.0
//! A capture's profiles as OTLP has them (`opentelemetry.proto.profiles.v1development`), and back
//! to folded stacks for a terminal.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, Profile, ProfilesData, ProfilesDictionary,
    ResourceProfiles, Sample, ScopeProfiles, Stack, ValueType as ValueTypeMessage,
};
use prost::Message;

use super::ids::{SpanId, TraceId};
use super::key_value::any_value;
use super::semconv::{SCHEMA_URL, attr};
use super::{Frame, Timestamp, Value, evidence};

/// Most distinct stacks in one profile; those seen least are left out and counted.
pub const MAX_STACKS: usize = 10_000;

/// A table of the dictionary: each distinct item once, index 0 is the zero value.
struct Table<T> {
    items: Vec<T>,
    index: HashMap<T, i32>,
}

impl<T: Clone + Default + Eq + Hash> Table<T> {
    fn new() -> Self {
        Table { items: vec![T::default()], index: HashMap::from([(T::default(), 0)]) }
    }

    fn add(&mut self, item: T) -> i32 {
        if let Some(i) = self.index.get(&item) {
            return *i;
        }
        let i = i32::try_from(self.items.len()).unwrap_or(i32::MAX);
        self.index.insert(item.clone(), i);
        self.items.push(item);
        i
    }
}

/// Value of `profile.frame.type` for frames of the kernel.
const KERNEL: &str = "kernel";

/// The dictionary while it is built.
struct Dictionary {
    strings: Table<String>,
    mappings: Table<Mapping>,
    locations: Vec<Location>,
    location_index: HashMap<Frame, i32>,
    functions: Table<Function>,
    stacks: Table<Stack>,
    attributes: Vec<KeyValueAndUnit>,
    attribute_index: HashMap<(i32, String), i32>,
}

impl Dictionary {
    fn new() -> Self {
        Dictionary {
            strings: Table::new(),
            mappings: Table::new(),
            locations: vec![Location::default()],
            location_index: HashMap::new(),
            functions: Table::new(),
            stacks: Table::new(),
            attributes: vec![KeyValueAndUnit::default()],
            attribute_index: HashMap::new(),
        }
    }

    fn attribute(&mut self, name: &str, v: &Value) -> i32 {
        let key = self.strings.add(name.to_owned());
        let value: AnyValue = any_value(v);
        let identity = (key, format!("{value:?}"));
        if let Some(i) = self.attribute_index.get(&identity) {
            return *i;
        }
        let i = i32::try_from(self.attributes.len()).unwrap_or(i32::MAX);
        self.attributes.push(KeyValueAndUnit { key_strindex: key, value: Some(value), unit_strindex: 0 });
        self.attribute_index.insert(identity, i);
        i
    }

    fn mapping(&mut self, f: &Frame) -> i32 {
        let Some(module) = &f.module else { return 0 };
        let attributes = f.build_id.as_ref().map(|b| {
            // Upper layers look binaries up by this key (semantic conventions, profiles).
            self.attribute(attr::PROCESS_BUILD_ID_GNU.name, &Value::Str(b.to_string().into()))
        });
        let filename = self.strings.add(module.to_string());
        self.mappings.add(Mapping {
            filename_strindex: filename,
            attribute_indices: attributes.into_iter().collect(),
            ..Mapping::default()
        })
    }

    fn location(&mut self, f: &Frame, kind: &'static str) -> i32 {
        if let Some(i) = self.location_index.get(f) {
            return *i;
        }
        let lines = f.symbol.as_ref().map(|s| {
            let name = self.strings.add(s.to_string());
            let function = self.functions.add(Function { name_strindex: name, ..Function::default() });
            Line { function_index: function, ..Line::default() }
        });
        let location = Location {
            mapping_index: self.mapping(f),
            address: f.address,
            lines: lines.into_iter().collect(),
            attribute_indices: vec![self.attribute(attr::PROFILE_FRAME_TYPE.name, &Value::Str(kind.into()))],
        };
        let i = i32::try_from(self.locations.len()).unwrap_or(i32::MAX);
        self.locations.push(location);
        self.location_index.insert(f.clone(), i);
        i
    }

    fn stack(&mut self, kernel: &[Frame], user: &[Frame]) -> i32 {
        let mut locations: Vec<i32> = kernel.iter().map(|f| self.location(f, KERNEL)).collect();
        locations.extend(user.iter().map(|f| self.location(f, "native")));
        self.stacks.add(Stack { location_indices: locations })
    }

    fn value_type(&mut self, t: evidence::ValueType) -> ValueTypeMessage {
        ValueTypeMessage {
            type_strindex: self.strings.add(t.name.to_owned()),
            unit_strindex: self.strings.add(t.unit.to_owned()),
        }
    }

    fn sample(&mut self, s: &evidence::StackSample) -> Sample {
        Sample {
            stack_index: self.stack(&s.kernel, &s.user),
            attribute_indices: vec![
                self.attribute(attr::PROCESS_PID.name, &Value::from(s.thread.pid)),
                self.attribute(attr::THREAD_ID.name, &Value::from(s.thread.tid)),
                self.attribute(attr::THREAD_NAME.name, &Value::Str(s.thread.comm.clone().into())),
            ],
            link_index: 1,
            values: vec![i64::try_from(s.value).unwrap_or(i64::MAX)],
            timestamps_unix_nano: Vec::new(),
        }
    }

    fn profile(&mut self, p: &evidence::Profile, of: &Origin<'_>, id: [u8; 16]) -> Profile {
        let mut stacks: Vec<_> = p.stacks.iter().collect();
        stacks.sort_by_key(|s| std::cmp::Reverse(s.value));
        let lost = (p.lost > 0).then(|| self.attribute(attr::LINUX_PROFILE_LOST.name, &Value::from(p.lost)));
        Profile {
            sample_type: Some(self.value_type(p.kind.sample)),
            period_type: p.kind.period.map(|t| self.value_type(t)),
            samples: stacks.into_iter().take(MAX_STACKS).map(|s| self.sample(s)).collect(),
            time_unix_nano: of.start.0,
            duration_nano: u64::try_from(of.end.since(of.start).as_nanos()).unwrap_or(u64::MAX),
            period: i64::try_from(p.period).unwrap_or(i64::MAX),
            profile_id: id.to_vec(),
            attribute_indices: lost.into_iter().collect(),
            ..Profile::default()
        }
    }

    fn finish(self, link: Link) -> ProfilesDictionary {
        ProfilesDictionary {
            mapping_table: self.mappings.items,
            location_table: self.locations,
            function_table: self.functions.items,
            link_table: vec![Link::default(), link],
            string_table: self.strings.items,
            attribute_table: self.attributes,
            stack_table: self.stacks.items,
        }
    }
}

/// Where profiles belong: when they were taken, by whom, and the span that they are of.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub collector: &'a str,
    pub start: Timestamp,
    pub end: Timestamp,
    pub trace: TraceId,
    pub span: SpanId,
    /// Of the first profile; further ones count up from it.
    pub id: [u8; 16],
}

/// The id of the `n`th profile of a capture whose first has `id`.
#[must_use]
pub fn nth_id(id: [u8; 16], n: usize) -> [u8; 16] {
    u128::from_be_bytes(id).wrapping_add(n as u128).to_be_bytes()
}

/// Profiles that have stacks as one encoded `ProfilesData` whose samples point at the span; `None` where
/// there is none. The resource is left for the exporter, which knows the workload's final names.
#[must_use]
pub fn encode<'a>(profiles: impl IntoIterator<Item = &'a evidence::Profile>, of: &Origin<'_>) -> Option<Vec<u8>> {
    let mut d = Dictionary::new();
    let with_stacks = profiles.into_iter().filter(|p| !p.stacks.is_empty()).enumerate();
    let profiles: Vec<Profile> = with_stacks.map(|(n, p)| d.profile(p, of, nth_id(of.id, n))).collect();
    if profiles.is_empty() {
        return None;
    }
    let scope = opentelemetry_proto::tonic::common::v1::InstrumentationScope {
        name: of.collector.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let data = ProfilesData {
        resource_profiles: vec![ResourceProfiles {
            resource: None,
            scope_profiles: vec![ScopeProfiles { scope: Some(scope), profiles, schema_url: SCHEMA_URL.to_owned() }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
        dictionary: Some(d.finish(Link { trace_id: of.trace.0.to_vec(), span_id: of.span.0.to_vec() })),
    };
    Some(data.encode_to_vec())
}

/// A profile as it was stored.
pub struct Stored<'a> {
    pub profile: &'a Profile,
    dictionary: &'a ProfilesDictionary,
}

/// All profiles of an entry.
pub fn stored(data: &ProfilesData) -> impl Iterator<Item = Stored<'_>> {
    let profiles = data.resource_profiles.iter().flat_map(|r| &r.scope_profiles).flat_map(|s| &s.profiles);
    let dictionary = data.dictionary.as_ref();
    profiles.filter_map(move |profile| Some(Stored { profile, dictionary: dictionary? }))
}

impl<'a> Stored<'a> {
    fn type_of(&self, t: Option<&ValueTypeMessage>) -> (&'a str, &'a str) {
        let text = |i: i32| at(&self.dictionary.string_table, i).map_or("", String::as_str);
        t.map_or(("", ""), |t| (text(t.type_strindex), text(t.unit_strindex)))
    }

    /// What the values are, and their unit.
    #[must_use]
    pub fn sample_type(&self) -> (&'a str, &'a str) {
        self.type_of(self.profile.sample_type.as_ref())
    }

    /// What the period is, and its unit; empty where there is none.
    #[must_use]
    pub fn period_type(&self) -> (&'a str, &'a str) {
        self.type_of(self.profile.period_type.as_ref())
    }

    /// `cpu`, `off_cpu`, …
    #[must_use]
    pub fn kind(&self) -> &'a str {
        evidence::kind_name(self.sample_type().0, self.period_type().0)
    }

    /// Sum of all values.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.profile.samples.iter().map(value_of).fold(0, u64::saturating_add)
    }

    /// Samples that were lost; 0 in entries of older versions, which have it on the span alone.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let attributes = self.profile.attribute_indices.iter().filter_map(|i| at(&self.dictionary.attribute_table, *i));
        let lost = attributes.filter(|a| {
            at(&self.dictionary.string_table, a.key_strindex).is_some_and(|key| key == attr::LINUX_PROFILE_LOST.name)
        });
        lost.filter_map(|a| match a.value.as_ref()?.value {
            Some(Any::IntValue(n)) => u64::try_from(n).ok(),
            _ => None,
        })
        .sum()
    }

    /// The span that it is of: trace and span.
    #[must_use]
    pub fn span(&self) -> Option<(&'a [u8], &'a [u8])> {
        let link = self.dictionary.link_table.get(1)?;
        Some((&link.trace_id, &link.span_id))
    }

    /// Its stacks. What has a name in it is not copied: there are hundreds of frames.
    #[must_use]
    pub fn folded(&self) -> Vec<Folded<'a>> {
        let d = self.dictionary;
        let fold = |s: &Sample| {
            let stack = at(&d.stack_table, s.stack_index);
            let locations = stack.map_or(&[][..], |s| s.location_indices.as_slice());
            let frames = locations.iter().rev().map(|l| frame_name(d, *l)).collect();
            let kernel = locations.iter().take_while(|l| is_kernel(d, **l)).count();
            Folded { frames, kernel, value: value_of(s) }
        };
        self.profile.samples.iter().map(fold).collect()
    }

    /// The functions that have a name in its stacks, each once.
    #[must_use]
    pub fn functions(&self) -> BTreeSet<&'a str> {
        let d = self.dictionary;
        let stacks = self.profile.samples.iter().filter_map(|s| at(&d.stack_table, s.stack_index));
        let locations = stacks.flat_map(|s| &s.location_indices).filter_map(|l| at(&d.location_table, *l));
        let lines = locations.flat_map(|l| &l.lines).filter_map(|l| at(&d.function_table, l.function_index));
        lines.filter_map(|f| at(&d.string_table, f.name_strindex)).map(String::as_str).collect()
    }
}

fn value_of(s: &Sample) -> u64 {
    s.values.iter().map(|v| v.max(&0).unsigned_abs()).fold(0, u64::saturating_add)
}

/// One stack of a stored profile, outermost frame first, for a flame graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded<'a> {
    pub frames: Vec<Cow<'a, str>>,
    /// How many of them, the innermost, are the kernel's.
    pub kernel: usize,
    /// In the unit of the profile.
    pub value: u64,
}

fn at<T>(table: &[T], index: i32) -> Option<&T> {
    usize::try_from(index).ok().and_then(|i| table.get(i))
}

fn is_kernel(d: &ProfilesDictionary, location: i32) -> bool {
    let attributes = at(&d.location_table, location).map_or(&[][..], |l| l.attribute_indices.as_slice());
    attributes.iter().filter_map(|i| at(&d.attribute_table, *i)).any(|a| {
        let value = a.value.as_ref().and_then(|v| v.value.as_ref());
        matches!(value, Some(Any::StringValue(s)) if s == KERNEL)
            && at(&d.string_table, a.key_strindex).is_some_and(|key| key == attr::PROFILE_FRAME_TYPE.name)
    })
}

fn frame_name(d: &ProfilesDictionary, location: i32) -> Cow<'_, str> {
    let Some(l) = at(&d.location_table, location) else { return "?".into() };
    let function = l.lines.first().and_then(|line| at(&d.function_table, line.function_index));
    if let Some(name) = function.and_then(|f| at(&d.string_table, f.name_strindex)) {
        return name.into();
    }
    let module = at(&d.mapping_table, l.mapping_index).and_then(|m| at(&d.string_table, m.filename_strindex));
    match module.filter(|m| !m.is_empty()) {
        Some(m) => format!("{:#x} [{m}]", l.address).into(),
        None => format!("{:#x}", l.address).into(),
    }
}

#[cfg(test)]
mod tests;
