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
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::routes::{Api, router};
use super::token::Token;

/// Connections at once, over all listeners; more wait to be accepted.
const CONNECTIONS: usize = 128;
/// For a request's head to come, the first as any later: longer than between two scrapes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// For answers to be finished when the agent stops.
const DRAIN: Duration = Duration::from_secs(2);
/// After accepting failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const SOCKET_MODE: u32 = 0o660;

/// Runs a connection; the agent's, as only it starts tasks.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Where to listen.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// `http.listen`
    pub tcp: Option<SocketAddr>,
    /// `http.token_file`
    pub token_file: Option<PathBuf>,
    /// `api.socket`
    pub socket: Option<PathBuf>,
}

/// Bound listeners.
pub struct Server {
    tcp: Option<TcpListener>,
    token: Option<Token>,
    unix: Option<(UnixListener, SocketFile)>,
}

impl Server {
    /// Binds all, or none.
    ///
    /// # Errors
    /// Which address or file, why, and what to do.
    pub async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        let token = listen.token_file.as_deref().map(Token::read).transpose()?;
        if let (Some(address), None) = (listen.tcp, &token) {
            anyhow::ensure!(
                address.ip().is_loopback(),
                "http.listen = {address} can be reached from other machines: set http.token_file, or listen on 127.0.0.1 or [::1]"
            );
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
        Ok(Server { tcp, token, unix })
    }

    /// The TCP address, with the port that the kernel chose where 0 was asked.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Serves until `api.stop` turns true, then lets answers finish for two seconds.
    pub async fn run(self, api: Arc<Api>, spawn: Spawn) {
        let stop = api.stop.clone();
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let serving = Serving { slots: slots.clone(), spawn, stop };
        let tcp = async {
            if let Some(listener) = &self.tcp {
                serving.listen(listener, router(api.clone(), self.token.clone())).await;
            }
        };
        let unix = async {
            if let Some((listener, _)) = &self.unix {
                serving.listen(listener, router(api.clone(), None)).await;
            }
        };
        tokio::join!(tcp, unix);
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        // Who is not done by then is cut off with the runtime.
        let _ = tokio::time::timeout(DRAIN, slots.acquire_many(all)).await;
    }
}

/// Waits until the agent stops; the agent gone is the agent stopped.
pub(super) async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// What both kinds of listener have in common.
trait Accept: Sync {
    type Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static;
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> std::io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // A line that is followed live must not wait for more.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> std::io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

struct Serving {
    slots: Arc<Semaphore>,
    spawn: Spawn,
    stop: watch::Receiver<bool>,
}

impl Serving {
    async fn listen(&self, listener: &impl Accept, router: Router) {
        let mut stop = self.stop.clone();
        let mut failing = false;
        loop {
            let next = async {
                let slot = self.slots.clone().acquire_owned().await;
                (slot, listener.next().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = stopping(&mut stop) => return,
                next = next => next,
            };
            match accepted {
                Ok(stream) => {
                    failing = false;
                    let connection = connection(stream, router.clone(), self.stop.clone());
                    (self.spawn)(Box::pin(async move {
                        connection.await;
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

async fn connection<S>(stream: S, router: Router, mut stop: watch::Receiver<bool>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => anyhow::bail!("another agent answers there; stop it, or choose another path"),
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                Err(e) => return Err(anyhow::Error::from(e).context("cannot tell whether somebody answers there")),
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
