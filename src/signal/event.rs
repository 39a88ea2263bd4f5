// SPDX-License-Identifier: Apache-2.0
//! One thing that happened, with its full context.

use std::sync::Arc;
use std::time::Duration;

use super::ids::StackKey;
use super::semconv::attr;
use super::{Attributes, Key, Links, MetricDef, Stack, Timestamp, Value, Workload};

/// OTel severities that we use; the numbers are OTel's `SeverityNumber`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Severity {
    Debug = 5,
    Info = 9,
    Warn = 13,
    Error = 17,
    Fatal = 21,
}

impl Severity {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Warn => "WARN",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }

    /// From OTLP's severity number; what is below DEBUG is DEBUG.
    #[must_use]
    pub fn of_number(number: i32) -> Self {
        match number {
            ..=8 => Severity::Debug,
            9..=12 => Severity::Info,
            13..=16 => Severity::Warn,
            17..=20 => Severity::Error,
            _ => Severity::Fatal,
        }
    }

    /// Reads a severity's name in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Severity::Debug, Severity::Info, Severity::Warn, Severity::Error, Severity::Fatal];
        all.into_iter().find(|s| s.name().eq_ignore_ascii_case(text))
    }
}

/// What an event is called and means; a constant of the collector that emits it.
#[derive(Debug, PartialEq, Eq)]
pub struct EventDef {
    /// OTel event name, e.g. `linux.memory.oom_kill`.
    pub name: &'static str,
    pub summary: &'static str,
    /// The usual severity; [`Event::severity`] may differ, and then the counters have
    /// [`attr::LINUX_EVENT_SEVERITY`] among their attributes: alerts count from the usual one on.
    pub severity: Severity,
    /// The gravest that one of them may have.
    pub worst: Severity,
    pub attributes: &'static [Key],
    /// Counts every such event of the node, from zero at start.
    pub counter: &'static MetricDef,
    /// The same per workload, from the first hit; `None` where only the node suffers.
    pub container_counter: Option<&'static MetricDef>,
}

/// The thread in whose context something happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thread {
    /// Process id (the kernel's tgid), in the host's pid namespace.
    pub pid: u32,
    /// Thread id (the kernel's pid).
    pub tid: u32,
    pub comm: String,
}

/// What another party was in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Whose request started it.
    Trigger,
    Victim,
    /// Who is to blame.
    Culprit,
}

impl Role {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Trigger => "trigger",
            Role::Victim => "victim",
            Role::Culprit => "culprit",
        }
    }

    fn key(self) -> Key {
        match self {
            Role::Trigger => attr::LINUX_TRIGGER,
            Role::Victim => attr::LINUX_VICTIM,
            Role::Culprit => attr::LINUX_CULPRIT,
        }
    }
}

/// Another party of the event. A child span of its own.
#[derive(Debug, Clone)]
pub struct Related {
    pub role: Role,
    pub workload: Option<Arc<Workload>>,
    pub thread: Thread,
}

/// One thing that happened. The pipeline gives it its id and its incident.
#[derive(Debug, Clone)]
pub struct Event {
    pub def: &'static EventDef,
    /// When it ended, or was seen.
    pub time: Timestamp,
    pub severity: Severity,
    /// How long it had lasted at [`Self::time`].
    pub duration: Option<Duration>,
    /// Who suffers; `None`: the node.
    pub workload: Option<Arc<Workload>>,
    pub thread: Option<Thread>,
    /// One line for a human.
    pub message: String,
    pub attributes: Attributes,
    pub kernel_stack: Stack,
    pub user_stack: Stack,
    /// Stacks among [`Self::attributes`] of which names may still come ([`Stack::late`]).
    pub late_stacks: Vec<StackKey>,
    pub related: Vec<Related>,
    /// What applications were doing.
    pub links: Links,
    /// Events of this kind for this workload that were suppressed since the last one.
    pub suppressed: u64,
}

impl Event {
    #[must_use]
    pub fn new(def: &'static EventDef, time: Timestamp, workload: Option<Arc<Workload>>, message: String) -> Self {
        Event {
            def,
            time,
            severity: def.severity,
            duration: None,
            workload,
            thread: None,
            message,
            attributes: Attributes::new(),
            kernel_stack: Stack::default(),
            user_stack: Stack::default(),
            late_stacks: Vec::new(),
            related: Vec::new(),
            links: Links::default(),
            suppressed: 0,
        }
    }

    /// Names another party: an attribute of the role's name for whoever reads the event alone, and
    /// a span of its own in the incident.
    pub fn involve(&mut self, role: Role, workload: Option<Arc<Workload>>, thread: Thread) {
        let mut cells = vec![
            (attr::PROCESS_PID, Value::from(thread.pid)),
            (attr::THREAD_ID, Value::from(thread.tid)),
            (attr::THREAD_NAME, Value::from(thread.comm.clone())),
        ];
        if let Some(w) = &workload {
            let names = [(attr::CONTAINER_ID, &w.container_id), (attr::CONTAINER_NAME, &w.container_name)];
            cells.extend(names.into_iter().filter_map(|(k, v)| Some((k, Value::from(v.clone()?)))));
            cells.push((attr::LINUX_CGROUP_PATH, Value::from(w.cgroup.clone())));
        }
        self.attributes.set(role.key(), Value::table_row(cells));
        self.related.push(Related { role, workload, thread });
    }
}
