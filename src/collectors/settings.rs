// SPDX-License-Identifier: Apache-2.0
//! What settings of collectors have in common.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::signal::HumanDuration;

/// A collector's settings, `collectors.NAME` in the configuration. Doc comments become the reference.
pub trait Settings: Serialize + DeserializeOwned + JsonSchema + Default + Clone + Send + Sync + 'static {
    /// Checks what types cannot: ranges, and settings against each other.
    ///
    /// # Errors
    /// Names the key, its value and what would be valid.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// For collectors without settings of their own.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}
impl Settings for NoSettings {}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key} = {value}: {expected}")]
pub struct Invalid {
    pub key: &'static str,
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

impl Invalid {
    /// # Errors
    /// It does not hold.
    pub fn unless(holds: bool, key: &'static str, value: impl fmt::Display, expected: &str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Invalid { key, value: value.to_string(), expected: expected.to_owned() }) }
    }

    /// # Errors
    /// The time is out of the range.
    pub fn unless_within(
        range: RangeInclusive<Duration>,
        key: &'static str,
        value: HumanDuration,
        expected: &str,
    ) -> Result<(), Self> {
        Self::unless(range.contains(&value.get()), key, value, expected)
    }
}
