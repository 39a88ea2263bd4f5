// SPDX-License-Identifier: Apache-2.0
//! Which form a scraper gets: by its `Accept` and `Accept-Encoding` headers (RFC 9110, section 12.5).

/// A form of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0: with exemplars, units and infos.
    OpenMetrics,
}

impl Format {
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The form that an `Accept` header prefers; plain text where it names neither, as every client
    /// library of Prometheus does.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let mut best = (0.0, Format::Text);
        for range in ranges(accept.unwrap_or_default()) {
            let version = |known: &[&str]| range.version.is_none_or(|v| known.contains(&v));
            let format = match range.name.as_str() {
                "application/openmetrics-text" if version(&["1.0.0", "0.0.1"]) => Format::OpenMetrics,
                "text/plain" if version(&["0.0.4"]) => Format::Text,
                "text/*" | "*/*" => Format::Text,
                _ => continue,
            };
            if range.q > best.0 {
                best = (range.q, format);
            }
        }
        best.1
    }
}

/// Whether an `Accept-Encoding` header asks for gzip by name.
#[must_use]
pub fn gzip_accepted(accept_encoding: Option<&str>) -> bool {
    ranges(accept_encoding.unwrap_or_default()).any(|r| matches!(r.name.as_str(), "gzip" | "x-gzip") && r.q > 0.0)
}

struct Range<'a> {
    name: String,
    version: Option<&'a str>,
    q: f32,
}

fn ranges(header: &str) -> impl Iterator<Item = Range<'_>> {
    header.split(',').map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut range = Range { name, version: None, q: 1.0 };
        for (key, value) in parts.filter_map(|p| p.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => range.q = value.parse().unwrap_or(0.0),
                "version" => range.version = Some(value),
                _ => {}
            }
        }
        range
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What real scrapers send, and the corners of the header's grammar.
    #[test]
    fn accept() {
        use Format::{OpenMetrics, Text};
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (None, Text),
            (Some(""), Text),
            (Some("*/*"), Text),
            (Some(prometheus_3), OpenMetrics),
            (Some("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), OpenMetrics),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.8"), Text),
            (Some("text/plain;q=0.8, Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.9"), OpenMetrics),
            (Some("application/openmetrics-text; version=2.0.0"), Text),
            (Some("application/openmetrics-text;q=0, */*;q=0.1"), Text),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Text),
            (Some("application/openmetrics-text;q=nonsense"), Text),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept:?}");
        }
    }

    /// gzip only for who names it and does not refuse it.
    #[test]
    fn encodings() {
        for (header, expected) in [
            (None, false),
            (Some("identity"), false),
            (Some("*"), false),
            (Some("gzip;q=0"), false),
            (Some("gzip"), true),
            (Some("deflate, GZIP;q=0.5, br"), true),
        ] {
            assert_eq!(gzip_accepted(header), expected, "{header:?}");
        }
    }
}
