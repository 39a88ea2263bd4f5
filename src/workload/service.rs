// SPDX-License-Identifier: Apache-2.0
//! The service that a workload is part of: what its process has published or was given by `OTEL_*`
//! variables, else Kubernetes' annotations and labels, else the container's name.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::signal::Workload;
use crate::signal::semconv::{Key, attr};

const NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// What the environment of a process says of its service. Nothing else of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ServiceEnv {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub version: Option<String>,
}

impl ServiceEnv {
    fn new(name: Option<&str>, resource: Option<&str>) -> Self {
        let get = |key: &str| resource.and_then(|r| attribute(r, key)).filter(|v| !v.is_empty());
        ServiceEnv {
            name: name.filter(|n| !n.is_empty()).map(str::to_owned).or_else(|| get(attr::SERVICE_NAME.name)),
            namespace: get(attr::SERVICE_NAMESPACE.name),
            version: get(attr::SERVICE_VERSION.name),
        }
    }

    /// From variables as `NAME=value`; the last of a name holds.
    pub fn of_list<'v>(variables: impl Iterator<Item = &'v str>) -> Self {
        let (mut name, mut resource) = (None, None);
        for variable in variables {
            match variable.split_once('=') {
                Some((NAME, v)) => name = Some(v),
                Some((RESOURCE, v)) => resource = Some(v),
                _ => {}
            }
        }
        Self::new(name, resource)
    }

    /// No name is longer than [`MAX_NAME`].
    pub fn bounded(self) -> Self {
        let cut = |text: Option<String>| text.as_deref().map(plain);
        ServiceEnv { name: cut(self.name), namespace: cut(self.namespace), version: cut(self.version) }
    }

    /// From the process context that it has published: OTEP 4719. Any process can publish anything, so
    /// only what names the service is taken, and not without bounds.
    pub fn of_context(payload: &[u8]) -> Self {
        let Ok(context) = ProcessContext::decode(payload) else { return Self::default() };
        let attributes = context.resource.unwrap_or_default().attributes;
        let get = |key: Key| {
            let found = attributes.iter().find(|a| a.key == key.name)?;
            match found.value.as_ref()?.value.as_ref()? {
                any_value::Value::StringValue(text) => Some(plain(text)).filter(|t| !t.is_empty()),
                _ => None,
            }
        };
        let [name, namespace, version] = [attr::SERVICE_NAME, attr::SERVICE_NAMESPACE, attr::SERVICE_VERSION].map(get);
        ServiceEnv { name, namespace, version }
    }

    /// What `first` says, and what it is silent on from this.
    pub fn after(self, first: Self) -> Self {
        ServiceEnv {
            name: first.name.or(self.name),
            namespace: first.namespace.or(self.namespace),
            version: first.version.or(self.version),
        }
    }

    /// Gives the workload what its process says of its service.
    pub fn apply(&self, w: &mut Workload) {
        let set = |slot: &mut Option<Arc<str>>, value: &Option<String>| {
            *slot = value.as_deref().map(Arc::from).or(slot.take())
        };
        w.service_declared |= self.name.is_some();
        set(&mut w.service_name, &self.name);
        set(&mut w.service_namespace, &self.namespace);
        set(&mut w.service_version, &self.version);
    }
}

/// `opentelemetry.proto.processcontext.v1development.ProcessContext`
#[derive(Clone, PartialEq, prost::Message)]
struct ProcessContext {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
}

/// Longer names are cut.
const MAX_NAME: usize = 255;

/// Without what would upset a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

/// Annotations for all languages' instrumentation: "Specify resource attributes using Kubernetes annotations".
const ANNOTATED: [&str; 3] = [
    "resource.opentelemetry.io/service.name",
    "resource.opentelemetry.io/service.namespace",
    "resource.opentelemetry.io/service.version",
];
const NAMES: [&str; 3] = ["app.kubernetes.io/name", "app.kubernetes.io/instance", "com.docker.compose.service"];
const NAMESPACE: &str = "app.kubernetes.io/part-of";
const VERSION: &str = "app.kubernetes.io/version";

/// Whether a label or annotation describes the service.
pub(super) fn names_service(key: &str) -> bool {
    ANNOTATED.contains(&key) || NAMES.contains(&key) || [NAMESPACE, VERSION].contains(&key)
}

/// Sets the workload's service from its labels and those of its pod, where its process declares none.
pub(super) fn by_labels(w: &mut Workload, pod: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) {
    let find =
        |key: &str| pod.get(key).or_else(|| w.labels.get(key)).filter(|v| !v.is_empty()).map(|v| Arc::from(v.as_str()));
    let annotated = |key: &str| annotations.get(key).filter(|v| !v.is_empty()).map(|v| Arc::from(v.as_str()));
    let [name, namespace, version] = ANNOTATED.map(annotated);
    let name = name.or_else(|| NAMES.into_iter().find_map(find));
    let (namespace, version) = (namespace.or_else(|| find(NAMESPACE)), version.or_else(|| find(VERSION)));
    if !w.service_declared {
        let of_pod = w.pod.as_ref().and_then(|p| p.container.clone());
        w.service_name = name.or(of_pod).or_else(|| w.container_name.as_deref().map(Arc::from));
    }
    w.service_namespace = w.service_namespace.take().or(namespace);
    w.service_version = w.service_version.take().or(version);
}

/// Gives a container another name, and its service, where nothing but the name named that.
pub(super) fn rename(w: &mut Workload, name: &str) {
    let old = w.container_name.replace(name.to_owned());
    let labelled = NAMES.iter().any(|key| w.labels.contains_key(*key));
    if !w.service_declared && !labelled && w.service_name.as_deref() == old.as_deref() {
        w.service_name = Some(name.into());
    }
}

/// One of `key=value,key=value`, percent-decoded: OpenTelemetry's Resource SDK specification.
fn attribute(list: &str, key: &str) -> Option<String> {
    let pairs = list.split(',').filter_map(|p| p.split_once('='));
    pairs.rev().find(|(k, _)| k.trim() == key).map(|(_, v)| decode(v.trim()))
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit())).and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::WorkloadKey;
    use crate::workload::table::describe;
    use proptest::prelude::*;

    /// `OTEL_SERVICE_NAME` before `service.name` in the list, values percent-decoded.
    #[test]
    fn from_an_environment() {
        let list = ["A=b", "OTEL_RESOURCE_ATTRIBUTES=service.name=no, service.version=1%2C2 ,service.namespace=sh%op"];
        let with_name = list.into_iter().chain(["OTEL_SERVICE_NAME=cart"]);
        let env = ServiceEnv::of_list(with_name);
        assert_eq!((env.name.as_deref(), env.version.as_deref()), (Some("cart"), Some("1,2")));
        assert_eq!(env.namespace.as_deref(), Some("sh%op"));
        assert_eq!(ServiceEnv::of_list(list.into_iter()).name.as_deref(), Some("no"));
        assert_eq!(ServiceEnv::of_list(["OTEL_SERVICE_NAME="].into_iter()), ServiceEnv::default());
    }

    /// Environment before annotation before label before container name; what comes late is heeded, and a
    /// later silent look takes nothing back.
    #[test]
    fn what_comes_first() {
        let none = BTreeMap::new();
        let mut w = describe(WorkloadKey(1), "/x", false);
        w.container_name = Some("c".into());
        by_labels(&mut w, &none, &none);
        assert_eq!(w.service_name.as_deref(), Some("c"));
        w.labels.insert("app.kubernetes.io/name".into(), "shop".into());
        w.labels.insert("app.kubernetes.io/version".into(), "7".into());
        by_labels(&mut w, &none, &none);
        assert_eq!((w.service_name.as_deref(), w.service_version.as_deref()), (Some("shop"), Some("7")));
        let annotations = BTreeMap::from([(ANNOTATED[0].to_owned(), "said".to_owned())]);
        by_labels(&mut w, &none, &annotations);
        assert_eq!(w.service_name.as_deref(), Some("said"));
        ServiceEnv { name: Some("declared".into()), ..ServiceEnv::default() }.apply(&mut w);
        ServiceEnv::default().apply(&mut w);
        by_labels(&mut w, &none, &annotations);
        assert_eq!((w.service_name.as_deref(), w.service_version.as_deref()), (Some("declared"), Some("7")));
    }

    /// A service that is called after its container goes on being so; one that is named otherwise keeps its name.
    #[test]
    fn renamed_with_its_container() {
        let named = |service: &str, declared: bool, label: Option<&str>| {
            let mut w = describe(WorkloadKey(1), "/x", false);
            w.container_name = Some("c".into());
            w.service_name = Some(service.into());
            w.service_declared = declared;
            w.labels.extend(label.map(|l| (NAMES[0].to_owned(), l.to_owned())));
            rename(&mut w, "d");
            assert_eq!(w.container_name.as_deref(), Some("d"));
            w.service_name
        };
        assert_eq!(named("c", false, None).as_deref(), Some("d"));
        assert_eq!(named("shop", false, None).as_deref(), Some("shop"));
        assert_eq!(named("c", true, None).as_deref(), Some("c"));
        assert_eq!(named("c", false, Some("c")).as_deref(), Some("c"));
    }

    /// The published context names the service before the environment; what else it says is not taken.
    #[test]
    fn from_a_process_context() {
        use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
        let attribute = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
            ..KeyValue::default()
        };
        let attributes = vec![attribute("service.name", "ca\u{1b}rt"), attribute("container.id", "lie")];
        let context = ProcessContext { resource: Some(Resource { attributes, ..Resource::default() }) };
        let declared = ServiceEnv::of_context(&context.encode_to_vec());
        assert_eq!(declared, ServiceEnv { name: Some("cart".into()), ..ServiceEnv::default() });
        let env = ServiceEnv { name: Some("env".into()), version: Some("1".into()), ..ServiceEnv::default() };
        let both = env.after(declared);
        assert_eq!((both.name.as_deref(), both.version.as_deref()), (Some("cart"), Some("1")));
        assert_eq!(ServiceEnv::of_context(b"\xff\xff"), ServiceEnv::default());
    }

    proptest! {
        /// No value makes the decoding panic, and what has no percent sign is itself.
        #[test]
        fn decoding(v in "(?s).{0,40}") {
            let got = decode(&v);
            if !v.contains('%') {
                prop_assert_eq!(got, v);
            }
        }
    }
}
