// SPDX-License-Identifier: Apache-2.0
//! Attribute keys and the schema. OpenTelemetry semantic conventions where
//! they exist, `linux.*` in the same style where they do not. Names of metrics and events stand in
//! their definitions, in the collectors' files.

/// An attribute's name and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub help: &'static str,
}

impl Key {
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Key { name, help }
    }
}

/// Version of the semantic conventions that the names follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";

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
    pub const PROCESS_COMMAND: Key = Key::new("process.command", "The thread's name (comm)");
    pub const THREAD_ID: Key = Key::new("thread.id", "Thread id, in the node's pid namespace");
    pub const THREAD_NAME: Key = Key::new("thread.name", "The thread's name (comm)");
    pub const CPU_MODE: Key =
        Key::new("cpu.mode", "What the CPU did: user, nice, system, idle, iowait, interrupt (hard and soft), steal");
    pub const CPU_LOGICAL_NUMBER: Key = Key::new("cpu.logical_number", "The CPU");
    pub const LINUX_STACK_KERNEL: Key = Key::new("linux.stack.kernel", "Kernel stack, a frame a line, innermost first");
    pub const LINUX_STACK_USER: Key = Key::new("linux.stack.user", "User stack, a frame a line, innermost first");
    pub const LINUX_STACK_KERNEL_ID: Key =
        Key::new("linux.stack.kernel_id", "The same for equal kernel stacks, on every node with the same kernel");
    pub const LINUX_STACK_USER_ID: Key =
        Key::new("linux.stack.user_id", "The same for equal user stacks, in every process of the same program");
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

    // softirq.
    pub const LINUX_SOFTIRQ_VECTOR: Key = Key::new("linux.softirq.vector", "NET_RX, TIMER, RCU, …");
    pub const LINUX_TIMER_FUNCTION: Key =
        Key::new("linux.timer.function", "The kernel function of the timer that was late");

    // oom.
    pub const LINUX_OOM_CONSTRAINT: Key =
        Key::new("linux.oom.constraint", "What ran out: none (the node), cpuset, memory_policy, memcg, unknown");
    pub const LINUX_OOM_CGROUP: Key = Key::new("linux.oom.cgroup.path", "The cgroup whose limit was reached");
    pub const LINUX_OOM_USAGE: Key = Key::new("linux.oom.usage", "Bytes charged to that cgroup at the kill");
    pub const LINUX_OOM_LIMIT: Key = Key::new("linux.oom.limit", "Its limit in bytes");
    pub const LINUX_OOM_CPUSET: Key =
        Key::new("linux.oom.cpuset", "The cpuset whose memory ran out: the last part of its cgroup's path");
    pub const LINUX_OOM_NODES: Key =
        Key::new("linux.oom.memory_nodes", "The NUMA nodes that the allocation was bound to, as cpuset.mems has them");
    pub const LINUX_OOM_ORDER: Key = Key::new("linux.oom.order", "Order of the allocation that could not be met");
    pub const LINUX_OOM_GFP: Key = Key::new("linux.oom.gfp_mask", "Its gfp flags");
    pub const LINUX_OOM_SCORE_ADJ: Key = Key::new("linux.oom.score_adj", "The victim's oom_score_adj");
    pub const LINUX_OOM_GROUP: Key = Key::new("linux.oom.group_kill", "memory.oom.group: the whole cgroup was killed");
    pub const LINUX_OOM_VICTIM_MEMORY: Key =
        Key::new("linux.oom.victim.memory", "The victim's memory in bytes, by kind");
    pub const LINUX_OOM_MEMORY_STAT: Key =
        Key::new("linux.oom.memory.stat", "memory.stat of the cgroup, after the kill");
    pub const LINUX_OOM_MEMORY_EVENTS: Key = Key::new("linux.oom.memory.events", "memory.events of the cgroup");
    pub const LINUX_OOM_PROCESSES: Key =
        Key::new("linux.oom.processes", "The cgroup's (or node's) largest processes that are left");
    pub const LINUX_OOM_MEMINFO: Key = Key::new("linux.oom.meminfo", "The node's memory in bytes");
    pub const PROCESS_MEMORY_USAGE: Key = Key::new("process.memory.usage", "Resident bytes");

    // What lasts: hungtask, softlockup.
    pub const LINUX_PHASE: Key = Key::new("linux.phase", "Of what lasts: begun, lasting (told again), ended");

    // hungtask.
    pub const LINUX_HUNG_FUNCTION: Key = Key::new("linux.hung.function", "The kernel's function that it waits in");
    pub const LINUX_HUNG_WAIT: Key =
        Key::new("linux.hung.wait", "What it waits for, as that function tells: mutex, page, journal, nfs, …");
    pub const LINUX_HUNG_FILESYSTEM: Key = Key::new("linux.hung.filesystem", "The file system that it is in");
    pub const LINUX_HUNG_LOCK: Key =
        Key::new("linux.hung.lock", "The lock that it waits for: mutex, semaphore, rwsem_read, rwsem_write");
    pub const LINUX_HUNG_LOCK_ADDRESS: Key =
        Key::new("linux.hung.lock.address", "Its address: tasks with the same one wait for each other");
    pub const LINUX_HUNG_LOCK_HINT: Key =
        Key::new("linux.hung.lock.owner_is_hint", "The culprit had the lock, but may have let go of it");
    pub const LINUX_HUNG_IOWAIT: Key = Key::new("linux.hung.iowait", "It waits for I/O");
    pub const LINUX_HUNG_KILLABLE: Key = Key::new("linux.hung.killable", "A fatal signal would end the wait");
    pub const LINUX_HUNG_TASKS: Key = Key::new("linux.hung.tasks", "Hung tasks of this workload at that moment");
    pub const LINUX_HUNG_BY_KERNEL: Key =
        Key::new("linux.hung.reported_by_kernel", "The kernel's own detector has reported it");

    // softlockup.
    pub const LINUX_LOCKUP_CPUS: Key =
        Key::new("linux.lockup.cpus", "What the other CPUs did at that moment: thread, mode, stacks");
    pub const LINUX_LOCKUP_BY_KERNEL: Key =
        Key::new("linux.lockup.reported_by_kernel", "The kernel's own watchdog has reported it");

    // memreclaim.
    pub const LINUX_RECLAIM_KIND: Key =
        Key::new("linux.reclaim.kind", "direct (the node is short), memcg (a memory cgroup is full), compaction");
    pub const LINUX_RECLAIM_ORDER: Key = Key::new("linux.reclaim.order", "Order of the allocation: 2^order pages");
    pub const LINUX_RECLAIM_GFP: Key = Key::new("linux.reclaim.gfp_mask", "Its gfp flags by name");
    pub const LINUX_RECLAIM_SCANNED: Key = Key::new("linux.reclaim.scanned", "Pages that were looked at");
    pub const LINUX_RECLAIM_RECLAIMED: Key = Key::new("linux.reclaim.reclaimed", "Pages that were freed");
    pub const LINUX_RECLAIM_PRIORITY: Key =
        Key::new("linux.reclaim.priority", "How hard it was tried: 12 is at first, 0 is all there is");
    pub const LINUX_RECLAIM_STALLS: Key = Key::new("linux.reclaim.stalls", "Stalls that this event is the sum of");
    pub const LINUX_RECLAIM_WINDOW: Key =
        Key::new("linux.reclaim.window", "Nanoseconds in which those stalls were; absent of a single one");
    pub const LINUX_RECLAIM_CGROUP: Key = Key::new("linux.reclaim.cgroup.path", "The memory cgroup that was reclaimed");
    pub const LINUX_RECLAIM_USAGE: Key = Key::new("linux.reclaim.usage", "Bytes charged to that cgroup");
    pub const LINUX_RECLAIM_LIMIT: Key = Key::new("linux.reclaim.limit", "Its limit in bytes");
    pub const LINUX_PRESSURE_BEFORE: Key =
        Key::new("linux.pressure.memory.before", "The node's memory pressure before it (PSI: percent, microseconds)");
    pub const LINUX_PRESSURE_AFTER: Key =
        Key::new("linux.pressure.memory.after", "The node's memory pressure after it (PSI: percent, microseconds)");
    pub const LINUX_PRESSURE_CGROUP: Key =
        Key::new("linux.pressure.memory.cgroup", "Memory pressure of the task's cgroup after it (PSI; cgroup v2)");
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
    pub const LINUX_NET_ETHER_TYPE: Key = Key::new("linux.net.ether_type", "Protocol of the frame, in hexadecimal");

    // dropwatch.
    pub const LINUX_DROP_REASON: Key =
        Key::new("linux.net.drop.reason", "The kernel's name of why, without SKB_DROP_REASON_; a hardware trap's name");
    pub const LINUX_DROP_LOCATION: Key = Key::new("linux.net.drop.location", "Where in the kernel");
    pub const LINUX_DROP_SOURCE: Key =
        Key::new("linux.net.drop.source", "software: the kernel; hardware: a device that reports its traps");
    pub const LINUX_DROP_GROUP: Key = Key::new("linux.net.drop.group", "The hardware trap's group");
    pub const LINUX_DROP_KIND: Key = Key::new(
        "linux.net.drop.kind",
        "loss: somebody wanted the packet; normal: what an ordinary close or a busy segment of a network leaves; ignored",
    );
    pub const LINUX_DROP_COUNT: Key =
        Key::new("linux.net.drop.count", "Drops of this reason, place and owner on this CPU so far");

    // tcp_retransmit.
    pub const LINUX_RETRANSMIT_KIND: Key = Key::new(
        "linux.tcp.retransmit.kind",
        "rto, loss_recovery (more segments after an rto), fast, tlp (a probe of the tail), syn, syn_ack",
    );
    pub const LINUX_RETRANSMIT_CAUSE: Key = Key::new(
        "linux.tcp.retransmit.cause",
        "dropped_segment, dropped_connection (another segment of it), dropped_return (what came back): seen here to be dropped; not_seen_here",
    );
    pub const LINUX_RETRANSMIT_DROP_AGE: Key =
        Key::new("linux.tcp.retransmit.drop.age", "Nanoseconds between that drop and the retransmit");
    pub const LINUX_RETRANSMIT_ATTEMPT: Key =
        Key::new("linux.tcp.retransmit.attempt", "Timeouts in a row without an answer; 0: none");
    pub const LINUX_RETRANSMIT_COUNT: Key =
        Key::new("linux.tcp.retransmit.count", "Retransmits of this kind and owner on this CPU so far");
    pub const LINUX_TCP_RETRANSMITS: Key = Key::new("linux.tcp.retransmits", "Retransmits of the connection so far");
    pub const LINUX_TCP_RTT: Key = Key::new("linux.tcp.rtt", "Smoothed round-trip time in nanoseconds");
    pub const LINUX_TCP_RTT_VARIANCE: Key = Key::new("linux.tcp.rtt.variance", "Its variance in nanoseconds");
    pub const LINUX_TCP_CWND: Key = Key::new("linux.tcp.cwnd", "Congestion window in segments");
    pub const LINUX_TCP_SSTHRESH: Key = Key::new("linux.tcp.ssthresh", "Slow-start threshold in segments");
    pub const LINUX_TCP_MSS: Key = Key::new("linux.tcp.mss", "Bytes of a full segment");
    pub const LINUX_TCP_IN_FLIGHT: Key = Key::new("linux.tcp.in_flight", "Segments sent and not acknowledged");
    pub const LINUX_TCP_LOST: Key = Key::new("linux.tcp.lost", "Segments of them that TCP takes for lost");
    pub const LINUX_TCP_SEQUENCE: Key = Key::new("linux.tcp.sequence", "Sequence number of the segment");

    // netrecvlat.
    pub const LINUX_RECEIVE_STAGE: Key = Key::new(
        "linux.net.receive.stage",
        "How far the packet had come: stack (entry of the network stack), transport (TCP), user (copied to the reader)",
    );

    // cpuidle.
    pub const LINUX_CPUIDLE_REASON: Key =
        Key::new("linux.cpuidle.reason", "usage: high against its limit; jump: far more than usual");
    pub const LINUX_CPU_USAGE: Key = Key::new("linux.cpu.usage", "CPUs in use");
    pub const LINUX_CPU_CAPACITY: Key = Key::new("linux.cpu.capacity", "CPUs that the workload may use");
    pub const LINUX_CPU_UTILIZATION: Key = Key::new("linux.cpu.utilization", "Share of that in use");
    pub const LINUX_CPU_USUAL: Key = Key::new("linux.cpu.usual", "Share of that usually in use");

    // Network devices.
    pub const NETWORK_INTERFACE_NAME: Key = Key::new("network.interface.name", "The network device");
    pub const LINUX_NET_IFINDEX: Key = Key::new("linux.net.ifindex", "Its index in its network namespace");
    pub const LINUX_NET_NAMESPACE: Key =
        Key::new("linux.net.namespace", "Inode number of the network namespace, as in /proc/PID/ns/net");
    pub const LINUX_NET_DEVICE_KIND: Key =
        Key::new("linux.net.device.kind", "Kind of a virtual device: veth, bond, …; physical where there is hardware");
    pub const LINUX_NET_DEVICE_DRIVER: Key = Key::new("linux.net.device.driver", "Its driver");
    pub const LINUX_NET_LINK_CHANGE: Key = Key::new(
        "linux.net.link.change",
        "admin_up, admin_down, carrier_up, carrier_down, state, added, removed, renamed, enslaved, released, port_state",
    );
    pub const LINUX_NET_LINK_BY: Key = Key::new(
        "linux.net.link.changed_by",
        "process: see `linux.trigger`; device: the device or its peer; unknown: no hook of this kernel tells",
    );
    pub const LINUX_NET_LINK_STATE: Key = Key::new("linux.net.link.state", "Operational state (RFC 2863)");
    pub const LINUX_NET_LINK_STATE_BEFORE: Key = Key::new("linux.net.link.state.before", "The one before");
    pub const LINUX_NET_LINK_ADMIN: Key = Key::new("linux.net.link.admin", "up or down, as it was set");
    pub const LINUX_NET_LINK_CARRIER: Key = Key::new("linux.net.link.carrier", "Whether there is a carrier");
    pub const LINUX_NET_LINK_SPEED: Key =
        Key::new("linux.net.link.speed", "Bits a second; the last known where the carrier is lost");
    pub const LINUX_NET_LINK_DUPLEX: Key = Key::new("linux.net.link.duplex", "full or half");
    pub const LINUX_NET_LINK_MAC: Key = Key::new("linux.net.link.mac", "Its hardware address");
    pub const LINUX_NET_LINK_NAME_BEFORE: Key = Key::new("linux.net.link.name.before", "Its name before");
    pub const LINUX_NET_LINK_MASTER: Key = Key::new("linux.net.link.master", "The bond, bridge, … that it belongs to");
    pub const LINUX_NET_LINK_PORT_STATE: Key =
        Key::new("linux.net.link.port_state", "Of a bond's port: active, or backup");
    pub const LINUX_NET_LINK_CARRIER_LOSSES: Key =
        Key::new("linux.net.link.carrier_losses", "Times that it lost its carrier since it is there");
    pub const LINUX_NET_LINK_MOVED: Key = Key::new("linux.net.link.moved", "It went to another network namespace");
    pub const LINUX_NET_LINK_RELISTED: Key = Key::new(
        "linux.net.link.relisted",
        "Seen when the devices were listed again, as notices were lost: it happened at some time before",
    );
    pub const LINUX_NET_QUEUE: Key = Key::new("linux.net.queue", "Its queue");
    pub const LINUX_NET_QUEUES: Key = Key::new("linux.net.queues", "Transmit queues of the device");
    pub const LINUX_NET_TX_TIMEOUTS: Key =
        Key::new("linux.net.tx_timeouts", "Timeouts of this queue since the device is there");
    pub const LINUX_NET_TX_LIMIT: Key =
        Key::new("linux.net.tx_timeout.limit", "The driver's limit (watchdog_timeo), in nanoseconds");

    pub const LINUX_NET_LACP_CHANGE: Key = Key::new(
        "linux.net.lacp.change",
        "port_up, port_down (in or out of the aggregation), port_state, port_added, port_removed, partner",
    );
    pub const LINUX_NET_LACP_PORT: Key = Key::new("linux.net.lacp.port", "The bond's port");
    pub const LINUX_NET_LACP_AGGREGATOR: Key =
        Key::new("linux.net.lacp.aggregator", "Aggregator of the port, else the bond's active one");
    pub const LINUX_NET_LACP_AGGREGATOR_BEFORE: Key = Key::new("linux.net.lacp.aggregator.before", "The one before");
    pub const LINUX_NET_LACP_PARTNER: Key =
        Key::new("linux.net.lacp.partner", "System (MAC) at the other end; zeros: there is none");
    pub const LINUX_NET_LACP_PARTNER_BEFORE: Key = Key::new("linux.net.lacp.partner.before", "The one before");
    pub const LINUX_NET_LACP_PORTS: Key =
        Key::new("linux.net.lacp.ports", "Ports that the bond's active aggregator has");
    pub const LINUX_NET_LACP_PORTS_BEFORE: Key = Key::new("linux.net.lacp.ports.before", "The number before");
    pub const LINUX_NET_LACP_ACTOR_STATE: Key =
        Key::new("linux.net.lacp.actor.state", "State of the port (IEEE 802.1AX, 6.4.2.3)");
    pub const LINUX_NET_LACP_ACTOR_STATE_BEFORE: Key = Key::new("linux.net.lacp.actor.state.before", "The one before");
    pub const LINUX_NET_LACP_PARTNER_STATE: Key =
        Key::new("linux.net.lacp.partner.state", "State of the port at the other end, as it says");
    pub const LINUX_NET_LACP_PARTNER_STATE_BEFORE: Key =
        Key::new("linux.net.lacp.partner.state.before", "The one before");
    pub const LINUX_NET_LACP_LINK: Key =
        Key::new("linux.net.lacp.link", "Link of the port as the bond sees it: up, going_down, down, going_back");
    pub const LINUX_NET_LACP_FAILURES: Key =
        Key::new("linux.net.lacp.link_failures", "Times that the bond saw this port's link fail");

    // ras.
    pub const HW_TYPE: Key = Key::new("hw.type", "Kind of the component: cpu, memory, pcie, platform");
    pub const HW_NAME: Key = Key::new("hw.name", "The component: DIMM, PCI device, CPU, …");
    pub const LINUX_HW_ERROR_SOURCE: Key =
        Key::new("linux.hw.error.source", "Who reported it: mce, edac, aer, ghes, extlog, arm, memory_failure");
    pub const LINUX_HW_ERROR_SEVERITY: Key =
        Key::new("linux.hw.error.severity", "corrected, deferred, uncorrected, fatal, info, unknown");
    pub const LINUX_HW_ERROR_KIND: Key = Key::new("linux.hw.error.kind", "What it was, decoded");
    pub const LINUX_HW_ERROR_COUNT: Key = Key::new("linux.hw.error.count", "Errors that the report stands for");
    pub const LINUX_HW_ERROR_ADDRESS: Key = Key::new("linux.hw.error.address", "Physical address");
    pub const LINUX_HW_ERROR_STATUS: Key = Key::new("linux.hw.error.status", "The status register as it is");
    pub const LINUX_HW_ERROR_FLAGS: Key = Key::new("linux.hw.error.flags", "Names of the status bits that are set");
    pub const LINUX_HW_ERROR_REGISTERS: Key =
        Key::new("linux.hw.error.registers", "Further registers and ids of the report, as they are");
    pub const LINUX_HW_ERROR_BANK: Key = Key::new("linux.hw.error.bank", "The machine check bank");
    pub const LINUX_HW_ERROR_SOCKET: Key = Key::new("linux.hw.error.socket", "The CPU package");
    pub const LINUX_HW_ERROR_CONTROLLER: Key = Key::new("linux.hw.error.controller", "The memory controller");
    pub const LINUX_HW_ERROR_LAYERS: Key =
        Key::new("linux.hw.error.layers", "Place below the memory controller, e.g. channel and slot; -1: not known");
    pub const LINUX_HW_ERROR_GRAIN: Key = Key::new("linux.hw.error.grain", "Bytes that the address is exact to");
    pub const LINUX_HW_ERROR_SYNDROME: Key = Key::new("linux.hw.error.syndrome", "The syndrome");
    pub const LINUX_HW_ERROR_DETAIL: Key = Key::new("linux.hw.error.detail", "What the driver adds");
    pub const LINUX_HW_ERROR_SECTION: Key = Key::new("linux.hw.error.section", "Type of the firmware's section (UUID)");
    pub const LINUX_HW_ERROR_FRU: Key =
        Key::new("linux.hw.error.fru", "The replaceable unit (UUID), as firmware has it");
    pub const LINUX_HW_ERROR_DATA: Key =
        Key::new("linux.hw.error.data", "First bytes of the firmware's section, hexadecimal");
    pub const LINUX_HW_ERROR_LENGTH: Key = Key::new("linux.hw.error.length", "Bytes that the section has");
    pub const LINUX_HW_ERROR_OUTCOME: Key =
        Key::new("linux.hw.error.outcome", "What became of the page: recovered, delayed, failed, ignored");
    pub const LINUX_HW_ERROR_VIRTUAL_ADDRESS: Key =
        Key::new("linux.hw.error.virtual_address", "Where the process had the page");

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
