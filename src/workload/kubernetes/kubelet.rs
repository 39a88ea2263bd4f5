// SPDX-License-Identifier: Apache-2.0
//! The kubelet's list of pods: over https, or over its read-only port, where that is still open.

use std::path::Path;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::Uri;
use hyper::body::Bytes;
use rustls::RootCertStore;

use super::facts::{Facts, Source};
use super::https::{CLUSTER_CA, Https, TIMEOUT, roots};
use super::pods;
use crate::workload::settings::Kubelet as Settings;

/// 500 pods are some 5 MiB.
pub(super) const MAX_LIST: usize = 64 << 20;
/// The kubelet's own certificate: what a node has by default.
const KUBELET_CA: &str = "var/lib/kubelet/pki/kubelet.crt";

/// Who asks the kubelet.
pub(super) struct Client {
    https: Https,
    uri: Uri,
}

impl Client {
    /// `names`: the node's, which the kubelet's certificate may be made out to instead of the address.
    ///
    /// # Errors
    /// Which setting or file cannot be used, and why.
    pub fn new(root: &Path, url: &str, names: &[String], settings: &Settings) -> anyhow::Result<Client> {
        let uri: Uri = url.parse().with_context(|| format!("workload.kubelet.url: {url} is no address"))?;
        let usual = [settings.token_file.with_file_name(CLUSTER_CA), root.join(KUBELET_CA)];
        let roots = match uri.scheme_str() {
            Some("https") => roots("workload.kubelet.ca_file", settings.ca_file.as_ref(), &usual)?,
            _ => RootCertStore::empty(),
        };
        Ok(Client { https: Https::new(roots, names, &settings.token_file)?, uri })
    }

    /// Reads and applies the list; returns the number of pods.
    ///
    /// # Errors
    /// It did not answer, does not let us in, or what it said is no list of pods.
    pub async fn read(&self, facts: &Facts) -> anyhow::Result<usize> {
        let body = tokio::time::timeout(TIMEOUT, self.get()).await.context("it did not answer in 10 s")??;
        Ok(pods::apply_list(&body, Source::Kubelet, facts).context("the answer is no list of pods")?.pods)
    }

    async fn get(&self) -> anyhow::Result<Bytes> {
        let answer = self.https.get(&self.uri, "`get` on `nodes/proxy` (or `nodes/pods`)").await?;
        let body = Limited::new(answer.into_body(), MAX_LIST).collect().await;
        Ok(body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?.to_bytes())
    }
}
