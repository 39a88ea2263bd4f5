// SPDX-License-Identifier: Apache-2.0
//! JSON schema of the whole configuration, the collectors' sections included.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{CollectorConfig, Config};
use crate::collectors::{Kind, Registration};

/// JSON schema (draft 2020-12) of the file, for editors and for `config schema`.
#[must_use]
pub fn schema(registrations: &[Registration]) -> Value {
    let mut root = of::<Config>();
    let sections: Map<String, Value> =
        registrations.iter().map(|r| (r.info.name.to_owned(), collector_schema(r))).collect();
    if let Some(collectors) = root.pointer_mut("/properties/collectors").and_then(Value::as_object_mut) {
        collectors.insert("properties".into(), Value::Object(sections));
        collectors.insert("additionalProperties".into(), Value::Bool(false));
        collectors.remove("default");
    }
    if let Some(root) = root.as_object_mut() {
        root.insert("title".into(), "Configuration of bianque".into());
    }
    root
}

/// Schema of one collector's section: the common keys, then its own.
#[must_use]
pub fn collector_schema(r: &Registration) -> Value {
    let common = of::<CollectorConfig>();
    let mut properties = common["properties"].as_object().cloned().unwrap_or_default();
    if let Some(enabled) = properties.get_mut("enabled").and_then(Value::as_object_mut) {
        enabled.insert("default".into(), Value::Bool(r.info.enabled));
    }
    if r.kind != Kind::Metrics {
        properties.remove("interval");
    }
    let own = serde_json::to_value((r.schema)()).unwrap_or_default();
    if let Some(own) = own["properties"].as_object() {
        properties.extend(own.clone());
    }
    json!({
        "type": "object", "title": r.info.name, "description": r.info.summary,
        "properties": properties, "additionalProperties": false,
    })
}

fn of<T: schemars::JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    serde_json::to_value(settings.into_generator().into_root_schema_for::<T>()).unwrap_or_default()
}

/// A schema and, where the value may be left out, what it is when it is there.
fn forms(node: &Value) -> impl Iterator<Item = &Value> {
    std::iter::once(node).chain(node["anyOf"].as_array().into_iter().flatten())
}

/// The schema of a key; tables with free keys answer for any.
pub(super) fn at<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(schema, |node, name| {
        let free = |form: &'a Value| form.get("additionalProperties").filter(|a| a.is_object());
        forms(node).find_map(|form| form["properties"].get(name).or_else(|| free(form)))
    })
}

/// Whether a value must not be shown: `writeOnly` there or above, or a table of such values.
pub(super) fn is_secret(schema: &Value, path: &[String]) -> bool {
    let marked = |node: &Value| node["writeOnly"] == Value::Bool(true);
    let holds = |node: &Value| marked(node) || forms(node).any(|form| marked(&form["additionalProperties"]));
    (1..=path.len()).any(|n| at(schema, &path[..n]).is_some_and(holds))
}

/// The values of an enumeration, in words.
pub(super) fn choices(schema: &Value, path: &[String]) -> String {
    let valid = enumeration(at(schema, path).unwrap_or(&Value::Null));
    if valid.is_empty() { "one of the documented values".into() } else { format!("one of {}", valid.join(", ")) }
}

/// The values of an enumeration, each as it is written in the file.
#[must_use]
pub fn enumeration(node: &Value) -> Vec<String> {
    // An enumeration with documented values is a list of constants.
    let constants = node["oneOf"].as_array().into_iter().flatten().filter_map(|v| v.get("const"));
    let listed = forms(node).filter_map(|f| f["enum"].as_array()).flatten();
    listed.chain(constants).filter(|v| !v.is_null()).map(Value::to_string).collect()
}

/// Keys of a table, in the order in which the type declares them; `enabled` and `interval` first.
#[must_use]
pub fn keys(node: &Value) -> Vec<(&str, &Value)> {
    let rank = |name: &str| match name {
        "enabled" => 0,
        "interval" => 1,
        _ => 2,
    };
    let mut keys: Vec<_> = node["properties"].as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v)).collect();
    keys.sort_by_key(|(name, _)| rank(name));
    keys
}

/// Whether a schema's value is a table of settings of its own.
#[must_use]
pub fn is_section(node: &Value) -> bool {
    node["properties"].is_object()
}
