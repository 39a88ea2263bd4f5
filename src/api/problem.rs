// SPDX-License-Identifier: Apache-2.0
//! Refusals: `{"error": …, "expected": …}`, what was wrong and what would be valid.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

use crate::signal::query::BadQuery;

/// A request that is refused, or failed.
#[derive(Debug)]
pub(super) struct Problem {
    pub status: StatusCode,
    pub error: String,
    pub expected: Option<Json>,
}

impl Problem {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Problem { status, error: error.into(), expected: None }
    }

    pub fn expected(mut self, expected: impl Into<Json>) -> Self {
        self.expected = Some(expected.into());
        self
    }
}

impl From<BadQuery> for Problem {
    fn from(e: BadQuery) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, format!("{}={}", e.key, e.value)).expected(e.expected)
    }
}

/// The agent could not do what was rightly asked.
impl From<anyhow::Error> for Problem {
    fn from(e: anyhow::Error) -> Self {
        tracing::warn!("a question over HTTP could not be answered: {e:#}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error });
        if let Some(expected) = self.expected {
            body["expected"] = expected;
        }
        (self.status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
    }
}
