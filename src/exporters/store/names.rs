// SPDX-License-Identifier: Apache-2.0
//! Joins entries with what is known of their workloads and stacks when they are read.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;

use super::segments::Segment;
use super::{Store, StoreError, stack_key, workload_key};
use crate::signal::entry::{Entry, ResourceAttrs};
use crate::signal::ids::StackKey;
use crate::signal::{StackNames, WorkloadKey};

/// What entries are joined with, each workload read once for one question.
pub(super) struct Names<'a> {
    pub segments: &'a [Arc<Segment>],
    known: HashMap<WorkloadKey, Option<Arc<ResourceAttrs>>>,
}

impl<'a> Names<'a> {
    pub fn new(segments: &'a [Arc<Segment>]) -> Self {
        Names { segments, known: HashMap::new() }
    }

    /// What the newest segment knows.
    pub fn of(&mut self, store: &Store, key: Option<WorkloadKey>) -> Result<Option<Arc<ResourceAttrs>>, StoreError> {
        let Some(key) = key else { return Ok(None) };
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let found = self.newest(store, &workload_key(key))?.map(Arc::new);
        self.known.insert(key, found.clone());
        Ok(found)
    }

    /// A record of the newest segment that has it.
    fn newest<M: Message + Default>(&self, store: &Store, key: &[u8]) -> Result<Option<M>, StoreError> {
        for s in self.segments.iter().rev() {
            if let Some(v) = s.records.get(key).map_err(|e| store.failed(&e))? {
                return decode(store, &v).map(Some);
            }
        }
        Ok(None)
    }

    /// An entry with the names of its stacks that have come since.
    pub fn entry(&self, store: &Store, bytes: &[u8]) -> Result<Entry, StoreError> {
        let mut entry: Entry = decode(store, bytes)?;
        for key in entry.raw_late.clone() {
            if let Some(names) = self.newest::<StackNames>(store, &stack_key(StackKey(key)))? {
                names.join(&mut entry);
            }
        }
        Ok(entry)
    }
}

pub(super) fn decode<M: Message + Default>(store: &Store, bytes: &[u8]) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|source| StoreError::Decode { path: store.inner.settings.path.clone(), source })
}
