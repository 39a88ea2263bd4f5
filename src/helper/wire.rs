// SPDX-License-Identifier: Apache-2.0
//! The sockets between the agent and its helper processes, which carry one message a packet
//! (`SOCK_SEQPACKET`, unix(7)), and the parts that messages are made of.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

/// Bytes of a message. By default a socket takes 208 KiB (`net.core.wmem_default`).
pub const LARGEST: usize = 160 << 10;
/// Bytes of a name, of a function or module.
pub const NAME: usize = 512;

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

    /// How many, and each.
    pub fn numbers(&mut self, all: &[u64]) -> &mut Self {
        self.number(all.len() as u64);
        for n in all {
            self.number(*n);
        }
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
    pub fn count(&mut self, most: usize) -> Option<usize> {
        self.number().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= most)
    }

    /// Numbers, at most `most`.
    pub fn numbers(&mut self, most: usize) -> Option<Vec<u64>> {
        (0..self.count(most)?).map(|_| self.number()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
