// SPDX-License-Identifier: Apache-2.0
//! What a reader asks of stored events and incidents: the same for the store, the HTTP API and the
//! command line.

use super::entry::{Entry, ResourceAttrs};
use super::ids::EventId;
use super::semconv::attr;
use super::units::{DURATION_EXPECTED, HumanDuration};
use super::{Key, Severity, Timestamp, otlp};

/// A question about stored events or incidents. All parts must hold.
///
/// Answers are in the order of ingest, oldest first. With [`Self::after`] the `limit` oldest after
/// that id are meant, otherwise the `limit` newest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Event name, its collector's name, or a dotted part at either end of the name: see [`Self::wants_name`].
    pub name: Option<String>,
    /// The collector's name.
    pub collector: Option<String>,
    /// Container, pod or unit name, or the beginning of a container id.
    pub container: Option<String>,
    /// Kubernetes pod.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// This severity or above.
    pub severity: Option<Severity>,
    /// At most as many.
    pub limit: Option<usize>,
    /// Only what was ingested after this id.
    pub after: Option<EventId>,
}

/// A query parameter that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}={value}: {expected}")]
pub struct BadQuery {
    pub key: String,
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

impl Query {
    /// Every parameter of a query, in the order of the help texts.
    pub const KEYS: &[&str] =
        &["since", "until", "name", "collector", "container", "pod", "namespace", "severity", "limit", "after"];

    /// Reads one parameter in its text form; an empty value is refused. `now` is what spans such as `15m` are counted from.
    ///
    /// # Errors
    /// Names the parameter and what would be valid.
    pub fn set(&mut self, key: &str, value: &str, now: Timestamp) -> Result<(), BadQuery> {
        let bad = |expected: &str| BadQuery { key: key.into(), value: value.into(), expected: expected.into() };
        if value.is_empty() {
            return Err(bad("expected a value"));
        }
        match key {
            "since" => self.since = Some(parse_time(value, now).map_err(|e| bad(&e))?),
            "until" => self.until = Some(parse_time(value, now).map_err(|e| bad(&e))?),
            "name" => self.name = Some(value.to_owned()),
            "collector" => self.collector = Some(value.to_owned()),
            "container" => self.container = Some(value.to_owned()),
            "pod" => self.pod = Some(value.to_owned()),
            "namespace" => self.namespace = Some(value.to_owned()),
            "severity" => {
                let s = Severity::parse(value).ok_or_else(|| bad("expected debug, info, warn, error or fatal"))?;
                self.severity = Some(s);
            }
            "limit" => {
                let n = value.parse().ok().filter(|n| *n > 0);
                self.limit = Some(n.ok_or_else(|| bad("expected a whole number from 1"))?);
            }
            "after" => {
                self.after = Some(EventId::parse(value).ok_or_else(|| bad("expected an event id: 24 hex digits"))?);
            }
            _ => return Err(bad(&format!("no such parameter; there are {}", Self::KEYS.join(", ")))),
        }
        Ok(())
    }

    /// The parameters in text form, as [`Self::set`] reads them.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let mut put = |k, v: Option<String>| out.extend(v.map(|v| (k, v)));
        put("since", self.since.map(Timestamp::rfc3339));
        put("until", self.until.map(Timestamp::rfc3339));
        put("name", self.name.clone());
        put("collector", self.collector.clone());
        put("container", self.container.clone());
        put("pod", self.pod.clone());
        put("namespace", self.namespace.clone());
        put("severity", self.severity.map(|s| s.name().to_lowercase()));
        put("limit", self.limit.map(|n| n.to_string()));
        put("after", self.after.map(|id| id.to_string()));
        out
    }

    /// Whether something of this time is asked for.
    #[must_use]
    pub fn wants_time(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|s| time >= s) && self.until.is_none_or(|u| time < u)
    }

    /// Whether events of this name are asked for: `linux.memory.oom_kill` by itself, by its collector
    /// `oom`, by `linux.memory` or by `oom_kill`.
    #[must_use]
    pub fn wants_name(&self, name: &str, collector: &str) -> bool {
        if self.collector.as_deref().is_some_and(|asked| asked != collector) {
            return false;
        }
        let Some(asked) = self.name.as_deref() else { return true };
        asked == name
            || asked == collector
            || name.strip_prefix(asked).is_some_and(|rest| rest.starts_with('.'))
            || name.strip_suffix(asked).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether what happened to this workload is asked for; `None`: to the node.
    #[must_use]
    pub fn wants_workload(&self, workload: Option<&ResourceAttrs>) -> bool {
        let is = |asked: &Option<String>, key: Key| {
            let has = |w: &ResourceAttrs| otlp::text(&w.attributes, key.name) == asked.as_deref();
            asked.is_none() || workload.is_some_and(has)
        };
        self.container.as_deref().is_none_or(|asked| workload.is_some_and(|w| w.is_called(asked)))
            && is(&self.pod, attr::K8S_POD_NAME)
            && is(&self.namespace, attr::K8S_NAMESPACE_NAME)
    }

    /// Whether this entry is an event, and one that is asked for; its workload aside.
    #[must_use]
    pub fn wants_event(&self, e: &Entry) -> bool {
        e.log.as_ref().is_some_and(|log| {
            self.wants_time(Timestamp(log.time_unix_nano))
                && self.wants_severity(Severity::of_number(log.severity_number))
                && self.wants_name(&log.event_name, &e.collector)
        })
    }

    /// Whether this severity is asked for.
    #[must_use]
    pub fn wants_severity(&self, severity: Severity) -> bool {
        self.severity.is_none_or(|least| severity >= least)
    }
}

/// Reads a time: RFC 3339, or how long before `now` ([`HumanDuration`]).
fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(t) = text.parse::<jiff::Timestamp>()
        && let Ok(ns) = u64::try_from(t.as_nanosecond())
    {
        return Ok(Timestamp(ns));
    }
    let forms = || format!("expected {DURATION_EXPECTED}, back from now, or an RFC 3339 time such as \"{EXAMPLE}\"");
    let back: HumanDuration = text.parse().map_err(|_| forms())?;
    Ok(now.minus(back.get()))
}

const EXAMPLE: &str = "2026-01-31T12:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    /// Every parameter survives the way from a client's query string to the server's query.
    #[test]
    fn parameters_round_trip() {
        let q = Query {
            since: Some(Timestamp(1_799_999_999_123_456_789)),
            until: Some(NOW),
            name: Some("linux.memory".into()),
            collector: Some("oom".into()),
            container: Some("a b&c".into()),
            pod: Some("shop-0".into()),
            namespace: Some("prod".into()),
            severity: Some(Severity::Warn),
            limit: Some(7),
            after: Some(EventId([0xab; 12])),
        };
        let mut read = Query::default();
        for (k, v) in q.parameters() {
            read.set(k, &v, NOW).unwrap();
        }
        assert_eq!(read, q);
        assert_eq!(q.parameters().len(), Query::KEYS.len());
    }

    /// Spans count back from now; days are 24 hours; nonsense is refused with the forms that would do.
    #[test]
    fn times() {
        assert_eq!(parse_time("15m", NOW), Ok(Timestamp(NOW.0 - 900_000_000_000)));
        assert_eq!(parse_time("1d12h", NOW), Ok(Timestamp(NOW.0 - 129_600_000_000_000)));
        assert_eq!(parse_time("2027-01-15T08:00:00Z", NOW), Ok(NOW));
        for bad in ["yesterday", "15", "-5", ""] {
            assert!(parse_time(bad, NOW).is_err(), "{bad}");
        }
        let e = Query::default().set("since", "soon", NOW).unwrap_err();
        assert!(e.to_string().contains("since=soon: expected a duration"), "{e}");
    }

    /// A span back from now is written as durations in the configuration are, and refused in the same words.
    #[test]
    fn durations_have_one_grammar() {
        for text in ["90s", "1m30s", " 2h ", "7d", "200ms", "1us", "3ns", "0s"] {
            let d: HumanDuration = text.parse().unwrap();
            assert_eq!(parse_time(text, NOW), Ok(NOW.minus(d.get())), "{text}");
        }
        for text in ["1.5h", "2 hours ago", "1 week", "1mo", "PT5M", "P1D", "15M", "1h ago", "5 minutes"] {
            let refused = text.parse::<HumanDuration>().unwrap_err();
            let e = Query::default().set("since", text, NOW).unwrap_err();
            assert!(e.expected.contains(refused.expected), "{text}: {e}");
        }
    }

    /// A wrong value and an unknown key say what would be valid.
    #[test]
    fn refusals_help() {
        let mut q = Query::default();
        assert!(q.set("limit", "0", NOW).unwrap_err().to_string().contains("from 1"));
        assert!(q.set("severity", "bad", NOW).unwrap_err().to_string().contains("warn"));
        assert!(q.set("after", "xyz", NOW).unwrap_err().to_string().contains("24 hex"));
        assert!(q.set("nme", "oom", NOW).unwrap_err().to_string().contains("there are since, until, name"));
        assert_eq!(q, Query::default());
    }

    /// Each of container, pod and namespace must be the workload's; the node has none of them.
    #[test]
    fn workloads() {
        let text = |k: Key, v: &'static str| otlp::key_value(k.name, &crate::signal::Value::from(v));
        let attributes = vec![text(attr::K8S_POD_NAME, "shop-0"), text(attr::K8S_NAMESPACE_NAME, "prod")];
        let w = ResourceAttrs { name: "app".into(), attributes, ..ResourceAttrs::default() };
        let ask = |parameters: &[(&str, &str)]| {
            let mut q = Query::default();
            parameters.iter().for_each(|(k, v)| q.set(k, v, NOW).unwrap());
            (q.wants_workload(Some(&w)), q.wants_workload(None))
        };
        assert_eq!(ask(&[]), (true, true));
        assert_eq!(ask(&[("pod", "shop-0")]), (true, false));
        assert_eq!(ask(&[("namespace", "prod"), ("container", "app")]), (true, false));
        assert_eq!(ask(&[("namespace", "test"), ("container", "app")]), (false, false));
        assert_eq!(ask(&[("pod", "shop")]), (false, false));
    }

    /// A name matches whole, by collector and by dotted parts at either end, never in the middle of a word.
    #[test]
    fn names() {
        let q = |n: &str| Query { name: Some(n.into()), ..Query::default() };
        for yes in ["linux.memory.oom_kill", "oom", "linux.memory", "oom_kill", "memory.oom_kill", "linux"] {
            assert!(q(yes).wants_name("linux.memory.oom_kill", "oom"), "{yes}");
        }
        let of = |c: &str| Query { collector: Some(c.into()), ..Query::default() };
        assert!(of("oom").wants_name("linux.memory.oom_kill", "oom"));
        assert!(!of("linux.memory.oom_kill").wants_name("linux.memory.oom_kill", "oom"));
        for no in ["kill", "linux.mem", "softirq"] {
            assert!(!q(no).wants_name("linux.memory.oom_kill", "oom"), "{no}");
        }
    }
}
