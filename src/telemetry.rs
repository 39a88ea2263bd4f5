// SPDX-License-Identifier: Apache-2.0
//! The agent's own logs, spans and counters, through the OpenTelemetry SDK.

mod own;

pub use own::{SELF_METRICS, SelfMetricDef, SelfMetrics};
