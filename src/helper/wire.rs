// SPDX-License-Identifier: Apache-2.0
//! Messages between the agent and its helper processes, and the sockets that carry them: one message a
//! packet (`SOCK_SEQPACKET`, unix(7)), each with bounds, as the parser may have been taken over by
//! what it reads.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use crate::signal::Frame;

/// Bytes of a message. By default a socket takes 208 KiB (`net.core.wmem_default`).
pub const LARGEST: usize = 160 << 10;
/// Frames that are named of one stack; the kernel walks 127 at most (`kernel.perf_event_max_stack`).
pub const DEPTH: usize = 128;
/// Bytes of a name, of a function or module. [`DEPTH`] frames of them fit a message.
pub const NAME: usize = 512;
/// And of a build id, which is 40 as a rule.
const BUILD_ID: usize = 128;
/// Devices that a request names.
pub const DEVICES: usize = 64;

/// One end of a connection.
pub struct Socket(OwnedFd);

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Socket(fd)
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

impl Socket {
    pub fn pair() -> Result<(Socket, Socket)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Socket(a), Socket(b)))
    }

    /// Sends a message; fails rather than waits where the other side does not read.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        rustix::net::send(&self.0, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
    }

    /// The next message; `None` at the end of the connection.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
        loop {
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
                Ok((n, _)) => return Ok(buffer.get(..n).filter(|m| !m.is_empty())),
            }
        }
    }

    /// Waits for a message, or the end, until then. False: neither came.
    pub fn is_readable_by(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                ready => return ready.is_ok_and(|n| n > 0),
            }
        }
    }

    /// Hands a descriptor over, or says that there is none.
    pub fn send_file(&self, file: Option<&impl AsFd>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = file.map(|f| [f.as_fd()]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flag = [u8::from(fds.is_some())];
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&flag)], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// What [`Self::send_file`] handed over.
    pub fn receive_file(&self) -> Result<Option<File>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut flag = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut flag)], &mut control, flags)?;
        if got.bytes == 0 {
            return Err(Errno::PIPE);
        }
        let fds = control.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok(fds.flatten().next().map(File::from))
    }
}

/// Writes a message.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn number(&mut self, n: u64) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    /// Cut at [`NAME`] bytes.
    pub fn text(&mut self, text: Option<&str>) -> &mut Self {
        // A length that no text has stands for none.
        let Some(text) = text else { return self.length(usize::from(u16::MAX)) };
        let text = cut(text, NAME);
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn length(&mut self, n: usize) -> &mut Self {
        self.0.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes());
        self
    }
}

/// The beginning of a text, of at most so many bytes.
pub fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or("")
}

/// Reads a message; `None`: it is malformed.
pub struct Reader<'m>(pub &'m [u8]);

impl<'m> Reader<'m> {
    pub fn number(&mut self) -> Option<u64> {
        let (n, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*n))
    }

    /// A number of things, at most `most`.
    fn count(&mut self, most: usize) -> Option<usize> {
        self.number().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= most)
    }

    pub fn text(&mut self) -> Option<Option<&'m str>> {
        let (n, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        let n = usize::from(u16::from_le_bytes(*n));
        if n == usize::from(u16::MAX) {
            return Some(None);
        }
        let (text, rest) = self.0.split_at_checked(n).filter(|_| n <= NAME)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(Some)
    }
}

/// Which file systems may be touched, by device number as `/proc/PID/maps` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    AllBut(Vec<u64>),
    /// Too many have not answered: none that has not been seen to do so.
    Only(Vec<u64>),
}

impl Devices {
    pub fn allow(&self, device: u64) -> bool {
        match self {
            Devices::AllBut(none) => !none.contains(&device),
            Devices::Only(these) => these.contains(&device),
        }
    }
}

/// A question of the agent: names for addresses of a process, as the host numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub id: u64,
    pub pid: u32,
    pub devices: Devices,
    pub addresses: Vec<u64>,
}

impl Ask {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        let (only, devices) = match &self.devices {
            Devices::AllBut(d) => (0, d),
            Devices::Only(d) => (1, d),
        };
        w.number(self.id).number(self.pid.into()).number(only);
        for list in [&devices[..devices.len().min(DEVICES)], &self.addresses[..self.addresses.len().min(DEPTH)]] {
            w.number(list.len() as u64);
            for n in list {
                w.number(*n);
            }
        }
        w.0
    }

    pub fn decode(message: &[u8]) -> Option<Ask> {
        let mut r = Reader(message);
        let (id, pid, only) = (r.number()?, u32::try_from(r.number()?).ok()?, r.number()?);
        let mut list = |most| (0..r.count(most)?).map(|_| r.number()).collect::<Option<Vec<u64>>>();
        let (devices, addresses) = (list(DEVICES)?, list(DEPTH)?);
        let devices = if only == 0 { Devices::AllBut(devices) } else { Devices::Only(devices) };
        Some(Ask { id, pid, devices, addresses })
    }
}

/// What the parser says to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// From now on it may wait for this device; 0: for one that it does not know.
    Touches(u64),
    Frames {
        id: u64,
        frames: Vec<Frame>,
    },
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Answer::Touches(device) => drop(w.number(0).number(*device)),
            Answer::Frames { id, frames } => {
                w.number(1).number(*id).number(frames.len().min(DEPTH) as u64);
                for f in frames.iter().take(DEPTH) {
                    w.text(f.symbol.as_deref()).text(f.module.as_deref());
                    w.text(f.build_id.as_deref().map(|id| cut(id, BUILD_ID)));
                    w.number(f.offset).number(f.address);
                }
            }
        }
        w.0
    }

    pub fn decode(message: &[u8]) -> Option<Answer> {
        let mut r = Reader(message);
        if r.number()? == 0 {
            return r.number().map(Answer::Touches);
        }
        let id = r.number()?;
        let text = |r: &mut Reader<'_>| Some(r.text()?.map(Arc::from));
        let frame = |r: &mut Reader<'_>| {
            let (symbol, module, build_id) = (text(r)?, text(r)?, text(r)?);
            Some(Frame { symbol, module, build_id, offset: r.number()?, address: r.number()? })
        };
        let frames = (0..r.count(DEPTH)?).map(|_| frame(&mut r)).collect::<Option<_>>()?;
        Some(Answer::Frames { id, frames })
    }
}

/// A file of the process that a question is about; the parser asks the opener for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// `/proc/PID/stat`, `status`, `maps`: texts of the kernel's.
    Stat,
    Status,
    Maps,
    /// The file of a mapping, by its bounds.
    Mapped {
        start: u64,
        end: u64,
    },
    /// A path as the process sees it.
    InRoot(&'a str),
}

/// What ends the parser's wishes for one question.
pub const DONE: &[u8] = b"done";

impl<'a> Wanted<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Wanted::Stat => drop(w.number(0)),
            Wanted::Status => drop(w.number(1)),
            Wanted::Maps => drop(w.number(2)),
            Wanted::Mapped { start, end } => drop(w.number(3).number(*start).number(*end)),
            // Not cut: another path would be another file. One that is longer is refused when it is read.
            Wanted::InRoot(path) => {
                w.number(4);
                w.0.extend_from_slice(path.as_bytes());
            }
        }
        w.0
    }

    pub fn decode(message: &'a [u8]) -> Option<Self> {
        let mut r = Reader(message);
        Some(match r.number()? {
            0 => Wanted::Stat,
            1 => Wanted::Status,
            2 => Wanted::Maps,
            3 => Wanted::Mapped { start: r.number()?, end: r.number()? },
            4 => Wanted::InRoot(std::str::from_utf8(r.0).ok().filter(|p| p.len() < libc::PATH_MAX as usize)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> Frame {
        let name = |n: usize| Some("\u{1f99c}".repeat(n).into());
        Frame { symbol: name(2), module: None, build_id: name(1), offset: 7, address: u64::MAX }
    }

    /// What is sent is what is received, at the limits, too; the largest answer fits a packet.
    #[test]
    fn messages_survive() {
        let devices = Devices::Only(vec![1, u64::MAX]);
        let ask = Ask { id: 1, pid: 2, devices, addresses: vec![3; DEPTH] };
        assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        let answer = Answer::Frames { id: 3, frames: vec![frame(); 3] };
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        assert_eq!(Answer::decode(&Answer::Touches(9).encode()), Some(Answer::Touches(9)));
        let wanted = [Wanted::Stat, Wanted::Mapped { start: 1, end: 2 }, Wanted::InRoot("/a b")];
        assert!(wanted.iter().all(|w| Wanted::decode(&w.encode()) == Some(*w)));

        let long: Option<Arc<str>> = Some("x".repeat(5000).into());
        let huge = Frame { symbol: long.clone(), module: long.clone(), build_id: long, offset: 0, address: 0 };
        let message = Answer::Frames { id: 0, frames: vec![huge; 5000] }.encode();
        let Some(Answer::Frames { frames, .. }) = Answer::decode(&message) else { panic!("unreadable") };
        assert_eq!((frames.len(), frames[0].symbol.as_deref().map(str::len)), (DEPTH, Some(NAME)));
        assert!(message.len() <= LARGEST && Ask::decode(&[0; 8]).is_none());
        let (a, b) = Socket::pair().unwrap();
        a.send(&message).unwrap();
        let mut buffer = vec![0; LARGEST];
        assert_eq!(b.receive(&mut buffer).unwrap(), Some(&message[..]));
        drop(a);
        assert_eq!(b.receive(&mut buffer).unwrap(), None);
    }

    /// A descriptor arrives with what is behind it; so does that there is none.
    #[test]
    fn files_are_handed_over() {
        use std::io::Read as _;
        let (a, b) = Socket::pair().unwrap();
        a.send_file(Some(&File::open("/proc/self/comm").unwrap())).unwrap();
        let mut text = String::new();
        b.receive_file().unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        a.send_file(None::<&File>).unwrap();
        assert!(b.receive_file().unwrap().is_none());
        drop(a);
        assert!(b.receive_file().is_err());
    }

    proptest! {
        /// No message makes the readers panic, take much memory, or give more than the limits.
        #[test]
        fn malformed_messages(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u64..6) {
            let mut message = kind.to_le_bytes().to_vec();
            message.extend(bytes);
            let _ = (Ask::decode(&message), Wanted::decode(&message));
            if let Some(Answer::Frames { frames, .. }) = Answer::decode(&message) {
                prop_assert!(frames.len() <= DEPTH);
            }
        }
    }
}
