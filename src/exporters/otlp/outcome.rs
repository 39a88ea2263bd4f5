// SPDX-License-Identifier: Apache-2.0
//! What a back end's answer means for the data that was sent.
//!
//! The classes of answers are those of the OTLP specification 1.9 ("OTLP/gRPC Response", "OTLP/HTTP
//! Response"), with one difference: an answer that refuses *us* (wrong token, no such service) says
//! nothing against the data, so the data is kept.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;

/// What the back end's answer means.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Taken, but for `rejected` records, which must not be sent again.
    Accepted { rejected: u64, message: String },
    /// Not now; send the same again, not before `after`.
    Retry { after: Option<Duration>, why: String },
    /// Something is wrong that may be the data's fault or the server's: worth a few tries.
    Suspect(String),
    /// More than the server takes at once.
    TooLarge(String),
    /// The data is at fault; sending it again is no use.
    Refused(String),
    /// We are at fault, or this is not the right server: somebody must act. The data is kept.
    Denied(String),
    /// The server knows no such service or path: it is the wrong one, or does not take this signal.
    Unserved(String),
}

/// Reads an export response. All signals' responses have the same form: field 1 is
/// `partial_success` with a count and a message.
#[must_use]
pub fn read_response(body: &[u8]) -> Option<Outcome> {
    let partial = ExportLogsServiceResponse::decode(body).ok()?.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    Some(Outcome::Accepted { rejected, message: partial.error_message })
}
