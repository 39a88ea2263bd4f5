// SPDX-License-Identifier: Apache-2.0
//! What Elasticsearch's answers mean for the documents that were sent.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;

use crate::exporters::http::{excerpt, retry_after};

/// What became of a bulk request.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// A verdict on each document, in the order of the request.
    Answered(Vec<Verdict>),
    /// Nobody was reached at this address.
    Unreachable(String),
    /// Not now; send the same again, not before `after`.
    Retry { after: Option<Duration>, why: String },
    /// More than the server takes at once.
    TooLarge(String),
    /// The request is at fault, so one of its documents may be.
    Refused(String),
    /// We are at fault, or this is not the right server: somebody must act. The data is kept.
    Denied(String),
}

/// What became of one document.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is there.
    Taken,
    /// It was there already: an earlier try has been taken though its answer was lost.
    There,
    /// Not now.
    Again(String),
    /// The server failed while it stored it: it may have it in memory alone, and say from then on that it is there.
    Failed(String),
    /// It does not fit the mapping: sending it again is no use.
    Refused(String),
    /// The stream does not take documents, or not ours: somebody must act.
    Denied(String),
}

/// The part of an answer that we ask for (`filter_path`).
#[derive(Deserialize)]
struct Bulk {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: Created,
}

#[derive(Deserialize)]
struct Created {
    status: u16,
    error: Option<Cause>,
}

#[derive(Deserialize, Default)]
struct Cause {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    reason: String,
}

/// An answer to a bulk request of so many documents.
#[must_use]
pub fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8], documents: usize) -> Outcome {
    if !status.is_success() {
        return failure(status, headers, body);
    }
    if let Err(why) = is_product(headers) {
        return Outcome::Denied(why);
    }
    match serde_json::from_slice::<Bulk>(body) {
        Ok(bulk) if bulk.items.len() == documents => {
            Outcome::Answered(bulk.items.into_iter().map(|i| verdict(i.create)).collect())
        }
        _ => Outcome::Retry { after: None, why: "the answer is not that of a bulk request".to_owned() },
    }
}

/// Whether an answer is Elasticsearch's own.
///
/// # Errors
/// What is missing, for a log.
pub fn is_product(headers: &HeaderMap) -> Result<(), String> {
    if headers.get("x-elastic-product").is_some_and(|v| v == "Elasticsearch") {
        return Ok(());
    }
    Err("this is not Elasticsearch: its answers do not say X-Elastic-Product: Elasticsearch".to_owned())
}

fn failure(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let why = format!("{status}: {}", message(body));
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Outcome::TooLarge(why),
        // Said of the request by Elasticsearch, else by something that does not know bulk requests.
        StatusCode::BAD_REQUEST if is_product(headers).is_ok() => Outcome::Refused(why),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Outcome::Retry { after: retry_after(headers, jiff::Timestamp::now()), why }
        }
        s if s.is_server_error() && s != StatusCode::NOT_IMPLEMENTED => {
            Outcome::Retry { after: retry_after(headers, jiff::Timestamp::now()), why }
        }
        // Wrong credentials, no privilege, a redirect, another path or method.
        _ => Outcome::Denied(why),
    }
}

/// By the statuses that Elasticsearch gives its exceptions (`ElasticsearchException.status`).
fn verdict(c: Created) -> Verdict {
    let cause = c.error.unwrap_or_default();
    let why = || excerpt(&format!("{}: {}", cause.kind, cause.reason));
    match c.status {
        200..=299 => Verdict::Taken,
        409 => Verdict::There,
        // Full queues, blocks by the flood-stage watermark, shards that are away.
        408 | 429 | 501..=599 => Verdict::Again(why()),
        // The disk is full, say: i_o_exception.
        500 => Verdict::Failed(why()),
        // The cluster's limit of shards is reached, say: it is not the document that is invalid.
        400 if cause.kind == "validation_exception" => Verdict::Denied(why()),
        400 | 413 => Verdict::Refused(why()),
        404 => Verdict::Denied(format!("run `bianque setup elasticsearch` for its streams' templates: {}", why())),
        // 401, 403: credentials without the privilege, an index that is blocked by hand.
        _ => Verdict::Denied(why()),
    }
}

/// The reason in an error's body, or what else it says.
#[must_use]
pub fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Error {
        Cause(Cause),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(Body { error: Error::Cause(c) }) => excerpt(&format!("{}: {}", c.kind, c.reason)),
        Ok(Body { error: Error::Text(text) }) => excerpt(&text),
        Err(_) => excerpt(&String::from_utf8_lossy(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str, documents: usize) -> Outcome {
        let mut all = HeaderMap::new();
        for (k, v) in headers {
            all.insert(*k, v.parse().unwrap());
        }
        classify(StatusCode::from_u16(status).unwrap(), &all, body.as_bytes(), documents)
    }

    const ES: (&str, &str) = ("x-elastic-product", "Elasticsearch");

    /// Each item's status decides on its document; what is no item's fault never costs one.
    #[test]
    fn items_are_judged_one_by_one() {
        let item = |status: u16, kind: &str| {
            format!(r#"{{"create":{{"status":{status},"error":{{"type":"{kind}","reason":"r"}}}}}}"#)
        };
        let items = [
            r#"{"create":{"status":201}}"#.to_owned(),
            item(409, "version_conflict_engine_exception"),
            item(429, "es_rejected_execution_exception"),
            item(503, "unavailable_shards_exception"),
            item(400, "document_parsing_exception"),
            item(400, "validation_exception"),
            item(403, "cluster_block_exception"),
            item(404, "index_not_found_exception"),
        ];
        let body = format!(r#"{{"errors":true,"items":[{}]}}"#, items.join(","));
        let Outcome::Answered(v) = answer(200, &[ES], &body, 8) else { panic!() };
        assert_eq!(v[..2], [Verdict::Taken, Verdict::There]);
        assert!(matches!((&v[2], &v[3]), (Verdict::Again(_), Verdict::Again(_))), "{v:?}");
        assert_eq!(v[4], Verdict::Refused("document_parsing_exception: r".into()));
        assert!(v[5..].iter().all(|v| matches!(v, Verdict::Denied(_))), "{v:?}");
        let Verdict::Denied(hint) = &v[7] else { panic!() };
        assert!(hint.contains("bianque setup elasticsearch"), "{hint}");
    }

    /// A success counts only when it is Elasticsearch's and covers every document.
    #[test]
    fn only_whole_answers_of_elasticsearch_count() {
        let one = r#"{"errors":false,"items":[{"create":{"status":201}}]}"#;
        assert_eq!(answer(200, &[ES], one, 1), Outcome::Answered(vec![Verdict::Taken]));
        assert!(matches!(answer(200, &[], one, 1), Outcome::Denied(_)));
        assert!(matches!(answer(200, &[("x-elastic-product", "OpenSearch")], one, 1), Outcome::Denied(_)));
        for garbage in ["", "<html>Sign in", r#"{"errors":false}"#, "{}", "[]", r#"{"items":[{"index":{}}]}"#] {
            assert!(matches!(answer(200, &[ES], garbage, 1), Outcome::Retry { .. }), "{garbage}");
        }
        assert!(matches!(answer(200, &[ES], one, 2), Outcome::Retry { .. }), "it covers one of two");
    }

    /// A failure of the whole request is sorted by whose fault it is, with the server's reason.
    #[test]
    fn failures_are_sorted() {
        let body = r#"{"error":{"type":"security_exception","reason":"no"},"status":401}"#;
        assert_eq!(answer(401, &[ES], body, 1), Outcome::Denied("401 Unauthorized: security_exception: no".into()));
        assert!(matches!(answer(413, &[], "", 1), Outcome::TooLarge(_)));
        assert!(matches!(answer(400, &[ES], "", 1), Outcome::Refused(_)));
        assert!(matches!(answer(400, &[], "", 1), Outcome::Denied(_)), "not Elasticsearch said so");
        assert!(matches!(answer(301, &[], "", 1), Outcome::Denied(_)));
        for s in [408, 429, 500, 502, 503, 504] {
            let Outcome::Retry { after, .. } = answer(s, &[("retry-after", "7")], "", 1) else { panic!("{s}") };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
    }
}
