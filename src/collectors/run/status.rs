// SPDX-License-Identifier: Apache-2.0
//! What became of each collector: for `list`, `/readyz` and the state metric.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::collectors::{Kind, Registration};
use crate::probe::Hook;

/// Whether a collector does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    /// Enabled and able, but there is nothing to watch.
    Idle,
    Disabled,
    /// This node cannot run it; [`Status::reason`] says why.
    Unavailable,
    /// It broke; it will be started again.
    Failed,
}

impl State {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Idle => "idle",
            State::Disabled => "disabled",
            State::Unavailable => "unavailable",
            State::Failed => "failed",
        }
    }
}

/// One collector's row in `list`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub name: &'static str,
    pub kind: Kind,
    pub state: State,
    /// The hooks that attached, in words: `tp_btf/mark_victim`.
    pub hook: Option<String>,
    /// Why it is not running, or what is lost.
    pub reason: Option<String>,
    /// Names of its metrics and events.
    pub emits: Vec<&'static str>,
}

/// All collectors' states, shared between the loops and the readers.
#[derive(Debug, Default)]
pub struct Statuses(Mutex<Vec<Status>>);

impl Statuses {
    /// A row for each registration, disabled until told otherwise.
    #[must_use]
    pub fn new(registrations: &[Registration]) -> Self {
        let rows = registrations.iter().map(|r| Status {
            name: r.info.name,
            kind: r.kind,
            state: State::Disabled,
            hook: None,
            reason: None,
            emits: r.info.metrics.iter().map(|m| m.name).chain(r.info.events.iter().map(|e| e.name)).collect(),
        });
        Statuses(Mutex::new(rows.collect()))
    }

    pub fn set(&self, name: &str, state: State, reason: Option<String>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.iter_mut().find(|r| r.name == name) {
            row.state = state;
            row.reason = reason;
        }
    }

    /// Says by which hooks a collector runs, and what is lost for want of others.
    pub fn set_hooks<'a>(
        &self,
        name: &str,
        hooks: impl Iterator<Item = &'a Hook>,
        sources: impl Iterator<Item = String>,
    ) {
        let words: Vec<String> = hooks.filter_map(|h| h.attached.map(ToString::to_string)).chain(sources).collect();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(row), false) = (rows.iter_mut().find(|r| r.name == name), words.is_empty()) {
            row.hook = Some(words.join(", "));
        }
    }

    #[must_use]
    pub fn snapshot(&self) -> Vec<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
