// SPDX-License-Identifier: Apache-2.0
//! The bearer token of a listener that others than this node can reach.

use std::path::Path;

use anyhow::Context as _;
use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

const MIN_LENGTH: usize = 16;

/// A token, kept as its hash: comparing hashes takes the same time wherever they differ.
#[derive(Clone)]
pub(super) struct Token([u8; 32]);

impl Token {
    /// Reads the token from its file; blanks at its ends don't count.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read http.token_file {}", path.display()))?;
        let token = text.trim();
        anyhow::ensure!(
            token.len() >= MIN_LENGTH && token.bytes().all(|b| b.is_ascii_graphic()),
            "the token in http.token_file {} must be at least {MIN_LENGTH} printable characters without blanks, such as `openssl rand -hex 32` makes",
            path.display()
        );
        Ok(Self::of(token))
    }

    fn of(token: &str) -> Self {
        Token(Sha256::digest(token).into())
    }

    /// Whether a request carries it.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = sent.and_then(|s| s.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        token.is_some_and(|(_, t)| Self::of(t.trim()).0 == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the whole token under the right scheme counts; a weak file is refused by name, without its content.
    #[test]
    fn tokens() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let token = Token::read(&file).unwrap();
        for (sent, expected) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer  0123456789abcdef", true),
            ("Basic 0123456789abcdef", false),
            ("Bearer 0123456789abcde", false),
            ("0123456789abcdef", false),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, sent.parse().unwrap())]);
            assert_eq!(token.is_in(&headers), expected, "{sent}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        std::fs::write(&file, "short secret").unwrap();
        let e = Token::read(&file).err().unwrap().to_string();
        assert!(e.contains("at least 16") && !e.contains("secret"), "{e}");
    }
}
