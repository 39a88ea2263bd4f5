// SPDX-License-Identifier: Apache-2.0
//! What workloads are named by, as far as it is strangers': asked of the helpers in the queue of captures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::Helpers;
use crate::helper::messages::{Answer, Query};
use crate::workload::names::Names;
use crate::workload::service::ServiceEnv;
use crate::workload::strangers::Strangers;

/// Names are waited for so long; a helper that takes longer is ended.
const WAIT: Duration = Duration::from_secs(2);

impl Helpers {
    fn facts<T: DeserializeOwned>(&self, query: Query) -> Option<T> {
        match self.ask(&self.captures, query, Instant::now() + WAIT, None).ok()? {
            Answer::Facts { json, .. } => serde_json::from_slice::<Option<T>>(&json).ok()?,
            _ => None,
        }
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

fn text(path: &Path) -> Option<String> {
    path.to_str().map(str::to_owned)
}
