// SPDX-License-Identifier: Apache-2.0
//! The page at `/`: static files of our own, in the binary, that ask `/v1/…` like any client.
//!
//! They hold nothing of the node, so they need no token: the page asks for it and sends it with its
//! questions. Nothing is loaded from elsewhere, nothing is inline, and the browser is instructed to refuse
//! both, and to refuse HTML that is made from text.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use crate::signal::Hex;

/// One file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal $kind:ident $file:literal),+ $(,)?) => {
        &[$(File { path: $path, kind: $kind, content: include_str!(concat!("page/", $file)) }),+]
    };
}

const FILES: &[File] = files![
    "/" HTML "index.html",
    "/page/style.css" CSS "style.css",
    "/page/icon.svg" SVG "icon.svg",
    "/page/main.js" JS "main.js",
    "/page/api.js" JS "api.js",
    "/page/dom.js" JS "dom.js",
    "/page/format.js" JS "format.js",
    "/page/spark.js" JS "spark.js",
    "/page/overview.js" JS "overview.js",
    "/page/timeline.js" JS "timeline.js",
    "/page/incidents.js" JS "incidents.js",
    "/page/incident.js" JS "incident.js",
    "/page/text.js" JS "text.js",
    "/page/flame.js" JS "flame.js",
    "/page/evidence.js" JS "evidence.js",
    "/page/events.js" JS "events.js",
    "/page/collectors.js" JS "collectors.js",
];

/// What the page may do: run its own scripts, use its own styles, ask its own origin.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Answers that are no page do nothing at all, should a browser show them.
const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Whether a path is a file of the page.
pub(super) fn is_part(path: &str) -> bool {
    FILES.iter().any(|f| f.path == path)
}

/// The files, each under its path.
pub(super) fn routes() -> Router {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = format!("\"{}\"", Hex(&Sha256::digest(file.content)[..8]));
        router.route(file.path, get(async move |headers: HeaderMap| serve(file, &tag, &headers)))
    })
}

fn serve(file: &'static File, tag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    // Asked again each time, as another agent may have taken this one's place; mostly it is the same.
    let head = [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, tag), (header::CONTENT_TYPE, file.kind)];
    let policy = [(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    if known {
        // Its headers take the place of those that the browser has kept: the policy must be the same.
        return (StatusCode::NOT_MODIFIED, head, policy).into_response();
    }
    (head, policy, file.content).into_response()
}

/// Security headers of every response.
pub(super) async fn harden(mut response: Response) -> Response {
    const ALWAYS: [(HeaderName, HeaderValue); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    let headers = response.headers_mut();
    headers.extend(ALWAYS);
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(DATA_POLICY));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file of the folder is served, carries its licence, and loads nothing that is not.
    #[test]
    fn files_are_complete() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/page");
        let mut there: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        there.retain(|name| name != "index.html");
        there.sort();
        let mut served: Vec<_> =
            FILES.iter().filter_map(|f| f.path.strip_prefix("/page/")).map(str::to_owned).collect();
        served.sort();
        assert_eq!(served, there);
        for f in FILES {
            assert!(f.content.contains("SPDX-License-Identifier: Apache-2.0"), "{}", f.path);
            let quoted = f.content.split(['"', '\'']).filter(|q| q.starts_with("/page/") || q.starts_with("./"));
            for other in quoted {
                let path = other.replacen("./", "/page/", 1);
                assert!(is_part(&path), "{} loads {other}, which is not there", f.path);
            }
        }
    }

    /// Nothing makes HTML or code from text, and nothing is inline: the policy would refuse it, after
    /// it was shipped.
    #[test]
    fn files_keep_the_policy() {
        for f in FILES {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                " style=\"",
                " onclick=\"",
                "<style",
                "http://",
                "https://",
            ] {
                let found = f.content.replace("http://www.w3.org/2000/svg", "").contains(word);
                assert!(!found, "{} has {word}", f.path);
            }
        }
    }
}
