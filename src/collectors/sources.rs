// SPDX-License-Identifier: Apache-2.0
//! Sources of records that are no probe: what an event collector hears of beside its object, or in
//! place of one. [`Context::listen`](super::Context::listen) hands one in.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::host::Host;
use crate::host::rtnl::{LinkListener, LinkNotice};
use crate::probe::{DecodeError, Ready, RecordSet, RingDef, Source};

use super::Unavailable;

/// Ring number of a source's records; no object has as many rings.
pub const RING: usize = usize::MAX;

/// A source that counts what the kernel could not hand over.
pub trait Counted: Source {
    fn lost(&self) -> Arc<AtomicU64>;
}

/// A source and how it is called.
pub(crate) struct Named {
    pub hook: &'static str,
    pub lost: Arc<AtomicU64>,
    pub source: Box<dyn Source>,
}

/// A record of the object, or of the source.
#[derive(Debug)]
pub enum Either<O, S> {
    Object(O),
    Source(S),
}

/// The records of an object `O` and of a source `S`.
#[derive(Debug)]
pub struct Both<O, S>(PhantomData<(O, S)>);

impl<O: RecordSet, S: RecordSet> RecordSet for Both<O, S> {
    type Ref<'a> = Either<O::Ref<'a>, S::Ref<'a>>;

    fn decode(ring: usize, bytes: &[u8]) -> Result<Self::Ref<'_>, DecodeError> {
        if ring == RING {
            S::decode(ring, bytes).map(Either::Source)
        } else {
            O::decode(ring, bytes).map(Either::Object)
        }
    }

    fn rings() -> &'static [RingDef] {
        O::rings()
    }
}

/// Changes of network devices, by rtnetlink.
pub struct Links {
    /// `None`: on a made-up node, where a test hands the notices over.
    listener: Option<LinkListener>,
    lost: Arc<AtomicU64>,
}

impl Links {
    /// How it is called in lists.
    pub const HOOK: &'static str = "rtnetlink";

    /// # Errors
    /// The kernel gives no socket.
    pub fn open(host: &Host) -> Result<Self, Unavailable> {
        let open = || LinkListener::open(host).map_err(|e| Unavailable::because(format!("rtnetlink: {e}")));
        let listener = if host.is_made_up() { None } else { Some(open()?) };
        Ok(Links { listener, lost: Arc::default() })
    }
}

impl Source for Links {
    fn descriptors(&self) -> Vec<(BorrowedFd<'_>, Ready)> {
        let Some(listener) = &self.listener else { return Vec::new() };
        let (socket, mounts) = listener.descriptors();
        let mut all = vec![(socket, Ready::Input)];
        all.extend(mounts.map(|fd| (fd, Ready::Changed)));
        all
    }

    fn read(&mut self, which: usize, on_record: &mut dyn FnMut(Vec<u8>)) -> io::Result<()> {
        let Some(listener) = &mut self.listener else { return Ok(()) };
        if which > 0 {
            listener.on_mounts();
            return Ok(());
        }
        let lost = listener.read(on_record)?;
        self.lost.fetch_add(lost, Ordering::Relaxed);
        Ok(())
    }
}

impl Counted for Links {
    fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }
}

/// The records of [`Links`]; `None` is of no device.
#[derive(Debug)]
pub struct LinkRecords;

impl RecordSet for LinkRecords {
    type Ref<'a> = Option<LinkNotice>;

    fn decode(_: usize, bytes: &[u8]) -> Result<Self::Ref<'_>, DecodeError> {
        Ok(LinkListener::decode(bytes))
    }
}
