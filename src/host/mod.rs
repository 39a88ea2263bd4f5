// SPDX-License-Identifier: Apache-2.0
//! `/proc`, `/sys` and cgroupfs as typed readings, under roots that tests move.

pub mod clock;

pub use clock::{Clock, Now};

use std::path::PathBuf;

/// Where the node's files are.
#[derive(Debug, Clone)]
pub struct Host {
    pub proc: PathBuf,
    pub sys: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host { proc: "/proc".into(), sys: "/sys".into() }
    }
}
