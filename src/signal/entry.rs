// SPDX-License-Identifier: Apache-2.0
//! The form in which events and incidents are logged, stored and delivered: OTLP messages plus the
//! key of the workload that they belong to.

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::ids::EventId;
use super::workload::WorkloadKey;

/// One entry of the log and of the store. The workload's attributes are joined at read, so that a
/// name that comes late reaches entries that were written before it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// 12 bytes: [`EventId`].
    #[prost(bytes = "vec", tag = "1")]
    pub raw_id: Vec<u8>,
    /// The collector that reported; the OTel instrumentation scope's name.
    #[prost(string, tag = "2")]
    pub collector: String,
    /// [`WorkloadKey`]; absent: the node.
    #[prost(fixed64, optional, tag = "3")]
    pub raw_workload: Option<u64>,
    /// Events have one; spans of an incident's close or of a capture may stand alone.
    #[prost(message, optional, tag = "4")]
    pub log: Option<LogRecord>,
    #[prost(message, repeated, tag = "5")]
    pub spans: Vec<Span>,
    /// OTLP `ProfilesData`, encoded, for entries of captures.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub profile: Option<Vec<u8>>,
}

impl Entry {
    #[must_use]
    pub fn id(&self) -> EventId {
        let mut b = [0; 12];
        let n = self.raw_id.len().min(12);
        b[..n].copy_from_slice(&self.raw_id[..n]);
        EventId(b)
    }

    #[must_use]
    pub fn workload(&self) -> Option<WorkloadKey> {
        self.raw_workload.map(WorkloadKey)
    }
}
