// SPDX-License-Identifier: Apache-2.0
//! The agent with the collectors of this crate, and its command line.

fn main() -> std::process::ExitCode {
    bianque::agent().main()
}
