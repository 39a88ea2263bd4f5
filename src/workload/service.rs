// SPDX-License-Identifier: Apache-2.0
//! The service that a workload is part of: what its process was told by `OTEL_*` variables, else
//! Kubernetes' labels, else the container's name.

use crate::host::{Host, Reading};
use crate::signal::Workload;
use crate::signal::semconv::attr;

const NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// What the environment of a process says of its service. Nothing else of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

    /// From a process's environment.
    pub fn of_process(host: &Host, pid: u32) -> Reading<Self> {
        let [name, resource] = host.environment(pid, [NAME, RESOURCE])?;
        Ok(Self::new(name.as_deref(), resource.as_deref()))
    }

    /// Gives the workload its service. What was said before by an environment is not taken back by one
    /// that says nothing.
    pub fn apply(&self, w: &mut Workload) {
        let label = |keys: &[&str]| keys.iter().find_map(|k| w.labels.get(*k)).filter(|v| !v.is_empty()).cloned();
        let by_label = label(&["app.kubernetes.io/name", "app.kubernetes.io/instance", "com.docker.compose.service"]);
        let of_pod = || w.pod.as_ref().and_then(|p| p.container.clone());
        let named = self.name.clone().or_else(|| w.service_name.clone()).or(by_label);
        let namespace = self.namespace.clone().or_else(|| label(&["app.kubernetes.io/part-of"]));
        let version = self.version.clone().or_else(|| label(&["app.kubernetes.io/version"]));
        w.service_name = named.or_else(of_pod).or_else(|| w.container_name.clone());
        w.service_namespace = namespace.or(w.service_namespace.take());
        w.service_version = version.or(w.service_version.take());
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

    /// Environment before label before container name, and a later silent look takes nothing back.
    #[test]
    fn what_comes_first() {
        let mut w = describe(WorkloadKey(1), "/x", false);
        w.container_name = Some("c".into());
        let silent = ServiceEnv::default();
        let told = ServiceEnv { name: Some("told".into()), ..ServiceEnv::default() };
        let mut named = w.clone();
        silent.apply(&mut named);
        assert_eq!(named.service_name.as_deref(), Some("c"));
        w.labels.insert("app.kubernetes.io/name".into(), "shop".into());
        w.labels.insert("app.kubernetes.io/version".into(), "7".into());
        silent.apply(&mut w);
        assert_eq!((w.service_name.as_deref(), w.service_version.as_deref()), (Some("shop"), Some("7")));
        told.apply(&mut w);
        silent.apply(&mut w);
        assert_eq!(w.service_name.as_deref(), Some("told"));
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
