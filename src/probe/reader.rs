// SPDX-License-Identifier: Apache-2.0
//! Reads the ring buffers of all objects in one thread: woken by records of rare probes, and every
//! 100 ms for the rings that do not wake.
#![expect(unsafe_code, reason = "epoll and eventfd through libc")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};

use super::Object;

/// How often rings that do not wake the reader are looked at.
const POLL_MS: i32 = 100;

/// Records of one ring before the next ring has its turn.
const TURN: usize = 4096;

/// Token of the stop handle among epoll's.
const STOP: u64 = u64::MAX;

/// Ends a [`Reader::run`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    event: Arc<OwnedFd>,
}

impl Stop {
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        Ok(Stop { event: Arc::new(owned(fd)?) })
    }

    /// Makes every reader that has this handle return, once it has read what is there.
    pub fn stop(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: 8 bytes are what an eventfd takes. It can only fail when it is already set.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel just gave us, and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

struct Ring {
    object: usize,
    index: usize,
    polled: bool,
    buffer: RingBuf<MapData>,
}

/// All rings of some objects. A ring has one reader: those that another took are left out.
pub struct Reader {
    rings: Vec<Ring>,
    epoll: OwnedFd,
    /// Objects stay attached while they are read.
    _objects: Vec<Object>,
}

impl Reader {
    /// # Errors
    /// The kernel gives no epoll instance.
    pub fn new(objects: &[Object]) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mut rings = Vec::new();
        for (object, o) in objects.iter().enumerate() {
            for (index, def) in o.skeleton().rings.iter().enumerate() {
                if let Some(buffer) = o.take_ring(index) {
                    if !def.polled {
                        watch(&epoll, buffer.as_raw_fd(), rings.len() as u64)?;
                    }
                    rings.push(Ring { object, index, polled: def.polled, buffer });
                }
            }
        }
        Ok(Reader { rings, epoll, _objects: objects.to_vec() })
    }

    /// Hands each record to `on_record` as (object's index, ring's index, bytes), until stopped.
    /// Records of one ring come in order. What is there at the stop is still handed over.
    ///
    /// # Errors
    /// epoll fails, which it does only when the process is out of memory.
    pub fn run(mut self, stop: &Stop, mut on_record: impl FnMut(usize, usize, &[u8])) -> io::Result<()> {
        watch(&self.epoll, stop.event.as_raw_fd(), STOP)?;
        let any_polled = self.rings.iter().any(|r| r.polled);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        let mut more = false;
        loop {
            let timeout = match (more, any_polled) {
                (true, _) => 0,
                (false, true) => POLL_MS,
                (false, false) => -1,
            };
            // SAFETY: the array is valid for its length.
            let n = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 16, timeout) };
            let Ok(n) = usize::try_from(n) else {
                let e = io::Error::last_os_error();
                if e.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(e);
            };
            // Whatever woke us, all are looked at: that is a load and a compare for an empty ring.
            more = false;
            for ring in &mut self.rings {
                more |= ring.read(&mut on_record) == TURN;
            }
            let stopped = events[..n].iter().any(|e| { e.u64 } == STOP);
            if stopped && !more {
                return Ok(());
            }
        }
    }
}

impl Ring {
    fn read(&mut self, on_record: &mut impl FnMut(usize, usize, &[u8])) -> usize {
        let mut n = 0;
        while n < TURN {
            let Some(record) = self.buffer.next() else { break };
            on_record(self.object, self.index, &record);
            n += 1;
        }
        n
    }
}

fn watch(epoll: &OwnedFd, fd: RawFd, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
    // SAFETY: both descriptors are open, event is valid.
    let r = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
