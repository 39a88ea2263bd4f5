// SPDX-License-Identifier: Apache-2.0
//! The parser: reads what the opener hands it, and answers the agent. It opens and starts nothing.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use rustix::io::Result;

use super::messages::{Answer, Ask, DONE, Devices, Query, Wanted};
use super::processes::{Files, Processes};
use super::wire::{LARGEST, Socket};
use super::{homes, service};
use crate::host::mounts::Space;

/// Answers until the opener or the agent is gone. `limit` starts the clock for a question, and stops it.
pub fn run(opener: &Socket, agent: &Socket, mut processes: Processes, limit: impl Fn(bool)) -> Result<()> {
    let mut buffer = vec![0; LARGEST];
    while let Some(message) = opener.receive(&mut buffer)? {
        let Some(ask) = Ask::decode(message) else { continue };
        limit(true);
        let mut files = Remote { opener, agent, devices: &ask.devices, touched: None, lost: Ok(()) };
        let answer = answer(ask.id, ask.query, &mut files, &mut processes);
        files.lost?;
        opener.send(DONE)?;
        agent.send(&answer.encode())?;
        limit(false);
    }
    Ok(())
}

fn answer(id: u64, query: Query, files: &mut dyn Files, processes: &mut Processes) -> Answer {
    let json = match query {
        Query::Frames { pid, addresses } => {
            return Answer::Frames { id, frames: processes.frames(files, pid, &addresses) };
        }
        Query::Environment { .. } => serde_json::to_vec(&service::environment(files)),
        Query::Published { .. } => serde_json::to_vec(&service::published(files)),
        Query::Homes { .. } => serde_json::to_vec(&homes::homes(files)),
        Query::Container { id, .. } => serde_json::to_vec(&homes::container(files, &id)),
        Query::Names { file, .. } => serde_json::to_vec(&homes::names(files, &file)),
        Query::Space { device, .. } => serde_json::to_vec(&space(files, device)),
    };
    // What is no JSON has no form that can be sent: there is none.
    Answer::Facts { id, json: json.unwrap_or_default() }
}

/// How much room the file system of a folder has: statfs(2), which a network's or a program's may not answer.
fn space(files: &mut dyn Files, device: u64) -> Option<Space> {
    let folder = files.may_touch(device).then(|| files.open(Wanted::Held)).flatten()?;
    let s = rustix::fs::fstatvfs(&folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
    let (size, free, available) = (bytes(s.f_blocks), bytes(s.f_bfree), bytes(s.f_bavail));
    Some(Space { size, free, available, files: s.f_files, files_free: s.f_ffree })
}

/// Files that the opener opens.
struct Remote<'a> {
    opener: &'a Socket,
    agent: &'a Socket,
    devices: &'a Devices,
    /// The device that the agent believes is asked.
    touched: Option<u64>,
    /// The first error of a connection.
    lost: Result<()>,
}

impl Files for Remote<'_> {
    fn open(&mut self, wanted: Wanted<'_>) -> Option<File> {
        let asked = self.opener.send(&wanted.encode()).and_then(|()| self.opener.receive_file());
        asked.map_err(|e| self.lost = Err(e)).ok().flatten()
    }

    fn may_touch(&mut self, device: u64) -> bool {
        if !self.devices.allow(device) {
            return false;
        }
        if self.touched != Some(device) {
            self.touched = Some(device);
            // Before it is touched, as nothing can be said while it does not answer.
            let said = self.agent.send(&Answer::Touches(device).encode());
            self.lost = self.lost.and(said);
        }
        true
    }
}

/// A copy of this process's own vDSO, to find its symbols in.
pub fn vdso() -> Option<File> {
    let maps = BufReader::new(File::open("/proc/self/maps").ok()?);
    let line = maps.lines().map_while(std::result::Result::ok).find(|l| l.ends_with("[vdso]"))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let mut bytes = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, start).ok()?;
    let mut copy = File::from(rustix::fs::memfd_create("vdso", rustix::fs::MemfdFlags::CLOEXEC).ok()?);
    copy.write_all(&bytes).ok()?;
    copy.seek(SeekFrom::Start(0)).ok()?;
    Some(copy)
}
