// SPDX-License-Identifier: Apache-2.0
//! Where settings come from, each source as one layer of keys and values.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::environment::File;
use super::error::{ConfigError, Origin, Problem, line_of};
use super::{DEFAULT_FILE, environment};

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As the user wrote it, e.g. `--listen`.
    pub flag: String,
    /// The key that it sets.
    pub key: String,
    pub value: String,
}

/// All sources of settings. The environment is handed in, so that tests and reloads choose it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: File,
    pub env: BTreeMap<String, String>,
    pub flags: Vec<Flag>,
}

impl Sources {
    /// Adds a setting from the command line.
    pub fn flag(&mut self, flag: &str, key: &str, value: impl ToString) {
        self.flags.push(Flag { flag: flag.into(), key: key.into(), value: value.to_string() });
    }
}

/// Keys and values of one source.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub origin: Origin,
    pub values: Table,
    /// The text as it was given, for layers of one variable or flag: what looks like a number may be
    /// meant as a string.
    pub raw: Option<String>,
}

impl Layer {
    pub fn new(origin: Origin, values: Table) -> Self {
        Layer { origin, values, raw: None }
    }

    /// A layer of one value, read as TOML where it is some, else as a string.
    pub fn single(origin: Origin, key: &[String], text: &str) -> Self {
        let value = toml_value(text).unwrap_or_else(|| Value::from(text));
        Layer { origin, values: nest(key, value), raw: Some(text.into()) }
    }

    /// Takes the text literally; false when it was already.
    pub fn make_literal(&mut self, path: &[String]) -> bool {
        let Some(raw) = self.raw.clone() else { return false };
        match find_mut(&mut self.values, path) {
            Some(v) if v.as_str().is_none() && v.as_table().is_none() => {
                *v = Value::from(raw);
                true
            }
            _ => false,
        }
    }

    pub fn get(&self, path: &[String]) -> Option<&Value> {
        find(&self.values, path)
    }

    /// The path at which this layer sets a key: itself, or what stands where a table should lead to it.
    pub fn setter(&self, path: &[String]) -> Option<Vec<String>> {
        (1..=path.len())
            .find(|n| self.get(&path[..*n]).is_some_and(|v| *n == path.len() || v.as_table().is_none()))
            .map(|n| path[..n].to_vec())
    }

    /// Removes a key, or what leads to it; false when there is nothing of it here.
    pub fn remove(&mut self, path: &[String]) -> bool {
        remove(&mut self.values, path)
    }
}

fn toml_value(text: &str) -> Option<Value> {
    let parsed = toml::from_str::<Table>(&format!("v = {text}")).ok()?.remove("v")?;
    // A date without quotes is meant as text.
    Some(parsed).filter(|v| !v.is_datetime())
}

fn nest(key: &[String], value: Value) -> Table {
    let mut table = Table::new();
    if let Some((first, rest)) = key.split_first() {
        let inner = if rest.is_empty() { value } else { Value::Table(nest(rest, value)) };
        table.insert(first.clone(), inner);
    }
    table
}

fn find<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() { Some(value) } else { find(value.as_table()?, rest) }
}

fn find_mut<'a>(table: &'a mut Table, path: &[String]) -> Option<&'a mut Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get_mut(first)?;
    match (rest.is_empty(), value) {
        (true, v) => Some(v),
        (false, Value::Table(d)) => find_mut(d, rest),
        _ => None,
    }
}

fn remove(table: &mut Table, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    match table.get_mut(first) {
        None => false,
        Some(Value::Table(inner)) if !rest.is_empty() => remove(inner, rest),
        // The path goes on below something that is no table: an element of an array, or a table expected.
        Some(_) => table.remove(first).is_some(),
    }
}

/// The file's layer, with its text for line numbers.
pub(super) fn file(file: &File) -> Result<Option<(Layer, String)>, ConfigError> {
    let (path, must_exist) = match file {
        File::None => return Ok(None),
        File::Default => (Path::new(DEFAULT_FILE), false),
        File::Named(p) => (p.as_path(), true),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(e) => return Err(ConfigError::one(Problem::of_file(path, None, format!("cannot be read: {e}")))),
    };
    let values: Table = toml::from_str(&text).map_err(|e| {
        let line = e.span().map(|s| line_of(&text, s.start));
        ConfigError::one(Problem::of_file(path, line, format!("is not TOML: {}", e.message())))
    })?;
    Ok(Some((Layer::new(Origin::File { path: path.into(), line: None }, values), text)))
}

/// What the standard variables ask for: the metric interval, and all else.
pub(super) fn otel(settings: &serde_json::Value) -> (Layer, Layer) {
    let mut rest = Table::try_from(settings).unwrap_or_default();
    let interval: Table = rest.remove("metrics").map(|v| ("metrics".to_owned(), v)).into_iter().collect();
    (Layer::new(Origin::Otel, interval), Layer::new(Origin::Otel, rest))
}

/// The standard variable that sets a key.
pub(super) fn otel_variable(path: &[String]) -> String {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (signal, key) = match path.as_slice() {
        ["exporters", "otlp", signal @ ("traces" | "metrics" | "logs"), key, ..] => (signal.to_ascii_uppercase(), *key),
        ["exporters", "otlp", key, ..] => (String::new(), *key),
        _ => return "OTEL_METRIC_EXPORT_INTERVAL".into(),
    };
    let suffix = match key {
        "enabled" if signal.is_empty() => return "OTEL_SDK_DISABLED".into(),
        "enabled" => return format!("OTEL_{signal}_EXPORTER"),
        "ca_file" => "CERTIFICATE".into(),
        "client_certificate_file" => "CLIENT_CERTIFICATE".into(),
        "client_key_file" => "CLIENT_KEY".into(),
        other => other.to_ascii_uppercase(),
    };
    let gap = if signal.is_empty() { "" } else { "_" };
    format!("OTEL_EXPORTER_OTLP_{signal}{gap}{suffix}")
}

/// One layer for each variable with our prefix.
pub(super) fn env(env: &BTreeMap<String, String>) -> Vec<Layer> {
    environment::settings(env)
        .map(|(name, key, value)| {
            let path: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
            Layer::single(Origin::Variable(name.to_owned()), &path, value)
        })
        .collect()
}

/// One layer for each flag.
pub(super) fn flags(flags: &[Flag]) -> Vec<Layer> {
    flags
        .iter()
        .map(|f| {
            let path: Vec<String> = f.key.split('.').map(str::to_owned).collect();
            Layer::single(Origin::Flag(f.flag.clone()), &path, &f.value)
        })
        .collect()
}
