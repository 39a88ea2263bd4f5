// SPDX-License-Identifier: Apache-2.0
//! Elasticsearch as the tests have it: started, stopped and killed, and asked over its own API; and
//! Elastic APM in front of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bianque::exporters::elasticsearch::Settings;
use bianque::exporters::elasticsearch::config::Urls;
use bianque::exporters::settings::Secret;
use serde_json::Value;
use tempfile::TempDir;

use crate::servers::{Server, with_ports};

/// A real server; ends when it is dropped.
pub struct Elasticsearch {
    pub server: Server,
    // What it has stored goes with its disk, where it has one.
    disk: Option<Disk>,
    _folder: TempDir,
}

impl Elasticsearch {
    pub fn start() -> Self {
        Self::with("0", None)
    }

    /// With a disk that can be full.
    pub fn on_small_disk(bytes: u64) -> Self {
        Self::with("0", Some(bytes))
    }

    /// With TLS, users and API keys.
    pub fn secured() -> Self {
        Self::with("1", None)
    }

    fn with(security: &str, disk: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk.map(|bytes| Disk::mount(&folder.path().join("elasticsearch/data"), bytes));
        let mut env = with_ports(&["ES_HTTP_PORT", "ES_TRANSPORT_PORT"], folder.path());
        env.insert("ES_SECURITY".to_owned(), security.to_owned());
        Elasticsearch { server: Server::start("elasticsearch", env), disk, _folder: folder }
    }

    /// The disk that it was given.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    /// What else `run` printed: user, password and CA.
    pub fn at(&self, key: &str) -> &str {
        self.server.at.get(key).map_or("", String::as_str)
    }

    pub fn url(&self) -> &str {
        self.at("ELASTICSEARCH_URL")
    }

    pub fn address(&self) -> SocketAddr {
        self.url().rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Settings that lead here, as the superuser where there is one.
    pub fn settings(&self) -> Settings {
        let mut s = Settings { url: Urls(vec![self.url().to_owned()]), ..Settings::default() };
        if !self.at("ELASTICSEARCH_USER").is_empty() {
            s.username = Some(self.at("ELASTICSEARCH_USER").to_owned());
            s.password = Some(Secret::new(self.at("ELASTICSEARCH_PASSWORD")));
            s.ca_file = Some(self.at("ELASTICSEARCH_CA").into());
        }
        s
    }

    /// Ends it in order; [`Self::start_again`] starts it with what it has stored.
    pub fn stop(&self) {
        self.server.call("stop");
    }

    /// Ends it as a power cut would.
    pub fn kill(&self) {
        self.server.signal("KILL");
    }

    pub fn start_again(&self) {
        self.server.call("start");
    }

    /// One request; the answer as it is.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "60", "-X", method]).arg(format!("{}{path}", self.url()));
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "--data-binary", &body.to_string()]);
        }
        if !self.at("ELASTICSEARCH_USER").is_empty() {
            let user = format!("{}:{}", self.at("ELASTICSEARCH_USER"), self.at("ELASTICSEARCH_PASSWORD"));
            curl.args(["-u", &user, "--cacert", self.at("ELASTICSEARCH_CA")]);
        }
        let out = curl.output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    }

    /// The documents of these streams by id. Twice the same id would be two backing indices.
    pub fn documents(&self, streams: &str) -> BTreeMap<String, Value> {
        self.ask("POST", &format!("/{streams}/_refresh"), None);
        let found = self.ask("GET", &format!("/{streams}/_search?size=10000"), None);
        let hits = found["hits"]["hits"].as_array().cloned().unwrap_or_default();
        let all: BTreeMap<_, _> =
            hits.iter().map(|h| (h["_id"].as_str().unwrap().to_owned(), h["_source"].clone())).collect();
        assert_eq!(all.len(), hits.len(), "an id is there twice");
        all
    }

    /// How many documents a search by one field finds.
    pub fn found(&self, streams: &str, field: &str, value: &str) -> u64 {
        let query = serde_json::json!({"query": {"term": {field: value}}});
        self.ask("POST", &format!("/{streams}/_count"), Some(&query))["count"].as_u64().unwrap_or(0)
    }
}

/// A file system of its own.
pub struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, bytes: u64) -> Disk {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status().unwrap();
        assert!(mounted.success(), "mount a tmpfs at {}", at.display());
        Disk(at.to_owned())
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no room.
    pub fn fill(&self) {
        let mut file = std::fs::File::options().create(true).append(true).open(self.ballast()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Elastic's own components of a Collector, before this server; `run` is where it runs.
pub fn apm(es: &Elasticsearch, run: &Path) -> Server {
    // Stands in for the built-in templates, which this server lacks.
    let template: Value = serde_json::from_str(include_str!("otel-template.json")).unwrap();
    assert_eq!(es.ask("PUT", "/_index_template/otel", Some(&template))["acknowledged"], true);
    let mut env = with_ports(&["APM_GRPC_PORT", "APM_HTTP_PORT", "APM_HEALTH_PORT"], run);
    env.insert("ELASTICSEARCH_URL".to_owned(), es.url().to_owned());
    Server::start("elastic-apm", env)
}
