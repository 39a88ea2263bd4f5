// SPDX-License-Identifier: Apache-2.0
//! Starts the two processes of a helper: the one place where the agent starts a program, which is itself.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use caps::{CapSet, Capability};

use crate::helper::wire::Socket;
use crate::helper::{ARGUMENT, PROGRAM, Role};

/// Its processes, and the connections to them.
pub(super) struct Running {
    pub asks: Socket,
    pub answers: Socket,
    pub processes: Vec<Box<dyn Process>>,
}

pub(super) trait Process: Send {
    fn kill(&mut self);
    /// Whether it has ended; never waits.
    fn is_gone(&mut self) -> bool;
}

impl Process for Child {
    fn kill(&mut self) {
        // An error means that it has ended.
        drop(Child::kill(self));
    }

    fn is_gone(&mut self) -> bool {
        !matches!(self.try_wait(), Ok(None))
    }
}

/// Starts opener and parser, joined.
pub(super) fn start() -> io::Result<Running> {
    let ((asks, asked), (hands, gets), (replies, answers)) = (Socket::pair()?, Socket::pair()?, Socket::pair()?);
    let mut parser = run(Role::Parser, gets, replies)?;
    let opener = with_ambient(Role::Opener.capabilities(), || run(Role::Opener, asked, hands));
    let opener = opener.inspect_err(|_| Process::kill(&mut parser))?;
    Ok(Running { asks, answers, processes: vec![Box::new(opener), Box::new(parser)] })
}

#[expect(clippy::disallowed_methods, reason = "the one program that the agent starts: itself")]
fn run(role: Role, asks: Socket, answers: Socket) -> io::Result<Child> {
    let mut command = Command::new(PROGRAM);
    command.args([ARGUMENT, role.name()]).env_clear();
    command.stdin(OwnedFd::from(asks)).stdout(OwnedFd::from(answers)).stderr(Stdio::null());
    command.spawn()
}

/// Where the agent is not root, a program that it starts has the capabilities that are ambient
/// (capabilities(7)), which belong to this thread.
fn with_ambient<R>(names: &[&str], then: impl FnOnce() -> R) -> R {
    let has = |c: &Capability| caps::has_cap(None, CapSet::Permitted, *c).unwrap_or(false);
    let given: Vec<Capability> = names.iter().filter_map(|n| n.parse().ok()).filter(has).collect();
    for capability in &given {
        // One that is refused is not had; the helper then finds less.
        drop(caps::raise(None, CapSet::Inheritable, *capability));
        drop(caps::raise(None, CapSet::Ambient, *capability));
    }
    let result = then();
    for capability in &given {
        drop(caps::drop(None, CapSet::Ambient, *capability));
        drop(caps::drop(None, CapSet::Inheritable, *capability));
    }
    result
}
