// SPDX-License-Identifier: Apache-2.0
//! TLS of the HTTP listener. Certificates are read again when their files change: connections that
//! exist go on, the next one gets the new certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::guard::Peer;
use crate::files::FromFiles;

/// For a client to say what TLS wants to hear.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Files of a listener's certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `http.certificate_file`
    pub certificate: PathBuf,
    /// `http.key_file`
    pub key: PathBuf,
    /// `http.client_ca_file`
    pub client_ca: Option<PathBuf>,
}

/// How connections of a listener are encrypted.
pub(super) struct Tls(FromFiles<Arc<ServerConfig>>);

impl Tls {
    pub fn new(files: &TlsFiles) -> anyhow::Result<Self> {
        let paths = [&files.certificate, &files.key].into_iter().chain(&files.client_ca).cloned().collect();
        let files = files.clone();
        Ok(Tls(FromFiles::new(paths, move || Ok(Arc::new(server_config(&files)?)))?))
    }

    /// Encrypts a connection, and says who is at its other end.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Peer)> {
        let acceptor = TlsAcceptor::from((*self.0.get()).clone());
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
        // One that was shown is verified, or there would be no connection.
        let shown = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
        Ok((stream, if shown { Peer::Certified } else { Peer::Unknown }))
    }
}

fn server_config(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for c in certificates("http.client_ca_file", path)? {
                roots
                    .add(c)
                    .with_context(|| format!("use the certificate in http.client_ca_file {}", path.display()))?;
            }
            // Who asks for health shows none; all else is refused later, in words.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let key = read("http.key_file", &files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .with_context(|| format!("http.key_file {} holds no private key in PEM form", files.key.display()))?;
    let chain = certificates("http.certificate_file", &files.certificate)?;
    let pair = || {
        format!("use http.certificate_file {} with http.key_file {}", files.certificate.display(), files.key.display())
    };
    let mut config = builder.with_single_cert(chain, key).with_context(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(key: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {key} {}", path.display()))
}

fn certificates(key: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = read(key, path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("read certificates from {key} {}", path.display()))?;
    anyhow::ensure!(!all.is_empty(), "{key} {} holds no certificate in PEM form", path.display());
    Ok(all)
}
