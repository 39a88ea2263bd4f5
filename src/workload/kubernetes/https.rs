// SPDX-License-Identifier: Apache-2.0
//! Requests to the kubelet and to the API server: over https with the service account's token and a
//! certificate that is always verified; or over plain http, and then without the token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// For a connection, and for an answer to begin.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Beside the service account's token.
pub(super) const CLUSTER_CA: &str = "ca.crt";

/// Who asks.
pub(super) struct Https {
    pool: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    token_file: PathBuf,
}

impl Https {
    /// `roots`: what the server's certificate is checked against; `names`: what else it may be made out to, beside the
    /// host of the address.
    ///
    /// # Errors
    /// The TLS library refuses to start.
    pub fn new(roots: RootCertStore, names: &[String], token_file: &Path) -> anyhow::Result<Https> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(TIMEOUT / 2));
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let tls = match roots.is_empty() {
            true => tls.with_root_certificates(roots),
            false => tls.dangerous().with_custom_certificate_verifier(Arc::new(AnyName::new(roots, names)?)),
        };
        let tls = tls.with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Https { pool, token_file: token_file.to_owned() })
    }

    /// The answer to a GET, whose body is still to be read. `right`: what the account needs to be let in.
    ///
    /// # Errors
    /// It cannot be reached, is not trusted, or answers with anything but 200.
    pub async fn get(&self, uri: &Uri, right: &str) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Never over plain http: the token opens the whole cluster's doors that are ours.
        if uri.scheme_str() == Some("https")
            && let Some(token) = self.token()?
        {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let answer = tokio::time::timeout(TIMEOUT, self.pool.request(request)).await;
        let answer = answer.context("it did not answer in 10 s")?.map_err(|e| anyhow::anyhow!("{}", chain(&e)))?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            s @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                anyhow::bail!("{s}: the service account needs {right}")
            }
            s => anyhow::bail!("{s}"),
        }
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

/// Checks certificates as rustls does, by any of a server's names: a kubelet that is asked at the node's address has
/// mostly made its own certificate, out to the node's name only.
#[derive(Debug)]
struct AnyName {
    checks: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl AnyName {
    fn new(roots: RootCertStore, names: &[String]) -> anyhow::Result<AnyName> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let checks = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let names = names.iter().filter_map(|n| ServerName::try_from(n.clone()).ok()).collect();
        Ok(AnyName { checks, names })
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let check = |name: &ServerName<'_>| self.checks.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        check(asked).or_else(|e| self.names.iter().find_map(|n| check(n).ok()).ok_or(e))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.checks.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.checks.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.checks.supported_verify_schemes()
    }
}

/// The certificates of the file that the setting `key` names; else of those `usual` ones that are there.
///
/// # Errors
/// A named file cannot be read, or there is no certificate at all.
pub(super) fn roots(key: &str, named: Option<&PathBuf>, usual: &[PathBuf]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let files = named.map_or(usual, std::slice::from_ref);
    for file in files {
        match std::fs::read(file) {
            Ok(pem) => {
                let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
                    .collect::<Result<_, _>>()
                    .with_context(|| format!("read certificates from {}", file.display()))?;
                roots.add_parsable_certificates(all);
            }
            // Of those that nobody named, one suffices.
            Err(_) if named.is_none() => {}
            Err(e) => return Err(e).with_context(|| format!("{key}: read {}", file.display())),
        }
    }
    let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    anyhow::ensure!(
        !roots.is_empty(),
        "no certificate to check the server's against: {} holds none; set {key}",
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
