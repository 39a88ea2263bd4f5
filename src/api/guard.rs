// SPDX-License-Identifier: Apache-2.0
//! Who may ask what, by listener.
//!
//! | listener | who is answered |
//! |---|---|
//! | `api.socket` | root, the agent's user, and members of its group |
//! | `http.listen` on loopback | whoever is on this node, as long as the request is meant for this node |
//! | with `http.token_file` | who sends the token |
//! | with `http.client_ca_file` | who shows a certificate of that authority; with both, who does both |
//!
//! `/healthz` and `/readyz` are always answered over HTTP, and with a token the page's files are.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::page;
use super::problem::Problem;
use super::token::Token;

/// Paths that expose health only.
const OPEN: &[&str] = &["/healthz", "/readyz"];

/// Who is at the other end of a connection; an extension of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Unknown,
    /// Has shown a certificate of the authority that clients must have.
    Certified,
    /// On the local socket, one who may ask; or one who may not.
    Local,
    Stranger,
}

/// What a listener asks of requests.
#[derive(Clone, Default)]
pub(super) struct Guard {
    pub token: Option<Arc<Token>>,
    /// A client's certificate.
    pub certificate: bool,
    /// Nothing else is asked, so the request must have been meant for this node: a page of another
    /// site whose name leads here (DNS rebinding) has that site's name in `Host`.
    pub own_name: bool,
}

pub(super) async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.refusal(&request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

impl Guard {
    fn refusal(&self, request: &Request) -> Option<Response> {
        let peer = request.extensions().get().copied().unwrap_or(Peer::Unknown);
        match peer {
            Peer::Local => return None,
            Peer::Stranger => {
                let refusal = Problem::new(StatusCode::FORBIDDEN, "this socket does not answer to your user");
                return Some(refusal.expected("root, the agent's user, or a member of its group").into_response());
            }
            Peer::Unknown | Peer::Certified => {}
        }
        if self.own_name && !is_meant_for_here(request) {
            let refusal = Problem::new(StatusCode::MISDIRECTED_REQUEST, "this request was meant for another host");
            let valid = "localhost or a loopback address in Host; with http.token_file any name will do";
            return Some(refusal.expected(valid).into_response());
        }
        let path = request.uri().path();
        if OPEN.contains(&path) {
            return None;
        }
        if self.certificate && peer != Peer::Certified {
            let refusal = Problem::new(StatusCode::FORBIDDEN, "this listener asks for a client certificate");
            return Some(refusal.expected("one of an authority in the agent's http.client_ca_file").into_response());
        }
        let token = self.token.as_ref()?;
        if page::is_part(path) || token.is_in(request.headers()) {
            return None;
        }
        let refusal = Problem::new(StatusCode::UNAUTHORIZED, "this listener asks for a token")
            .expected("Authorization: Bearer, with the content of the agent's http.token_file");
        Some(([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response())
    }
}

/// Whether every name that the request gives its receiver is one of this node alone. A browser always
/// gives one; what gives none is none.
fn is_meant_for_here(request: &Request) -> bool {
    let named = request.uri().host().into_iter().map(Some);
    let hosts = request.headers().get_all(header::HOST).iter().map(|v: &HeaderValue| v.to_str().ok().map(without_port));
    named.chain(hosts).all(|name| name.is_some_and(is_own_name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// `localhost`, what is below it (RFC 6761, 6.3), or a loopback address.
fn is_own_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only names that nobody else can have are this node's.
    #[test]
    fn own_names() {
        for (host, own) in [
            ("localhost", true),
            ("LocalHost:9774", true),
            ("localhost.", true),
            ("page.localhost:80", true),
            ("127.0.0.1:9774", true),
            ("127.1.2.3", true),
            ("[::1]:9774", true),
            ("[::1]", true),
            ("::1", true),
            ("evil.example", false),
            ("evil.example:9774", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1:9774", false),
            ("0.0.0.0:9774", false),
            ("", false),
        ] {
            assert_eq!(is_own_name(without_port(host)), own, "{host}");
        }
    }
}
