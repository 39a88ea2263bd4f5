// SPDX-License-Identifier: Apache-2.0
//! Attribute keys that more than one file needs, and the schema. OpenTelemetry
//! semantic conventions where they exist, `linux.*` in the same style where they do not. Names of
//! metrics and events, and keys that one collector alone sets, stand in the collectors' files.

/// An attribute's name and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub help: &'static str,
    pub unit: Option<&'static str>,
}

impl Key {
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Key { name, help, unit: None }
    }

    /// The same for figures: the unit (UCUM) in which they are, for people to see them as sizes.
    #[must_use]
    pub const fn in_unit(self, unit: &'static str) -> Self {
        Key { unit: Some(unit), ..self }
    }
}

/// Schema of the semantic conventions that the names follow; its version is what the documents name.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Name of the span event that tells of an exception.
pub const EXCEPTION: &str = "exception";

/// The agent's name: its instrumentation scope, and who reports where no collector does.
pub const AGENT: &str = "bianque";

/// Attribute keys.
pub mod attr {
    use super::Key;

    // Resources (OTel).
    pub const SERVICE_NAME: Key = Key::new("service.name", "Logical name of the service");
    pub const SERVICE_NAMESPACE: Key = Key::new("service.namespace", "Namespace of the service");
    pub const SERVICE_VERSION: Key = Key::new("service.version", "Version of the service");
    pub const SERVICE_INSTANCE_ID: Key = Key::new("service.instance.id", "Id of the service's instance");
    pub const HOST_NAME: Key = Key::new("host.name", "Name of the node");
    pub const HOST_ID: Key = Key::new("host.id", "The node's machine id");
    pub const HOST_ARCH: Key = Key::new("host.arch", "The node's CPU architecture");
    pub const OS_TYPE: Key = Key::new("os.type", "Operating system");
    pub const OS_VERSION: Key = Key::new("os.version", "Kernel release");
    pub const K8S_NODE_NAME: Key = Key::new("k8s.node.name", "Name of the Kubernetes node");
    pub const K8S_NAMESPACE_NAME: Key = Key::new("k8s.namespace.name", "Namespace of the pod");
    pub const K8S_POD_NAME: Key = Key::new("k8s.pod.name", "Name of the pod");
    pub const K8S_POD_UID: Key = Key::new("k8s.pod.uid", "UID of the pod");
    pub const K8S_CONTAINER_NAME: Key = Key::new("k8s.container.name", "Name of the container in its pod");
    pub const K8S_CONTAINER_RESTART_COUNT: Key =
        Key::new("k8s.container.restart_count", "How often the container was started before in its pod");
    pub const K8S_DEPLOYMENT_NAME: Key = Key::new("k8s.deployment.name", "Name of the Deployment that made the pod");
    pub const K8S_REPLICASET_NAME: Key = Key::new("k8s.replicaset.name", "Name of the ReplicaSet that made the pod");
    pub const K8S_STATEFULSET_NAME: Key = Key::new("k8s.statefulset.name", "Name of the StatefulSet that made the pod");
    pub const K8S_DAEMONSET_NAME: Key = Key::new("k8s.daemonset.name", "Name of the DaemonSet that made the pod");
    pub const K8S_JOB_NAME: Key = Key::new("k8s.job.name", "Name of the Job that made the pod");
    pub const K8S_CRONJOB_NAME: Key = Key::new("k8s.cronjob.name", "Name of the CronJob that made the Job");
    /// As the OpenTelemetry Collector's k8s_cluster receiver has it; the conventions have no name for it yet.
    pub const K8S_POD_QOS_CLASS: Key = Key::new("k8s.pod.qos_class", "Guaranteed, Burstable or BestEffort");
    pub const LINUX_K8S_CONTAINER_KIND: Key =
        Key::new("linux.k8s.container.kind", "init, sidecar, ephemeral, sandbox; none: a plain container of the pod");
    pub const LINUX_K8S_POD_STATIC: Key =
        Key::new("linux.k8s.pod.static", "true: the kubelet made the pod from a file on the node");
    /// Before a label's or annotation's own name.
    pub const K8S_POD_LABEL: &str = "k8s.pod.label.";
    pub const K8S_POD_ANNOTATION: &str = "k8s.pod.annotation.";
    pub const CONTAINER_LABEL: &str = "container.label.";
    pub const CONTAINER_ID: Key = Key::new("container.id", "Id of the container");
    pub const CONTAINER_NAME: Key = Key::new("container.name", "Name of the container, as its runtime has it");
    pub const CONTAINER_RUNTIME: Key = Key::new("container.runtime.name", "The container's runtime");
    pub const CONTAINER_IMAGE_NAME: Key = Key::new("container.image.name", "Name of the image");
    pub const CONTAINER_IMAGE_TAGS: Key = Key::new("container.image.tags", "Tags of the image");
    pub const LINUX_CGROUP_PATH: Key = Key::new("linux.cgroup.path", "Path of the cgroup below its hierarchy's root");
    pub const LINUX_SYSTEMD_UNIT: Key = Key::new("linux.systemd.unit", "The systemd unit");

    // Threads and processes (OTel).
    pub const PROCESS_PID: Key = Key::new("process.pid", "Process id, in the node's pid namespace");
    pub const THREAD_ID: Key = Key::new("thread.id", "Thread id, in the node's pid namespace");
    pub const THREAD_NAME: Key = Key::new("thread.name", "The thread's name (comm)");
    pub const PROCESS_MEMORY_USAGE: Key = Key::new("process.memory.usage", "Resident bytes").in_unit("By");
    pub const CPU_MODE: Key =
        Key::new("cpu.mode", "What the CPU did: user, nice, system, idle, iowait, interrupt (hard and soft), steal");
    pub const SYSTEM_DEVICE: Key = Key::new("system.device", "The device, as the kernel names it");
    pub const DISK_IO_DIRECTION: Key =
        Key::new("disk.io.direction", "read, write; where requests are timed also flush, discard");
    pub const CPU_LOGICAL_NUMBER: Key = Key::new("cpu.logical_number", "The CPU");
    pub const LINUX_STACK_KERNEL: Key = Key::new("linux.stack.kernel", "Kernel stack, a frame a line, innermost first");
    pub const LINUX_STACK_USER: Key = Key::new("linux.stack.user", "User stack, a frame a line, innermost first");
    pub const LINUX_STACK_KERNEL_ID: Key =
        Key::new("linux.stack.kernel_id", "The same for equal kernel stacks, on every node with the same kernel");
    pub const LINUX_STACK_USER_ID: Key =
        Key::new("linux.stack.user_id", "The same for equal user stacks, in every process of the same program");
    pub const LOG_RECORD_UID: Key = Key::new("log.record.uid", "The event's id: records that share it are one");
    pub const LINUX_DURATION: Key = Key::new("linux.duration", "How long it had lasted, in nanoseconds");
    pub const LINUX_SUPPRESSED: Key =
        Key::new("linux.suppressed", "Events of this kind of this workload that were limited since the last one");

    // Exceptions (OTel): what back ends show as an error of a service.
    pub const EXCEPTION_TYPE: Key = Key::new("exception.type", "Name of the event");
    pub const EXCEPTION_MESSAGE: Key = Key::new("exception.message", "What happened");
    pub const EXCEPTION_STACKTRACE: Key =
        Key::new("exception.stacktrace", "Kernel stack, then user stack, a frame a line, innermost first");

    pub const OVERFLOW: Key =
        Key::new("overflow", "true on the one series that takes what `metrics.max_series` leaves no room for");

    pub const LINUX_TRIGGER: Key = Key::new("linux.trigger", "Whose request started it: thread and workload");
    pub const LINUX_VICTIM: Key = Key::new("linux.victim", "Who suffered: thread and workload");
    pub const LINUX_CULPRIT: Key = Key::new("linux.culprit", "Who is to blame: thread and workload");
    pub const LINUX_CPU_STEAL: Key =
        Key::new("linux.cpu.steal", "Nanoseconds of it that the hypervisor took; not counted as delay");

    pub const LINUX_SOFTIRQ_VECTOR: Key = Key::new("linux.softirq.vector", "NET_RX, TIMER, RCU, …");

    pub const LINUX_EVENT_SEVERITY: Key =
        Key::new("linux.event.severity", "Severity of the counted events: INFO, WARN, ERROR, FATAL");

    // What lasts.
    pub const LINUX_PHASE: Key = Key::new("linux.phase", "Of what lasts: begun, lasting (told again), ended");

    // Packets and connections (OTel), and what the kernel knows of them.
    pub const NETWORK_TYPE: Key = Key::new("network.type", "ipv4, ipv6");
    pub const NETWORK_TRANSPORT: Key = Key::new("network.transport", "tcp, udp, icmp, …, or the protocol's number");
    pub const NETWORK_CONNECTION_STATE: Key =
        Key::new("network.connection.state", "State of the TCP socket: established, listen, …");
    pub const SOURCE_ADDRESS: Key = Key::new("source.address", "Address that the packet came from");
    pub const SOURCE_PORT: Key = Key::new("source.port", "Its port");
    pub const DESTINATION_ADDRESS: Key = Key::new("destination.address", "Address that the packet was sent to");
    pub const DESTINATION_PORT: Key = Key::new("destination.port", "Its port");
    pub const LINUX_NET_PACKET_SIZE: Key = Key::new("linux.net.packet.size", "Bytes of the packet");

    pub const LINUX_DROP_REASON: Key =
        Key::new("linux.net.drop.reason", "The kernel's name of why, without SKB_DROP_REASON_; a hardware trap's name");
    pub const LINUX_DROP_LOCATION: Key = Key::new("linux.net.drop.location", "Where in the kernel");

    // Network devices.
    pub const NETWORK_INTERFACE_NAME: Key = Key::new("network.interface.name", "The network device");
    pub const NETWORK_IO_DIRECTION: Key = Key::new("network.io.direction", "receive, transmit");
    pub const LINUX_NET_IFINDEX: Key = Key::new("linux.net.ifindex", "Its index in its network namespace");
    pub const LINUX_NET_NAMESPACE: Key =
        Key::new("linux.net.namespace", "Inode number of the network namespace, as in /proc/PID/ns/net");
    pub const LINUX_NET_DEVICE_KIND: Key =
        Key::new("linux.net.device.kind", "Kind of a virtual device: veth, bond, …; physical where there is hardware");
    pub const LINUX_NET_DEVICE_DRIVER: Key = Key::new("linux.net.device.driver", "Its driver");
    pub const LINUX_TCP_SEQUENCE: Key = Key::new("linux.tcp.sequence", "Sequence number of the segment");
    pub const LINUX_NET_QUEUE: Key = Key::new("linux.net.queue", "Its queue");

    // Incidents.
    pub const LINUX_INCIDENT_STATE: Key = Key::new("linux.incident.state", "open or closed");
    pub const LINUX_INCIDENT_END_REASON: Key =
        Key::new("linux.incident.end_reason", "Why it was closed: recovered, quiet, max_duration, agent_restart");
    pub const LINUX_INCIDENT_EVENTS: Key = Key::new("linux.incident.events", "Events that belong to it");
    pub const LINUX_COLLECTOR: Key = Key::new("linux.collector", "The collector that reports");
    pub const LINUX_CAPTURE_EVIDENCE: Key =
        Key::new("linux.capture.evidence", "Tables (columns, rows) and series (times, values) of the capture");
    pub const LINUX_SPAN_LINKS: Key =
        Key::new("linux.span.links", "Spans of applications that were under way: trace_id, span_id, attributes");
    pub const LINUX_SPAN_LINKS_DROPPED: Key =
        Key::new("linux.span.links_dropped", "Further spans that had no room among the links");
    pub const LINUX_PROFILE_KIND: Key =
        Key::new("linux.profile.kind", "What the profile measures: cpu, off_cpu, io_wait, allocated, …");
    pub const LINUX_PROFILE_TOTAL: Key =
        Key::new("linux.profile.total", "Sum of the profile's values, or the value of one stack, in its unit");
    pub const LINUX_PROFILE_UNIT: Key = Key::new("linux.profile.unit", "Unit of its values: count, nanoseconds, bytes");
    pub const LINUX_PROFILE_ID: Key = Key::new("linux.profile.id", "Id of the profile that this span's capture took");
    pub const LINUX_PROFILE_SAMPLES: Key = Key::new("linux.profile.samples", "Samples of the profile, or of one stack");
    pub const LINUX_PROFILE_LOST: Key = Key::new("linux.profile.lost", "Samples that the kernel could not hand over");
    pub const LINUX_INCIDENT_MESSAGE: Key = Key::new("linux.incident.message", "What the event that opened it said");
    pub const LINUX_INCIDENT_CAPTURES: Key = Key::new("linux.incident.captures", "Captures that belong to it");
    pub const LINUX_INCIDENT_UNCOUNTED_EVENTS: Key =
        Key::new("linux.incident.uncounted.events", "Its events that have no span of their own");
    pub const LINUX_INCIDENT_UNCOUNTED_SPANS: Key =
        Key::new("linux.incident.uncounted.spans", "Further children that were left out");
    pub const LINUX_ROLE: Key = Key::new("linux.role", "What this party was in the event: trigger, victim, culprit");
    pub const PROFILE_FRAME_TYPE: Key = Key::new("profile.frame.type", "kernel, native");
    pub const PROCESS_BUILD_ID_GNU: Key =
        Key::new("process.executable.build_id.gnu", "GNU build id of the mapped file");
    pub const PYROSCOPE_PROFILE_ID: Key = Key::new("pyroscope.profile.id", "The same id, under Grafana's name");
}
