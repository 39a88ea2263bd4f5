// SPDX-License-Identifier: Apache-2.0
//! What leaves a collector: [`metric`]s, [`event`]s and [`incident`] material, each tied to a
//! [`workload`]. Plain data; this module imports nothing else of the crate.

pub mod entry;
pub mod event;
pub mod evidence;
pub mod growing;
pub mod hex;
pub mod ids;
pub mod incident;
pub mod json;
pub mod key_value;
pub mod late;
pub mod link;
pub mod loss;
pub mod metric;
pub mod otlp;
pub mod profile;
pub mod query;
pub mod raw;
pub mod semconv;
pub mod stack;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod time;
pub mod units;
pub mod value;
pub mod wire;
pub mod workload;

pub use event::{Event, EventDef, Related, Role, Severity, Thread};
pub use evidence::{Column, Evidence, Profile, ProfileKind, Series, StackSample, Table};
pub use growing::{Growing, Total};
pub use hex::Hex;
pub use incident::{Capture, CaptureProgress, Change, Target, Trigger};
pub use late::StackNames;
pub use link::{Link, Links};
pub use loss::Stage;
pub use metric::{Histogram, Instrument, MetricDef, Metrics, Panel, Point};
pub use query::Query;
pub use raw::RawEntry;
pub use semconv::Key;
pub use stack::{Frame, Stack};
pub use time::Timestamp;
pub use units::{ByteSize, HumanDuration};
pub use value::{Attributes, Value};
pub use workload::{ContainerKind, Owners, Pod, QosClass, Workload, WorkloadKey, WorkloadKind};
