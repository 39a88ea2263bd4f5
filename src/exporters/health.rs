// SPDX-License-Identifier: Apache-2.0
//! The status of each exporter, as reported by its deliveries; shown by `list`, `/readyz` and the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The status of one exporter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExporterStatus {
    #[default]
    Healthy,
    /// Deliveries fail with this reason and are retried.
    Failing(String),
    /// The back end does not accept this signal, for this reason; it is probed again now and then.
    Unsupported(String),
}

/// All exporters that are on. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, ExporterStatus>>>);

impl Health {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, ExporterStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the status of an exporter.
    pub fn set(&self, exporter: &str, status: ExporterStatus) {
        self.all().insert(exporter.to_owned(), status);
    }

    /// The status of each exporter that has reported one.
    #[must_use]
    pub fn now(&self) -> BTreeMap<String, ExporterStatus> {
        self.all().clone()
    }
}
