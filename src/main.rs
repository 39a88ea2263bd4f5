// SPDX-License-Identifier: Apache-2.0
//! The agent with the collectors of this crate, and its command line.

fn main() -> std::process::ExitCode {
    bianque::cli::main(bianque::collectors::BUILT_IN)
}
