// SPDX-License-Identifier: Apache-2.0
//! Settings under `exporters.elasticsearch`.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::exporters::http::Compression;
use crate::exporters::settings::{Headers, Invalid, Secret, without_credentials};
use crate::signal::HumanDuration;

const SECTION: &str = "exporters.elasticsearch";

/// Addresses: one, several with commas between them, or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Urls(pub Vec<String>);

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Urls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a list of addresses")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Urls, E> {
                Ok(Urls(text.split(',').map(str::trim).filter(|u| !u.is_empty()).map(str::to_owned).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Urls, A::Error> {
                let mut out = Vec::new();
                while let Some(url) = list.next_element()? {
                    out.push(url);
                }
                Ok(Urls(out))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Urls {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Urls".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["array", "string"], "items": { "type": "string" } })
    }
}

/// Delivery to Elasticsearch. On when an address is named here; `bianque setup elasticsearch` makes the
/// templates that it needs there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `false` turns it off, whatever address is named.
    pub enabled: bool,
    /// Addresses of nodes of one cluster, taken in turn, e.g. `https://es:9200`.
    pub url: Urls,
    /// Last part of the data streams' names: `logs-bianque.events-NAMESPACE`.
    pub namespace: String,
    /// API key, as Elasticsearch's `encoded` or as `ID:KEY`. Never shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// File with the API key; read again when the server refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// User, for basic authentication instead of an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password. Never shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// File with the password; read again when the server refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Headers of each request, for what stands before the server. Values are never shown.
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
    /// File with headers, `NAME: VALUE` a line, which hold before those above; read again when the server refuses us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// PEM file with certificates that the server's may be signed by, besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate, for mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: HumanDuration,
    /// `none` or `gzip`.
    pub compression: Compression,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            url: Urls::default(),
            namespace: "default".to_owned(),
            api_key: None,
            api_key_file: None,
            username: None,
            password: None,
            password_file: None,
            headers: Headers::new(),
            headers_file: None,
            ca_file: None,
            client_certificate_file: None,
            client_key_file: None,
            timeout: HumanDuration::from_secs(30),
            compression: Compression::None,
        }
    }
}

impl Settings {
    /// Whether anything is sent.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled && !self.url.0.is_empty()
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the key, its value and what would be valid.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |key: &str, value: &str, expected: &str| {
            Err(Invalid { key: format!("{SECTION}.{key}"), value: value.to_owned(), expected: expected.to_owned() })
        };
        for url in &self.url.0 {
            if !is_address(url) {
                let expected = "http:// or https:// addresses without credentials, query or fragment";
                return invalid("url", &without_credentials(url), expected);
            }
        }
        if !is_namespace(&self.namespace) {
            let expected = "1 to 100 bytes in lower case, without - and any of \\/*?\"<>| ,#:";
            return invalid("namespace", &self.namespace, expected);
        }
        if self.timeout.get().is_zero() {
            return invalid("timeout", "0s", "a time above zero, e.g. \"30s\"");
        }
        let shown = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        let key = self.api_key.is_some() || self.api_key_file.is_some();
        let password = self.password.is_some() || self.password_file.is_some();
        if key && (self.username.is_some() || password) {
            return invalid(
                "username",
                self.username.as_deref().unwrap_or(""),
                "either an API key or a user, not both",
            );
        }
        if self.api_key.is_some() && self.api_key_file.is_some() {
            return invalid("api_key_file", &shown(&self.api_key_file), "not set together with api_key");
        }
        if self.password.is_some() && self.password_file.is_some() {
            return invalid("password_file", &shown(&self.password_file), "not set together with password");
        }
        if self.username.is_some() != password {
            let user = self.username.as_deref().unwrap_or("");
            return invalid("username", user, "set together with password or password_file");
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            let both = "client_certificate_file and client_key_file go together";
            return invalid("client_key_file", &shown(&self.client_key_file), both);
        }
        Ok(())
    }
}

fn is_address(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(s, _)| s.to_ascii_lowercase());
    let uri = text.parse::<hyper::Uri>();
    let host = uri.as_ref().ok().and_then(|u| u.authority()).is_some_and(|a| !a.host().is_empty());
    matches!(scheme.as_deref(), Some("http" | "https")) && host && !text.contains(['@', '?', '#'])
}

/// Elastic's rules for `data_stream.namespace` (ECS field reference).
fn is_namespace(text: &str) -> bool {
    let forbidden = |c: char| "-\\/*?\"<>| ,#:".contains(c) || c.is_control() || c.is_uppercase();
    (1..=100).contains(&text.len()) && !text.contains(forbidden) && !matches!(text, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> Settings {
        toml::from_str(toml).unwrap()
    }

    /// One address, several in one text, and a list are all taken; none is off.
    #[test]
    fn addresses_in_every_form() {
        assert!(!Settings::default().is_on());
        for text in ["url = 'http://a:1, http://b:2'", "url = ['http://a:1', 'http://b:2']"] {
            let s = settings(text);
            assert_eq!(s.url.0, ["http://a:1", "http://b:2"]);
            assert!(s.is_on() && s.validate().is_ok());
        }
        assert!(!settings("url = 'http://a:1'\nenabled = false").is_on());
    }

    /// What cannot be is refused with key and value; credentials in an address are not shown.
    #[test]
    fn bad_settings_are_refused() {
        for (bad, key) in [
            ("url = 'es:9200'", "url"),
            ("url = 'ftp://es'", "url"),
            ("url = 'http://u:geheim@es:9200'", "url"),
            ("namespace = 'Prod'", "namespace"),
            ("namespace = 'a-b'", "namespace"),
            ("namespace = ''", "namespace"),
            ("username = 'u'", "username"),
            ("api_key = 'a:geheim'\nusername = 'u'\npassword = 'geheim'", "username"),
            ("api_key = 'a:geheim'\napi_key_file = '/k'", "api_key_file"),
            ("client_key_file = '/k'", "client_key_file"),
            ("timeout = '0s'", "timeout"),
        ] {
            let e = settings(bad).validate().unwrap_err();
            assert_eq!(e.key, format!("{SECTION}.{key}"), "{bad}");
            assert!(!e.to_string().contains("geheim"), "{e}");
        }
    }

    /// No form of the settings shows a secret.
    #[test]
    fn secrets_are_never_shown() {
        let s = settings("api_key = 'geheim'\npassword = 'geheim'");
        for shown in [format!("{s:?}"), serde_json::to_string(&s).unwrap()] {
            assert!(!shown.contains("geheim"), "{shown}");
        }
    }
}
