// SPDX-License-Identifier: Apache-2.0
//! Durations and sizes as people write them: `15s`, `1m30s`, `512MiB`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) const DURATION_EXPECTED: &str = "a duration such as \"200ms\", \"15s\", \"1m30s\" or \"7d\"";
const SIZE_EXPECTED: &str = "a size such as \"512KiB\", \"64MiB\", \"1GiB\" or a number of bytes";

/// Units of time, largest first, with their nanoseconds.
const TIME: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units of size with their bytes; the binary ones first, as those are what is printed.
const SIZE: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// What is no duration or size, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    pub text: String,
    pub expected: &'static str,
}

/// A length of time, written with its unit: `200ms`, `15s`, `1m30s`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        HumanDuration(Duration::from_secs(s))
    }

    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        HumanDuration(Duration::from_millis(ms))
    }

    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        HumanDuration(Duration::from_micros(us))
    }

    #[must_use]
    pub const fn from_days(d: u64) -> Self {
        HumanDuration(Duration::from_secs(d * 86_400))
    }

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whole nanoseconds, as probes' settings want them.
    #[must_use]
    pub fn ns(self) -> u64 {
        ns(self.0)
    }
}

/// Whole nanoseconds; 584 years at most.
#[must_use]
pub fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds, as metrics have them, of the nanoseconds that the kernel counts.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days, then it rounds to a microsecond")]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Deref for HumanDuration {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<Duration> for HumanDuration {
    fn from(d: Duration) -> Self {
        HumanDuration(d)
    }
}

impl From<HumanDuration> for Duration {
    fn from(d: HumanDuration) -> Self {
        d.0
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, ns) in TIME {
            if rest >= ns {
                write!(f, "{}{unit}", rest / ns)?;
                rest %= ns;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanDuration {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_duration(text).map(HumanDuration).ok_or(ParseError { text: text.into(), expected: DURATION_EXPECTED })
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest)?;
        let ns = TIME.iter().find(|(u, _)| *u == unit)?.1;
        total = total.checked_add(u128::from(number).checked_mul(ns)?)?;
        rest = tail;
    }
    let secs = u64::try_from(total / 1_000_000_000).ok()?;
    Some(Duration::new(secs, u32::try_from(total % 1_000_000_000).ok()?))
}

/// Splits `15s…` into 15, `s` and what follows.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    let rest = text[digits..].trim_start();
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    Some((number, &rest[..letters], rest[letters..].trim_start()))
}

/// An amount of memory or disk: `512KiB`, `64MiB`, `1GiB`, or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        ByteSize(n << 20)
    }

    #[must_use]
    pub const fn gib(n: u64) -> Self {
        ByteSize(n << 30)
    }

    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE.iter().take(4).find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        let (unit, bytes) = exact.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_size(text).map(ByteSize).ok_or(ParseError { text: text.into(), expected: SIZE_EXPECTED })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, tail) = number_and_unit(text.trim())?;
    if !tail.is_empty() {
        return None;
    }
    let bytes = if unit.is_empty() { 1 } else { SIZE.iter().find(|(u, _)| u.eq_ignore_ascii_case(unit))?.1 };
    number.checked_mul(bytes)
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = HumanDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DURATION_EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<HumanDuration, E> {
        v.parse().map_err(|_| E::invalid_value(Unexpected::Str(v), &self))
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(DurationVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SIZE_EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<ByteSize, E> {
        v.parse().map_err(|_| E::invalid_value(Unexpected::Str(v), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(v))
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<ByteSize, E> {
        u64::try_from(v).map(ByteSize).map_err(|_| E::invalid_value(Unexpected::Signed(v), &self))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for HumanDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration-with-units", "pattern": "^\\s*([0-9]+\\s*(d|h|m|s|ms|us|ns)\\s*)+$" })
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"], "format": "size-with-units", "minimum": 0,
            "pattern": "^\\s*[0-9]+\\s*([KkMmGgTt]?[iI]?[Bb])?\\s*$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What people write is understood, and prints back in its shortest exact form.
    #[test]
    fn durations_parse_and_print() {
        for (text, ms, printed) in [
            ("15s", 15_000, "15s"),
            ("200ms", 200, "200ms"),
            ("7d", 604_800_000, "7d"),
            ("1m30s", 90_000, "1m30s"),
            (" 1h 30m ", 5_400_000, "1h30m"),
            ("90s", 90_000, "1m30s"),
            ("0s", 0, "0s"),
        ] {
            let d: HumanDuration = text.parse().unwrap();
            assert_eq!((d.as_millis(), d.to_string().as_str()), (ms, printed), "{text}");
        }
    }

    /// A number without a unit, an unknown unit, fractions, signs and overflow are refused.
    #[test]
    fn bad_durations_are_refused() {
        for text in ["", "15", "15x", "1.5s", "-1s", "s", "15 s5", "99999999999999999999d", "18446744073709551615d"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text:?} was taken");
        }
    }

    /// Sizes take binary and decimal units and plain bytes, and print in the largest exact binary unit.
    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes, printed) in [
            ("1GiB", 1 << 30, "1GiB"),
            ("1536 MiB", 1536 << 20, "1536MiB"),
            ("8mib", 8 << 20, "8MiB"),
            ("100MB", 100_000_000, "100000000B"),
            ("4096", 4096, "4KiB"),
            ("0", 0, "0B"),
        ] {
            let s: ByteSize = text.parse().unwrap();
            assert_eq!((s.bytes(), s.to_string().as_str()), (bytes, printed), "{text}");
        }
        for text in ["", "GiB", "1XB", "-1", "1.5GiB", "1GiB2", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        /// Whatever is printed reads back as the same value.
        #[test]
        fn printed_form_reads_back(ns in any::<u64>(), bytes in any::<u64>()) {
            let d = HumanDuration(Duration::from_nanos(ns));
            prop_assert_eq!(d.to_string().parse::<HumanDuration>().unwrap(), d);
            prop_assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>().unwrap(), ByteSize(bytes));
        }
    }
}
