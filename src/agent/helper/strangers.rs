// SPDX-License-Identifier: Apache-2.0
//! What workloads are named by, as far as it is strangers', and room on file systems: asked of the helpers in the queue
//! of captures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{Failure, Helpers};
use crate::helper::messages::{Answer, Query};
use crate::host::mounts::{Room, Space, Spaces};
use crate::workload::names::Names;
use crate::workload::service::ServiceEnv;
use crate::workload::strangers::Strangers;

/// Names are waited for so long; a helper that takes longer is ended.
const WAIT: Duration = Duration::from_secs(2);

impl Helpers {
    fn facts<T: DeserializeOwned>(&self, query: Query) -> Option<T> {
        facts(self.ask(&self.captures, query, Instant::now() + WAIT, None).ok()?)
    }
}

fn facts<T: DeserializeOwned>(answer: Answer) -> Option<T> {
    match answer {
        Answer::Facts { json, .. } => serde_json::from_slice::<Option<T>>(&json).ok()?,
        _ => None,
    }
}

impl Strangers for Helpers {
    fn environment(&self, pid: u32) -> Option<ServiceEnv> {
        self.facts::<ServiceEnv>(Query::Environment { pid }).map(ServiceEnv::bounded)
    }

    fn published(&self, pid: u32) -> Option<ServiceEnv> {
        self.facts::<ServiceEnv>(Query::Published { pid }).map(ServiceEnv::bounded)
    }

    fn homes(&self, folder: &Path) -> Vec<PathBuf> {
        let found: Vec<String> =
            text(folder).and_then(|folder| self.facts(Query::Homes { folder })).unwrap_or_default();
        // A name, and no way to elsewhere.
        found.into_iter().filter(|n| !n.contains('/') && !n.starts_with('.')).map(|n| folder.join(n)).collect()
    }

    fn container(&self, home: &Path, id: &str) -> Option<(Names, PathBuf)> {
        let (names, file): (Names, PathBuf) = self.facts(Query::Container { home: text(home)?, id: id.to_owned() })?;
        Some((names.bounded(), file))
    }

    fn names(&self, home: &Path, file: &Path) -> Option<BTreeMap<String, String>> {
        self.facts(Query::Names { home: text(home)?, file: text(file)? })
    }
}

impl Spaces for Helpers {
    fn space(&self, at: &Path, device: u64) -> Room {
        let Some(folder) = text(at) else { return Room::Unknown };
        match self.ask(&self.captures, Query::Space { folder, device }, Instant::now() + WAIT, None) {
            Ok(answer) => facts::<Space>(answer).map_or(Room::Unknown, Room::Known),
            // What hung before is left alone for a while.
            Err(Failure::TimedOut | Failure::Refused) => Room::Hung,
            Err(_) => Room::Unknown,
        }
    }
}

fn text(path: &Path) -> Option<String> {
    path.to_str().map(str::to_owned)
}
