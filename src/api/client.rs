// SPDX-License-Identifier: Apache-2.0
//! Asks a running agent, over its local socket: the command line's way in.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::{TcpStream, UnixStream};

use super::sse;
use crate::signal::Query;
use crate::signal::ids::EventId;

/// The server sends a heartbeat every 15 s: after three that did not come, it is gone.
const SILENCE: Duration = Duration::from_secs(45);
const ANSWER: Duration = Duration::from_secs(30);
const MAX_LINE: usize = 16 << 20;

/// Where an agent listens.
#[derive(Debug, Clone)]
enum Place {
    Unix(PathBuf),
    #[cfg_attr(not(feature = "internals"), expect(dead_code, reason = "tests ask over TCP"))]
    Tcp {
        address: SocketAddr,
        token: Option<String>,
    },
}

/// A way to ask an agent. Every request is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client(Place);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the caller may read the store itself.
    #[error("no agent listens on {0}")]
    NobodyListens(String),
    /// The agent refused: what it said, and what would be valid.
    #[error("{}", refusal(.error, .expected.as_ref()))]
    Refused { status: StatusCode, error: String, expected: Option<Json> },
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

fn refusal(error: &str, expected: Option<&Json>) -> String {
    match expected {
        Some(Json::String(s)) => format!("{error}: {s}"),
        Some(other) => format!("{error}: {other}"),
        None => error.to_owned(),
    }
}

impl Client {
    /// Over the local socket, `api.socket`.
    pub fn unix(socket: impl AsRef<Path>) -> Self {
        Client(Place::Unix(socket.as_ref().to_owned()))
    }

    /// Over TCP, with the bearer token if the listener asks for one.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn tcp(address: SocketAddr, token: Option<String>) -> Self {
        Client(Place::Tcp { address, token })
    }

    /// Asks for `path` and gives the lines of the answer as they come: one JSON object each under `/v1/`.
    ///
    /// # Errors
    /// [`ClientError::NobodyListens`], [`ClientError::Refused`] with the agent's own words, or what broke.
    pub async fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Lines, ClientError> {
        let target = with_parameters(path, parameters);
        let exchange = self.request(&target, None).await?;
        Ok(Lines { exchange, buffer: Vec::new(), done: false })
    }

    /// Events that match `query`, oldest first, as JSON lines.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn events(&self, query: &Query) -> Result<Lines, ClientError> {
        self.get("/v1/events", &query.parameters()).await
    }

    /// Incidents that match `query`, oldest first, as JSON lines.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn incidents(&self, query: &Query) -> Result<Lines, ClientError> {
        self.get("/v1/incidents", &query.parameters()).await
    }

    /// The one incident whose id begins with `prefix`.
    ///
    /// # Errors
    /// As [`Self::get`]; refused with 404 where there is none, with 409 where there are several.
    pub async fn incident(&self, prefix: &str) -> Result<Json, ClientError> {
        let mut lines = self.get(&format!("/v1/incidents/{}", encode(prefix)), &[]).await?;
        let line = lines.next().await?.context("the agent's answer is empty")?;
        Ok(serde_json::from_str(&line).context("the agent's answer is not JSON")?)
    }

    /// Follows events as they are accepted, from [`Query::after`] or from now on; lasts over broken connections.
    #[must_use]
    pub fn follow(&self, query: Query) -> Follower {
        Follower {
            client: self.clone(),
            query,
            exchange: None,
            parser: sse::Parser::default(),
            ready: VecDeque::new(),
            retry: FIRST_RETRY,
            connected: false,
        }
    }

    async fn request(&self, target: &str, last_id: Option<EventId>) -> Result<Exchange, ClientError> {
        let fail = |what: &str| format!("{what} {} for {target}", self.place());
        let io = tokio::time::timeout(ANSWER, self.connect()).await;
        let io = io.with_context(|| fail("no connection to"))?.map_err(|e| self.unreachable(e))?;
        let mut request = Request::get(target).header(header::HOST, "localhost");
        if let Place::Tcp { token: Some(t), .. } = &self.0 {
            request = request.header(header::AUTHORIZATION, format!("Bearer {t}"));
        }
        if let Some(id) = last_id {
            request = request.header("last-event-id", id.to_string());
        }
        let request = request.body(Empty::<Bytes>::new()).with_context(|| fail("cannot ask"))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = handshake.with_context(|| fail("cannot ask"))?;
        let mut connection: Connection = Box::pin(connection);
        let answer = async {
            // The connection moves only while it is polled; it ends after its answer at the earliest.
            tokio::select! {
                biased;
                r = sender.send_request(request) => r.map_err(anyhow::Error::from),
                r = &mut connection => Err(r.map_or_else(anyhow::Error::from, |()| anyhow::anyhow!("connection closed"))),
            }
        };
        let response = tokio::time::timeout(ANSWER, answer).await;
        let response = response.map_err(anyhow::Error::from).and_then(|r| r).with_context(|| fail("no answer from"))?;
        let (parts, body) = response.into_parts();
        let mut exchange = Exchange { connection: Some(connection), body, _sender: sender };
        if parts.status.is_success() {
            return Ok(exchange);
        }
        let mut text = Vec::new();
        while let Some(bytes) = exchange.chunk().await? {
            text.extend_from_slice(&bytes[..bytes.len().min(MAX_LINE - text.len())]);
        }
        let mut said: Json = serde_json::from_slice(&text).unwrap_or_default();
        let error = said["error"].as_str().map_or_else(|| format!("the agent says {}", parts.status), str::to_owned);
        let expected = Some(said["expected"].take()).filter(|e| !e.is_null());
        Err(ClientError::Refused { status: parts.status, error, expected })
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Io>> {
        Ok(match &self.0 {
            Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Place::Tcp { address, .. } => Box::new(TcpStream::connect(address).await?),
        })
    }

    fn place(&self) -> String {
        match &self.0 {
            Place::Unix(path) => path.display().to_string(),
            Place::Tcp { address, .. } => address.to_string(),
        }
    }

    fn unreachable(&self, e: std::io::Error) -> ClientError {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match e.kind() {
            NotFound | ConnectionRefused => ClientError::NobodyListens(self.place()),
            _ => anyhow::Error::from(e).context(format!("cannot connect to {}", self.place())).into(),
        }
    }
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// One request's answer and the connection that must be polled for it to come.
struct Exchange {
    connection: Option<Connection>,
    body: Incoming,
    _sender: hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
}

impl Exchange {
    /// The next piece of the body; `None` at its end. May be cancelled without loss.
    async fn chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let frame = match &mut self.connection {
                None => self.body.frame().await,
                Some(connection) => tokio::select! {
                    biased;
                    f = self.body.frame() => f,
                    ended = connection => {
                        self.connection = None;
                        ended.context("the connection to the agent broke")?;
                        continue;
                    }
                },
            };
            match frame {
                None => return Ok(None),
                Some(f) => {
                    if let Ok(data) = f.context("the agent's answer broke off")?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// The lines of an answer.
pub struct Lines {
    exchange: Exchange,
    buffer: Vec<u8>,
    done: bool,
}

impl Lines {
    /// The next line without its end; `None` after the last.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.done {
                let rest = std::mem::take(&mut self.buffer);
                return Ok((!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned()));
            }
            anyhow::ensure!(
                self.buffer.len() <= MAX_LINE,
                "a line of the agent's answer is longer than {MAX_LINE} bytes"
            );
            match self.exchange.chunk().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => self.done = true,
            }
        }
    }
}

/// What a follower sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// One event, as a JSON line.
    Event { id: EventId, json: String },
    /// Events of this span are gone by age or size, as they were not read in time.
    Missed {
        since: String,
        until: Option<String>,
        /// How many, where it is known.
        count: Option<u64>,
    },
    /// The connection broke, for this reason; the next call connects again and goes on where it was.
    Disconnected(String),
}

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Follows events over broken connections, without loss or repetition.
pub struct Follower {
    client: Client,
    query: Query,
    exchange: Option<Exchange>,
    parser: sse::Parser,
    ready: VecDeque<sse::Message>,
    retry: Duration,
    /// Whether it ever was: only then is nobody there worth waiting for.
    connected: bool,
}

impl Follower {
    /// The next that happens; waits for it. May be cancelled without loss.
    ///
    /// # Errors
    /// When the agent refuses the query, or nobody listens at the first attempt.
    pub async fn next(&mut self) -> Result<Followed, ClientError> {
        loop {
            while let Some(message) = self.ready.pop_front() {
                if let Some(followed) = self.take(message) {
                    return Ok(followed);
                }
            }
            let Some(exchange) = &mut self.exchange else {
                self.connect().await?;
                continue;
            };
            let lost = match tokio::time::timeout(SILENCE, exchange.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    self.ready.extend(self.parser.feed(&bytes));
                    continue;
                }
                Ok(Ok(None)) => "the agent ended the stream".to_owned(),
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => format!("nothing came for {} s", SILENCE.as_secs()),
            };
            self.exchange = None;
            return Ok(Followed::Disconnected(lost));
        }
    }

    fn take(&mut self, message: sse::Message) -> Option<Followed> {
        let id = message.id.as_deref().and_then(EventId::parse);
        if id.is_some() {
            self.query.after = id;
        }
        match (message.event.as_str(), id) {
            (sse::MISSED, _) => {
                let said: Json = serde_json::from_str(&message.data).unwrap_or_default();
                let time = |key: &str| said[key].as_str().map(str::to_owned);
                let (since, until) = (time("since").unwrap_or_default(), time("until"));
                Some(Followed::Missed { since, until, count: said["count"].as_u64() })
            }
            (_, Some(id)) if !message.data.is_empty() => Some(Followed::Event { id, json: message.data }),
            _ => None,
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let after = self.query.after;
        let fresh = Query { after: None, ..self.query.clone() };
        let target = with_parameters("/v1/events/watch", &fresh.parameters());
        match self.client.request(&target, after).await {
            Ok(exchange) => {
                self.exchange = Some(exchange);
                self.parser = sse::Parser::default();
                self.retry = FIRST_RETRY;
                self.connected = true;
                Ok(())
            }
            Err(ClientError::NobodyListens(_) | ClientError::Failed(_)) if self.connected => {
                tokio::time::sleep(self.retry).await;
                self.retry = (self.retry * 2).min(LAST_RETRY);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

fn with_parameters(path: &str, parameters: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (i, (k, v)) in parameters.iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(&encode(k));
        out.push('=');
        out.push_str(&encode(v));
    }
    out
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
