// SPDX-License-Identifier: Apache-2.0
//! Listeners on TCP and on the local socket, and the connections on them.

use std::fs::Permissions;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::guard::{Guard, Peer};
use super::routes::router;
use super::state::{Api, stopping};
use super::tls::{Tls, TlsFiles};
use super::token::Token;
use super::write_timeout::WriteTimeout;
use crate::host::{socket, sys};

/// For answers to be finished when the agent stops.
const DRAIN: Duration = Duration::from_secs(2);
/// After accepting failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a request's head may be.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
const SOCKET_MODE: u32 = 0o660;
/// Another agent on our path accepts within that.
const ANSWERS: Duration = Duration::from_secs(2);

/// Runs a connection; the agent's, as only it starts tasks.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Where to listen, and for whom.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// `http.listen`
    pub tcp: Option<SocketAddr>,
    /// `http.token_file`
    pub token_file: Option<PathBuf>,
    /// `http.certificate_file` and what belongs to it
    pub tls: Option<TlsFiles>,
    /// `api.socket`
    pub socket: Option<PathBuf>,
    pub limits: Limits,
}

/// What clients may take of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once of each listener; more wait to be accepted.
    pub connections: usize,
    /// For a request's head to come, the first as any later: longer than between two scrapes.
    pub head: Duration,
    /// For a client to take something of what is sent to it.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Followers of events, of whom there may be [`super::WATCHERS`], and room for all others.
        let connections = super::WATCHERS + 128;
        Limits { connections, head: Duration::from_secs(75), write: Duration::from_secs(60) }
    }
}

/// Bound listeners.
pub struct Server {
    tcp: Option<TcpListener>,
    guard: Guard,
    tls: Option<Arc<Tls>>,
    unix: Option<(UnixListener, SocketFile)>,
    limits: Limits,
}

impl Server {
    /// Binds all, or none.
    ///
    /// # Errors
    /// Which address or file, why, and what to do.
    pub async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        let token = listen.token_file.as_deref().map(Token::new).transpose()?.map(Arc::new);
        let tls = listen.tls.as_ref().map(Tls::new).transpose()?.map(Arc::new);
        let certificate = listen.tls.as_ref().is_some_and(|t| t.client_ca.is_some());
        let asks = token.is_some() || certificate;
        if let Some(address) = listen.tcp.filter(|a| !a.ip().is_loopback()) {
            anyhow::ensure!(
                asks,
                "http.listen = {address} can be reached from other machines: set http.token_file or http.client_ca_file, or listen on 127.0.0.1 or [::1]"
            );
            if tls.is_none() {
                tracing::warn!(
                    "http.listen = {address} is not encrypted, so the token can be read on the way: set http.certificate_file and http.key_file"
                );
            }
        }
        let tcp = match listen.tcp {
            None => None,
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.with_context(|| format!("cannot listen on http.listen = {address}"))?)
            }
        };
        let unix = match &listen.socket {
            None => None,
            Some(path) => {
                Some(bind_socket(path).with_context(|| format!("cannot listen on api.socket = {}", path.display()))?)
            }
        };
        let guard = Guard { token, certificate, own_name: !asks };
        Ok(Server { tcp, guard, tls, unix, limits: listen.limits })
    }

    /// The TCP address, with the port that the kernel chose where 0 was asked.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Serves until `api.stop` turns true, then lets answers finish for two seconds.
    pub async fn run(self, api: Arc<Api>, spawn: Spawn) {
        let serving = |guard| Serving {
            slots: Arc::new(Semaphore::new(self.limits.connections)),
            spawn: spawn.clone(),
            stop: api.stop.clone(),
            router: router(api.clone(), guard),
            limits: self.limits,
        };
        let (remote, local) = (serving(self.guard), serving(Guard::default()));
        let tcp = async {
            if let Some(listener) = &self.tcp {
                remote
                    .listen(|| next_tcp(listener), |connection, stream| connection.tcp(stream, self.tls.clone()))
                    .await;
            }
        };
        let unix = async {
            if let Some((listener, _)) = &self.unix {
                local.listen(|| listener.accept(), |connection, (stream, _)| connection.unix(stream)).await;
            }
        };
        tokio::join!(tcp, unix);
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        let done = async { tokio::join!(remote.slots.acquire_many(all), local.slots.acquire_many(all)) };
        // Who is not done by then is cut off with the runtime.
        let _ = tokio::time::timeout(DRAIN, done).await;
    }
}

async fn next_tcp(listener: &TcpListener) -> std::io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // A line that is followed live must not wait for more.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One listener's connections.
struct Serving {
    slots: Arc<Semaphore>,
    spawn: Spawn,
    stop: watch::Receiver<bool>,
    router: Router,
    limits: Limits,
}

impl Serving {
    async fn listen<S, A, C>(&self, mut accept: impl FnMut() -> A, serve: impl Fn(Connection, S) -> C)
    where
        A: Future<Output = std::io::Result<S>>,
        C: Future<Output = ()> + Send + 'static,
    {
        let mut stop = self.stop.clone();
        let mut failing = false;
        loop {
            let next = async {
                let slot = self.slots.clone().acquire_owned().await;
                (slot, accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = stopping(&mut stop) => return,
                next = next => next,
            };
            match accepted {
                Ok(stream) => {
                    failing = false;
                    let connection =
                        Connection { router: self.router.clone(), stop: self.stop.clone(), limits: self.limits };
                    let served = serve(connection, stream);
                    (self.spawn)(Box::pin(async move {
                        served.await;
                        drop(slot);
                    }));
                }
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("cannot accept connections for now: {e}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What it takes to serve one connection.
struct Connection {
    router: Router,
    stop: watch::Receiver<bool>,
    limits: Limits,
}

impl Connection {
    async fn tcp(self, stream: TcpStream, tls: Option<Arc<Tls>>) {
        let Some(tls) = tls else { return self.serve(stream, Peer::Unknown).await };
        match tls.accept(stream).await {
            Ok((stream, peer)) => self.serve(stream, peer).await,
            Err(e) => tracing::debug!("a client did not get through TLS: {e}"),
        }
    }

    async fn unix(self, stream: UnixStream) {
        let peer = if may_ask(&stream) { Peer::Local } else { Peer::Stranger };
        self.serve(stream, peer).await;
    }

    async fn serve<S>(self, stream: S, peer: Peer)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let Connection { router, mut stop, limits } = self;
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
        let service = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            service.call(request)
        });
        let connection = builder.serve_connection(TokioIo::new(WriteTimeout::new(stream, limits.write)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = ended {
            tracing::debug!("a connection broke: {e}");
        }
    }
}

/// Root, the agent's user, and who is in the agent's group: those whom the file's mode lets in, should
/// the file have been given to others.
fn may_ask(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else { return false };
    let own = sys::effective_ids();
    peer.uid() == 0
        || peer.uid() == own.0
        || peer.gid() == own.1
        || sys::peer_groups(stream).is_ok_and(|groups| groups.contains(&own.1))
}

/// The socket's file; taken away at the end unless it is another's by then.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds beside the path and moves it there with its mode set, so that nobody can connect before,
/// and what is there is replaced only if it is a socket on which nobody answers.
fn bind_socket(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
        Ok(meta) => {
            anyhow::ensure!(meta.file_type().is_socket(), "the file exists and is no socket; move it away");
            match socket::Connection::open(path, ANSWERS) {
                Ok(_) => anyhow::bail!("another agent answers there; stop it, or choose another path"),
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                Err(e) => {
                    return Err(anyhow::Error::from(e).context("cannot check whether another process listens there"));
                }
            }
        }
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    if let Err(e) = std::fs::remove_file(&beside)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(e.into());
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, Permissions::from_mode(SOCKET_MODE))?;
    let inode = std::fs::symlink_metadata(&beside)?.ino();
    std::fs::rename(&beside, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}
