// SPDX-License-Identifier: Apache-2.0
//! How each exporter fares, for those who ask the agent. Told by the deliveries themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How it goes with one exporter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fares {
    #[default]
    Well,
    /// Nothing is delivered, because …; it is tried again.
    Failing(String),
    /// The back end does not take this signal, says …; it is asked again now and then.
    Unserved(String),
}

/// All exporters that are on. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Fares>>>);

impl Health {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Fares>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it goes so with the exporter.
    pub fn tell(&self, exporter: &str, fares: Fares) {
        self.all().insert(exporter.to_owned(), fares);
    }

    /// How each exporter that has told anything fares.
    #[must_use]
    pub fn now(&self) -> BTreeMap<String, Fares> {
        self.all().clone()
    }
}
