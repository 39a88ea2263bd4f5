// SPDX-License-Identifier: Apache-2.0
//! Docker: `config.v2.json` of the container, and where that cannot be read, its socket.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::host::socket::Connection;
use crate::host::{Host, read, read_bytes};
use crate::workload::names::{Kept, Names};
use crate::workload::path;
use crate::workload::service::ServiceEnv;

/// The socket answers in milliseconds, unless the daemon is ill.
const TIMEOUT: Duration = Duration::from_millis(500);

/// No description of one container is longer.
const MAX_ANSWER: u64 = 4 << 20;

/// The file and the API (`GET /containers/ID/json`) have the same words for what is of interest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(rename = "ID", alias = "Id", default)]
    id: String,
    /// With a leading slash.
    #[serde(default)]
    name: String,
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    labels: Option<BTreeMap<String, String>>,
    env: Option<Vec<String>>,
}

/// From the node's own files.
pub(super) fn stored(host: &Host, id: &str) -> Option<Names> {
    let file = file(&data_root(host), id);
    let found = described(&read_bytes(&file).ok()?)?;
    Some(Names { kept: Some(Kept { file, home: None, names }), ..found })
}

/// From the daemon.
pub(super) fn asked(host: &Host, id: &str) -> Option<Names> {
    let found = described(&ask(host, id).ok().flatten()?)?;
    Some(Names { renamed: false, ..found })
}

/// What describes a container.
pub(super) fn file(data_root: &Path, id: &str) -> PathBuf {
    data_root.join("containers").join(id).join("config.v2.json")
}

pub(super) fn described(bytes: &[u8]) -> Option<Names> {
    let c: Container = serde_json::from_slice(bytes).ok()?;
    let name = c.name.trim_start_matches('/');
    Some(Names {
        renamed: true,
        kept: None,
        complete: !name.is_empty(),
        name: (!name.is_empty()).then(|| name.to_owned()),
        image: (!c.config.image.is_empty()).then_some(c.config.image),
        runtime: Some(path::DOCKER),
        labels: c.config.labels.unwrap_or_default(),
        annotations: BTreeMap::new(),
        service: ServiceEnv::of_list(c.config.env.iter().flatten().map(String::as_str)),
    })
}

/// The one container of a `config.v2.json`.
pub(super) fn names(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let c: Container = serde_json::from_slice(bytes).ok()?;
    let name = c.name.trim_start_matches('/').to_owned();
    (!c.id.is_empty() && !name.is_empty()).then(|| BTreeMap::from([(c.id, name)]))
}

/// `/var/lib/docker`, unless `daemon.json` says otherwise.
fn data_root(host: &Host) -> PathBuf {
    #[derive(Deserialize)]
    struct Daemon {
        #[serde(rename = "data-root")]
        data_root: Option<String>,
    }
    let daemon = read(&host.root.join("etc/docker/daemon.json")).unwrap_or_default();
    let configured = serde_json::from_str::<Daemon>(&daemon).ok().and_then(|d| d.data_root);
    host.root.join(configured.as_deref().unwrap_or("/var/lib/docker").trim_start_matches('/'))
}

/// One request in HTTP/1.0, so that the answer ends where the connection does. `None`: not known there.
fn ask(host: &Host, id: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut socket = Connection::open(&host.root.join("var/run/docker.sock"), TIMEOUT)?;
    let request = format!("GET /containers/{id}/json HTTP/1.0\r\nHost: docker\r\nAccept: application/json\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(body(&answer).map(<[u8]>::to_vec))
}

/// The body of an answer with status 200.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let (head, rest) = answer.split_at(end);
    let status = head.split(|b| *b == b' ').nth(1)?;
    (status == b"200").then(|| rest.get(4..)).flatten()
}
