// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a configuration: where, which key, which value, and what would be valid.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::ENV_PREFIX;
use super::suggest::nearest;
use crate::settings::Fault;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: PathBuf,
        line: Option<usize>,
    },
    /// One of the `OTEL_…` variables; the key says which one.
    Otel,
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Otel => f.write_str("OTEL_… variables"),
            Origin::File { path, line: Some(n) } => write!(f, "{}:{n}", path.display()),
            Origin::File { path, line: None } => write!(f, "{}", path.display()),
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// Empty when it is about the file as a whole.
    pub key: String,
    /// As it would be written; redacted when it is a secret, absent when the key is what is wrong.
    pub value: Option<String>,
    /// What is wrong, and what would be valid.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match (&self.key, &self.value) {
            (key, _) if key.is_empty() => {}
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(&self.what)
    }
}

impl Problem {
    pub(super) fn of_file(path: &Path, line: Option<usize>, what: String) -> Self {
        Problem { origin: Origin::File { path: path.into(), line }, key: String::new(), value: None, what }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn one(p: Problem) -> Self {
        ConfigError { problems: vec![p] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{p}")?;
        }
        Ok(())
    }
}

/// The line, from 1, of a byte of a text.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|b| **b == b'\n').count() + 1
}

/// The line at which a key is set, or the table that should have led to it.
pub(super) fn key_line(text: &str, path: &[String]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut table = table.get_ref();
    let mut found = None;
    for name in path {
        let Some((key, value)) = table.iter().find(|(k, _)| k.get_ref() == name.as_str()) else { break };
        found = Some(line_of(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found
}

/// What serde found wrong, in words for whoever wrote the value.
pub(super) fn explain(fault: &Fault, origin: &Origin, path: &[String]) -> String {
    match fault {
        Fault::Type(expected) | Fault::Value(expected) => format!("expected {}", in_words(expected)),
        Fault::Length(n, expected) => format!("has {n} elements; expected {}", in_words(expected)),
        Fault::UnknownVariant(got, valid) => {
            let hint = nearest(got, valid.iter().copied()).map_or(String::new(), |v| format!("; did you mean {v:?}?"));
            let valid: Vec<String> = valid.iter().map(|v| format!("{v:?}")).collect();
            format!("expected one of {}{hint}", valid.join(", "))
        }
        Fault::UnknownField(got, valid) => unknown_key(got, valid, origin, path),
        Fault::MissingField(name) => format!("`{name}` is missing"),
        Fault::DuplicateField(name) => format!("`{name}` is set twice"),
        Fault::Message(_) | Fault::Other(_) => fault.to_string(),
    }
}

/// "Unknown key", with the nearest valid one, as it would be written at the origin.
pub(super) fn unknown_key(got: &str, valid: &[&str], origin: &Origin, path: &[String]) -> String {
    let Some(near) = nearest(got, valid.iter().copied()) else {
        let mut valid = valid.to_vec();
        valid.sort_unstable();
        return if valid.is_empty() {
            "unknown key; there are none here".into()
        } else {
            format!("unknown key; valid: {}", valid.join(", "))
        };
    };
    let (Origin::Variable(name), Some(at)) = (origin, path.iter().rposition(|p| p == got)) else {
        return format!("unknown key; did you mean `{near}`?");
    };
    let parts = name.trim_start_matches(ENV_PREFIX).split("__").enumerate();
    let parts: Vec<String> = parts.map(|(i, p)| if i == at { near.to_ascii_uppercase() } else { p.into() }).collect();
    format!("unknown variable; did you mean `{ENV_PREFIX}{}`?", parts.join("__"))
}

/// serde's names of types, for people.
fn in_words(expected: &str) -> String {
    let range = |low: &str, high: String| format!("a whole number from {low} to {high}");
    match expected {
        "a boolean" | "bool" => "true or false".into(),
        "u8" => range("0", u8::MAX.to_string()),
        "u16" => range("0", u16::MAX.to_string()),
        "u32" => range("0", u32::MAX.to_string()),
        "u64" | "usize" => "a whole number, not negative".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "path string" | "a string" | "string" => "text in quotes".into(),
        "socket address" => "an address and port such as \"127.0.0.1:9774\" or \"[::1]:9774\"".into(),
        "a sequence" => "a list such as [\"a\", \"b\"]".into(),
        "a map" => "a table of keys and values".into(),
        other if other.starts_with("struct ") => "a table of settings".into(),
        other => other.to_owned(),
    }
}
