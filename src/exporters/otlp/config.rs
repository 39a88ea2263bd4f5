// SPDX-License-Identifier: Apache-2.0
//! Settings under `exporters.otlp`, and what they come to for each signal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exporters::http::Compression;
use crate::exporters::proxy::Route;
use crate::exporters::settings::{self, Headers, Invalid, without_credentials};
use crate::signal::HumanDuration;

/// OTLP's signals, all of which we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
    /// Still under development in OTLP: few back ends take it, see [`super::delivery`].
    Profiles,
}

impl Signal {
    pub const ALL: [Signal; 4] = [Signal::Traces, Signal::Metrics, Signal::Logs, Signal::Profiles];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
            Signal::Profiles => "profiles",
        }
    }

    /// Where OTLP/HTTP takes it, below the endpoint.
    fn path(self) -> &'static str {
        match self {
            Signal::Traces => "/v1/traces",
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
            Signal::Profiles => "/v1development/profiles",
        }
    }
}

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// OTLP/gRPC, usually on port 4317.
    #[serde(rename = "grpc")]
    Grpc,
    /// OTLP/HTTP with protobuf bodies, usually on port 4318.
    #[serde(rename = "http/protobuf")]
    Http,
}

/// Delivery over OTLP. On when an endpoint is named here, by `OTEL_EXPORTER_OTLP_ENDPOINT` or for one signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `false` turns OTLP off, whatever endpoint is named.
    pub enabled: bool,
    /// Where to send all signals, e.g. `http://collector:4317`. With `http/protobuf`, `/v1/traces`, `/v1/metrics`,
    /// `/v1/logs` and `/v1development/profiles` are appended to its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `grpc` or `http/protobuf`. When not set: `grpc` if the endpoint's port is 4317, else `http/protobuf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Headers of each request, e.g. `authorization`. Values are never shown.
    pub headers: Headers,
    /// File with headers, `NAME: VALUE` a line, which hold before those above; read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: HumanDuration,
    /// `none` or `gzip`.
    pub compression: Compression,
    /// Whether a gRPC endpoint without a scheme (`host:port`) is spoken to without TLS.
    pub insecure: bool,
    /// PEM file with the certificates that the server's is checked against, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate, for mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// What differs for traces (incidents).
    pub traces: SignalSettings,
    /// What differs for metrics.
    pub metrics: SignalSettings,
    /// What differs for logs (events).
    pub logs: SignalSettings,
    /// What differs for profiles (stacks of captures). A server that does not take them is asked again every ten
    /// minutes; they stay in the store.
    pub profiles: SignalSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            endpoint: None,
            protocol: None,
            headers: Headers::new(),
            headers_file: None,
            timeout: HumanDuration::from_secs(10),
            compression: Compression::None,
            insecure: false,
            ca_file: None,
            client_certificate_file: None,
            client_key_file: None,
            traces: SignalSettings::default(),
            metrics: SignalSettings::default(),
            logs: SignalSettings::default(),
            profiles: SignalSettings::default(),
        }
    }
}

/// What differs for one signal; what is left out is as for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignalSettings {
    /// `false`: this signal is not sent.
    pub enabled: bool,
    /// Where to send this signal, used as it is: no path is appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Replaces all headers, those of the file for all signals, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
}

impl Default for SignalSettings {
    fn default() -> Self {
        SignalSettings {
            enabled: true,
            endpoint: None,
            protocol: None,
            headers: None,
            headers_file: None,
            timeout: None,
            compression: None,
            insecure: None,
            ca_file: None,
            client_certificate_file: None,
            client_key_file: None,
        }
    }
}

/// Where and how one signal is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub signal: Signal,
    pub protocol: Protocol,
    /// With scheme; for HTTP with the signal's path.
    pub url: String,
    pub headers: Headers,
    pub headers_file: Option<PathBuf>,
    pub timeout: Duration,
    pub compression: Compression,
    pub ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Endpoint {
    /// The address, taken apart.
    ///
    /// # Errors
    /// It is none.
    pub fn uri(&self) -> anyhow::Result<hyper::Uri> {
        self.url.parse().with_context(|| format!("exporters.otlp: {} is no address", self.url))
    }

    /// The way there, directly or through a proxy.
    ///
    /// # Errors
    /// The environment names a proxy of a kind that is not supported.
    pub fn route(&self) -> anyhow::Result<Route> {
        Route::to(&self.uri()?, self.protocol == Protocol::Grpc).context("exporters.otlp")
    }

    /// The headers as they are now, with those of the file.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it should be.
    pub fn all_headers(&self) -> anyhow::Result<Headers> {
        settings::headers("exporters.otlp", &self.headers, self.headers_file.as_deref())
    }
}

impl Settings {
    #[must_use]
    pub fn signal(&self, signal: Signal) -> &SignalSettings {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
            Signal::Profiles => &self.profiles,
        }
    }

    /// What the settings come to for one signal; `None`: it is not sent.
    ///
    /// # Errors
    /// Names the key, its value and what would be valid.
    pub fn endpoint(&self, signal: Signal) -> Result<Option<Endpoint>, Invalid> {
        let own = self.signal(signal);
        if !self.enabled || !own.enabled {
            return Ok(None);
        }
        let named = |e: &Option<String>| e.as_deref().map(str::trim).filter(|e| !e.is_empty()).map(str::to_owned);
        let (text, is_own) = match (named(&own.endpoint), named(&self.endpoint)) {
            (Some(e), _) => (e, true),
            (None, Some(e)) => (e, false),
            (None, None) => return Ok(None),
        };
        let prefix = if is_own { format!("exporters.otlp.{}", signal.name()) } else { "exporters.otlp".to_owned() };
        let invalid = |key: &str, value: &str, expected: &str| Invalid {
            key: format!("{prefix}.{key}"),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        let insecure = own.insecure.unwrap_or(self.insecure);
        let url = Url::parse(&text, insecure)
            .ok_or_else(|| invalid("endpoint", &without_credentials(&text), "an http:// or https:// address"))?;
        let protocol = own.protocol.or(self.protocol).unwrap_or(if url.port == Some(4317) {
            Protocol::Grpc
        } else {
            Protocol::Http
        });
        if protocol == Protocol::Http && !url.had_scheme {
            return Err(invalid("endpoint", &text, "http/protobuf needs an address with http:// or https://"));
        }
        if protocol == Protocol::Grpc && !(url.path.is_empty() && url.query.is_empty()) {
            let expected = "no path or query: gRPC has none; or `protocol = \"http/protobuf\"`";
            return Err(invalid("endpoint", &without_credentials(&text), expected));
        }
        let path = match (protocol, is_own) {
            (Protocol::Grpc, _) => String::new(),
            (Protocol::Http, true) if url.path.is_empty() => "/".to_owned(),
            (Protocol::Http, true) => url.path.clone(),
            (Protocol::Http, false) => format!("{}{}", url.path.trim_end_matches('/'), signal.path()),
        };
        let timeout = own.timeout.unwrap_or(self.timeout).get();
        if timeout.is_zero() {
            return Err(invalid("timeout", "0s", "a time above zero, e.g. \"10s\""));
        }
        let pick = |a: &Option<PathBuf>, b: &Option<PathBuf>| a.clone().or_else(|| b.clone());
        let certificate = pick(&own.client_certificate_file, &self.client_certificate_file);
        let key = pick(&own.client_key_file, &self.client_key_file);
        let client = match (certificate, key) {
            (Some(c), Some(k)) => Some((c, k)),
            (None, None) => None,
            (Some(c), None) => {
                return Err(invalid(
                    "client_certificate_file",
                    &c.to_string_lossy(),
                    "client_key_file must be set too",
                ));
            }
            (None, Some(k)) => {
                return Err(invalid(
                    "client_key_file",
                    &k.to_string_lossy(),
                    "client_certificate_file must be set too",
                ));
            }
        };
        let file = self.headers_file.as_ref().filter(|_| own.headers.is_none());
        Ok(Some(Endpoint {
            signal,
            protocol,
            url: format!("{}://{}{path}{}", url.scheme, url.authority, url.query),
            headers: own.headers.clone().unwrap_or_else(|| self.headers.clone()),
            headers_file: own.headers_file.clone().or_else(|| file.cloned()),
            timeout,
            compression: own.compression.unwrap_or(self.compression),
            ca_file: pick(&own.ca_file, &self.ca_file),
            client,
        }))
    }

    /// Whether any signal is sent.
    #[cfg(test)]
    #[must_use]
    pub fn is_on(&self) -> bool {
        Signal::ALL.into_iter().any(|s| !matches!(self.endpoint(s), Ok(None)))
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the key, its value and what would be valid.
    pub fn validate(&self) -> Result<(), Invalid> {
        Signal::ALL.into_iter().try_for_each(|s| self.endpoint(s).map(|_| ()))
    }
}

/// The parts of an endpoint that we need.
struct Url {
    scheme: &'static str,
    had_scheme: bool,
    authority: String,
    port: Option<u16>,
    path: String,
    /// With its question mark, where there is one.
    query: String,
}

impl Url {
    /// Without a scheme, `insecure` decides, as the specification has it for gRPC.
    fn parse(text: &str, insecure: bool) -> Option<Url> {
        let (scheme, rest) = match text.split_once("://") {
            Some((s, rest)) if s.eq_ignore_ascii_case("http") => (Some("http"), rest),
            Some((s, rest)) if s.eq_ignore_ascii_case("https") => (Some("https"), rest),
            Some(_) => return None,
            None => (None, text),
        };
        let with_scheme = format!("{}://{rest}", scheme.unwrap_or("http"));
        let uri: hyper::Uri = with_scheme.parse().ok()?;
        let authority = uri.authority()?;
        // Credentials belong into headers: here they would be shown in logs.
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return None;
        }
        let path = Some(uri.path()).filter(|p| *p != "/").unwrap_or_default().to_owned();
        let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
        Some(Url {
            scheme: scheme.unwrap_or(if insecure { "http" } else { "https" }),
            had_scheme: scheme.is_some(),
            authority: authority.to_string(),
            port: authority.port_u16(),
            path,
            query,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> Settings {
        toml::from_str(toml).unwrap()
    }

    fn url(toml: &str, signal: Signal) -> String {
        settings(toml).endpoint(signal).unwrap().unwrap().url
    }

    /// A base endpoint gets the signal's path, whatever its own path is; gRPC gets none.
    #[test]
    fn base_endpoint_gets_the_signals_path() {
        for (endpoint, expected) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/", "https://c/otlp/v1/traces"),
            ("https://c/otlp", "https://c/otlp/v1/traces"),
            ("http://c:4317", "http://c:4317"),
            ("http://c:4317/", "http://c:4317"),
            ("https://c/otlp?key=a%2Fb&v=2", "https://c/otlp/v1/traces?key=a%2Fb&v=2"),
            ("https://c?key", "https://c/v1/traces?key"),
            ("https://c/otlp/?/x/", "https://c/otlp/v1/traces?/x/"),
        ] {
            assert_eq!(url(&format!("endpoint = {endpoint:?}"), Signal::Traces), expected);
        }
    }

    /// A signal's own endpoint is used as it is, and `/` is its path if it has none.
    #[test]
    fn own_endpoint_is_used_as_it_is() {
        let text = "endpoint = 'http://c:4318'\n[logs]\nendpoint = 'http://d:9/in'\n[metrics]\nendpoint = 'http://e:9'";
        assert_eq!(url(text, Signal::Logs), "http://d:9/in");
        assert_eq!(url(text, Signal::Metrics), "http://e:9/");
        assert_eq!(url(text, Signal::Traces), "http://c:4318/v1/traces");
        assert_eq!(url("logs.endpoint = 'http://d:9/in?a=b'", Signal::Logs), "http://d:9/in?a=b");
        assert_eq!(url("logs.endpoint = 'http://d:9?a=b'", Signal::Logs), "http://d:9/?a=b");
    }

    /// gRPC has no path: one that is named would be ignored.
    #[test]
    fn grpc_takes_no_path() {
        for bad in ["http://c:4317/otlp", "http://c:4317?a=b", "http://c:4317/?a=b"] {
            let e = settings(&format!("endpoint = {bad:?}")).validate().unwrap_err().to_string();
            assert!(e.contains("gRPC"), "{e}");
        }
    }

    /// OTLP is off until an endpoint is named, and for a signal that has none.
    #[test]
    fn off_without_an_endpoint() {
        assert!(!Settings::default().is_on());
        let s = settings("[logs]\nendpoint = 'http://d:9/in'");
        assert!(s.is_on());
        assert_eq!(s.endpoint(Signal::Traces).unwrap(), None);
        assert!(!settings("enabled = false\nendpoint = 'http://c:4317'").is_on());
        assert_eq!(settings("endpoint = 'http://c:4317'\nlogs.enabled = false").endpoint(Signal::Logs), Ok(None));
    }

    /// A gRPC endpoint without a scheme is TLS unless `insecure` says otherwise; for HTTP it is an error.
    #[test]
    fn scheme_decides_on_tls() {
        assert_eq!(url("endpoint = 'c:4317'", Signal::Logs), "https://c:4317");
        assert_eq!(url("endpoint = 'c:4317'\ninsecure = true", Signal::Logs), "http://c:4317");
        assert_eq!(url("endpoint = 'https://c:4317'\ninsecure = true", Signal::Logs), "https://c:4317");
        assert!(settings("endpoint = 'c:4318'").validate().is_err());
    }

    /// What cannot be sent to is refused with key and value, and without credentials.
    #[test]
    fn bad_endpoints_are_refused() {
        for bad in ["ftp://c", "http://", "http://u:geheim@c:4317", "unix:///x"] {
            let e = settings(&format!("endpoint = {bad:?}")).validate().unwrap_err().to_string();
            assert!(e.starts_with("exporters.otlp.endpoint = "), "{e}");
            assert!(!e.contains("geheim"), "{e}");
        }
        let e = settings("logs.endpoint = 'x://y'").validate().unwrap_err();
        assert_eq!(e.key, "exporters.otlp.logs.endpoint");
    }

    /// No form of the settings shows a header's value.
    #[test]
    fn header_values_are_never_shown() {
        let s = settings("endpoint = 'http://c:4317'\nheaders = { authorization = 'Bearer geheim' }");
        let endpoint = s.endpoint(Signal::Logs).unwrap().unwrap();
        assert_eq!(endpoint.headers["authorization"].reveal(), "Bearer geheim");
        for shown in [format!("{s:?}"), format!("{endpoint:?}"), serde_json::to_string(&s).unwrap()] {
            assert!(!shown.contains("geheim"), "{shown}");
        }
    }
}
