// SPDX-License-Identifier: Apache-2.0
//! Plain values as OTLP's `AnyValue` and `KeyValue`.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};

use super::{Attributes, Value};

/// One value as OTLP has it.
#[must_use]
pub fn any_value(v: &Value) -> AnyValue {
    use any_value::Value as Any;
    let value = match v {
        Value::Bool(b) => Any::BoolValue(*b),
        Value::Int(i) => Any::IntValue(*i),
        Value::Double(d) => Any::DoubleValue(*d),
        Value::Str(s) => Any::StringValue(s.to_string()),
        Value::Array(items) => Any::ArrayValue(ArrayValue { values: items.iter().map(any_value).collect() }),
        Value::Map(cells) => {
            let values = cells.iter().map(|(k, v)| key_value(k, v)).collect();
            Any::KvlistValue(KeyValueList { values })
        }
    };
    AnyValue { value: Some(value) }
}

/// One attribute as OTLP has it.
#[must_use]
pub fn key_value(name: &str, v: &Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(any_value(v)), key_strindex: 0 }
}

/// All attributes, in their order.
#[must_use]
pub fn key_values(attributes: &Attributes) -> Vec<KeyValue> {
    attributes.iter().map(|(k, v)| key_value(k, v)).collect()
}

/// The text of an attribute, where it is text.
#[must_use]
pub fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    match find(attributes, name)? {
        any_value::Value::StringValue(s) => Some(s),
        _ => None,
    }
}

/// The integer of an attribute, where it is one.
#[must_use]
pub fn int(attributes: &[KeyValue], name: &str) -> Option<i64> {
    match find(attributes, name)? {
        any_value::Value::IntValue(i) => Some(*i),
        _ => None,
    }
}

/// The value of an attribute.
pub(super) fn find<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a any_value::Value> {
    attributes.iter().find(|a| a.key == name)?.value.as_ref()?.value.as_ref()
}
