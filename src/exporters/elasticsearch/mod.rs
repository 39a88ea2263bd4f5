// SPDX-License-Identifier: Apache-2.0
//! Elasticsearch: events, incidents and captures as documents in data streams.
//!
//! | stream | a document is | its `_id` |
//! |---|---|---|
//! | `logs-bianque.events-NAMESPACE` | an event | the event's id |
//! | `traces-bianque.incidents-NAMESPACE` | a span of an incident | the span's id |
//! | `profiles-bianque.captures-NAMESPACE` | a capture's profile | the profile's id |
//!
//! Fields are laid out as the OpenTelemetry Collector's exporter does it in its mapping mode `otel`.
//! Documents are made by `create`, which fails where the id is taken: so what is sent again, because
//! an answer was lost or the agent was killed, makes no second copy. Ids are unique within a backing
//! index: only a roll-over between a request whose answer was lost and its repetition can leave two.
//!
//! Every request was checked against Elastic's API specification, for what 9 has changed and for
//! life cycles, which the server of the tests lacks: `docs/decisions/0008-elasticsearch.md`.

pub mod answer;
pub mod client;
pub mod config;
pub mod delivery;
pub mod document;
mod json;
pub mod setup;

pub use client::Client;
pub use config::Settings;
pub use delivery::Delivery;

/// Our name in self-metrics, and of our cursor.
pub const EXPORTER: &str = "elasticsearch";
