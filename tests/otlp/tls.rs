// SPDX-License-Identifier: Apache-2.0
//! TLS to a back end that asks for a certificate, and certificates that are renewed while it is used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bianque::exporters::otlp::{Outcome, Protocol, Settings, Signal, Transport};
use hyper::body::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{ANY_PORT, BOTH};
use crate::server::{Answer, Server};

/// Issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn root(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// A server's side of TLS, which asks clients for a certificate of the same authority.
fn accepting(authority: &Authority, protocol: Protocol) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.root().into(), provider.clone());
    let (certificate, key) = authority.issue();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![if protocol == Protocol::Grpc { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Arc::new(config)
}

/// TLS in front of the scripted server; what it accepts by may be changed.
struct Front {
    config: Arc<Mutex<Arc<ServerConfig>>>,
    port: u16,
    open: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

impl Front {
    async fn start(config: Arc<ServerConfig>, to: std::net::SocketAddr) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(Mutex::new(config));
        let open: Arc<Mutex<Vec<_>>> = Arc::default();
        let (current, connections) = (config.clone(), open.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(current.lock().unwrap().clone());
                connections.lock().unwrap().push(tokio::spawn(async move {
                    // A client with the wrong certificate gets no further.
                    let Ok(mut tls) = acceptor.accept(stream).await else { return };
                    let mut plain = tokio::net::TcpStream::connect(to).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut tls, &mut plain).await);
                }));
            }
        });
        Front { config, port, open }
    }

    /// From now on by another configuration; connections that exist are cut.
    fn change(&self, config: Arc<ServerConfig>) {
        *self.config.lock().unwrap() = config;
        self.open.lock().unwrap().drain(..).for_each(|c| c.abort());
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, authority: &Authority, (certificate, key): &(String, String)) {
        let put = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        put(&self.path("ca"), &authority.pem);
        put(&self.path("crt"), certificate);
        put(&self.path("key"), key);
    }

    fn transport(&self, protocol: Protocol, port: u16, own: bool) -> Transport {
        let own = |name: &str| own.then(|| self.path(name));
        let settings = Settings {
            endpoint: Some(format!("https://localhost:{port}")),
            protocol: Some(protocol),
            timeout: Duration::from_secs(5).into(),
            ca_file: Some(self.path("ca")),
            client_certificate_file: own("crt"),
            client_key_file: own("key"),
            ..Settings::default()
        };
        Transport::new(&settings.endpoint(Signal::Logs).unwrap().unwrap()).unwrap()
    }
}

async fn send(transport: &mut Transport) -> Outcome {
    transport.export(Bytes::from(ExportLogsServiceRequest::default().encode_to_vec())).await
}

fn is_accepted(o: &Outcome) -> bool {
    matches!(o, Outcome::Accepted { rejected: 0, .. })
}

/// Over both protocols: with the right certificate data is taken; without one, or with another
/// authority's, it is kept; and when both ends change to another authority, delivery goes on without
/// a restart.
#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_shown_and_renewed() {
    for protocol in BOTH {
        let (server, at) = Server::start(protocol, ANY_PORT.into(), |_, _| Answer::Accept).await;
        let (old, new) = (Authority::new(), Authority::new());
        let front = Front::start(accepting(&old, protocol), at).await;
        let files = Files(tempfile::tempdir().unwrap());
        files.write(&old, &old.issue());
        let mut transport = files.transport(protocol, front.port, true);
        let said = send(&mut transport).await;
        assert!(is_accepted(&said), "{protocol:?}: {said:?}");
        let said = send(&mut files.transport(protocol, front.port, false)).await;
        assert!(matches!(said, Outcome::Retry { .. }), "{protocol:?}, without a certificate: {said:?}");
        let foreign = Files(tempfile::tempdir().unwrap());
        foreign.write(&old, &new.issue());
        let said = send(&mut foreign.transport(protocol, front.port, true)).await;
        assert!(matches!(said, Outcome::Retry { .. }), "{protocol:?}, with another authority's: {said:?}");

        front.change(accepting(&new, protocol));
        let said = send(&mut transport).await;
        assert!(matches!(said, Outcome::Retry { .. }), "{protocol:?}, of the old authority: {said:?}");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        // Half of what is needed is no use, and no harm.
        std::fs::write(files.path("crt"), "no certificate").unwrap();
        assert!(matches!(send(&mut transport).await, Outcome::Retry { .. }));
        files.write(&new, &new.issue());
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let mut said = send(&mut transport).await;
        if !is_accepted(&said) {
            // A pool may find out with its first request that its connection is gone.
            said = send(&mut transport).await;
        }
        assert!(is_accepted(&said), "{protocol:?}, renewed: {said:?}");
        assert_eq!(server.seen().len(), 2, "{protocol:?}");
    }
}
