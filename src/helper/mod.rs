// SPDX-License-Identifier: Apache-2.0
//! What strangers can make wait or break runs here, in processes of its own: names for addresses of their
//! programs, what processes say of their service, containers of users. A file system that does not answer, a file that is cut while it is read, and symbols made to
//! exhaust who reads them, cost a helper and never the agent.
//!
//! A helper is two processes of the agent's own binary. The agent asks the *opener*, which opens files of
//! the process or home in question and parses nothing; it hands descriptors to the *parser*, which opens nothing,
//! has no capability, and answers the agent. `agent/helper.rs` starts them, sets them a time, and ends them.

mod elf;
mod homes;
pub(crate) mod messages;
mod names;
mod opener;
mod parser;
mod perf_map;
mod processes;
mod sandbox;
mod service;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::ExitCode;

use processes::Processes;
use wire::Socket;

/// The first argument of a process that is a helper; the second is its role.
pub(crate) const ARGUMENT: &str = "internal-helper";

/// The running program, whatever lies at its path by now.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// The part that a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Opener,
    Parser,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Role::Opener => "opener",
            Role::Parser => "parser",
        }
    }

    /// What it can do: processes' files are opened by those who may trace them, whoever owns the files.
    pub const fn capabilities(self) -> &'static [&'static str] {
        match self {
            Role::Opener => &["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_CHECKPOINT_RESTORE"],
            Role::Parser => &[],
        }
    }

    /// The role that these arguments of a program give it; `None`: it is no helper.
    pub fn of(mut arguments: impl Iterator<Item = OsString>) -> Option<Role> {
        arguments.nth(1).filter(|a| a == ARGUMENT)?;
        let name = arguments.next()?;
        [Role::Opener, Role::Parser].into_iter().find(|r| name == r.name())
    }

    /// Does its work until nobody asks any more. Its connections are standard input (who asks) and output.
    pub fn run(self) -> ExitCode {
        let connection = |fd: BorrowedFd<'_>| Ok::<_, anyhow::Error>(Socket::from(fd.try_clone_to_owned()?));
        let work = || self.work(&connection(std::io::stdin().as_fd())?, &connection(std::io::stdout().as_fd())?);
        // Why it ends nobody reads: the agent sees that it is gone.
        if work().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn work(self, asks: &Socket, answers: &Socket) -> anyhow::Result<()> {
        match self {
            Role::Opener => {
                sandbox::limit(self.capabilities())?;
                opener::run(asks, answers, sandbox::alarm)?;
            }
            Role::Parser => {
                let processes = Processes::new(parser::vdso());
                sandbox::limit(self.capabilities())?;
                sandbox::confine()?;
                parser::run(asks, answers, processes, sandbox::alarm)?;
            }
        }
        Ok(())
    }
}
