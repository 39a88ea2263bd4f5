// SPDX-License-Identifier: Apache-2.0
//! Addresses to names: the kernel's symbols here, those of programs by whoever is given for it, as a
//! program's files may make their reader wait or break.
//!
//! Nothing here fails: what cannot be named stays an address, with module, file offset and build id
//! as far as they are known. Reads files of the kernel's, so keep it off the thread that reads the rings.

mod kernel;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::probe::CallStack;
use crate::signal::ids::StackKey;
use crate::signal::{Frame, Stack};
use kernel::Kallsyms;

/// An event is held back no longer for the names of a program's functions, from when its record was read.
const EVENT: Duration = Duration::from_millis(100);

/// What a capture waits for the names of one stack, and for all of its stacks.
const STACK: Duration = Duration::from_secs(2);
const CAPTURE: Duration = Duration::from_secs(10);

/// Who waits for names. What one waits for holds up no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    Event,
    Capture,
}

/// What came of a question for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Frames(Vec<Frame>),
    /// There is no answer yet, but one may come under this key.
    Late(StackKey),
    Unknown,
}

/// Names for addresses of programs.
pub trait UserSymbols: Send + Sync {
    /// Frames for addresses of process `pid` (as the host numbers it), as many as are of code, by `until`;
    /// [`Named::Late`] of events alone.
    fn frames(&self, pid: u32, addresses: &[u64], urgency: Urgency, until: Instant) -> Named;

    /// Gives back what is kept of programs when nobody asked for `quiet`.
    fn trim(&self, quiet: Duration);

    /// Why names of some programs are not to be had now, if so.
    fn impaired(&self) -> Option<String>;
}

/// Names for addresses. Cheap to clone; its caches are shared and bounded.
#[derive(Clone, Default)]
pub struct Symbols {
    kernel: Arc<Mutex<Kallsyms>>,
    user: Option<Arc<dyn UserSymbols>>,
    /// When the names of a capture are awaited no longer; `None`: of an event.
    capture: Option<Instant>,
    /// When the record was read, or the tick began, whose events are being made; of one collector.
    read: Arc<Mutex<Option<Instant>>>,
}

impl Symbols {
    /// With the kernel's symbols alone: addresses of programs stay addresses.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of another node than this one: kernel symbols from its `proc`, none of programs.
    #[must_use]
    pub fn under(proc: &Path) -> Self {
        Symbols { kernel: Arc::new(Mutex::new(Kallsyms::under(proc))), ..Self::default() }
    }

    /// With names of programs from `user`.
    #[must_use]
    pub fn with_user(self, user: Arc<dyn UserSymbols>) -> Self {
        Symbols { user: Some(user), ..self }
    }

    /// The same symbols for one capture, which begins to name its stacks now. It waits longer than an
    /// event, in a queue of its own.
    #[must_use]
    pub fn for_capture(&self) -> Self {
        Symbols { capture: Some(Instant::now() + CAPTURE), ..self.clone() }
    }

    /// The same symbols for one collector, on a thread of its own.
    pub(crate) fn for_collector(&self) -> Self {
        Symbols { read: Arc::default(), ..self.clone() }
    }

    /// From here on, names are wanted for events of a record that was read then, or of a tick.
    pub(crate) fn begin_event(&self, read: Instant) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// A kernel stack and a user stack of process `pid`. The latter is named first: its process may end, and the
    /// kernel's symbols are read when they are first asked for.
    #[must_use]
    pub fn both(&self, pid: u32, stack: &CallStack) -> (Stack, Stack) {
        let user = self.user(pid, stack.user());
        (self.kernel(stack.kernel()), user)
    }

    /// A kernel stack, in the order given. Equal ones are named once.
    #[must_use]
    pub fn kernel(&self, addresses: &[u64]) -> Stack {
        self.with_kernel(|k| k.stack(addresses))
    }

    /// A user stack of process `pid` (as the host numbers it), in the order given. Of a process that
    /// is gone and was not seen before, and of one whose files do not answer in time, addresses only:
    /// names that come later are joined to an event where it is read.
    #[must_use]
    pub fn user(&self, pid: u32, addresses: &[u64]) -> Stack {
        if addresses.is_empty() {
            return Stack::default();
        }
        let now = Instant::now();
        let (urgency, until) = match self.capture {
            None => (Urgency::Event, self.read().unwrap_or(now) + EVENT),
            Some(end) => (Urgency::Capture, end.min(now + STACK)),
        };
        let ask = |u: &Arc<dyn UserSymbols>| u.frames(pid, &call_sites(addresses), urgency, until);
        match self.user.as_ref().map_or(Named::Unknown, ask) {
            Named::Frames(frames) => restore(frames),
            Named::Late(key) => Stack::unnamed(pid, addresses, Some(key)),
            Named::Unknown => Stack::unnamed(pid, addresses, None),
        }
    }

    /// Why kernel symbols are not to be had, if so, and what to do about it.
    #[must_use]
    pub fn kernel_hidden(&self) -> Option<String> {
        self.with_kernel(Kallsyms::hidden)
    }

    /// Gives back what is kept of programs when nobody asked for `quiet`: symbols of a large one are tens of
    /// MiB, and an open file cannot be freed. The kernel's symbols stay, as the next event would wait for them.
    pub fn trim(&self, quiet: Duration) {
        if let Some(user) = &self.user {
            user.trim(quiet);
        }
    }

    /// Why names of some programs are not to be had now, if so.
    #[must_use]
    pub fn impaired(&self) -> Option<String> {
        self.user.as_ref().and_then(|u| u.impaired())
    }

    fn read(&self) -> Option<Instant> {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_kernel<R>(&self, f: impl FnOnce(&mut Kallsyms) -> R) -> R {
        f(&mut self.kernel.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Names that came after their event was handed on.
#[derive(Debug, Clone, PartialEq)]
pub struct LateNames {
    pub key: StackKey,
    /// The stack as the event has it.
    pub before: Stack,
    pub named: Stack,
}

impl LateNames {
    /// Frames for the addresses that [`UserSymbols::frames`] was asked for.
    #[must_use]
    pub fn new(key: StackKey, pid: u32, sites: &[u64], frames: Vec<Frame>) -> Self {
        let addresses: Vec<_> = sites.iter().enumerate().map(|(i, a)| a.wrapping_add(back(i))).collect();
        LateNames { key, before: Stack::unnamed(pid, &addresses, None), named: restore(frames) }
    }
}

/// All but the innermost are return addresses: the call is the instruction before, and where it is a
/// function's last (a call that never returns), only that is inside of it.
fn call_sites(addresses: &[u64]) -> Vec<u64> {
    addresses.iter().enumerate().map(|(i, a)| a.wrapping_sub(back(i))).collect()
}

/// Frames as they are on the stack.
fn restore(mut frames: Vec<Frame>) -> Stack {
    for (i, frame) in frames.iter_mut().enumerate() {
        frame.offset = frame.offset.wrapping_add(back(i));
        frame.address = frame.address.wrapping_add(back(i));
    }
    frames.into()
}

/// Bytes from a return address back to its call.
fn back(position: usize) -> u64 {
    u64::from(position > 0)
}
