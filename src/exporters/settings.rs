// SPDX-License-Identifier: Apache-2.0
//! What the settings of several exporters are made of.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use hyper::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("writeOnly" = true))]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one who sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    /// Always as `***`: settings are printed, never written back.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("***")
    }
}

/// Headers (gRPC metadata) of each request; values are secrets.
pub type Headers = BTreeMap<String, Secret>;

/// The headers of the settings with those of the file, which hold before them: `NAME: VALUE` a line, empty lines and
/// those that begin with `#` left aside.
///
/// # Errors
/// The file cannot be read, or which of its lines is no header; never shows a value.
pub fn headers(section: &str, named: &Headers, file: Option<&Path>) -> anyhow::Result<Headers> {
    let mut all = named.clone();
    let Some(path) = file else { return Ok(all) };
    let what = || format!("{section}.headers_file: {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let (name, value) = line.split_once(':').unwrap_or_default();
        let (name, value) = (name.trim(), value.trim());
        let is_header = HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
        anyhow::ensure!(is_header && !value.is_empty(), "{}: line {} is not of the form NAME: VALUE", what(), i + 1);
        // Names are the same in either case.
        all.retain(|known, _| !known.eq_ignore_ascii_case(name));
        all.insert(name.to_owned(), Secret::new(value));
    }
    Ok(all)
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key} = {value}: {expected}")]
pub struct Invalid {
    pub key: String,
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

/// `http://user:password@host` without what is before the `@`.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &text[..scheme + 3], &text[at..]),
        (None, Some(at)) => format!("***{}", &text[at..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's headers hold before those of the settings; what is no header is said by its line, without the secret.
    #[test]
    fn headers_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let named =
            Headers::from([("Authorization".into(), Secret::new("old")), ("x-tenant".into(), Secret::new("t"))]);
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            headers("exporters.otlp", &named, Some(file.path()))
        };
        let all = read("# of the vault\n\nauthorization:  Bearer a:b \n").unwrap();
        let shown: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.reveal())).collect();
        assert_eq!(shown, [("authorization", "Bearer a:b"), ("x-tenant", "t")]);
        for bad in ["x: 1\ngeheim", "x: 1\nmy key: geheim", "x: 1\ngeheim:"] {
            let e = format!("{:#}", read(bad).unwrap_err());
            assert!(e.contains("exporters.otlp.headers_file") && e.contains("line 2") && !e.contains("geheim"), "{e}");
        }
        let e = format!("{:#}", headers("exporters.otlp", &named, Some(Path::new("/nowhere/h"))).unwrap_err());
        assert!(e.contains("/nowhere/h") && e.contains("No such file"), "{e}");
    }
}
