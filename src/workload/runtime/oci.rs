// SPDX-License-Identifier: Apache-2.0
//! The `config.json` of a container's bundle: opencontainers/runtime-spec, config.md.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::workload::service::ServiceEnv;

/// What of a container's specification is of interest.
#[derive(Debug, Default)]
pub(super) struct Spec {
    pub annotations: BTreeMap<String, String>,
    pub service: ServiceEnv,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    process: Process,
}

#[derive(Deserialize, Default)]
struct Process {
    #[serde(default)]
    env: Vec<String>,
}

/// Reads a specification; `None`: only half written yet.
pub(super) fn parse(file: &[u8]) -> Option<Spec> {
    let config: Config = serde_json::from_slice(file).ok()?;
    let service = ServiceEnv::of_list(config.process.env.iter().map(String::as_str));
    Some(Spec { annotations: config.annotations, service })
}
