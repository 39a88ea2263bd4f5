// SPDX-License-Identifier: Apache-2.0
//! The way to a back end through the proxy that the environment names: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and
//! `NO_PROXY`, in either case of letters, as curl reads them. Loopback addresses are reached without, as in Go.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How connections to one address are made.
#[derive(Clone)]
pub enum Route {
    Direct,
    /// Requests are handed to the proxy, which sends them on: HTTP without TLS.
    Forward(Proxy),
    /// The proxy hands bytes on: TLS, and gRPC, which a proxy of HTTP/1.1 would not understand.
    Tunnel(Proxy),
    Socks(Proxy),
}

/// A proxy, by its address and what it wants to know of us.
#[derive(Clone)]
pub struct Proxy(Intercept);

impl Route {
    /// The route to an address.
    ///
    /// # Errors
    /// The environment names a proxy of a kind that is not supported.
    pub fn to(target: &Uri, is_grpc: bool) -> anyhow::Result<Route> {
        Route::by(&Matcher::from_env(), target, is_grpc)
    }

    fn by(proxies: &Matcher, target: &Uri, is_grpc: bool) -> anyhow::Result<Route> {
        let Some(proxy) = proxies.intercept(target).filter(|_| !is_loopback(target)).map(Proxy) else {
            return Ok(Route::Direct);
        };
        match proxy.0.uri().scheme_str() {
            Some("socks5" | "socks5h") => Ok(Route::Socks(proxy)),
            Some("http") if is_grpc || target.scheme_str() == Some("https") => Ok(Route::Tunnel(proxy)),
            Some("http") => Ok(Route::Forward(proxy)),
            _ => anyhow::bail!(
                "the proxy {} for {} has a scheme that is not supported: expected http://, socks5:// or socks5h:// in \
                 HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or the host in NO_PROXY",
                proxy.0.uri(),
                target.host().unwrap_or_default()
            ),
        }
    }

    /// The proxy, without its credentials.
    #[must_use]
    pub fn proxy(&self) -> Option<String> {
        match self {
            Route::Direct => None,
            Route::Forward(p) | Route::Tunnel(p) | Route::Socks(p) => Some(p.0.uri().to_string()),
        }
    }

    /// What each request carries for the proxy.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        match self {
            Route::Forward(p) => p.0.basic_auth().cloned().map(|mut v| {
                v.set_sensitive(true);
                v
            }),
            _ => None,
        }
    }
}

fn is_loopback(target: &Uri) -> bool {
    let host = target.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Makes connections by a route.
#[derive(Clone)]
pub struct Connector {
    pub tcp: HttpConnector,
    pub route: Route,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let Connector { mut tcp, route } = self.clone();
        Box::pin(async move {
            let is_forwarded = matches!(route, Route::Forward(_));
            let io = match route {
                Route::Direct => tcp.call(target).await?,
                Route::Forward(p) => tcp.call(p.0.uri().clone()).await?,
                Route::Tunnel(p) => tunnel(&p, tcp).call(target).await?,
                Route::Socks(p) => socks(&p, tcp).call(target).await?,
            };
            Ok(Stream { io, is_forwarded })
        })
    }
}

fn tunnel(proxy: &Proxy, tcp: HttpConnector) -> Tunnel<HttpConnector> {
    let tunnel = Tunnel::new(proxy.0.uri().clone(), tcp);
    match proxy.0.basic_auth() {
        Some(auth) => tunnel.with_auth(auth.clone()),
        None => tunnel,
    }
}

fn socks(proxy: &Proxy, tcp: HttpConnector) -> SocksV5<HttpConnector> {
    let socks = SocksV5::new(proxy.0.uri().clone(), tcp).local_dns(proxy.0.uri().scheme_str() == Some("socks5"));
    match proxy.0.raw_auth() {
        Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
        None => socks,
    }
}

/// A connection that says whether requests on it are meant for a proxy: they name the whole address then.
pub struct Stream {
    io: TokioIo<TcpStream>,
    is_forwarded: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.is_forwarded)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn route(proxy: &str, target: &str, is_grpc: bool) -> anyhow::Result<Route> {
        let proxies = Matcher::builder().all(proxy).no("intra.example,10.0.0.0/8").build();
        Route::by(&proxies, &target.parse()?, is_grpc)
    }

    /// Which way each kind of address takes; what `NO_PROXY` names, and this machine, is reached without.
    #[test]
    fn routes() {
        let kind = |proxy: &str, target: &str, is_grpc| match route(proxy, target, is_grpc).unwrap() {
            Route::Direct => "direct",
            Route::Forward(_) => "forward",
            Route::Tunnel(_) => "tunnel",
            Route::Socks(_) => "socks",
        };
        let http = "http://u:secret@p:3128";
        assert_eq!(kind(http, "http://c.example:4318/v1/logs", false), "forward");
        assert_eq!(kind(http, "http://c.example:4317", true), "tunnel");
        assert_eq!(kind(http, "https://c.example/v1/logs", false), "tunnel");
        assert_eq!(kind("socks5h://p:1080", "https://c.example", false), "socks");
        for own in
            ["http://a.intra.example", "https://10.1.2.3", "http://127.0.0.1:4318", "http://[::1]", "http://LocalHost"]
        {
            assert_eq!(kind(http, own, false), "direct", "{own}");
        }
        let forward = route(http, "http://c.example", false).unwrap();
        assert_eq!(forward.proxy().as_deref(), Some("http://p:3128/"));
        assert_eq!(forward.authorization().unwrap(), "Basic dTpzZWNyZXQ=");
        let error = route("https://u:secret@p", "http://c.example", false).err().unwrap().to_string();
        assert!(error.contains("https://p") && !error.contains("secret"), "{error}");
    }

    /// The first line that a proxy gets for a request of each kind.
    #[tokio::test]
    async fn proxies_are_asked() {
        for (target, is_grpc, expected) in [
            ("http://c.example:4318/v1/logs", false, ""),
            ("https://c.example/v1/logs", false, "CONNECT c.example:443 HTTP/1.1\r\n"),
            ("http://c.example:4317", true, "CONNECT c.example:4317 HTTP/1.1\r\n"),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let proxy = format!("http://u:p@{}", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                let (mut peer, _) = listener.accept().await.unwrap();
                let mut got = [0; 512];
                let n = if expected.is_empty() { 0 } else { peer.read(&mut got).await.unwrap() };
                peer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                String::from_utf8_lossy(&got[..n]).into_owned()
            });
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            let mut connector = Connector { tcp, route: route(&proxy, target, is_grpc).unwrap() };
            let stream = connector.call(target.parse().unwrap()).await.unwrap();
            assert_eq!(stream.connected().is_proxied(), expected.is_empty());
            let got = server.await.unwrap();
            assert!(got.starts_with(expected), "{got}");
            assert_eq!(got.to_ascii_lowercase().contains("proxy-authorization: basic"), !expected.is_empty(), "{got}");
        }
    }
}
