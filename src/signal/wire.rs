// SPDX-License-Identifier: Apache-2.0
//! Just enough of protobuf's wire form to write OTLP without building it as structs first.
//!
//! Cloning every attribute into `KeyValue`s costs ten times the writing. Form: protobuf.dev,
//! "Encoding"; field numbers: opentelemetry-proto 1.9. The tests read everything back with the
//! generated types.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use prost::Message;

use super::{Attributes, Value};

/// Wire type of 64-bit values.
const FIXED64: u32 = 1;
/// Wire type of strings, messages and packed lists.
const DELIMITED: u32 = 2;

pub fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn key(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    varint(out, u64::from(field << 3 | wire_type));
}

pub fn uint(out: &mut Vec<u8>, field: u32, v: u64) {
    key(out, field, 0);
    varint(out, v);
}

/// A `sint32`: zigzag, so that small negative numbers stay short.
pub fn sint(out: &mut Vec<u8>, field: u32, v: i32) {
    uint(out, field, u64::from(((v << 1) ^ (v >> 31)) as u32));
}

pub fn fixed64(out: &mut Vec<u8>, field: u32, v: u64) {
    key(out, field, FIXED64);
    out.extend_from_slice(&v.to_le_bytes());
}

pub fn double(out: &mut Vec<u8>, field: u32, v: f64) {
    fixed64(out, field, v.to_bits());
}

pub fn bytes(out: &mut Vec<u8>, field: u32, v: &[u8]) {
    key(out, field, DELIMITED);
    varint(out, v.len() as u64);
    out.extend_from_slice(v);
}

/// A message that is there already, as the generated types encode it.
pub fn message(out: &mut Vec<u8>, field: u32, m: &impl Message) {
    nested(out, field, |out| {
        // Writing into a vector cannot run out of room.
        let _infallible = m.encode(out);
    });
}

/// A message, packed list or other length-delimited field that `write` fills in.
pub fn nested(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, DELIMITED);
    let start = out.len();
    write(out);
    let end = out.len();
    varint(out, (end - start) as u64);
    let length = out.len() - end;
    out[start..].rotate_right(length);
}

/// One `KeyValue` with text.
pub fn text_attribute(out: &mut Vec<u8>, field: u32, name: &str, text: &str) {
    nested(out, field, |out| {
        bytes(out, 1, name.as_bytes());
        nested(out, 2, |out| bytes(out, 1, text.as_bytes()));
    });
}

/// One `KeyValue`.
pub fn attribute(out: &mut Vec<u8>, field: u32, name: &str, value: &Value) {
    nested(out, field, |out| {
        bytes(out, 1, name.as_bytes());
        nested(out, 2, |out| any_value(out, value));
    });
}

pub fn attributes(out: &mut Vec<u8>, field: u32, all: &Attributes) {
    for (name, value) in all.iter() {
        attribute(out, field, name, value);
    }
}

pub fn any_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Str(s) => bytes(out, 1, s.as_bytes()),
        Value::Bool(b) => uint(out, 2, u64::from(*b)),
        Value::Int(i) => uint(out, 3, *i as u64),
        Value::Double(d) => double(out, 4, *d),
        Value::Array(items) => nested(out, 5, |out| {
            for item in items {
                nested(out, 1, |out| any_value(out, item));
            }
        }),
        Value::Map(cells) => nested(out, 6, |out| {
            for (k, v) in cells {
                attribute(out, 1, k, v);
            }
        }),
    }
}

/// A `Resource`.
pub fn resource(out: &mut Vec<u8>, field: u32, all: &[KeyValue]) {
    nested(out, field, |out| {
        for kv in all {
            message(out, 1, kv);
        }
    });
}

/// An `InstrumentationScope`: the collector, at the agent's version.
pub fn scope(out: &mut Vec<u8>, field: u32, collector: &str) {
    nested(out, field, |out| {
        bytes(out, 1, collector.as_bytes());
        bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::super::otlp;
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_filter("NaN is not equal to itself", |d| !d.is_nan()).prop_map(Value::Double),
            ".{0,300}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec(("[a-z]{1,4}".prop_map(Into::into), inner), 0..4).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        /// What is written by hand is what the generated types would have written, for any value.
        #[test]
        fn values_are_as_the_generated_types_have_them(name in "[a-z.]{0,200}", value in value()) {
            let mut out = Vec::new();
            attribute(&mut out, 1, &name, &value);
            let expected = opentelemetry_proto::tonic::resource::v1::Resource {
                attributes: vec![otlp::key_value(&name, &value)],
                ..Default::default()
            };
            let read = opentelemetry_proto::tonic::resource::v1::Resource::decode(out.as_slice()).unwrap();
            prop_assert_eq!(read, expected);
        }
    }
}
