// SPDX-License-Identifier: Apache-2.0
//! Evidence and links in JSON.

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::Link};
use serde_json::{Map, Value as Json};

use super::{any, insert_hex, int, object, uint};
use crate::signal::semconv::attr;
use crate::signal::{Timestamp, key_value, profile};

/// A profile: what it measures (`name`), the `unit` of its values, their `total`, what lies between two
/// samples where they are (`period`, `period_unit`), and its `stacks`: `frames`, outermost first, of
/// which the last `kernel` are the kernel's, and `value`.
pub(super) fn of_profile(p: &profile::Stored<'_>) -> Json {
    let mut o = Map::new();
    o.insert("type".into(), "profile".into());
    o.insert("name".into(), p.kind().into());
    o.insert("unit".into(), p.sample_type().1.into());
    o.insert("total".into(), uint(p.total()));
    if p.profile.period > 0 {
        o.insert("period".into(), int(p.profile.period));
        o.insert("period_unit".into(), p.period_type().1.into());
    }
    if p.lost() > 0 {
        o.insert("lost".into(), uint(p.lost()));
    }
    let row =
        |s: profile::Folded<'_>| serde_json::json!({ "frames": s.frames, "kernel": s.kernel, "value": uint(s.value) });
    o.insert("stacks".into(), p.folded().into_iter().map(row).collect());
    Json::Object(o)
}

/// Links to spans of applications: of a log record an attribute, of a span its own field.
pub(super) fn links(attributes: &[KeyValue], span: Option<&Span>) -> Vec<Json> {
    let Some(span) = span else {
        let of_record = key_value::find(attributes, attr::LINUX_SPAN_LINKS.name);
        let Some(any_value::Value::ArrayValue(all)) = of_record else { return Vec::new() };
        return all.values.iter().map(any).collect();
    };
    let row = |l: &Link| {
        let mut o = Map::new();
        insert_hex(&mut o, "trace_id", &l.trace_id);
        insert_hex(&mut o, "span_id", &l.span_id);
        if !l.attributes.is_empty() {
            o.insert("attributes".into(), object(l.attributes.iter()));
        }
        Json::Object(o)
    };
    span.links.iter().map(row).collect()
}

/// The pieces of evidence that are an attribute: tables as they are (`name`, `columns` of `name`, `type`
/// and `unit`, `rows`), series with their `points` of `time` and `value`.
pub(super) fn tables_and_series(attributes: &[KeyValue]) -> Vec<Json> {
    let pieces = key_value::find(attributes, attr::LINUX_CAPTURE_EVIDENCE.name);
    let Some(any_value::Value::ArrayValue(pieces)) = pieces else { return Vec::new() };
    pieces.values.iter().map(any).map(with_points).collect()
}

fn with_points(mut piece: Json) -> Json {
    let Some(o) = piece.as_object_mut() else { return piece };
    if o.get("left_out").and_then(Json::as_u64) == Some(0) {
        o.remove("left_out");
    }
    if let (Some(Json::Array(times)), Some(Json::Array(values))) = (o.remove("times"), o.remove("values")) {
        let point = |(time, value): (Json, Json)| {
            let ns = time.as_u64().or_else(|| time.as_str()?.parse().ok()).unwrap_or(0);
            serde_json::json!({ "time": Timestamp(ns).rfc3339(), "value": value })
        };
        o.insert("points".into(), times.into_iter().zip(values).map(point).collect());
    }
    piece
}
