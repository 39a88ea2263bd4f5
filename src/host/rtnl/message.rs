// SPDX-License-Identifier: Apache-2.0
//! Netlink messages as bytes, and a socket to ask with: netlink(7), rtnetlink(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::link::{attributes, i32_of, u32_of};
use super::{Link, NsId};
use crate::host::Host;

pub(super) const NEW_LINK: u16 = 16;
pub(super) const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
pub(super) const NEW_NSID: u16 = 88;
pub(super) const DEL_NSID: u16 = 89;
const GET_NSID: u16 = 90;
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel writes dumps in pieces of at most 32 KiB (af_netlink.c).
pub(super) const BUFFER: usize = 64 << 10;

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub sequence: u32,
    /// Who asked; a notice carries it too.
    pub port: u32,
    pub body: &'a [u8],
}

/// The messages of a datagram; what follows a malformed one is left out.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_of(bytes)?).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let (sequence, port) = (u32_of(bytes.get(8..)?)?, u32_of(bytes.get(12..)?)?);
        // Shorter than its own header: there is no next one.
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, port, body })
    })
}

/// NLMSG_ERROR's word: 0 acknowledges.
pub(super) fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32_of(body)?;
    (code != 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}

fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((flags | REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Which devices to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    All,
    /// Those of a kind: `bond`.
    Kind(&'static str),
    /// Those that belong to this one.
    Master(u32),
}

impl Filter {
    fn takes(self, link: &Link) -> bool {
        match self {
            Filter::All => true,
            Filter::Kind(kind) => link.kind.as_deref() == Some(kind),
            Filter::Master(index) => link.master == Some(index),
        }
    }
}

/// Asks for the devices of a namespace, without what each virtual function of theirs counts.
pub(super) fn list_links(ns: NsId, filter: Filter, sequence: u32) -> Vec<u8> {
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_EXT_MASK: u16 = 29;
    const IFLA_TARGET_NETNSID: u16 = 46;
    const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    let mut body = vec![0; 16];
    body.extend(attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes()));
    if let Some(id) = ns {
        body.extend(attribute(IFLA_TARGET_NETNSID, &id.to_ne_bytes()));
    }
    match filter {
        Filter::All => {}
        Filter::Kind(kind) => body.extend(attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, kind.as_bytes()))),
        Filter::Master(index) => body.extend(attribute(IFLA_MASTER, &index.to_ne_bytes())),
    }
    request(GET_LINK, DUMP, sequence, &body)
}

/// NETNSA_*: attributes of messages about namespaces.
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;
const NETNSA_FD: u16 = 3;

/// The namespace that a message about one is of.
pub(super) fn nsid_of(body: &[u8]) -> NsId {
    let mut all = attributes(body.get(4..)?);
    all.find(|a| a.kind() == NETNSA_NSID).and_then(|a| i32_of(a.value())).filter(|id| *id >= 0)
}

/// A socket to ask with. The kernel answers before a request returns, so nothing is waited for.
pub struct Rtnl {
    /// `None`: the devices are made up.
    socket: Option<Socket>,
    sequence: u32,
    buffer: Vec<u8>,
    made_up: Option<Arc<Mutex<Vec<Link>>>>,
}

impl Rtnl {
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(host: &Host) -> io::Result<Self> {
        let made_up = host.links.clone();
        let mut socket = if made_up.is_none() { Some(Socket::new(NETLINK_ROUTE)?) } else { None };
        socket.as_mut().map_or(Ok(()), |s| s.bind_auto().map(drop))?;
        Ok(Rtnl { socket, sequence: 0, buffer: vec![0; BUFFER], made_up })
    }

    /// The devices of a namespace. Another one's takes CAP_NET_ADMIN there.
    ///
    /// # Errors
    /// The kernel's; EINVAL where the namespace is gone.
    pub fn links(&mut self, ns: NsId, filter: Filter) -> io::Result<Vec<Link>> {
        if let Some(all) = &self.made_up {
            let all = all.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(all.iter().filter(|l| l.ns == ns && filter.takes(l)).cloned().collect());
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut links = Vec::new();
        self.ask(&list_links(ns, filter, self.sequence), |m| {
            if m.kind == NEW_LINK {
                links.extend(Link::parse(ns, m.body));
            }
        })?;
        if let Filter::Kind(_) = filter {
            // A kernel that has not loaded the kind lists all.
            links.retain(|l| filter.takes(l));
        }
        Ok(links)
    }

    /// The number of a process's namespace; `None`: it has none.
    ///
    /// # Errors
    /// The kernel's; ESRCH where the process is gone.
    pub fn nsid_of_process(&mut self, pid: u32) -> io::Result<NsId> {
        self.nsid(&attribute(NETNSA_PID, &pid.to_ne_bytes()))
    }

    /// The number of an open namespace; `None`: it has none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn nsid_of_file(&mut self, ns: BorrowedFd<'_>) -> io::Result<NsId> {
        self.nsid(&attribute(NETNSA_FD, &ns.as_raw_fd().to_ne_bytes()))
    }

    /// Gives a namespace a number. Takes CAP_NET_ADMIN.
    ///
    /// # Errors
    /// The kernel's; EEXIST where it has one.
    pub fn number(&mut self, ns: BorrowedFd<'_>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let any = attribute(NETNSA_NSID, &(-1_i32).to_ne_bytes());
        let body = [&[0; 4][..], &any, &attribute(NETNSA_FD, &ns.as_raw_fd().to_ne_bytes())].concat();
        self.ask(&request(NEW_NSID, ACK, self.sequence, &body), |_| {})
    }

    fn nsid(&mut self, of: &[u8]) -> io::Result<NsId> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut id = None;
        let body = [&[0; 4][..], of].concat();
        // With an acknowledgement, so that there is an end.
        self.ask(&request(GET_NSID, ACK, self.sequence, &body), |m| {
            if m.kind == NEW_NSID {
                id = nsid_of(m.body);
            }
        })?;
        Ok(id)
    }

    /// Sends a request and reads to the end of its answer.
    fn ask(&mut self, request: &[u8], mut on_message: impl FnMut(Message<'_>)) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
        loop {
            let n = socket.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT)?;
            for m in messages(self.buffer.get(..n).unwrap_or_default()) {
                if m.sequence != self.sequence {
                    continue;
                }
                match m.kind {
                    DONE => return Ok(()),
                    ERROR => return error_of(m.body).map_or(Ok(()), Err),
                    _ => on_message(m),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The real kernel lists this namespace's devices, loopback among them.
    #[test]
    fn lists_the_devices_that_are_there() {
        let mut rtnl = Rtnl::open(&Host::default()).unwrap();
        let links = rtnl.links(None, Filter::All).unwrap();
        let lo = links.iter().find(|l| l.name == "lo").unwrap();
        assert!(lo.is_loopback() && lo.index == 1);
        let [received, sent] = lo.counters.unwrap().traffic();
        assert_eq!((received.bytes, received.packets), (sent.bytes, sent.packets));
        assert!(rtnl.links(None, Filter::Kind("bond")).unwrap().iter().all(|l| l.name != "lo"));
        assert!(rtnl.nsid_of_process(std::process::id()).is_ok());
        assert!(rtnl.nsid_of_process(u32::MAX >> 2).is_err());
    }

    proptest! {
        /// No bytes make the reader of messages panic or run for ever.
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            for m in messages(&bytes).take(1000) {
                let _ = (nsid_of(m.body), error_of(m.body));
            }
        }
    }
}
