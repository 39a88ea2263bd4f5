// SPDX-License-Identifier: Apache-2.0
//! Hears of every change of a network device, and lists all devices at the start, when notices were
//! lost, and when a namespace becomes known. Lists and notices come through one socket, so that they
//! keep the kernel's order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::link::i32_of;
use super::message::{
    self, BUFFER, DEL_LINK, DEL_NSID, DONE, ERROR, Message, NEW_LINK, NEW_NSID, error_of, list_links, messages,
};
use super::namespaces::{Mounts, foreign};
use super::{Filter, Link, NsId, Rtnl};
use crate::host::{Host, ReadError, Reading, sys};

/// linux/rtnetlink.h.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NSID: u32 = 28;
/// A notice has some 2 KiB: hundreds, should the reader be late.
const SOCKET_BUFFER: usize = 2 << 20;
/// Datagrams of one turn.
const TURN: usize = 1024;

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkNotice {
    /// A device as it is now; `listed`: found by a list, not by a notification of the kernel.
    Is { link: Link, listed: bool },
    /// It is gone, or went to another namespace.
    Gone(Link),
    /// A list of a namespace's devices begins.
    Listing(NsId),
    /// It is complete: what it did not have is gone.
    Listed(NsId),
    /// A namespace is gone, with what was in it.
    NamespaceGone(i32),
}

/// The listener. Its notices are bytes until [`Self::decode`], as queues carry bytes.
pub struct LinkListener {
    socket: Socket,
    rtnl: Rtnl,
    mounts: Option<Mounts>,
    /// This process's own namespace may have a number too.
    own: NsId,
    /// Namespaces that are to be listed; the first is being listed.
    lists: VecDeque<NsId>,
    /// Nothing of its list has come yet.
    begins: bool,
    sequence: u32,
    port: u32,
    buffer: Vec<u8>,
    /// Namespaces that were listed, or are to be.
    known: Vec<i32>,
}

impl LinkListener {
    /// Listens from now on, and lists what is there.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(host: &Host) -> Reading<Self> {
        let path = host.proc.join("net/netlink");
        let failed = |e| ReadError::io(&path, e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        let port = socket.bind_auto().map_err(failed)?.port_number();
        socket.set_non_blocking(true).map_err(failed)?;
        if sys::force_receive_buffer(socket.as_fd(), SOCKET_BUFFER).is_err() {
            // Without CAP_NET_ADMIN: as much as net.core.rmem_max allows.
            drop(socket.set_rx_buf_sz(SOCKET_BUFFER));
        }
        socket.add_membership(RTNLGRP_LINK).map_err(failed)?;
        socket.add_membership(RTNLGRP_NSID).map_err(failed)?;
        if let Err(e) = socket.set_listen_all_namespaces(true) {
            tracing::info!("devices of other network namespaces are not heard of, for want of CAP_NET_BROADCAST: {e}");
        }
        let mut rtnl = Rtnl::open(host).map_err(failed)?;
        let mut mounts = Mounts::open(host).inspect_err(|e| tracing::debug!("{e}")).ok();
        if let Some(m) = &mut mounts {
            m.number(&mut rtnl);
        }
        let own = rtnl.nsid_of_process(std::process::id()).unwrap_or_default();
        let mut listener = LinkListener {
            socket,
            rtnl,
            mounts,
            own,
            lists: VecDeque::new(),
            begins: false,
            sequence: 0,
            port,
            buffer: vec![0; BUFFER],
            known: Vec::new(),
        };
        listener.list(None);
        Ok(listener)
    }

    /// The socket, and the table of mounts, which is ready (EPOLLPRI) when it changed.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.socket.as_fd(), self.mounts.as_ref().map(Mounts::descriptor))
    }

    /// A mount came or went: maybe one that keeps a namespace.
    pub fn on_mounts(&mut self) {
        if let Some(m) = &mut self.mounts {
            m.number(&mut self.rtnl);
        }
    }

    /// Reads what is there, without waiting. How often notices were lost: then all is listed anew.
    ///
    /// # Errors
    /// The socket's.
    pub fn read(&mut self, mut on_notice: impl FnMut(Vec<u8>)) -> io::Result<u64> {
        let mut lost = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(());
        for _ in 0..TURN {
            match sys::receive_with_nsid(self.socket.as_fd(), &mut buffer) {
                Ok((n, ns)) => {
                    let ns = foreign(ns, self.own);
                    for m in messages(buffer.get(..n).unwrap_or_default()) {
                        self.on_message(ns, m, &mut on_notice);
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost += 1;
                    self.list_all();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        self.buffer = buffer;
        result.map(|()| lost)
    }

    fn on_message(&mut self, ns: NsId, m: Message<'_>, on_notice: &mut impl FnMut(Vec<u8>)) {
        let of_list = m.port == self.port && m.sequence == self.sequence;
        let listed = self.lists.front().copied().unwrap_or_default();
        if of_list && std::mem::take(&mut self.begins) {
            on_notice(encode(Kind::Listing, listed, &[]));
        }
        match m.kind {
            NEW_LINK if of_list => on_notice(encode(Kind::Listed, listed, m.body)),
            NEW_LINK => on_notice(encode(Kind::Is, ns, m.body)),
            DEL_LINK => on_notice(encode(Kind::Gone, ns, m.body)),
            // Numbers that another namespace gives are not ours.
            NEW_NSID | DEL_NSID if ns.is_some() => {}
            NEW_NSID => self.knows(message::nsid_of(m.body)),
            DEL_NSID => {
                if let Some(id) = message::nsid_of(m.body) {
                    self.known.retain(|k| *k != id);
                    on_notice(encode(Kind::NamespaceGone, Some(id), &[]));
                }
            }
            DONE | ERROR if of_list => {
                let failed = if m.kind == ERROR { error_of(m.body) } else { None };
                match failed {
                    None => on_notice(encode(Kind::ListedAll, listed, &[])),
                    Some(e) => tracing::debug!("devices of network namespace {listed:?}: {e}"),
                }
                self.lists.pop_front();
                self.ask_first();
            }
            _ => {}
        }
        if matches!(m.kind, NEW_LINK | DEL_LINK) {
            self.knows(ns);
        }
    }

    /// A namespace shows itself: its devices are listed once.
    fn knows(&mut self, ns: NsId) {
        if let Some(id) = foreign(ns, self.own)
            && !self.known.contains(&id)
        {
            self.known.push(id);
            self.list(Some(id));
        }
    }

    fn list_all(&mut self) {
        for ns in std::iter::once(None).chain(self.known.clone().into_iter().map(Some)) {
            self.list(ns);
        }
    }

    fn list(&mut self, ns: NsId) {
        // One that is being listed may have changed behind the list's back: again.
        if self.lists.iter().skip(1).any(|l| *l == ns) {
            return;
        }
        self.lists.push_back(ns);
        if self.lists.len() == 1 {
            self.ask_first();
        }
    }

    /// The kernel makes one list of a socket at a time.
    fn ask_first(&mut self) {
        while let Some(ns) = self.lists.front().copied() {
            self.sequence = self.sequence.wrapping_add(1).max(1);
            let request = list_links(ns, Filter::All, self.sequence);
            match self.socket.send_to(&request, &SocketAddr::new(0, 0), 0) {
                Ok(_) => {
                    self.begins = true;
                    return;
                }
                Err(e) => tracing::debug!("asking for the devices of network namespace {ns:?}: {e}"),
            }
            self.lists.pop_front();
        }
    }

    /// The notice in bytes that [`Self::read`] handed over. `None`: not of a device.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<LinkNotice> {
        let kind = *bytes.first()?;
        let ns = i32_of(bytes.get(4..)?).filter(|id| *id >= 0);
        let body = bytes.get(PREFIX..)?;
        Some(match kind {
            k if k == Kind::Is as u8 => LinkNotice::Is { link: Link::parse(ns, body)?, listed: false },
            k if k == Kind::Listed as u8 => LinkNotice::Is { link: Link::parse(ns, body)?, listed: true },
            k if k == Kind::Gone as u8 => LinkNotice::Gone(Link::parse(ns, body)?),
            k if k == Kind::Listing as u8 => LinkNotice::Listing(ns),
            k if k == Kind::ListedAll as u8 => LinkNotice::Listed(ns),
            k if k == Kind::NamespaceGone as u8 => LinkNotice::NamespaceGone(ns?),
            _ => return None,
        })
    }
}

/// A notice's first byte.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Kind {
    Is = 1,
    Listed,
    Gone,
    Listing,
    ListedAll,
    NamespaceGone,
}

/// Kind and namespace, before the kernel's message.
const PREFIX: usize = 8;

fn encode(kind: Kind, ns: NsId, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX + body.len());
    out.extend([kind as u8, 0, 0, 0]);
    out.extend(ns.unwrap_or(-1).to_ne_bytes());
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the real kernel: what is there is listed, and the list has an end.
    #[test]
    fn lists_what_is_there() {
        let mut listener = LinkListener::open(&Host::default()).unwrap();
        let mut notices = Vec::new();
        for _ in 0..100 {
            let lost = listener.read(|n| notices.extend(LinkListener::decode(&n))).unwrap();
            assert_eq!(lost, 0);
            if notices.contains(&LinkNotice::Listed(None)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(notices.contains(&LinkNotice::Listed(None)));
        let lo = |n: &LinkNotice| matches!(n, LinkNotice::Is { link, listed: true } if link.name == "lo");
        assert!(notices.iter().any(lo), "{notices:?}");
    }

    /// What goes through a queue comes out as it went in.
    #[test]
    fn notices_keep_their_namespace() {
        assert_eq!(LinkListener::decode(&encode(Kind::ListedAll, None, &[])), Some(LinkNotice::Listed(None)));
        assert_eq!(LinkListener::decode(&encode(Kind::ListedAll, Some(3), &[])), Some(LinkNotice::Listed(Some(3))));
        let gone = encode(Kind::NamespaceGone, Some(7), &[]);
        assert_eq!(LinkListener::decode(&gone), Some(LinkNotice::NamespaceGone(7)));
        assert_eq!(LinkListener::decode(&[]), None);
        assert_eq!(LinkListener::decode(&[99; 8]), None);
    }
}
