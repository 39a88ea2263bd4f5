// SPDX-License-Identifier: Apache-2.0
//! Requests to a cluster: one address as long as it is well, credentials, certificates, and the proof that it is
//! Elasticsearch. The only file that names the crate of that name.

use std::path::Path;
use std::time::Duration;

use ::elasticsearch::auth::{ClientCertificate, Credentials};
use ::elasticsearch::cert::{Certificate, CertificateValidation};
use ::elasticsearch::http::headers::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use ::elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use ::elasticsearch::http::{Method, Url};
use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::Value as Json;

use super::Settings;
use super::answer::{Outcome, classify, is_product, message};
use crate::exporters::http::{Compression, chain, gzip};
use crate::exporters::settings::{Secret, headers as headers_of};

/// What of a bulk request's answer is wanted: 30 bytes a document.
const FILTER: [(&str, &str); 2] = [
    ("filter_path", "errors,items.*.status,items.*.error.type,items.*.error.reason"),
    // Without a template, a plain index would be made, and nothing would ever roll it over.
    ("require_data_stream", "true"),
];

/// An answer to a request that is no bulk request.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Json,
    /// The body as it came, in short.
    pub message: String,
}

/// A client for one cluster.
pub struct Client {
    settings: Settings,
    /// Which of the addresses is in use.
    at: usize,
    transport: Transport,
    headers: HeaderMap,
    /// The server's version, once it has proved what it is.
    version: Option<String>,
}

impl Client {
    /// Reads the files of the settings; connects with the first request, to an address that `seed`
    /// chooses, as agents are not all to use the same.
    ///
    /// # Errors
    /// Which file or setting cannot be used, and why.
    pub fn new(settings: &Settings, seed: u64) -> anyhow::Result<Client> {
        settings.validate()?;
        let at = usize::try_from(seed % settings.url.0.len().max(1) as u64)?;
        let (transport, headers) = connect(settings, at)?;
        Ok(Client { settings: settings.clone(), at, transport, headers, version: None })
    }

    /// Takes the next address, and reads the files of the settings again: what was refused may have
    /// been replaced by now.
    pub fn renew(&mut self) {
        self.version = None;
        let next = (self.at + 1) % self.addresses();
        match connect(&self.settings, next) {
            Ok((transport, headers)) => (self.at, self.transport, self.headers) = (next, transport, headers),
            Err(e) => tracing::debug!("{e:#}; going on with what was read before"),
        }
    }

    /// Where requests go, for logs.
    #[must_use]
    pub fn target(&self) -> &str {
        self.settings.url.0.get(self.at).map_or("", String::as_str)
    }

    /// How many addresses there are to try.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.settings.url.0.len().max(1)
    }

    /// The server's version, once it is known.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.settings.timeout.get())
    }

    /// Sends the lines of a bulk request of so many documents.
    pub async fn bulk(&mut self, body: Vec<u8>, documents: usize) -> Outcome {
        if self.version.is_none() {
            match self.identify().await {
                Ok(version) => self.version = Some(version),
                Err(outcome) => return outcome,
            }
        }
        let (body, headers) = match self.settings.compression {
            Compression::None => (Bytes::from(body), self.headers.clone()),
            Compression::Gzip => {
                let mut headers = self.headers.clone();
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                match gzip(&body) {
                    Ok(b) => (b, headers),
                    Err(e) => return Outcome::Retry { after: None, why: format!("compress the request: {e}") },
                }
            }
        };
        let sent = self.transport.send(Method::Post, "/_bulk", headers, Some(&FILTER), Some(body), self.timeout());
        let answer = match sent.await {
            Ok(a) => a,
            Err(e) => return Outcome::Unreachable(reason(&e)),
        };
        let (status, headers) = (answer.status_code(), answer.headers().clone());
        match answer.bytes().await {
            Ok(b) => classify(status, &headers, &b, documents),
            Err(e) => Outcome::Unreachable(format!("the answer broke off: {}", reason(&e))),
        }
    }

    /// Nothing is sent to a server before it has said that it is Elasticsearch. Who may not ask for its
    /// version says so without that header (8.19); then the answers to bulk requests, which have it,
    /// must do, and a document is taken for accepted by no other.
    async fn identify(&self) -> Result<String, Outcome> {
        let reply = self.send(Method::Get, "/", None).await;
        let (reply, headers) = reply.map_err(|e| Outcome::Unreachable(reason(&e)))?;
        let why = || format!("{}: {}", reply.status, reply.message);
        match reply.status {
            StatusCode::UNAUTHORIZED => Err(Outcome::Denied(why())),
            StatusCode::TOO_MANY_REQUESTS => Err(Outcome::Retry { after: None, why: why() }),
            s if s.is_server_error() => Err(Outcome::Retry { after: None, why: why() }),
            StatusCode::FORBIDDEN if reply.body["error"]["type"] == "security_exception" => {
                Ok("of a version that we may not ask for".to_owned())
            }
            _ => {
                is_product(&headers).map_err(Outcome::Denied)?;
                Ok(reply.body["version"]["number"].as_str().unwrap_or("of an unknown version").to_owned())
            }
        }
    }

    /// Asks for what is at a path.
    ///
    /// # Errors
    /// The server was not reached, or is not Elasticsearch.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.request(Method::Get, path, None).await
    }

    /// Puts a body at a path.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn put(&self, path: &str, body: &Json) -> anyhow::Result<Reply> {
        self.request(Method::Put, path, Some(body)).await
    }

    /// Sends a body to a path.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: &Json) -> anyhow::Result<Reply> {
        self.request(Method::Post, path, Some(body)).await
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Json>) -> anyhow::Result<Reply> {
        let body = body.map(|b| Bytes::from(b.to_string()));
        let sent = self.send(method, path, body).await;
        let (reply, headers) = sent.map_err(|e| anyhow::anyhow!("{}: {}", self.target(), reason(&e)))?;
        // A refusal by its security comes without the header.
        if !matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            is_product(&headers).map_err(|why| anyhow::anyhow!("{}: {why}", self.target()))?;
        }
        Ok(reply)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Reply, HeaderMap), ::elasticsearch::Error> {
        let sent = self.transport.send(method, path, self.headers.clone(), None::<&()>, body, self.timeout());
        let answer = sent.await?;
        let (status, headers) = (answer.status_code(), answer.headers().clone());
        let bytes = answer.bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok((Reply { status, body, message: message(&bytes) }, headers))
    }
}

/// An error in words, without the address and its long query, which reqwest puts into it.
fn reason(e: &::elasticsearch::Error) -> String {
    if e.is_timeout() {
        return "no answer in time".to_owned();
    }
    let text = chain(e);
    match (text.find(" for url ("), text.find("): ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to + 1..]),
        _ => text,
    }
}

/// What is needed for requests to one of the addresses; reads the files that the settings name.
fn connect(settings: &Settings, at: usize) -> anyhow::Result<(Transport, HeaderMap)> {
    let address = settings.url.0.get(at).context("exporters.elasticsearch.url is empty")?;
    let url: Url = address.parse().with_context(|| format!("exporters.elasticsearch.url: {address} is no address"))?;
    let is_tls = url.scheme() == "https";
    // Only what the settings say decides where data goes.
    let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy();
    if is_tls {
        builder = builder.cert_validation(CertificateValidation::Full(authorities(settings)?));
        if let (Some(certificate), Some(key)) = (&settings.client_certificate_file, &settings.client_key_file) {
            let mut pem = read(certificate)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            builder = builder.auth(Credentials::Certificate(ClientCertificate::Pem(pem)));
        }
    }
    let transport = builder.build().context("exporters.elasticsearch: use its certificates")?;
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(crate::exporters::USER_AGENT));
    let section = "exporters.elasticsearch";
    for (name, value) in &headers_of(section, &settings.headers, settings.headers_file.as_deref())? {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| anyhow::anyhow!("{section}.headers: {name:?} is no name of a header"))?;
        headers.insert(name, secret_value(value.reveal())?);
    }
    if let Some(text) = authorization(settings)? {
        headers.insert(AUTHORIZATION, secret_value(&text)?);
    }
    Ok((transport, headers))
}

fn secret_value(text: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .context("exporters.elasticsearch: the credentials or headers have characters that a header cannot hold")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The system's certificate authorities and those of the settings.
fn authorities(settings: &Settings) -> anyhow::Result<Certificate> {
    let system = rustls_native_certs::load_native_certs().certs;
    let mut all = system.iter().filter_map(|c| Certificate::from_der(c).ok());
    let own = settings.ca_file.as_deref().map(|path| {
        Certificate::from_pem(&read(path)?)
            .with_context(|| format!("exporters.elasticsearch: read certificates from {}", path.display()))
    });
    let first = match own {
        Some(own) => own?,
        None => all.next().context(
            "exporters.elasticsearch: this system has no CA certificates; install ca-certificates or set \
             exporters.elasticsearch.ca_file",
        )?,
    };
    Ok(all.fold(first, |mut sum, c| {
        sum.append(c);
        sum
    }))
}

fn authorization(settings: &Settings) -> anyhow::Result<Option<String>> {
    if let Some(key) = secret(settings.api_key.as_ref(), settings.api_key_file.as_deref())? {
        // `id:key` is the form in which the parts are given, the other is the two encoded.
        let encoded = if key.contains(':') { BASE64_STANDARD.encode(key) } else { key };
        return Ok(Some(format!("ApiKey {encoded}")));
    }
    let Some(user) = &settings.username else { return Ok(None) };
    let password = secret(settings.password.as_ref(), settings.password_file.as_deref())?.unwrap_or_default();
    Ok(Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))))
}

fn secret(text: Option<&Secret>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    match (text, file) {
        (Some(text), _) => Ok(Some(text.reveal().to_owned())),
        (None, Some(file)) => Ok(Some(String::from_utf8_lossy(&read(file)?).trim().to_owned())),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("exporters.elasticsearch: read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(toml: &str) -> Option<String> {
        authorization(&toml::from_str(toml).unwrap()).unwrap()
    }

    /// Headers of the settings and of the file are sent, never shown, beside the credentials.
    #[test]
    fn headers_of_settings_and_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "x-gate: geheim\n").unwrap();
        let text = "url = 'http://es:9200'\napi_key = 'geheim'\n[headers]\nx-tenant = 'geheim'\nx-gate = 'old'";
        let mut settings: Settings = toml::from_str(text).unwrap();
        settings.headers_file = Some(file.path().to_owned());
        let (_, headers) = connect(&settings, 0).unwrap();
        assert_eq!(
            [&headers["x-gate"], &headers["x-tenant"], &headers[AUTHORIZATION]],
            ["geheim", "geheim", "ApiKey geheim"]
        );
        let shown = format!("{headers:?} {settings:?} {}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("geheim"), "{shown}");
        settings.headers.insert("no name".into(), Secret::new("geheim"));
        let e = format!("{:#}", connect(&settings, 0).map(|_| ()).unwrap_err());
        assert!(e.contains("exporters.elasticsearch.headers") && !e.contains("geheim"), "{e}");
    }

    /// Both forms of an API key come to the encoded one; a file's newline is not part of its secret.
    #[test]
    fn credentials_become_a_header() {
        assert_eq!(sent("api_key = 'aWQ6a2V5'").as_deref(), Some("ApiKey aWQ6a2V5"));
        assert_eq!(sent("api_key = 'id:key'").as_deref(), Some("ApiKey aWQ6a2V5"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "key\n").unwrap();
        let path = file.path().display();
        let user = sent(&format!("username = 'id'\npassword_file = '{path}'"));
        assert_eq!(user.as_deref(), Some("Basic aWQ6a2V5"));
        assert_eq!(sent(""), None);
        let missing = toml::from_str("api_key_file = '/nowhere/key'").unwrap();
        let e = format!("{:#}", authorization(&missing).unwrap_err());
        assert!(e.contains("/nowhere/key"), "{e}");
    }
}
