// SPDX-License-Identifier: Apache-2.0
//! The opener: has the capabilities to open files of other processes, and hands them to the parser
//! without reading a byte of them. It opens those of the process that the agent asked about, and no other's.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::{Errno, Result};

use super::wire::{Ask, DONE, LARGEST, Socket, Wanted};

/// Serves until the agent or the parser is gone. `limit` starts the clock for a question, and stops it.
pub fn run(agent: &Socket, parser: &Socket, limit: impl Fn(bool)) -> Result<()> {
    let mut buffer = vec![0; LARGEST];
    while let Some(message) = agent.receive(&mut buffer)? {
        let Some(ask) = Ask::decode(message) else { continue };
        limit(true);
        parser.send(message)?;
        serve(ask.pid, parser)?;
        limit(false);
    }
    Ok(())
}

/// Opens what the parser wants for one question.
fn serve(pid: u32, parser: &Socket) -> Result<()> {
    // Of this process whatever comes: a descriptor of its folder is none of a later one with its pid.
    let process = open(format!("/proc/{pid}"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut buffer = vec![0; LARGEST];
    loop {
        match parser.receive(&mut buffer)? {
            None => return Err(Errno::PIPE),
            Some(DONE) => return Ok(()),
            Some(wish) => {
                let process = process.as_ref().ok();
                let file = Wanted::decode(wish).zip(process).and_then(|(w, p)| open_wanted(p, w).ok());
                parser.send_file(file.as_ref())?;
            }
        }
    }
}

/// A file of the process. Never waits for the other end of a FIFO.
pub fn open_wanted(process: &OwnedFd, wanted: Wanted<'_>) -> Result<File> {
    let kernel = |name: &str| openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from);
    let path = OFlags::PATH | OFlags::CLOEXEC;
    match wanted {
        Wanted::Stat => kernel("stat"),
        Wanted::Status => kernel("status"),
        Wanted::Maps => kernel("maps"),
        Wanted::Mapped { start, end } => {
            regular(&openat(process, format!("map_files/{start:x}-{end:x}"), path, Mode::empty())?)
        }
        Wanted::InRoot(file) => {
            let root = openat(process, "root", path | OFlags::DIRECTORY, Mode::empty())?;
            in_root(&root, file)
        }
    }
}

/// Opens a path as a process sees it with this root directory: its symbolic links, written by whoever owns
/// that container, lead nowhere else.
pub fn in_root(root: &impl AsFd, path: &str) -> Result<File> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    regular(&openat2(root, path.trim_start_matches('/'), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)?)
}

/// Opens for reading what is only held so far: of a device, opening alone may do something.
fn regular(held: &OwnedFd) -> Result<File> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(held)?.st_mode);
    if !kind.is_file() {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", held.as_raw_fd()), flags, Mode::empty()).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A symbolic link that a container put in place of its perf map leads nowhere outside of it; a FIFO
    /// and a device are not opened.
    #[test]
    fn only_regular_files_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        symlink("/etc/passwd", dir.path().join("tmp/out.map")).unwrap();
        symlink("/tmp/in.map", dir.path().join("tmp/link.map")).unwrap();
        std::fs::write(dir.path().join("tmp/in.map"), "inside").unwrap();
        assert!(in_root(&root, "/tmp/out.map").is_err());
        assert!(in_root(&root, "../../etc/passwd").is_err());
        assert_eq!(in_root(&root, "/tmp/link.map").unwrap().metadata().unwrap().len(), 6);
        let fifo = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(&root, "fifo", rustix::fs::FileType::Fifo, fifo, 0).unwrap();
        assert!(in_root(&root, "fifo").is_err() && in_root(&root, "tmp").is_err());
        assert!(in_root(&File::open("/").unwrap(), "/dev/null").is_err());
    }
}
