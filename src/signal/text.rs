// SPDX-License-Identifier: Apache-2.0
//! Names that may be no UTF-8: those of cgroups are any bytes but `/` and newline.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Bytes as text. What is no UTF-8 is written as `\xHH`, so that different names stay different.
#[must_use]
pub fn escaped(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return text.into();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.into()
}

/// The path that [`escaped`] was given, where no name in it has such an escape of its own (systemd writes `-` as
/// `\x2d`, which this leaves as it is).
#[must_use]
pub fn raw_path(text: &str) -> PathBuf {
    OsString::from_vec(unescape(text, |byte| byte >= 0x80)).into()
}

/// Replaces each `\xHH` whose byte is chosen.
#[must_use]
pub fn unescape(text: &str, chosen: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.strip_prefix(b"x").and_then(|t| std::str::from_utf8(t.get(..2)?).ok());
        match digits.filter(|_| *first == b'\\').and_then(|d| u8::from_str_radix(d, 16).ok()).filter(|b| chosen(*b)) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Valid text stays as it is; other bytes are there to see, and find their way back.
    #[test]
    fn bytes_as_text() {
        for (bytes, text) in [
            (&b"/bad\xff\xfe/in\xc3ner"[..], "/bad\\xff\\xfe/in\\xc3ner"),
            ("/größe".as_bytes(), "/größe"),
            (b"/system-backup\\x2ddaily.slice", "/system-backup\\x2ddaily.slice"),
            (b"", ""),
        ] {
            assert_eq!(escaped(bytes), text);
            assert_eq!(raw_path(text).into_os_string().into_vec(), bytes);
        }
    }

    proptest! {
        /// Any name without an escape of its own survives both ways.
        #[test]
        fn there_and_back(bytes in prop::collection::vec(any::<u8>().prop_filter("escape", |b| *b != b'\\'), 0..64)) {
            prop_assert_eq!(raw_path(&escaped(&bytes)).into_os_string().into_vec(), bytes);
        }
    }
}
