// SPDX-License-Identifier: Apache-2.0
//! A capture's stacks as an OTLP profile (`opentelemetry.proto.profiles.v1development`), and back
//! to folded stacks for a terminal.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, Profile, ProfilesData, ProfilesDictionary,
    ResourceProfiles, Sample, ScopeProfiles, Stack, ValueType,
};
use prost::Message;

use super::ids::{SpanId, TraceId};
use super::otlp::any_value;
use super::semconv::{SCHEMA_URL, attr};
use super::{Capture, Frame, Value};

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

/// The capture's stacks as encoded `ProfilesData` whose samples point at `span`; `None` without
/// stacks. The resource is left for the exporter, which knows the workload's final names.
#[must_use]
pub fn encode(c: &Capture, collector: &str, id: [u8; 16], trace: TraceId, span: SpanId) -> Option<Vec<u8>> {
    if c.stacks.is_empty() {
        return None;
    }
    let mut d = Dictionary::new();
    let sample_type = Some(ValueType {
        type_strindex: d.strings.add("samples".to_owned()),
        unit_strindex: d.strings.add("count".to_owned()),
    });
    let period_type = Some(ValueType {
        type_strindex: d.strings.add("cpu".to_owned()),
        unit_strindex: d.strings.add("nanoseconds".to_owned()),
    });
    let mut stacks: Vec<_> = c.stacks.iter().collect();
    stacks.sort_by_key(|s| std::cmp::Reverse(s.count));
    let samples = stacks.into_iter().take(MAX_STACKS).map(|s| Sample {
        stack_index: d.stack(&s.kernel, &s.user),
        attribute_indices: vec![
            d.attribute(attr::PROCESS_PID.name, &Value::from(s.thread.pid)),
            d.attribute(attr::THREAD_ID.name, &Value::from(s.thread.tid)),
            d.attribute(attr::THREAD_NAME.name, &Value::Str(s.thread.comm.clone().into())),
        ],
        link_index: 1,
        values: vec![i64::try_from(s.count).unwrap_or(i64::MAX)],
        timestamps_unix_nano: Vec::new(),
    });
    let profile = Profile {
        sample_type,
        samples: samples.collect(),
        time_unix_nano: c.start.0,
        duration_nano: u64::try_from(c.end.since(c.start).as_nanos()).unwrap_or(u64::MAX),
        period_type,
        period: i64::try_from(c.sample_period_ns).unwrap_or(i64::MAX),
        profile_id: id.to_vec(),
        ..Profile::default()
    };
    let scope = opentelemetry_proto::tonic::common::v1::InstrumentationScope {
        name: collector.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let data = ProfilesData {
        resource_profiles: vec![ResourceProfiles {
            resource: None,
            scope_profiles: vec![ScopeProfiles {
                scope: Some(scope),
                profiles: vec![profile],
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
        dictionary: Some(d.finish(Link { trace_id: trace.0.to_vec(), span_id: span.0.to_vec() })),
    };
    Some(data.encode_to_vec())
}

/// One stack of a stored profile, outermost frame first, for a flame graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded<'a> {
    pub frames: Vec<Cow<'a, str>>,
    /// How many of them, the innermost, are the kernel's.
    pub kernel: usize,
    pub count: u64,
}

/// The stacks of a profile. What has a name in it is not copied: there are hundreds of frames.
#[must_use]
pub fn folded(data: &ProfilesData) -> Vec<Folded<'_>> {
    let Some(d) = &data.dictionary else { return Vec::new() };
    let profiles = data.resource_profiles.iter().flat_map(|r| &r.scope_profiles).flat_map(|s| &s.profiles);
    profiles
        .flat_map(|p| &p.samples)
        .map(|s| {
            let stack = at(&d.stack_table, s.stack_index);
            let locations = stack.map_or(&[][..], |s| s.location_indices.as_slice());
            let frames = locations.iter().rev().map(|l| frame_name(d, *l)).collect();
            let kernel = locations.iter().take_while(|l| is_kernel(d, **l)).count();
            let count = s.values.iter().map(|v| v.max(&0).unsigned_abs()).sum();
            Folded { frames, kernel, count }
        })
        .collect()
}

/// The functions that have a name in a profile, each once.
pub fn functions(data: &ProfilesData) -> impl Iterator<Item = &str> {
    // The first of each table stands for "none".
    data.dictionary.iter().flat_map(|d| {
        d.function_table.iter().skip(1).filter_map(|f| at(&d.string_table, f.name_strindex)).map(String::as_str)
    })
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
mod tests {
    use super::*;
    use crate::signal::{StackSample, Target, Thread, Timestamp};

    fn frame(name: &str) -> Frame {
        Frame { symbol: Some(name.into()), module: Some("/bin/app".into()), address: 0x10, ..Frame::default() }
    }

    fn capture() -> Capture {
        let sample = |user: &[&str], count| StackSample {
            kernel: crate::signal::Stack::default(),
            user: user.iter().map(|n| frame(n)).collect(),
            thread: Thread { pid: 1, tid: 1, comm: "app".into() },
            count,
        };
        Capture {
            name: "cpu_profile",
            target: Target { collector: "cpuidle", workload: None, detail: None },
            start: Timestamp(1_000),
            end: Timestamp(3_000),
            stacks: vec![sample(&["leaf", "main"], 5), sample(&["other", "main"], 2)],
            sample_period_ns: 10_101_010,
            attributes: crate::signal::Attributes::new(),
            lost: 0,
        }
    }

    /// Every index points into its table, index 0 is the zero value, nothing is listed twice, and
    /// each sample links to the capture's span: what the schema asks for.
    #[test]
    fn dictionary_is_well_formed() {
        let bytes = encode(&capture(), "cpuidle", [9; 16], TraceId([1; 16]), SpanId([2; 8])).unwrap();
        let data = ProfilesData::decode(bytes.as_slice()).unwrap();
        let d = data.dictionary.unwrap();
        assert_eq!(d.string_table[0], "");
        assert_eq!(d.mapping_table[0], Mapping::default());
        assert_eq!(d.location_table[0], Location::default());
        assert_eq!(d.stack_table[0], Stack::default());
        assert_eq!(d.function_table.len(), 1 + 3, "leaf, other and one main");
        assert_eq!(d.mapping_table.len(), 1 + 1);
        assert_eq!(d.link_table[1].span_id, vec![2; 8]);
        let p = &data.resource_profiles[0].scope_profiles[0].profiles[0];
        assert_eq!(p.profile_id, vec![9; 16]);
        assert_eq!((p.time_unix_nano, p.duration_nano, p.period), (1_000, 2_000, 10_101_010));
        for s in &p.samples {
            assert_eq!(s.link_index, 1);
            let stack = at(&d.stack_table, s.stack_index).unwrap();
            for l in &stack.location_indices {
                let location = at(&d.location_table, *l).unwrap();
                assert!(at(&d.mapping_table, location.mapping_index).is_some());
                assert!(location.lines.iter().all(|l| at(&d.function_table, l.function_index).is_some()));
            }
            assert!(s.attribute_indices.iter().all(|a| at(&d.attribute_table, *a).is_some()));
        }
    }

    /// What was captured comes back, outermost first.
    #[test]
    fn folded_gives_the_stacks_back() {
        let mut c = capture();
        c.stacks[1].kernel = vec![frame("fault"), frame("entry")].into();
        let bytes = encode(&c, "cpuidle", [9; 16], TraceId([1; 16]), SpanId([2; 8])).unwrap();
        let want = [(vec!["main", "leaf"], 0, 5), (vec!["main", "other", "entry", "fault"], 2, 2)]
            .map(|(f, kernel, count)| Folded { frames: f.into_iter().map(Cow::from).collect(), kernel, count });
        let data = ProfilesData::decode(bytes.as_slice()).unwrap();
        assert_eq!(folded(&data), want);
        let mut functions: Vec<_> = functions(&data).collect();
        functions.sort_unstable();
        assert_eq!(functions, ["entry", "fault", "leaf", "main", "other"]);
    }

    /// A capture without stacks has no profile, and no id that points nowhere.
    #[test]
    fn no_stacks_no_profile() {
        let c = Capture { stacks: Vec::new(), ..capture() };
        assert_eq!(encode(&c, "iotracer", [9; 16], TraceId([1; 16]), SpanId([2; 8])), None);
    }
}
