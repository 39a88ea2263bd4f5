// SPDX-License-Identifier: Apache-2.0
//! The kubelet's list of pods, over https with the service account's token and a certificate that is
//! always verified; or over its read-only port, where that is still open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::facts::Facts;
use super::pods;
use crate::workload::settings::Kubelet as Settings;

const TIMEOUT: Duration = Duration::from_secs(10);
/// 500 pods are some 5 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// Beside the service account's token, and the kubelet's own: what a node has by default.
const CLUSTER_CA: &str = "ca.crt";
const KUBELET_CA: &str = "var/lib/kubelet/pki/kubelet.crt";

/// Who asks the kubelet.
pub(super) struct Client {
    pool: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    uri: Uri,
    token_file: PathBuf,
}

impl Client {
    /// # Errors
    /// Which setting or file cannot be used, and why.
    pub fn new(root: &Path, url: &str, settings: &Settings) -> anyhow::Result<Client> {
        let uri: Uri = url.parse().with_context(|| format!("workload.kubelet.url: {url} is no address"))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(TIMEOUT / 2));
        let tls = if uri.scheme_str() == Some("https") { roots(root, settings)? } else { RootCertStore::empty() };
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(tls)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Client { pool, uri, token_file: settings.token_file.clone() })
    }

    /// Reads the list and hands on what it tells; how many pods that is.
    ///
    /// # Errors
    /// It did not answer, does not let us in, or what it said is no list of pods.
    pub async fn read(&self, facts: &Facts) -> anyhow::Result<usize> {
        let body = tokio::time::timeout(TIMEOUT, self.get()).await.context("it did not answer in 10 s")??;
        pods::tell(&body, facts).context("the answer is no list of pods")
    }

    async fn get(&self) -> anyhow::Result<Bytes> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Never over plain http: the token opens the whole cluster's doors that are ours.
        if self.uri.scheme_str() == Some("https")
            && let Some(token) = self.token()?
        {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let answer = self.pool.request(request).await.map_err(|e| anyhow::anyhow!("{}", chain(&e)))?;
        match answer.status() {
            StatusCode::OK => {}
            s @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                anyhow::bail!("{s}: the service account needs `get` on `nodes/proxy` (or `nodes/pods`)")
            }
            s => anyhow::bail!("{s}"),
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok(body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?.to_bytes())
    }

    /// Read anew each time: tokens of pods are renewed every hour.
    fn token(&self) -> anyhow::Result<Option<HeaderValue>> {
        let text = match std::fs::read_to_string(&self.token_file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", self.token_file.display())),
        };
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|_| anyhow::anyhow!("{} holds no token", self.token_file.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// The certificates that the kubelet's is checked against.
fn roots(root: &Path, settings: &Settings) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let files = match &settings.ca_file {
        Some(file) => vec![file.clone()],
        None => vec![settings.token_file.with_file_name(CLUSTER_CA), root.join(KUBELET_CA)],
    };
    for file in &files {
        match std::fs::read(file) {
            Ok(pem) => {
                let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
                    .collect::<Result<_, _>>()
                    .with_context(|| format!("read certificates from {}", file.display()))?;
                roots.add_parsable_certificates(all);
            }
            // Of those that nobody named, one suffices.
            Err(_) if settings.ca_file.is_none() => {}
            Err(e) => return Err(e).with_context(|| format!("workload.kubelet.ca_file: read {}", file.display())),
        }
    }
    let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    anyhow::ensure!(
        !roots.is_empty(),
        "no certificate to check the kubelet's against: {} holds none; set workload.kubelet.ca_file",
        names.join(" or ")
    );
    Ok(roots)
}

/// What a client says, with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}
