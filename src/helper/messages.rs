// SPDX-License-Identifier: Apache-2.0
//! Messages between the agent and its helper processes, each with bounds, as the parser may have been taken
//! over by what it reads.

use std::sync::Arc;

use super::wire::{LARGEST, Reader, Writer, cut};
use crate::signal::Frame;

/// Frames that are named of one stack; the kernel walks 127 at most (`kernel.perf_event_max_stack`).
pub const DEPTH: usize = 128;
/// And of a build id, which is 40 as a rule.
const BUILD_ID: usize = 128;
/// Devices that a request names.
pub const DEVICES: usize = 64;

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

/// A question of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub id: u64,
    pub devices: Devices,
    pub query: Query,
}

/// What is asked. Processes are as the host numbers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Names for addresses.
    Frames { pid: u32, addresses: Vec<u64> },
    /// What the environment says of the service.
    Environment { pid: u32 },
    /// What the process has published of its service.
    Published { pid: u32 },
    /// The homes in a folder.
    Homes { folder: String },
    /// What the store in a home has of a container.
    Container { home: String, id: String },
    /// Names of all containers that a file in a home lists.
    Names { home: String, file: String },
    /// How much room a file system has, of which this folder and this device number are.
    Space { folder: String, device: u64 },
}

/// What may make a helper fail, and is left alone then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    Process(u32),
    Folder(String),
}

impl Query {
    pub fn subject(&self) -> Subject {
        match self {
            Query::Frames { pid, .. } | Query::Environment { pid } | Query::Published { pid } => Subject::Process(*pid),
            Query::Homes { folder } | Query::Space { folder, .. } => Subject::Folder(folder.clone()),
            Query::Container { home, .. } | Query::Names { home, .. } => Subject::Folder(home.clone()),
        }
    }

    /// The device that is touched from the first moment on, where it is known.
    pub fn device(&self) -> Option<u64> {
        match self {
            Query::Space { device, .. } => Some(*device),
            _ => None,
        }
    }

    fn encode(&self, w: &mut Writer) {
        match self {
            Query::Frames { pid, addresses } => {
                w.number(0).number((*pid).into());
                w.numbers(&addresses[..addresses.len().min(DEPTH)]);
            }
            Query::Environment { pid } => drop(w.number(1).number((*pid).into())),
            Query::Published { pid } => drop(w.number(2).number((*pid).into())),
            Query::Homes { folder } => drop(w.number(3).text(Some(folder))),
            Query::Container { home, id } => drop(w.number(4).text(Some(home)).text(Some(id))),
            Query::Names { home, file } => drop(w.number(5).text(Some(home)).text(Some(file))),
            Query::Space { folder, device } => drop(w.number(6).number(*device).text(Some(folder))),
        }
    }

    fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let kind = r.number()?;
        let pid = |r: &mut Reader<'_>| u32::try_from(r.number()?).ok();
        let text = |r: &mut Reader<'_>| Some(r.text()??.to_owned());
        Some(match kind {
            0 => Query::Frames { pid: pid(r)?, addresses: r.numbers(DEPTH)? },
            1 => Query::Environment { pid: pid(r)? },
            2 => Query::Published { pid: pid(r)? },
            3 => Query::Homes { folder: text(r)? },
            4 => Query::Container { home: text(r)?, id: text(r)? },
            5 => Query::Names { home: text(r)?, file: text(r)? },
            6 => {
                let device = r.number()?;
                Query::Space { folder: text(r)?, device }
            }
            _ => return None,
        })
    }
}

impl Ask {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        let (only, devices) = match &self.devices {
            Devices::AllBut(d) => (0, d),
            Devices::Only(d) => (1, d),
        };
        w.number(self.id).number(only).numbers(&devices[..devices.len().min(DEVICES)]);
        self.query.encode(&mut w);
        w.0
    }

    pub fn decode(message: &[u8]) -> Option<Ask> {
        let mut r = Reader(message);
        let (id, only, devices) = (r.number()?, r.number()?, r.numbers(DEVICES)?);
        let devices = if only == 0 { Devices::AllBut(devices) } else { Devices::Only(devices) };
        Some(Ask { id, devices, query: Query::decode(&mut r)? })
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
    /// JSON of what else was asked for; `null`: there is none.
    Facts {
        id: u64,
        json: Vec<u8>,
    },
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Answer::Touches(device) => drop(w.number(0).number(*device)),
            Answer::Facts { id, json } => {
                w.number(2).number(*id);
                // What would not fit is not known.
                w.0.extend_from_slice(if json.len() <= LARGEST / 2 { json } else { b"null" });
            }
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
        let kind = r.number()?;
        let id = r.number()?;
        match kind {
            0 => return Some(Answer::Touches(id)),
            1 => {}
            _ => return Some(Answer::Facts { id, json: r.0.to_vec() }),
        }
        let text = |r: &mut Reader<'_>| Some(r.text()?.map(Arc::from));
        let frame = |r: &mut Reader<'_>| {
            let (symbol, module, build_id) = (text(r)?, text(r)?, text(r)?);
            Some(Frame { symbol, module, build_id, offset: r.number()?, address: r.number()? })
        };
        let frames = (0..r.count(DEPTH)?).map(|_| frame(&mut r)).collect::<Option<_>>()?;
        Some(Answer::Frames { id, frames })
    }
}

/// A file of the process, or of the home, that a question is about; the parser asks the opener for it.
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
    /// The program that it runs, whatever became of its path.
    Executable,
    /// `/proc/PID/environ`, `mem`: pages of the process.
    Environment,
    Memory,
    /// A file below the home, and a folder.
    InHome(&'a str),
    FolderInHome(&'a str),
    /// The folder itself, not to be read.
    Held,
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
            Wanted::InRoot(path) => w.number(4).0.extend_from_slice(path.as_bytes()),
            Wanted::Environment => drop(w.number(5)),
            Wanted::Memory => drop(w.number(6)),
            Wanted::Executable => drop(w.number(9)),
            Wanted::InHome(path) => w.number(7).0.extend_from_slice(path.as_bytes()),
            Wanted::FolderInHome(path) => w.number(8).0.extend_from_slice(path.as_bytes()),
            Wanted::Held => drop(w.number(10)),
        }
        w.0
    }

    pub fn decode(message: &'a [u8]) -> Option<Self> {
        let mut r = Reader(message);
        let kind = r.number()?;
        let path = |r: &Reader<'a>| std::str::from_utf8(r.0).ok().filter(|p| p.len() < libc::PATH_MAX as usize);
        Some(match kind {
            0 => Wanted::Stat,
            1 => Wanted::Status,
            2 => Wanted::Maps,
            3 => Wanted::Mapped { start: r.number()?, end: r.number()? },
            4 => Wanted::InRoot(path(&r)?),
            5 => Wanted::Environment,
            6 => Wanted::Memory,
            7 => Wanted::InHome(path(&r)?),
            8 => Wanted::FolderInHome(path(&r)?),
            9 => Wanted::Executable,
            10 => Wanted::Held,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::wire::{NAME, Socket};
    use proptest::prelude::*;

    fn frame() -> Frame {
        let name = |n: usize| Some("\u{1f99c}".repeat(n).into());
        Frame { symbol: name(2), module: None, build_id: name(1), offset: 7, address: u64::MAX }
    }

    /// What is sent is what is received, at the limits, too; the largest answer fits a packet.
    #[test]
    fn messages_survive() {
        let devices = Devices::Only(vec![1, u64::MAX]);
        let (home, file, id) = ("/home/a b".to_owned(), "c".to_owned(), "d".to_owned());
        let queries = [
            Query::Frames { pid: 2, addresses: vec![3; DEPTH] },
            Query::Environment { pid: 2 },
            Query::Published { pid: u32::MAX },
            Query::Homes { folder: home.clone() },
            Query::Container { home: home.clone(), id },
            Query::Names { home: home.clone(), file },
            Query::Space { folder: home, device: 7 },
        ];
        for query in queries {
            let ask = Ask { id: 1, devices: devices.clone(), query };
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        }
        let facts = Answer::Facts { id: 4, json: b"[1]".to_vec() };
        assert_eq!(Answer::decode(&facts.encode()), Some(facts));
        let large = Answer::Facts { id: 4, json: vec![b' '; LARGEST] }.encode();
        assert_eq!(Answer::decode(&large), Some(Answer::Facts { id: 4, json: b"null".to_vec() }));
        let answer = Answer::Frames { id: 3, frames: vec![frame(); 3] };
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        assert_eq!(Answer::decode(&Answer::Touches(9).encode()), Some(Answer::Touches(9)));
        let paths = [Wanted::InRoot("/a b"), Wanted::InHome("c"), Wanted::FolderInHome("."), Wanted::Held];
        let kernel =
            [Wanted::Stat, Wanted::Status, Wanted::Maps, Wanted::Environment, Wanted::Memory, Wanted::Executable];
        let wanted = [&paths[..], &kernel, &[Wanted::Mapped { start: 1, end: 2 }]].concat();
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

    proptest! {
        /// No message makes the readers panic, take much memory, or give more than the limits.
        #[test]
        fn malformed_messages(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u64..9) {
            let mut message = kind.to_le_bytes().to_vec();
            message.extend(bytes);
            let _ = (Ask::decode(&message), Wanted::decode(&message));
            if let Some(Answer::Frames { frames, .. }) = Answer::decode(&message) {
                prop_assert!(frames.len() <= DEPTH);
            }
        }
    }
}
