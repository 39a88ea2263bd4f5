// SPDX-License-Identifier: Apache-2.0
//! JSON, written as it goes out: a document costs one copy of its text and no tree of values.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};

use crate::signal::Timestamp;
use crate::signal::hex::digits;

/// An object that is being written; ends with [`Self::end`].
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, first: true }
    }

    /// Begins a field; its value is to be written to what is returned.
    pub fn field(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        string(self.out, name);
        self.out.push(b':');
        self.out
    }

    pub fn text(&mut self, name: &str, v: &str) {
        string(self.field(name), v);
    }

    /// Left out when it is empty.
    pub fn some_text(&mut self, name: &str, v: &str) {
        if !v.is_empty() {
            self.text(name, v);
        }
    }

    /// An id in hex digits; left out when it is empty.
    pub fn some_hex(&mut self, name: &str, v: &[u8]) {
        if !v.is_empty() {
            hex(self.field(name), v);
        }
    }

    pub fn number(&mut self, name: &str, v: impl itoa::Integer) {
        number(self.field(name), v);
    }

    /// Left out when it is zero.
    pub fn some_number(&mut self, name: &str, v: u32) {
        if v != 0 {
            self.number(name, v);
        }
    }

    pub fn time(&mut self, name: &str, ns: u64) {
        self.text(name, &Timestamp(ns).rfc3339());
    }

    /// JSON that is there already.
    pub fn raw(&mut self, name: &str, json: &[u8]) {
        self.field(name).extend_from_slice(json);
    }

    pub fn attributes(&mut self, name: &str, all: &[KeyValue]) {
        attributes(self.field(name), all);
    }

    pub fn end(self) {
        self.out.push(b'}');
    }
}

/// Attributes as one object, their dotted names as they are.
pub fn attributes(out: &mut Vec<u8>, all: &[KeyValue]) {
    let mut o = Object::begin(out);
    for kv in all {
        value(o.field(&kv.key), kv.value.as_ref());
    }
    o.end();
}

/// A list, an item at a time.
pub fn array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

pub fn value(out: &mut Vec<u8>, v: Option<&AnyValue>) {
    use any_value::Value as Any;
    match v.and_then(|v| v.value.as_ref()) {
        Some(Any::StringValue(s)) => string(out, s),
        Some(Any::BoolValue(b)) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Some(Any::IntValue(i)) => number(out, *i),
        // JSON knows no infinity.
        Some(Any::DoubleValue(d)) if d.is_finite() => out.extend_from_slice(zmij::Buffer::new().format(*d).as_bytes()),
        Some(Any::ArrayValue(a)) => array(out, &a.values, |out, v| value(out, Some(v))),
        Some(Any::KvlistValue(m)) => attributes(out, &m.values),
        Some(Any::BytesValue(b)) => hex(out, b),
        _ => out.extend_from_slice(b"null"),
    }
}

pub fn string(out: &mut Vec<u8>, v: &str) {
    // Writing text into memory cannot fail.
    let _infallible = serde_json::to_writer(out, v);
}

fn number(out: &mut Vec<u8>, v: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
}

/// Bytes as a string of hex digits.
pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend(bytes.iter().flat_map(|b| digits(*b)));
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{Value, otlp};
    use serde_json::json;

    /// Any attribute comes out as JSON that a reader takes, whatever is in it.
    #[test]
    fn attributes_are_json() {
        let all = [
            ("text.odd", Value::from("a\"b\\c\u{1}\nü")),
            ("n", Value::Int(i64::MIN)),
            ("x", Value::Double(0.5)),
            ("nan", Value::Double(f64::NAN)),
            ("b", Value::Bool(true)),
            ("table", Value::Array(vec![Value::Map(vec![("process.pid".into(), Value::Int(7))])])),
            ("none", Value::Array(Vec::new())),
        ];
        let all: Vec<_> = all.iter().map(|(k, v)| otlp::key_value(k, v)).collect();
        let mut out = Vec::new();
        attributes(&mut out, &all);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = json!({
            "text.odd": "a\"b\\c\u{1}\nü", "n": i64::MIN, "x": 0.5, "nan": null, "b": true,
            "table": [{"process.pid": 7}], "none": [],
        });
        assert_eq!(read, expected);
    }
}
