// SPDX-License-Identifier: Apache-2.0
//! Entries of the log as OTLP requests: grouped by whose they are and by the collector.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::body::Bytes;

use super::Signal;
use super::wire;
use crate::exporters::node::{Node, Resources};
use crate::signal::WorkloadKey;
use crate::signal::entry::Entry;
use crate::signal::semconv::SCHEMA_URL;

/// One export request of the entries' log records or spans, and how many there are in it.
#[must_use]
pub fn request(signal: Signal, entries: &[Arc<Entry>], resources: &Resources, node: &Node) -> (Bytes, u64) {
    let mut count = 0;
    let mut groups: BTreeMap<Option<WorkloadKey>, BTreeMap<&str, Vec<u8>>> = BTreeMap::new();
    for entry in entries {
        let n = records(signal, entry);
        if n == 0 {
            continue;
        }
        count += n;
        let out = groups.entry(entry.workload()).or_default().entry(&entry.collector).or_default();
        match signal {
            Signal::Logs => entry.log.iter().for_each(|l| wire::message(out, 2, l)),
            Signal::Traces => entry.spans.iter().for_each(|s| wire::message(out, 2, s)),
            Signal::Metrics => {}
        }
    }
    let mut out = Vec::new();
    for (key, scopes) in &groups {
        wire::nested(&mut out, 1, |out| {
            wire::resource(out, 1, &node.resource_of(*key, resources));
            for (collector, records) in scopes {
                wire::nested(out, 2, |out| {
                    wire::scope(out, 1, collector);
                    out.extend_from_slice(records);
                    wire::bytes(out, 3, SCHEMA_URL.as_bytes());
                });
            }
            wire::bytes(out, 3, SCHEMA_URL.as_bytes());
        });
    }
    (out.into(), count)
}

/// How many records of a signal an entry has.
#[must_use]
pub fn records(signal: Signal, entry: &Entry) -> u64 {
    match signal {
        Signal::Logs => u64::from(entry.log.is_some()),
        Signal::Traces => entry.spans.len() as u64,
        Signal::Metrics => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use crate::signal::entry::ResourceAttrs;
    use crate::signal::semconv::attr;
    use crate::signal::{Attributes, otlp};
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message as _;

    fn node() -> Node {
        let mut a = Attributes::new();
        a.set(attr::HOST_NAME, "n1").set(attr::SERVICE_NAME, "bianque").set(attr::SERVICE_VERSION, "1");
        a.set(attr::K8S_POD_NAME, "bianque-x1");
        Node::new(&a)
    }

    fn entry(collector: &str, workload: Option<u64>, name: &str) -> Arc<Entry> {
        Arc::new(Entry {
            collector: collector.into(),
            raw_workload: workload,
            log: Some(LogRecord { event_name: name.into(), ..Default::default() }),
            spans: vec![Span { name: name.into(), ..Default::default() }],
            ..Default::default()
        })
    }

    fn resources() -> Resources {
        let attributes = vec![otlp::key_value("container.name", &"shop".into())];
        HashMap::from([(
            WorkloadKey(7),
            Arc::new(ResourceAttrs { raw_key: 7, attributes, name: "shop".into(), ..Default::default() }),
        )])
    }

    /// Records are filed by whose they are and by collector, in their order, with versions and schema.
    #[test]
    fn records_are_grouped() {
        let entries = [entry("oom", Some(7), "a"), entry("softirq", None, "b"), entry("oom", Some(7), "c")];
        let (bytes, n) = request(Signal::Logs, &entries, &resources(), &node());
        let read = ExportLogsServiceRequest::decode(bytes).unwrap();
        assert_eq!((n, read.resource_logs.len()), (3, 2));
        let of_node = &read.resource_logs[0];
        assert_eq!(otlp::text(&of_node.resource.as_ref().unwrap().attributes, "k8s.pod.name"), Some("bianque-x1"));
        let shop = &read.resource_logs[1];
        assert_eq!(shop.schema_url, SCHEMA_URL);
        let scope = &shop.scope_logs[0];
        let named = scope.scope.as_ref().unwrap();
        assert_eq!((named.name.as_str(), named.version.as_str()), ("oom", env!("CARGO_PKG_VERSION")));
        assert_eq!(scope.log_records.iter().map(|l| l.event_name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    }

    /// A workload takes over where the node is, never what the agent is.
    #[test]
    fn agents_attributes_stay_off_workloads() {
        let (bytes, _) = request(Signal::Traces, &[entry("oom", Some(7), "a")], &resources(), &node());
        let read = ExportTraceServiceRequest::decode(bytes).unwrap();
        let attributes = &read.resource_spans[0].resource.as_ref().unwrap().attributes;
        let keys: Vec<_> = attributes.iter().map(|kv| kv.key.as_str()).collect();
        assert_eq!(keys, ["host.name", "service.name", "container.name"]);
    }

    /// An entry whose workload's record is gone is not filed under the node.
    #[test]
    fn unknown_workload_is_not_the_node() {
        let (bytes, _) = request(Signal::Traces, &[entry("oom", Some(9), "a")], &resources(), &node());
        let read = ExportTraceServiceRequest::decode(bytes).unwrap();
        assert_eq!(otlp::text(&read.resource_spans[0].resource.as_ref().unwrap().attributes, "k8s.pod.name"), None);
    }

    /// Entries without the signal make no empty groups.
    #[test]
    fn entries_without_the_signal_are_left_out() {
        let bare = Arc::new(Entry { collector: "oom".into(), ..Default::default() });
        assert_eq!(request(Signal::Logs, &[bare], &resources(), &node()), (Bytes::new(), 0));
    }
}
