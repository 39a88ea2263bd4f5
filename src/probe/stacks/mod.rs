// SPDX-License-Identifier: Apache-2.0
//! Addresses to names: kernel symbols, ELF symbols in the mount namespace of the process, perf maps.
//!
//! Nothing here fails: what cannot be named stays an address, with module, file offset and build id
//! as far as they are known. Reads files, so keep it off the thread that reads the rings.

mod jit;
mod kernel;
mod process;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::probe::CallStack;
use crate::signal::{Frame, Stack};
use kernel::Kallsyms;
use process::Processes;

/// Names for addresses. Cheap to clone; its caches are shared and bounded.
#[derive(Clone, Default)]
pub struct Symbols {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    kernel: Kallsyms,
    processes: Processes,
    /// The processes of this machine are not those that are asked for.
    without_processes: bool,
    /// When a process was last asked for; `None`: nothing is kept of any.
    asked: Option<Instant>,
}

impl Symbols {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of another node than this one: kernel symbols from its `proc`, none of programs.
    #[must_use]
    pub fn under(proc: &Path) -> Self {
        let kernel = Kallsyms::under(proc);
        Symbols { state: Arc::new(Mutex::new(State { kernel, without_processes: true, ..State::default() })) }
    }

    /// A kernel stack and a user stack of process `pid`.
    #[must_use]
    pub fn both(&self, pid: u32, stack: &CallStack) -> (Stack, Stack) {
        (self.kernel(stack.kernel()), self.user(pid, stack.user()))
    }

    /// A kernel stack, in the order given. Equal ones are named once.
    #[must_use]
    pub fn kernel(&self, addresses: &[u64]) -> Stack {
        self.with(|s| s.kernel.stack(addresses))
    }

    /// A user stack of process `pid` (as the host numbers it), in the order given. Of a process that
    /// is gone and was not seen before, addresses only.
    #[must_use]
    pub fn user(&self, pid: u32, addresses: &[u64]) -> Stack {
        if addresses.is_empty() {
            return Stack::default();
        }
        self.with(|s| {
            if s.without_processes {
                return addresses.iter().map(|a| Frame { address: *a, ..Frame::default() }).collect::<Vec<_>>().into();
            }
            s.asked = Some(Instant::now());
            restore(addresses, s.processes.frames(pid, &call_sites(addresses)))
        })
    }

    /// Why kernel symbols are not to be had, if so, and what to do about it.
    #[must_use]
    pub fn kernel_hidden(&self) -> Option<String> {
        self.with(|s| s.kernel.hidden())
    }

    /// Gives back what is kept of processes and their files when nobody asked for `quiet`: symbols of
    /// a large program are tens of MiB, and an open file cannot be freed. `false`: nothing to give.
    /// The kernel's symbols stay, as the next event would wait for them.
    pub fn trim(&self, quiet: Duration) -> bool {
        self.with(|s| {
            let over = s.asked.is_some_and(|at| at.elapsed() >= quiet);
            if over {
                (s.processes, s.asked) = (Processes::default(), None);
            }
            over
        })
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All but the innermost are return addresses: the call is the instruction before, and where it is a
/// function's last (a call that never returns), only that is inside of it.
fn call_sites(addresses: &[u64]) -> Vec<u64> {
    addresses.iter().enumerate().map(|(i, a)| if i == 0 { *a } else { a.saturating_sub(1) }).collect()
}

/// Frames as they are on the stack.
fn restore(addresses: &[u64], mut frames: Vec<Frame>) -> Stack {
    for (frame, address) in frames.iter_mut().zip(addresses) {
        frame.offset += address - frame.address;
        frame.address = *address;
    }
    frames.into()
}
