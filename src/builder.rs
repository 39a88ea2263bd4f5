// SPDX-License-Identifier: Apache-2.0
//! The library's entry: an agent made of collectors, with its command line.

use std::process::ExitCode;

use crate::collectors::{BUILT_IN, Registration};

/// The agent with its collectors: the built-in ones, and those that were added.
#[derive(Clone)]
pub struct Agent {
    registrations: Vec<Registration>,
}

/// The agent with all built-in collectors.
#[must_use]
pub fn agent() -> Agent {
    Agent { registrations: BUILT_IN.to_vec() }
}

impl Agent {
    /// Adds a collector of yours: `agent().with(collectors::events::<Mine>())`.
    #[must_use]
    pub fn with(mut self, collector: Registration) -> Self {
        self.registrations.push(collector);
        self
    }

    /// The command line, with all commands of `bianque`; for the `main` of your binary.
    #[must_use]
    pub fn main(self) -> ExitCode {
        // What this agent started to look at strangers' files for it; of it nothing else is wanted.
        if let Some(role) = crate::helper::Role::of(std::env::args_os()) {
            return role.run();
        }
        crate::cli::main(&self.registrations)
    }
}
