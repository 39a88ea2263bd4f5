// SPDX-License-Identifier: Apache-2.0
//! Certificates: the system's, or those of the settings. Always verified.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::config::Endpoint;

/// A file of the settings.
///
/// # Errors
/// Which file could not be read, and why.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("exporters.otlp: read {}", path.display()))
}

/// TLS for HTTP. Without TLS in the address, nothing is read.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn client_config(endpoint: &Endpoint) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let is_tls = endpoint.url.starts_with("https:");
    match &endpoint.ca_file {
        _ if !is_tls => {}
        Some(path) => {
            for c in certificates(path)? {
                roots.add(c).with_context(|| format!("exporters.otlp: use the certificate in {}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            anyhow::ensure!(
                !roots.is_empty(),
                "exporters.otlp: this system has no CA certificates to check {} against; install ca-certificates or \
                 set exporters.otlp.ca_file",
                endpoint.url
            );
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match &endpoint.client {
        Some((certificate, key)) if is_tls => {
            let key_der = PrivateKeyDer::from_pem_slice(&read(key)?)
                .with_context(|| format!("exporters.otlp: read a private key from {}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, key_der)
                .with_context(|| format!("exporters.otlp: use {} with {}", certificate.display(), key.display()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("exporters.otlp: read certificates from {}", path.display()))?;
    anyhow::ensure!(!all.is_empty(), "exporters.otlp: {} holds no certificate in PEM form", path.display());
    Ok(all)
}
