// SPDX-License-Identifier: Apache-2.0
//! Who is answered, and what clients may take.

use std::io;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

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

    /// A certificate and its key, in PEM form.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A client that trusts this authority and shows a certificate.
    fn client(&self, own: Option<&(String, String)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        TlsConnector::from(Arc::new(config))
    }
}

/// Files of a listener, in a folder that goes with them.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(server: &(String, String)) -> Self {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        files.renew(server);
        files
    }

    fn renew(&self, (certificate, key): &(String, String)) {
        std::fs::write(self.path("crt"), certificate).unwrap();
        std::fs::write(self.path("key"), key).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn listen(&self, client_ca: Option<&Authority>) -> Listen {
        let client_ca = client_ca.map(|a| {
            std::fs::write(self.path("ca"), &a.pem).unwrap();
            self.path("ca")
        });
        let tls = TlsFiles { certificate: self.path("crt"), key: self.path("key"), client_ca };
        Listen { tcp: Some("127.0.0.1:0".parse().unwrap()), tls: Some(tls), ..Listen::default() }
    }
}

impl Running {
    async fn tls(&self, client: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address.unwrap()).await?;
        client.connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    async fn asked_by(&self, client: &TlsConnector, path: &str) -> io::Result<u16> {
        get(&mut self.tls(client).await?, path, "").await
    }
}

/// Status of an answer on a connection that goes on; `more`: further lines of the head.
async fn get(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, more: &str) -> io::Result<u16> {
    let host = if more.contains("Host:") { "" } else { "Host: localhost\r\n" };
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{host}{more}\r\n").as_bytes()).await?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await?;
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let length =
        head.lines().find_map(|l| l.strip_prefix("content-length: ")).and_then(|n| n.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(head[9..12].parse().unwrap())
}

/// With an authority for clients only its clients are answered, but for health; a foreign certificate
/// does not even get a connection; with a token as well both are needed.
#[tokio::test]
async fn client_certificates() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = Files::new(&ours.issue());
    let mut listen = files.listen(Some(&ours));
    let server = Running::start(&Memory::new(1), &listen).await.unwrap();
    let (known, unknown) = (ours.client(Some(&ours.issue())), ours.client(None));
    for (path, of_unknown) in
        [("/healthz", 200), ("/readyz", 200), ("/metrics", 403), ("/v1/collectors", 403), ("/", 403)]
    {
        assert_eq!(server.asked_by(&known, path).await.unwrap(), 200, "{path}");
        assert_eq!(server.asked_by(&unknown, path).await.unwrap(), of_unknown, "{path}");
    }
    let foreign = ours.client(Some(&theirs.issue()));
    assert!(server.asked_by(&foreign, "/healthz").await.is_err());
    assert!(
        server.asked_by(&theirs.client(None), "/healthz").await.is_err(),
        "our certificate is not of their authority"
    );
    let mut plain = TcpStream::connect(server.address.unwrap()).await.unwrap();
    assert!(get(&mut plain, "/healthz", "").await.is_err(), "answered without TLS");

    listen.token_file = Some(files.path("token"));
    std::fs::write(files.path("token"), "0123456789abcdef").unwrap();
    let server = Running::start(&Memory::new(1), &listen).await.unwrap();
    let token = "Authorization: Bearer 0123456789abcdef\r\n";
    for (client, more, status) in [(&known, "", 401), (&known, token, 200), (&unknown, token, 403)] {
        let mut stream = server.tls(client).await.unwrap();
        assert_eq!(get(&mut stream, "/v1/collectors", more).await.unwrap(), status);
    }
}

/// New files hold for the next connection and leave those that exist alone; files that do not belong
/// together change nothing.
#[tokio::test]
async fn certificates_are_renewed() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old.issue());
    let server = Running::start(&Memory::new(1), &files.listen(Some(&old))).await.unwrap();
    let mut open = server.tls(&old.client(Some(&old.issue()))).await.unwrap();
    assert_eq!(get(&mut open, "/v1/collectors", "").await.unwrap(), 200);
    let look = || tokio::time::sleep(Duration::from_millis(1_100));

    // One of two is there already: the old pair goes on.
    let (certificate, key) = new.issue();
    std::fs::write(files.path("crt"), &certificate).unwrap();
    look().await;
    assert_eq!(server.asked_by(&old.client(None), "/healthz").await.unwrap(), 200);
    assert!(server.asked_by(&new.client(None), "/healthz").await.is_err());

    std::fs::write(files.path("key"), &key).unwrap();
    std::fs::write(files.path("ca"), &new.pem).unwrap();
    look().await;
    assert_eq!(server.asked_by(&new.client(Some(&new.issue())), "/v1/collectors").await.unwrap(), 200);
    assert!(server.asked_by(&old.client(None), "/healthz").await.is_err(), "the old certificate is still shown");
    assert!(
        server.asked_by(&new.client(Some(&old.issue())), "/healthz").await.is_err(),
        "the old authority still counts"
    );
    assert_eq!(get(&mut open, "/v1/collectors", "").await.unwrap(), 200, "an open connection was dropped");
}

/// What others can reach is refused at start unless it asks who they are; TLS alone does not.
#[tokio::test]
async fn open_listeners_are_refused() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let anywhere = |mut listen: Listen| {
        listen.tcp = Some("0.0.0.0:0".parse().unwrap());
        listen
    };
    std::fs::write(files.path("token"), "0123456789abcdef").unwrap();
    let token = Listen { token_file: Some(files.path("token")), ..Listen::default() };
    for (listen, fine) in
        [(Listen::default(), false), (files.listen(None), false), (files.listen(Some(&authority)), true), (token, true)]
    {
        let bound = Server::bind(&anywhere(listen.clone())).await;
        assert_eq!(bound.is_ok(), fine, "{listen:?}");
        if let Err(e) = bound {
            assert!(e.to_string().contains("http.token_file or http.client_ca_file"), "{e}");
        }
    }
    // What is wrong with a file is said with its name and its setting, and never with what is in it.
    std::fs::write(files.path("key"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    let e = format!("{:#}", Server::bind(&files.listen(None)).await.err().unwrap());
    assert!(e.contains("http.key_file") && e.contains("key") && !e.contains("c2VjcmV0"), "{e}");
}

/// A page of another site whose name leads here is not answered, whatever it asks; with a token, which
/// it does not have, any name will do.
#[tokio::test]
async fn requests_for_other_hosts() {
    let server = Running::tcp(&Memory::new(1)).await;
    let ask = async |server: &Running, path: &str, more: &str| {
        let mut stream = TcpStream::connect(server.address.unwrap()).await.unwrap();
        get(&mut stream, path, more).await.unwrap()
    };
    for path in ["/", "/healthz", "/v1/events", "/metrics"] {
        assert_eq!(ask(&server, path, "Host: evil.example\r\n").await, 421, "{path}");
        assert_eq!(ask(&server, path, "Host: 127.0.0.1:9774\r\n").await, 200, "{path}");
    }
    assert_eq!(ask(&server, "/healthz", "Host: localhost\r\nHost: evil.example\r\n").await, 421);
    assert_eq!(ask(&server, "http://evil.example/healthz", "").await, 421);
    let dir = tempfile::tempdir().unwrap();
    let token_file = Some(dir.path().join("token"));
    std::fs::write(dir.path().join("token"), "0123456789abcdef").unwrap();
    let tcp = Some("127.0.0.1:0".parse().unwrap());
    let server = Running::start(&Memory::new(1), &Listen { tcp, token_file, ..Listen::default() }).await.unwrap();
    assert_eq!(ask(&server, "/v1/collectors", "Host: node-1\r\nAuthorization: Bearer 0123456789abcdef\r\n").await, 200);
    assert_eq!(ask(&server, "/v1/collectors", "Host: node-1\r\n").await, 401);
    // The page's files hold nothing about the node; everything they request does.
    assert_eq!(ask(&server, "/page/main.js", "Host: node-1\r\n").await, 200);
}

/// Who sends a head too slowly or takes an answer too slowly is cut off, and who comes meanwhile is
/// answered as soon as a place is free; a body is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_cut_off() {
    let short = Duration::from_millis(400);
    let limits = Limits { connections: 2, head: short, write: short };
    let listen = Listen { tcp: Some("127.0.0.1:0".parse().unwrap()), limits, ..Listen::default() };
    let memory = Memory::new(usize::MAX);
    (1..=40_000).for_each(|n| memory.append(n));
    let server = Running::start(&memory, &listen).await.unwrap();
    let connect = || async { TcpStream::connect(server.address.unwrap()).await.unwrap() };

    let (mut head, mut reader) = (connect().await, connect().await);
    head.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    // Twenty megabytes, of which nothing is taken.
    reader.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let start = std::time::Instant::now();
    let mut third = connect().await;
    assert_eq!(get(&mut third, "/healthz", "").await.unwrap(), 200);
    assert!(start.elapsed() >= Duration::from_millis(300), "there was a place though two were taken");
    let mut rest = Vec::new();
    head.read_to_end(&mut rest).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");
    drop(third);
    // The reader's place is free too, though it was never closed by it.
    let (mut a, mut b) = (connect().await, connect().await);
    assert_eq!(get(&mut a, "/healthz", "").await.unwrap(), 200);
    let waiting = get(&mut b, "/healthz", "");
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("a place").unwrap(), 200);
    drop((a, b));
    let mut post = connect().await;
    post.write_all(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n")
        .await
        .unwrap();
    let text = tokio::time::timeout(Duration::from_secs(10), read_until(&mut post, "only GET")).await.unwrap();
    assert!(text.contains("405"), "{text}");
}
