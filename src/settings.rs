// SPDX-License-Identifier: Apache-2.0
//! Layers of TOML become typed settings, and what does not fit is said with its key. The only file that names
//! figment: its errors carry the key, which serde's do not.

use std::fmt;

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use serde::de::DeserializeOwned;

/// A value that does not fit its setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// The setting's key, part by part.
    pub path: Vec<String>,
    pub fault: Fault,
}

/// What does not fit, and serde's word for what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Type(String),
    Value(String),
    Length(usize, String),
    UnknownVariant(String, &'static [&'static str]),
    UnknownField(String, &'static [&'static str]),
    MissingField(String),
    DuplicateField(String),
    /// In the type's own words.
    Message(String),
    Other(String),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.join("."), self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Type(expected) | Fault::Value(expected) => write!(f, "expected {expected}"),
            Fault::Length(n, expected) => write!(f, "has {n} elements; expected {expected}"),
            Fault::UnknownVariant(got, valid) => write!(f, "{got} is none of {}", valid.join(", ")),
            Fault::UnknownField(got, valid) => write!(f, "{got} is no key; there are {}", valid.join(", ")),
            Fault::MissingField(name) => write!(f, "`{name}` is missing"),
            Fault::DuplicateField(name) => write!(f, "`{name}` is set twice"),
            Fault::Message(text) => f.write_str(text),
            Fault::Other(text) => write!(f, "cannot be read ({text})"),
        }
    }
}

/// Reads settings from layers, of which a later one covers an earlier one key by key.
pub(crate) fn read<'a, T: DeserializeOwned>(layers: impl IntoIterator<Item = &'a toml::Table>) -> Result<T, Misfit> {
    let merged = layers.into_iter().fold(Figment::new(), |all, layer| all.merge(Serialized::defaults(layer)));
    merged.extract().map_err(|e| misfit(&e))
}

fn misfit(e: &figment::Error) -> Misfit {
    let mut path = e.path.clone();
    if let Kind::UnknownField(name, _) = &e.kind
        && path.last() != Some(name)
    {
        path.push(name.clone());
    }
    Misfit { path, fault: fault(&e.kind) }
}

fn fault(kind: &Kind) -> Fault {
    match kind {
        Kind::InvalidType(_, expected) => Fault::Type(expected.clone()),
        Kind::InvalidValue(_, expected) => Fault::Value(expected.clone()),
        Kind::InvalidLength(n, expected) => Fault::Length(*n, expected.clone()),
        Kind::UnknownVariant(got, valid) => Fault::UnknownVariant(got.clone(), valid),
        Kind::UnknownField(got, valid) => Fault::UnknownField(got.clone(), valid),
        Kind::MissingField(name) => Fault::MissingField(name.to_string()),
        Kind::DuplicateField(name) => Fault::DuplicateField((*name).to_owned()),
        Kind::Message(text) => Fault::Message(text.clone()),
        other => Fault::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        n: u8,
        word: Option<String>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Outer {
        inner: Inner,
    }

    fn of(layers: &[&str]) -> Result<Outer, Misfit> {
        let tables: Vec<toml::Table> = layers.iter().map(|l| toml::from_str(l).unwrap()).collect();
        read(&tables)
    }

    /// A later layer covers single keys of an earlier one.
    #[test]
    fn layers_cover_each_other_by_key() {
        let both = of(&["inner = {n = 1, word = 'a'}", "inner = {n = 2}"]).unwrap();
        assert_eq!(both.inner, Inner { n: 2, word: Some("a".into()) });
    }

    /// What does not fit is named with the whole key.
    #[test]
    fn misfits_carry_their_key() {
        let said = |layer: &str| of(&["inner = {n = 1}", layer]).unwrap_err();
        let key = |parts: &[&str]| parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let of_type = said("inner = {n = 'x'}");
        assert_eq!(of_type, Misfit { path: key(&["inner", "n"]), fault: Fault::Type("u8".into()) });
        assert_eq!(said("inner = {n = 300}").path, key(&["inner", "n"]));
        let unknown = said("inner = {m = 1}");
        assert_eq!(unknown.path, key(&["inner", "m"]));
        assert!(matches!(unknown.fault, Fault::UnknownField(..)), "{unknown}");
        assert_eq!(of(&[""]).unwrap_err().fault, Fault::MissingField("inner".into()));
    }
}
