// SPDX-License-Identifier: Apache-2.0
//! Entries of the log as OTLP requests: grouped by resource (workload) and scope (collector).

use std::collections::BTreeMap;

use hyper::body::Bytes;

use super::Signal;
use crate::exporters::node::{Node, Resources};
use crate::signal::semconv::{SCHEMA_URL, attr};
use crate::signal::{RawEntry, WorkloadKey, raw, wire};

/// One export request of the entries' log records or spans, or of one entry's profiles, and how many there are in it.
#[must_use]
pub fn request(signal: Signal, entries: &[RawEntry], resources: &Resources, node: &Node) -> (Bytes, u64) {
    match signal {
        Signal::Logs => grouped(entries, |e| e.log().into_iter(), uid, resources, node),
        Signal::Traces => grouped(entries, RawEntry::spans, |_, _| (), resources, node),
        Signal::Profiles => {
            let profile = entries.iter().find_map(|e| Some((e, e.profile()?)));
            profile.map_or((Bytes::new(), 0), |(e, p)| (profile_request(e, p, resources, node), profiles_in(p)))
        }
        Signal::Metrics => (Bytes::new(), 0),
    }
}

/// By its id a receiver finds a record that was delivered twice. Spans have ids of their own.
fn uid(out: &mut Vec<u8>, entry: &RawEntry) {
    // Field 6 of `LogRecord` are its attributes.
    wire::text_attribute(out, 6, attr::LOG_RECORD_UID.name, &entry.id().to_string());
}

/// Requests for logs and traces have the same form: resource, scope and schema around the records. `more`: writes
/// fields of a record that it does not have in the store.
fn grouped<'a, I: Iterator<Item = &'a [u8]>>(
    entries: &'a [RawEntry],
    records: impl Fn(&'a RawEntry) -> I,
    more: impl Fn(&mut Vec<u8>, &RawEntry),
    resources: &Resources,
    node: &Node,
) -> (Bytes, u64) {
    let mut count = 0;
    let mut groups: BTreeMap<Option<WorkloadKey>, BTreeMap<&str, Vec<u8>>> = BTreeMap::new();
    for entry in entries {
        let mut records = records(entry).peekable();
        if records.peek().is_none() {
            continue;
        }
        let out = groups.entry(entry.workload()).or_default().entry(entry.collector()).or_default();
        for record in records {
            wire::nested(out, 2, |out| {
                out.extend_from_slice(record);
                more(out, entry);
            });
            count += 1;
        }
    }
    let mut out = Vec::with_capacity(groups.values().flat_map(BTreeMap::values).map(|r| r.len() + 1024).sum());
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

/// Profiles stand in scopes, and these in resources. What cannot be read still is one that was sent.
fn profiles_in(data: &[u8]) -> u64 {
    let scopes = raw::fields(data, 1).flat_map(|r| raw::fields(r, 2));
    scopes.flat_map(|s| raw::fields(s, 2)).count().max(1) as u64
}

/// `ProfilesData` has the form of a request; what it lacks is the resource.
fn profile_request(entry: &RawEntry, profile: &[u8], resources: &Resources, node: &Node) -> Bytes {
    let mut out = Vec::with_capacity(profile.len() + 1024);
    for of_resource in raw::fields(profile, 1) {
        wire::nested(&mut out, 1, |out| {
            wire::resource(out, 1, &node.resource_of(entry.workload(), resources));
            out.extend_from_slice(of_resource);
        });
    }
    raw::fields(profile, 2).for_each(|dictionary| wire::bytes(&mut out, 2, dictionary));
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    use crate::signal::entry::{Entry, ResourceAttrs};
    use crate::signal::ids::EventId;
    use crate::signal::{Attributes, otlp};
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::profiles::v1development::{
        Profile, ProfilesData, ProfilesDictionary, ResourceProfiles, ScopeProfiles,
    };
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message as _;

    fn node() -> Node {
        let mut a = Attributes::new();
        a.set(attr::HOST_NAME, "n1").set(attr::SERVICE_NAME, "bianque").set(attr::SERVICE_VERSION, "1");
        a.set(attr::K8S_POD_NAME, "bianque-x1");
        Node::new(&a)
    }

    fn raw(e: &Entry) -> RawEntry {
        RawEntry::new(e.id(), e.encode_to_vec().into()).unwrap()
    }

    fn entry(collector: &str, workload: Option<u64>, name: &str) -> RawEntry {
        let mut e = Entry::new(EventId([0; 12]), collector, workload.map(WorkloadKey));
        e.log = Some(LogRecord { event_name: name.into(), ..Default::default() });
        e.spans = vec![Span { name: name.into(), ..Default::default() }];
        raw(&e)
    }

    fn resources() -> Resources {
        let attributes = vec![otlp::key_value("container.name", &"shop".into())];
        HashMap::from([(
            WorkloadKey(7),
            Arc::new(ResourceAttrs { raw_key: 7, attributes, name: "shop".into(), ..Default::default() }),
        )])
    }

    /// Records are grouped by workload and by collector, in their order, with versions and schema.
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
        // Sent again, a record has the same id.
        let uids: Vec<_> = scope.log_records.iter().map(|l| otlp::text(&l.attributes, "log.record.uid")).collect();
        assert_eq!(uids, [Some("000000000000000000000000"); 2]);
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
        let bare = raw(&Entry { collector: "oom".into(), ..Default::default() });
        for signal in Signal::ALL {
            assert_eq!(request(signal, std::slice::from_ref(&bare), &resources(), &node()), (Bytes::new(), 0));
        }
    }

    /// A profile goes out as it was captured, with its dictionary, and with the workload's resource.
    #[test]
    fn profile_gets_its_resource() {
        let profiles = vec![Profile { period: 1, ..Default::default() }, Profile { period: 2, ..Default::default() }];
        let scopes = vec![ScopeProfiles { profiles, schema_url: SCHEMA_URL.into(), ..Default::default() }];
        let stored = ProfilesData {
            resource_profiles: vec![ResourceProfiles { scope_profiles: scopes.clone(), ..Default::default() }],
            dictionary: Some(ProfilesDictionary {
                string_table: vec![String::new(), "main".into()],
                ..Default::default()
            }),
        };
        let mut e = Entry::new(EventId([0; 12]), "cpuidle", Some(WorkloadKey(7)));
        e.profile = Some(stored.encode_to_vec());
        let (bytes, n) = request(Signal::Profiles, &[raw(&e)], &resources(), &node());
        let read = ExportProfilesServiceRequest::decode(bytes).unwrap();
        assert_eq!((n, &read.dictionary), (2, &stored.dictionary));
        let of_shop = &read.resource_profiles[0];
        assert_eq!(otlp::text(&of_shop.resource.as_ref().unwrap().attributes, "container.name"), Some("shop"));
        assert_eq!(of_shop.scope_profiles, scopes);
    }
}
