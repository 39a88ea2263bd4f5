// SPDX-License-Identifier: Apache-2.0
//! The configuration as text: what is in force and where it came from, and the commented default file.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::error::Origin;
use super::{Loaded, schema};
use crate::collectors::Registration;

/// What is shown instead of a secret.
pub(super) const REDACTED: &str = "***";

/// Order of the sections in the file.
const SECTIONS: [&str; 9] =
    ["store", "http", "api", "metrics", "incident", "workload", "exporters", "log", "collectors"];

const HEAD: &str = "\
# Configuration of bianque, /etc/bianque/config.toml. Every setting with its default.
#
# A variable of the environment sets the same key: BIANQUE_STORE__MAX_AGE=3d is store.max_age, with
# `__` for each dot. Precedence: flag, then BIANQUE_…, then OTEL_…, then this file, then the default.
# `bianque config check` says what is wrong with it; `kill -HUP` makes a running agent read it again.
";

/// The configuration in force as TOML, each value with its origin; secrets are redacted.
#[must_use]
pub fn effective(loaded: &Loaded) -> String {
    let mut out = String::new();
    if let Json::Object(tree) = redacted(loaded) {
        for name in SECTIONS {
            if let Some(node) = tree.get(name) {
                table(loaded, &mut vec![name.to_owned()], node, &mut out);
            }
        }
    }
    out
}

/// The configuration in force as JSON; secrets are redacted.
#[must_use]
pub fn redacted(loaded: &Loaded) -> Json {
    let mut tree = serde_json::to_value(&loaded.config).unwrap_or_default();
    hide(&loaded.schema, &mut Vec::new(), &mut tree);
    tree
}

fn hide(schema: &Json, path: &mut Vec<String>, node: &mut Json) {
    if !path.is_empty() && schema::is_secret(schema, path) {
        match node {
            Json::Object(map) => map.values_mut().for_each(|v| *v = REDACTED.into()),
            Json::Null => {}
            other => *other = REDACTED.into(),
        }
        return;
    }
    match node {
        Json::Object(map) => {
            for (key, value) in map {
                path.push(key.clone());
                hide(schema, path, value);
                path.pop();
            }
        }
        Json::String(s) => *s = without_password(s),
        _ => {}
    }
}

/// A URL without the user and password that it may carry: `https://user:secret@host`.
fn without_password(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('/').unwrap_or((rest, "")).0.rsplit_once('@') {
            Some((user, _)) => format!("{scheme}://{REDACTED}{}", &rest[user.len()..]),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

fn table(loaded: &Loaded, path: &mut Vec<String>, node: &Json, out: &mut String) {
    let Json::Object(map) = node else { return };
    let (sections, values): (Vec<_>, Vec<_>) = map.iter().partition(|(_, v)| v.is_object());
    let values: Vec<_> = values.into_iter().filter(|(_, v)| !v.is_null()).collect();
    if !values.is_empty() {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{gap}[{}]", path.iter().map(|p| bare(p)).collect::<Vec<_>>().join("."));
    }
    for (key, value) in values {
        path.push(key.clone());
        let origin = loaded.origin(path);
        path.pop();
        let line = format!("{} = {}", bare(key), toml_text(value));
        match origin {
            Origin::Default => out.push_str(&line),
            from => {
                let _ = write!(out, "{line:<40} # {from}");
            }
        }
        out.push('\n');
    }
    for (key, value) in sections {
        path.push(key.clone());
        table(loaded, path, value, out);
        path.pop();
    }
}

/// The commented default file, made from the types.
#[must_use]
pub fn default_file(registrations: &[Registration]) -> String {
    let schema = schema::schema(registrations);
    let mut out = HEAD.to_owned();
    for name in SECTIONS {
        if let Some(node) = schema["properties"].get(name) {
            section(&mut vec![name.to_owned()], node, &Json::Null, &mut out);
        }
    }
    out
}

/// One collector's section of the default file.
#[cfg(feature = "internals")]
#[must_use]
pub fn default_section(r: &Registration) -> String {
    let mut out = String::new();
    let path = &mut vec!["collectors".to_owned(), r.info.name.to_owned()];
    section(path, &schema::collector_schema(r), &Json::Null, &mut out);
    out.trim_start().to_owned()
}

fn section(path: &mut Vec<String>, node: &Json, default: &Json, out: &mut String) {
    let keys = schema::keys(node);
    let default = if default.is_null() { &node["default"] } else { default };
    let (sections, values): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(_, v)| schema::is_section(v));
    // What is not said of them is said elsewhere, of the settings that they stand in for.
    let is_mute = |key: &str, v: &Json| v["description"].is_null() && v["default"].is_null() && default[key].is_null();
    let (mute, values): (Vec<_>, Vec<_>) = values.into_iter().partition(|(key, v)| is_mute(key, v));
    if !values.is_empty() {
        out.push('\n');
        comment(node, out);
        let _ = writeln!(out, "[{}]", path.iter().map(|p| bare(p)).collect::<Vec<_>>().join("."));
    }
    for (i, (key, value)) in values.into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        comment(value, out);
        let default = default.get(key).filter(|d| !d.is_null()).unwrap_or(&value["default"]);
        if default.is_null() {
            let _ = match value["examples"].get(0) {
                Some(example) => writeln!(out, "# Not set by default; e.g. {} = {}", bare(key), toml_text(example)),
                None => writeln!(out, "# Not set by default: {} = …", bare(key)),
            };
        } else {
            let _ = writeln!(out, "#{} = {}", bare(key), toml_text(default));
        }
    }
    if !mute.is_empty() {
        let names: Vec<&str> = mute.into_iter().map(|(key, _)| key).collect();
        let _ = writeln!(out, "\n# Not set by default, and as above: {}", names.join(", "));
    }
    for (key, value) in sections {
        path.push(key.to_owned());
        section(path, value, &default[key], out);
        path.pop();
    }
}

fn comment(node: &Json, out: &mut String) {
    let text = node["description"].as_str().unwrap_or_default();
    for line in text.lines() {
        let _ = writeln!(out, "{}", format!("# {line}").trim_end());
    }
    let valid = schema::enumeration(node);
    if !valid.is_empty() {
        let _ = writeln!(out, "# One of {}.", valid.join(", "));
    }
}

/// A key as TOML wants it.
fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain { key.to_owned() } else { toml::Value::from(key).to_string() }
}

/// A value as TOML wants it, on one line.
pub(crate) fn toml_text(v: &Json) -> String {
    toml::Value::try_from(v).map_or_else(|_| v.to_string(), |v| v.to_string())
}

/// A value as it would be written in the file.
pub(super) fn inline(v: &toml::Value) -> String {
    match v.as_str() {
        Some(text) => toml::Value::from(without_password(text)).to_string(),
        None => v.to_string(),
    }
}
