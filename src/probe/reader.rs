// SPDX-License-Identifier: Apache-2.0
//! Reads the ring buffers of all objects in one thread: woken by records of rare probes, and every
//! 100 ms for the rings that do not wake.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::Object;

/// How often rings that do not wake the reader are looked at.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Records of one ring before the next ring has its turn.
const TURN: usize = 4096;

/// Descriptors that one wait can name.
const EVENTS: usize = 16;

/// Token of the stop handle among epoll's.
const STOP: u64 = u64::MAX;
/// Tokens of sources: this, the source's index, and the descriptor's in 8 bits.
const SOURCE: u64 = 1 << 32;

/// What may be read beside the rings, on the same thread: a socket, a log.
pub trait Source: Send {
    /// What to wait for; the position in this list is the `which` of [`Self::read`].
    fn descriptors(&self) -> Vec<(BorrowedFd<'_>, Ready)>;

    /// Reads what is there, without waiting, each record in bytes.
    ///
    /// # Errors
    /// It is not read any more.
    fn read(&mut self, which: usize, on_record: &mut dyn FnMut(Vec<u8>)) -> io::Result<()>;
}

/// When a descriptor wants to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// There is something to read.
    Input,
    /// It changed (EPOLLPRI), as the tables of `/proc` say it.
    Changed,
}

/// Ends a [`Reader::run`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop {
    event: Arc<OwnedFd>,
}

impl Stop {
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Stop { event: Arc::new(event) })
    }

    /// Makes every reader that has this handle return, once it has read what is there.
    pub fn stop(&self) {
        // It can only fail when it is already set.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

struct Ring {
    object: usize,
    index: usize,
    polled: bool,
    buffer: RingBuf<MapData>,
}

/// All rings of some objects, and sources beside them. A ring has one reader: those that another took
/// are left out.
pub struct Reader {
    rings: Vec<Ring>,
    /// `None`: it failed.
    sources: Vec<Option<Box<dyn Source>>>,
    epoll: OwnedFd,
    /// Objects stay attached while they are read.
    objects: Vec<Object>,
}

impl Reader {
    /// # Errors
    /// The kernel gives no epoll instance.
    pub fn new(objects: &[Object]) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut rings = Vec::new();
        for (object, o) in objects.iter().enumerate() {
            for (index, def) in o.skeleton().rings.iter().enumerate() {
                if let Some(buffer) = o.take_ring(index) {
                    if !def.polled {
                        watch(&epoll, buffer.as_fd(), EventFlags::IN, rings.len() as u64)?;
                    }
                    rings.push(Ring { object, index, polled: def.polled, buffer });
                }
            }
        }
        Ok(Reader { rings, sources: Vec::new(), epoll, objects: objects.to_vec() })
    }

    /// Reads these too. Their records are handed over as ring 0 of the objects behind the last.
    ///
    /// # Errors
    /// A descriptor cannot be waited for.
    pub fn with_sources(mut self, sources: Vec<Box<dyn Source>>) -> io::Result<Self> {
        for (i, source) in sources.iter().enumerate() {
            for (which, (fd, ready)) in source.descriptors().into_iter().enumerate() {
                let events = if ready == Ready::Input { EventFlags::IN } else { EventFlags::PRI };
                watch(&self.epoll, fd, events, SOURCE | (i as u64) << 8 | which as u64)?;
            }
        }
        self.sources = sources.into_iter().map(Some).collect();
        Ok(self)
    }

    /// Hands each record to `on_record` as (object's index, ring's index, bytes), until stopped.
    /// Records of one ring come in order. What is there at the stop is still handed over.
    ///
    /// # Errors
    /// epoll fails, which it does only when the process is out of memory.
    pub fn run(mut self, stop: &Stop, mut on_record: impl FnMut(usize, usize, &[u8])) -> io::Result<()> {
        watch(&self.epoll, stop.event.as_fd(), EventFlags::IN, STOP)?;
        let any_polled = self.rings.iter().any(|r| r.polled);
        let mut events = Vec::with_capacity(EVENTS);
        let mut more = false;
        loop {
            let timeout = match (more, any_polled) {
                (true, _) => Some(&AT_ONCE),
                (false, true) => Some(&POLL),
                (false, false) => None,
            };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            // Read before the rings and handed over behind them: what a program says of a thing comes
            // before the kernel's own notice of it.
            let notices = self.read_sources(events.iter().map(token_of));
            // Whatever woke us, all are looked at: that is a load and a compare for an empty ring.
            more = false;
            for ring in &mut self.rings {
                more |= ring.read(&mut on_record) == TURN;
            }
            for (source, bytes) in notices {
                on_record(self.objects.len() + source, 0, &bytes);
            }
            let stopped = events.iter().any(|e| token_of(e) == STOP);
            if stopped && !more {
                return Ok(());
            }
        }
    }
}

impl Reader {
    /// What the sources that are ready have to say, with their index.
    fn read_sources(&mut self, ready: impl Iterator<Item = u64>) -> Vec<(usize, Vec<u8>)> {
        let mut notices = Vec::new();
        for token in ready.filter(|t| *t != STOP && t & SOURCE != 0) {
            let (index, which) = (((token & !SOURCE) >> 8) as usize, (token & 0xff) as usize);
            let Some(slot) = self.sources.get_mut(index) else { continue };
            let Some(source) = slot else { continue };
            if let Err(e) = source.read(which, &mut |bytes| notices.push((index, bytes))) {
                tracing::error!("a source of records is no longer read: {e}");
                // Its descriptors leave epoll as they are closed.
                *slot = None;
            }
        }
        notices
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

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, events: EventFlags, token: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, fd, EventData::new_u64(token), events)?)
}

fn token_of(event: &epoll::Event) -> u64 {
    // The kernel's record is packed.
    let data = event.data;
    data.u64()
}
