// SPDX-License-Identifier: Apache-2.0
//! Entries of the log as OTLP requests: grouped by whose they are and by the collector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hyper::body::Bytes;
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::Signal;
use crate::signal::entry::ResourceAttrs;
use crate::signal::semconv::{SCHEMA_URL, attr};
use crate::signal::{Attributes, RawEntry, WorkloadKey, otlp, raw, wire};

/// The node's resource, and its part in the resources of workloads.
#[derive(Debug, Clone, Default)]
pub struct Node {
    all: Vec<KeyValue>,
    shared: Vec<KeyValue>,
    service: Option<KeyValue>,
}

impl Node {
    /// `resource`: of the agent and the node, with what the environment says.
    #[must_use]
    pub fn new(resource: &Attributes) -> Self {
        let all = otlp::key_values(resource);
        let shared = all.iter().filter(|kv| otlp::is_of_node(&kv.key)).cloned().collect();
        let service = all.iter().find(|kv| kv.key == attr::SERVICE_NAME.name).cloned();
        Node { all, shared, service }
    }

    /// The resource of a workload, or of the node.
    #[must_use]
    pub fn resource(&self, workload: Option<&[KeyValue]>) -> Vec<KeyValue> {
        let Some(own) = workload else { return self.all.clone() };
        let named = |key: &str| own.iter().any(|kv| kv.key == key);
        let mut out: Vec<KeyValue> = self.shared.iter().filter(|kv| !named(&kv.key)).cloned().collect();
        // Without a service of its own it is filed under the agent's: a resource must have one.
        out.extend(self.service.iter().filter(|kv| !named(&kv.key)).cloned());
        out.extend_from_slice(own);
        out
    }
}

/// What is known of the workloads of some entries.
pub type Resources = HashMap<WorkloadKey, Arc<ResourceAttrs>>;

/// One export request of the entries' log records or spans, or of one entry's profile, and how many there are in it.
#[must_use]
pub fn request(signal: Signal, entries: &[RawEntry], resources: &Resources, node: &Node) -> (Bytes, u64) {
    match signal {
        Signal::Logs => grouped(entries, |e| e.log().into_iter(), resources, node),
        Signal::Traces => grouped(entries, RawEntry::spans, resources, node),
        Signal::Profiles => {
            let profile = entries.iter().find_map(|e| Some((e, e.profile()?)));
            profile.map_or((Bytes::new(), 0), |(e, p)| (profile_request(e, p, resources, node), 1))
        }
        Signal::Metrics => (Bytes::new(), 0),
    }
}

/// Requests for logs and traces have the same form: resource, scope and schema around the records.
fn grouped<'a, I: Iterator<Item = &'a [u8]>>(
    entries: &'a [RawEntry],
    records: impl Fn(&'a RawEntry) -> I,
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
            wire::bytes(out, 2, record);
            count += 1;
        }
    }
    let mut out = Vec::with_capacity(groups.values().flat_map(BTreeMap::values).map(|r| r.len() + 1024).sum());
    for (key, scopes) in &groups {
        wire::nested(&mut out, 1, |out| {
            wire::resource(out, 1, &resource(*key, resources, node));
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

fn resource(key: Option<WorkloadKey>, resources: &Resources, node: &Node) -> Vec<KeyValue> {
    let known = key.and_then(|k| resources.get(&k)).map(|r| r.attributes.as_slice());
    // A workload of which nothing is known is still not the node.
    node.resource(known.or(key.is_some().then_some(&[])))
}

/// `ProfilesData` has the form of a request; what it lacks is the resource.
fn profile_request(entry: &RawEntry, profile: &[u8], resources: &Resources, node: &Node) -> Bytes {
    let mut out = Vec::with_capacity(profile.len() + 1024);
    for of_resource in raw::fields(profile, 1) {
        wire::nested(&mut out, 1, |out| {
            wire::resource(out, 1, &resource(entry.workload(), resources, node));
            out.extend_from_slice(of_resource);
        });
    }
    raw::fields(profile, 2).for_each(|dictionary| wire::bytes(&mut out, 2, dictionary));
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entry::Entry;
    use crate::signal::ids::EventId;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::profiles::v1development::{
        ProfilesData, ProfilesDictionary, ResourceProfiles, ScopeProfiles,
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
        let bare = raw(&Entry { collector: "oom".into(), ..Default::default() });
        for signal in Signal::ALL {
            assert_eq!(request(signal, std::slice::from_ref(&bare), &resources(), &node()), (Bytes::new(), 0));
        }
    }

    /// A profile goes out as it was captured, with its dictionary, and with the workload's resource.
    #[test]
    fn profile_gets_its_resource() {
        let scopes = vec![ScopeProfiles { schema_url: SCHEMA_URL.into(), ..Default::default() }];
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
        assert_eq!((n, &read.dictionary), (1, &stored.dictionary));
        let of_shop = &read.resource_profiles[0];
        assert_eq!(otlp::text(&of_shop.resource.as_ref().unwrap().attributes, "container.name"), Some("shop"));
        assert_eq!(of_shop.scope_profiles, scopes);
    }
}
