// SPDX-License-Identifier: Apache-2.0
//! Bytes as lower-case hex digits.

use std::fmt;

/// Shows bytes as hex digits, two each.
#[derive(Debug, Clone, Copy)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().flat_map(|b| digits(*b)).try_for_each(|d| fmt::Write::write_char(f, d.into()))
    }
}

/// The two digits of a byte.
#[must_use]
pub fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// Reads exactly `N` bytes from twice as many hex digits, of either case.
#[must_use]
pub fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let value = |d: u8| char::from(d).to_digit(16);
        *byte = u8::try_from(value(pair[0])? << 4 | value(pair[1])?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown reads back; other lengths and other characters are refused.
    #[test]
    fn shown_and_read() {
        let all: Vec<u8> = (0..=255).collect();
        let shown = Hex(&all).to_string();
        assert!(shown.starts_with("000102") && shown.ends_with("fdfeff"), "{shown}");
        assert_eq!(parse::<256>(&shown).unwrap().as_slice(), all);
        assert_eq!(parse("0AfF"), Some([0x0a, 0xff]));
        for bad in ["", "0a", "0afff", "0a0g", "0a+1", "0\u{e9}1"] {
            assert_eq!(parse::<2>(bad), None, "{bad:?}");
        }
    }
}
