// SPDX-License-Identifier: Apache-2.0
//! OTLP resources of the node and of the workloads that run on it.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::signal::entry::ResourceAttrs;
use crate::signal::semconv::attr;
use crate::signal::{Attributes, WorkloadKey, otlp};

/// What is known of the workloads of some entries.
pub type Resources = HashMap<WorkloadKey, Arc<ResourceAttrs>>;

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

    /// The resource of an entry, with what is known of its workload.
    #[must_use]
    pub fn resource_of(&self, workload: Option<WorkloadKey>, known: &Resources) -> Vec<KeyValue> {
        let attributes = workload.and_then(|k| known.get(&k)).map(|r| r.attributes.as_slice());
        // A workload of which nothing is known is still not the node.
        self.resource(attributes.or(workload.is_some().then_some(&[])))
    }
}
