// SPDX-License-Identifier: Apache-2.0
//! The API server's pods of this node: listed once from its cache, then watched
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::Uri;
use hyper::body::Incoming;
use rustls::RootCertStore;

use super::facts::{Facts, Source};
use super::https::{CLUSTER_CA, Https, TIMEOUT, roots};
use super::kubelet::MAX_LIST;
use super::pods::{self, WatchEvent};
use crate::workload::settings::ApiServer as Settings;

/// A watch is asked to last so long, and up to as long again, so that the nodes of a cluster do not
/// all ask anew in one moment.
const WATCH: Duration = Duration::from_secs(300);
/// More than etcd takes of one object by far.
const MAX_EVENT: usize = 8 << 20;
const RIGHT: &str = "`list` and `watch` on `pods`";

/// Who watches.
pub(super) struct Client {
    https: Https,
    /// Up to where a request says what it wants of them.
    pods: String,
}

/// How a watch ended.
pub(super) enum Ended {
    /// In its time: one may go on from where it was.
    InTime,
    /// What came since is not kept by the server any more: everything is to be listed again.
    TooOld,
}

impl Client {
    /// # Errors
    /// Which setting or file cannot be used, and why.
    pub fn new(settings: &Settings, env: &BTreeMap<String, String>) -> anyhow::Result<Client> {
        let url = settings.address(env).context(
            "no address: set workload.api_server.url (a pod has it in KUBERNETES_SERVICE_HOST and \
             KUBERNETES_SERVICE_PORT)",
        )?;
        let node = settings.node_name(env).context("no node: set workload.api_server.node, or K8S_NODE_NAME")?;
        let uri: Uri = url.parse().with_context(|| format!("workload.api_server.url: {url} is no address"))?;
        let roots = match uri.scheme_str() {
            Some("https") => roots(
                "workload.api_server.ca_file",
                settings.ca_file.as_ref(),
                &[settings.token_file.with_file_name(CLUSTER_CA)],
            )?,
            _ => RootCertStore::empty(),
        };
        let pods = format!("{}/api/v1/pods?fieldSelector=spec.nodeName%3D{node}", url.trim_end_matches('/'));
        Ok(Client { https: Https::new(roots, &[], &settings.token_file)?, pods })
    }

    /// Applies the list; returns the resource version to watch from.
    ///
    /// # Errors
    /// It did not answer, does not let us in, or what it said is no list of pods.
    pub async fn list(&self, facts: &Facts) -> anyhow::Result<String> {
        // From the server's cache: ten thousand nodes that start at once are no load for etcd.
        let answer = self.open("&resourceVersion=0").await?;
        let body = tokio::time::timeout(TIMEOUT, Limited::new(answer, MAX_LIST).collect()).await;
        let body = body.context("the list did not end in 10 s")?;
        let body = body.map_err(|e| anyhow::anyhow!("the list broke off: {e}"))?.to_bytes();
        Ok(pods::apply_list(&body, Source::ApiServer, facts).context("the answer is no list of pods")?.resource_version)
    }

    /// Applies the events of a watch, calling `notify` after each batch, until the server ends it. `from` follows.
    ///
    /// # Errors
    /// The connection is lost, or what came is no event.
    pub async fn watch(&self, from: &mut String, facts: &Facts, notify: impl Fn()) -> anyhow::Result<Ended> {
        let last = WATCH + WATCH.mul_f64(fastrand::f64());
        let query =
            format!("&watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={from}", last.as_secs());
        let body = self.open(&query).await?;
        // A connection that died silently ends it, too.
        match tokio::time::timeout(last + TIMEOUT, follow(body, from, facts, notify)).await {
            Ok(ended) => ended,
            Err(_) => anyhow::bail!("the watch did not end in its time"),
        }
    }

    async fn open(&self, query: &str) -> anyhow::Result<Incoming> {
        let uri: Uri = format!("{}{query}", self.pods).parse().context("workload.api_server.url")?;
        Ok(self.https.get(&uri, RIGHT).await?.into_body())
    }
}

/// Takes the lines of a watch's answer, each an event.
async fn follow(mut body: Incoming, from: &mut String, facts: &Facts, notify: impl Fn()) -> anyhow::Result<Ended> {
    let mut text: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the watch broke off")?.into_data() else { continue };
        text.extend_from_slice(&data);
        let Some(end) = data.iter().rposition(|b| *b == b'\n').map(|i| text.len() - data.len() + i) else {
            anyhow::ensure!(text.len() <= MAX_EVENT, "an event of the watch is longer than {MAX_EVENT} bytes");
            continue;
        };
        for line in text[..end].split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            match pods::apply_event(line, facts)? {
                WatchEvent::UpTo(version) => *from = version,
                WatchEvent::TooOld => return Ok(Ended::TooOld),
            }
        }
        text.drain(..=end);
        notify();
    }
    Ok(Ended::InTime)
}
