// SPDX-License-Identifier: Apache-2.0
//! Elasticsearch as the tests have it: started, stopped and killed, asked over its own API, and behind
//! a proxy that does to it what networks do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bianque::exporters::elasticsearch::Settings;
use bianque::exporters::elasticsearch::config::Urls;
use bianque::exporters::settings::Secret;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::servers::{Server, with_ports};

/// A real server; ends when it is dropped.
pub struct Elasticsearch {
    server: Server,
    folder: TempDir,
}

impl Elasticsearch {
    pub fn start() -> Self {
        Self::with("0")
    }

    /// With TLS, users and API keys.
    pub fn secured() -> Self {
        Self::with("1")
    }

    fn with(security: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut env = with_ports(&["ES_HTTP_PORT", "ES_TRANSPORT_PORT"], folder.path());
        env.insert("ES_SECURITY".to_owned(), security.to_owned());
        Elasticsearch { server: Server::start("elasticsearch", env), folder }
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
        let file = self.folder.path().join("elasticsearch/pid");
        let pid = std::fs::read_to_string(file).unwrap();
        let pid = pid.split(' ').next().unwrap();
        assert!(Command::new("kill").args(["-KILL", "--", &format!("-{pid}")]).status().unwrap().success());
        // It gives a gigabyte back first; until then it counts as running.
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while Path::new("/proc").join(pid).exists() {
            assert!(std::time::Instant::now() < end, "{pid} does not die");
            std::thread::sleep(Duration::from_millis(50));
        }
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

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    Fair,
    /// Each answer takes long.
    Slow,
    /// Requests arrive, their answers do not.
    Lost,
    /// Requests arrive, their answers are another's.
    Garbage,
}

/// A way to the server that can be bad.
#[derive(Clone)]
pub struct Proxy {
    pub at: SocketAddr,
    weather: Arc<AtomicU8>,
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy { at: listener.local_addr().unwrap(), weather: Arc::default() };
        let weather = proxy.weather.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let weather = weather.clone();
                tokio::spawn(async move {
                    // A connection that breaks is what this is for.
                    drop(carry(client, upstream, &weather).await);
                });
            }
        });
        proxy
    }

    pub fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::Relaxed);
    }
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, weather: &AtomicU8) -> std::io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = from_server.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            match weather.load(Ordering::Relaxed) {
                w if w == Weather::Slow as u8 => tokio::time::sleep(Duration::from_secs(1)).await,
                w if w == Weather::Lost as u8 => return Ok(()),
                w if w == Weather::Garbage as u8 => {
                    let page = b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n<html>please sign in\n";
                    return to_client.write_all(page).await;
                }
                _ => {}
            }
            to_client.write_all(&buffer[..n]).await?;
        }
    };
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    tokio::select! {
        done = back => done,
        done = there => done.map(|_| ()),
    }
}
