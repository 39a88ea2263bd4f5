// SPDX-License-Identifier: Apache-2.0
//! Which entries wait for names of stacks, and names whose entry is still on its way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;

use crate::signal::StackNames;
use crate::signal::entry::Entry;
use crate::signal::ids::StackKey;

/// Names come within 2 s of the event, which may wait in the pipeline's queue; later, neither is waited for.
const KEPT: Duration = Duration::from_secs(10);
/// More of them are not waited for at a time, and names of more are not kept: each may be some 64 KiB.
const ENTRIES: usize = 4096;
const NAMES: usize = 256;

/// What waits for its other half.
#[derive(Default)]
pub(super) struct Late {
    /// Entries are here, or were.
    entries: HashMap<StackKey, Instant>,
    names: HashMap<StackKey, (Instant, Arc<StackNames>)>,
}

impl Late {
    /// An entry has come. Returns it with the names that are there, and the keys for which it waits.
    pub fn entry(&mut self, late: &[StackKey], mut bytes: Arc<[u8]>) -> (Arc<[u8]>, Vec<StackKey>) {
        let mut waiting = Vec::new();
        if late.is_empty() {
            return (bytes, waiting);
        }
        self.forget();
        for key in late {
            match self.names.remove(key) {
                Some((_, names)) => bytes = joined(&bytes, &names),
                None => waiting.push(*key),
            }
        }
        if self.entries.len() < ENTRIES {
            self.entries.extend(waiting.iter().map(|k| (*k, Instant::now())));
        }
        (bytes, waiting)
    }

    /// Names have come. Whether their entry has come before them; else they are kept for it.
    pub fn has_entry(&mut self, names: &Arc<StackNames>) -> bool {
        self.forget();
        let there = self.entries.remove(&names.key()).is_some();
        if !there && self.names.len() < NAMES {
            self.names.insert(names.key(), (Instant::now(), names.clone()));
        }
        there
    }

    fn forget(&mut self) {
        self.entries.retain(|_, since| since.elapsed() < KEPT);
        self.names.retain(|_, (since, _)| since.elapsed() < KEPT);
    }
}

/// An encoded entry with names of its stack; as it was, if it is damaged.
pub(super) fn joined(entry: &Arc<[u8]>, names: &StackNames) -> Arc<[u8]> {
    let Ok(mut decoded) = Entry::decode(&**entry) else { return entry.clone() };
    names.join(&mut decoded);
    decoded.encode_to_vec().into()
}
