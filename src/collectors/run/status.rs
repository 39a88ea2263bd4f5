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
    /// One call of it has not returned for too long. It is not called again until then.
    Stuck,
    Disabled,
    /// This node cannot run it; [`Status::reason`] says why.
    Unavailable,
    /// Its last run panicked; it is tried again.
    Failed,
}

impl State {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Stuck => "stuck",
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

struct Row {
    status: Status,
    /// Beside the state: what it had been doing goes on once the call returns.
    stuck: Option<String>,
}

/// All collectors' states, shared between the tasks and the readers.
#[derive(Default)]
pub struct Statuses(Mutex<Vec<Row>>);

impl Statuses {
    /// A row for each registration, disabled at first.
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
        Statuses(Mutex::new(rows.map(|status| Row { status, stuck: None }).collect()))
    }

    #[cfg(test)]
    pub(super) fn of_names(names: impl Iterator<Item = &'static str>) -> Self {
        let row = |name| Row {
            status: Status {
                name,
                kind: Kind::Metrics,
                state: State::Running,
                hook: None,
                reason: None,
                emits: Vec::new(),
            },
            stuck: None,
        };
        Statuses(Mutex::new(names.map(row).collect()))
    }

    /// Applies a change to the row of one collector.
    fn with<R>(&self, name: &str, f: impl FnOnce(&mut Row) -> R) -> Option<R> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter_mut().find(|r| r.status.name == name).map(f)
    }

    pub fn set(&self, name: &str, state: State, reason: Option<String>) {
        self.with(name, |row| (row.status.state, row.status.reason) = (state, reason));
    }

    /// Why it is stuck; `None`: it is not.
    pub fn set_stuck(&self, name: &str, why: Option<String>) {
        self.with(name, |row| row.stuck = why);
    }

    #[must_use]
    pub fn is_stuck(&self, name: &str) -> bool {
        self.with(name, |row| row.stuck.is_some()).unwrap_or(false)
    }

    /// What is lost while it runs, or why it does not.
    #[must_use]
    pub fn reason(&self, name: &str) -> Option<String> {
        self.with(name, |row| row.status.reason.clone()).flatten()
    }

    /// Says by which hooks a collector runs, and what is lost for want of others.
    pub fn set_hooks<'a>(
        &self,
        name: &str,
        hooks: impl Iterator<Item = &'a Hook>,
        sources: impl Iterator<Item = String>,
    ) {
        let words: Vec<String> = hooks.filter_map(|h| h.attached.map(ToString::to_string)).chain(sources).collect();
        if !words.is_empty() {
            self.with(name, |row| row.status.hook = Some(words.join(", ")));
        }
    }

    #[must_use]
    pub fn snapshot(&self) -> Vec<Status> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = |row: &Row| match &row.stuck {
            Some(why) => Status { state: State::Stuck, reason: Some(why.clone()), ..row.status.clone() },
            None => row.status.clone(),
        };
        rows.iter().map(now).collect()
    }
}
