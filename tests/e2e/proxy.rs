// SPDX-License-Identifier: Apache-2.0
//! A way to a server that does to it what networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    Fair,
    /// Each answer takes long.
    Slow,
    /// Requests arrive, their answers do not.
    Lost,
    /// Requests arrive, their answers are another's.
    Garbage,
}

impl Weather {
    pub const BAD: [Weather; 3] = [Weather::Slow, Weather::Lost, Weather::Garbage];
}

/// A way to the server that can be bad.
#[derive(Clone)]
pub struct Proxy {
    pub at: SocketAddr,
    weather: Arc<AtomicU8>,
    spoilt: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let proxy = Proxy { at, weather: Arc::default(), spoilt: Arc::default() };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    // A connection that breaks is what this is for.
                    drop(this.carry(client, upstream).await);
                });
            }
        });
        proxy
    }

    pub fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::Relaxed);
    }

    /// Answers that did not come as the server gave them.
    pub fn spoilt(&self) -> u64 {
        self.spoilt.load(Ordering::Relaxed)
    }

    async fn carry(&self, mut client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
        let mut server = TcpStream::connect(upstream).await?;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let back = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let n = from_server.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                let weather = self.weather.load(Ordering::Relaxed);
                if weather != Weather::Fair as u8 {
                    self.spoilt.fetch_add(1, Ordering::Relaxed);
                }
                match weather {
                    w if w == Weather::Slow as u8 => tokio::time::sleep(Duration::from_secs(1)).await,
                    w if w == Weather::Lost as u8 => return Ok(()),
                    w if w == Weather::Garbage as u8 => {
                        let page = b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n<html>please sign in\n";
                        return to_client.write_all(page).await;
                    }
                    _ => {}
                }
                to_client.write_all(&buffer[..n]).await?;
            }
        };
        let there = tokio::io::copy(&mut from_client, &mut to_server);
        tokio::select! {
            done = back => done,
            done = there => done.map(|_| ()),
        }
    }
}
