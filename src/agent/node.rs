// SPDX-License-Identifier: Apache-2.0
//! What the node is called: its ids, and its resource attributes.

use crate::host::Host;
use crate::pipeline::incident::Identity;
use crate::signal::Attributes;
use crate::signal::semconv::attr;

/// Ids that event and trace ids are made from. A node without a machine id goes by its name.
pub(super) fn identity(host: &Host) -> Identity {
    let host_id = host.machine_id().or_else(|_| host.hostname()).unwrap_or_default();
    Identity { host_id, boot_id: host.boot_id().unwrap_or_default() }
}

/// `host.*` and `os.*` of the node.
pub(super) fn resource(host: &Host, env: &std::collections::BTreeMap<String, String>) -> Attributes {
    let mut a = Attributes::new();
    a.set_some(attr::HOST_NAME, host.hostname().ok());
    a.set_some(attr::HOST_ID, host.machine_id().ok());
    a.set(attr::HOST_ARCH, Host::arch());
    a.set(attr::OS_TYPE, "linux");
    a.set_some(attr::OS_VERSION, host.kernel_release().ok());
    // As the Downward API hands it to a DaemonSet.
    a.set_some(attr::K8S_NODE_NAME, env.get("K8S_NODE_NAME").cloned());
    a
}
