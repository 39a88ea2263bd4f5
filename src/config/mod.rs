// SPDX-License-Identifier: Apache-2.0
//! The configuration: defaults, then the file, then `OTEL_…`, then `BIANQUE_…`, then flags.
//!
//! The agent's own sections are typed here; a collector's section is typed by the collector and
//! checked through its [`Registration`](crate::collectors::Registration). Everything that is said
//! about settings elsewhere (schema, commented default file, reference) is made from these types.

pub mod environment;
pub mod error;
pub mod layers;
pub mod load;
pub mod render;
pub mod schema;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exporters::{elasticsearch, otlp};
use crate::signal::{ByteSize, HumanDuration};
use crate::workload;

pub use error::ConfigError;
pub use layers::Sources;
pub use load::{Loaded, load};

#[cfg(feature = "internals")]
pub use {environment::File, error::Origin, error::Problem, layers::Flag};

/// Where the file is looked for when no other is named.
pub const DEFAULT_FILE: &str = "/etc/bianque/config.toml";

/// Prefix of the environment's variables; `__` stands for each dot of a key.
pub const ENV_PREFIX: &str = "BIANQUE_";

/// All settings of the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The store on this node: every event and incident is in it first.
    pub store: Store,
    /// The HTTP side: `/metrics`, `/healthz`, `/readyz` and `/v1/…`.
    pub http: Http,
    /// The local socket, by which `bianque events` and the like ask a running agent.
    pub api: Api,
    /// What holds for all metrics.
    pub metrics: Metrics,
    /// How events are joined into incidents.
    pub incident: Incident,
    /// How containers, pods and services get their names, and which of their labels are handed on.
    pub workload: workload::Settings,
    /// Where events, incidents and metrics are delivered.
    pub exporters: Exporters,
    /// The agent's own log.
    pub log: Log,
    /// One section for each collector, by its name.
    pub collectors: BTreeMap<String, CollectorConfig>,
}

/// `store`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Directory of the store. Made when it is not there.
    pub path: PathBuf,
    /// The store never grows beyond this; the oldest goes first. At least 16MiB.
    pub max_size: ByteSize,
    /// What is older is dropped. At least 1m.
    pub max_age: HumanDuration,
}

impl Default for Store {
    fn default() -> Self {
        Store { path: "/var/lib/bianque".into(), max_size: ByteSize::gib(1), max_age: HumanDuration::from_days(7) }
    }
}

/// `http`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port to listen on. Any other than loopback needs `token_file` or `client_ca_file`.
    pub listen: SocketAddr,
    /// File with the token that callers must send as `Authorization: Bearer …`. Without one, whoever
    /// reaches the address may read.
    #[schemars(example = "/etc/bianque/token")]
    pub token_file: Option<PathBuf>,
    /// Certificate and those it depends on, in PEM form: the listener speaks TLS. It is read again when
    /// it changes, as is every file of this section.
    #[schemars(example = "/etc/bianque/tls.crt")]
    pub certificate_file: Option<PathBuf>,
    /// Private key of the certificate, in PEM form.
    #[schemars(example = "/etc/bianque/tls.key")]
    pub key_file: Option<PathBuf>,
    /// Authorities, in PEM form, of one of which callers must show a certificate. Only `/healthz` and
    /// `/readyz` are answered without. With `token_file` as well, callers need both.
    #[schemars(example = "/etc/bianque/clients.crt")]
    pub client_ca_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9774)),
            token_file: None,
            certificate_file: None,
            key_file: None,
            client_ca_file: None,
        }
    }
}

/// `api`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Path of the socket; its mode is 0660.
    pub socket: PathBuf,
}

impl Default for Api {
    fn default() -> Self {
        Api { socket: "/run/bianque/api.sock".into() }
    }
}

/// `metrics`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Time between two readings, and between two deliveries over OTLP; 1s to 1h. Where neither this
    /// nor a collector's own `interval` is set, OTEL_METRIC_EXPORT_INTERVAL is.
    pub interval: HumanDuration,
    /// At most so many series of one metric; the rest is one series with `overflow="true"`. 1 to 1000000.
    pub max_series: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { interval: HumanDuration::from_secs(15), max_series: 2000 }
    }
}

/// `incident`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Incident {
    /// An incident is closed when nothing has joined it for so long; 1s to 10m.
    pub quiet: HumanDuration,
}

impl Default for Incident {
    fn default() -> Self {
        Incident { quiet: HumanDuration::from_secs(30) }
    }
}

/// `exporters`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Exporters {
    pub otlp: otlp::Settings,
    pub elasticsearch: elasticsearch::Settings,
}

/// `log`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged: this level and those above it.
    pub level: LogLevel,
    /// `text` for people, `json` for machines: one object a line, on standard error.
    pub format: LogFormat,
}

/// Least severity that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As `tracing` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Form of the agent's log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `collectors.NAME`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollectorConfig {
    /// Whether it runs.
    pub enabled: bool,
    /// Time between two readings of this collector, instead of `metrics.interval`; 1s to 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<HumanDuration>,
    #[serde(default, skip_serializing_if = "workload::filter::Settings::is_empty")]
    pub filter: workload::filter::Settings,
    /// Its own settings, checked by its type.
    #[serde(flatten)]
    #[schemars(skip)]
    pub settings: toml::Table,
}

impl Config {
    /// The section of a collector; off with no settings when there is none of that name.
    #[must_use]
    pub fn collector(&self, name: &str) -> CollectorConfig {
        self.collectors.get(name).cloned().unwrap_or_default()
    }

    /// The filter of each collector.
    pub fn filters(&self) -> impl Iterator<Item = (&str, &workload::filter::Settings)> {
        self.collectors.iter().map(|(name, section)| (name.as_str(), &section.filter))
    }

    /// Checks what types cannot, all of it: each key, and what would be valid.
    fn invalid(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let mut check = |key: &str, ok: bool, expected: &str| {
            if !ok {
                out.push((key.to_owned(), expected.to_owned()));
            }
        };
        check("store.path", self.store.path.is_absolute(), "an absolute path");
        check("store.max_size", self.store.max_size >= ByteSize::mib(16), "at least 16MiB");
        check("store.max_age", self.store.max_age.as_secs() >= 60, "at least 1m");
        let http = &self.http;
        let guarded = http.token_file.is_some() || http.client_ca_file.is_some() || http.listen.ip().is_loopback();
        let valid = "a loopback address, or `http.token_file` or `http.client_ca_file` set as well";
        check("http.listen", guarded, valid);
        let (certificate, key) = (http.certificate_file.is_some(), http.key_file.is_some());
        check("http.certificate_file", key || !certificate, "`http.key_file` set as well");
        check("http.key_file", certificate || !key, "`http.certificate_file` set as well");
        let tls = certificate || http.client_ca_file.is_none();
        check("http.client_ca_file", tls, "`http.certificate_file` and `http.key_file` set as well");
        check("api.socket", self.api.socket.is_absolute(), "an absolute path");
        check("metrics.interval", interval_ok(self.metrics.interval), "1s to 1h");
        check("metrics.max_series", (1..=1_000_000).contains(&self.metrics.max_series), "1 to 1000000");
        check("incident.quiet", (1_000..=600_000).contains(&self.incident.quiet.as_millis()), "1s to 10m");
        for (key, expected) in self.workload.invalid() {
            check(&key, false, &expected);
        }
        for valid in [self.exporters.otlp.validate(), self.exporters.elasticsearch.validate()] {
            if let Err(e) = valid {
                check(&e.key, false, &e.expected);
            }
        }
        out
    }
}

/// Below a second the readings cost more than they are worth; beyond an hour a counter's start is forgotten.
fn interval_ok(d: HumanDuration) -> bool {
    (1_000..=3_600_000).contains(&d.as_millis())
}
