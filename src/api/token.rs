// SPDX-License-Identifier: Apache-2.0
//! The bearer token of a listener that others than this node can reach.

use std::path::Path;

use anyhow::Context as _;
use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

use crate::files::FromFiles;

const MIN_LENGTH: usize = 16;

/// A token, kept as its hash, so that lengths and beginnings of what is sent reveal nothing. It is read
/// again when its file changes.
pub(super) struct Token(FromFiles<[u8; 32]>);

impl Token {
    /// Reads the token from its file; blanks at its ends don't count.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let file = path.to_owned();
        Ok(Token(FromFiles::new(vec![path.to_owned()], move || read(&file))?))
    }

    /// Whether a request carries it.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = sent.and_then(|s| s.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        token.is_some_and(|(_, t)| is_same(&hash(t.trim()), &self.0.get()))
    }
}

fn read(path: &Path) -> anyhow::Result<[u8; 32]> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read http.token_file {}", path.display()))?;
    let token = text.trim();
    anyhow::ensure!(
        token.len() >= MIN_LENGTH && token.bytes().all(|b| b.is_ascii_graphic()),
        "the token in http.token_file {} must be at least {MIN_LENGTH} printable characters without blanks, such as `openssl rand -hex 32` makes",
        path.display()
    );
    Ok(hash(token))
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Looks at all bytes, wherever the first difference is.
fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
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
        let token = Token::new(&file).unwrap();
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
        // Another token in the file holds at once, and the old one no longer.
        std::fs::write(&file, "fedcba9876543210\n").unwrap();
        token.0.look_again();
        let sent = |t: &str| HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {t}").parse().unwrap())]);
        assert!(token.is_in(&sent("fedcba9876543210")) && !token.is_in(&sent("0123456789abcdef")));
        std::fs::write(&file, "short secret").unwrap();
        let e = Token::new(&file).err().unwrap().to_string();
        assert!(e.contains("at least 16") && !e.contains("secret"), "{e}");
    }
}
