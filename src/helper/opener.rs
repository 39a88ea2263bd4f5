// SPDX-License-Identifier: Apache-2.0
//! The opener: has the capabilities to open files of other processes, and hands them to the parser
//! without reading a byte of them. It opens those of the process or home that the agent asked about, and no
//! other's.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::{Errno, Result};

use super::messages::{Ask, DONE, Subject, Wanted};
use super::wire::{LARGEST, Socket};

/// Serves until the agent or the parser is gone. `limit` starts the clock for a question, and stops it.
pub fn run(agent: &Socket, parser: &Socket, limit: impl Fn(bool)) -> Result<()> {
    let mut buffer = vec![0; LARGEST];
    while let Some(message) = agent.receive(&mut buffer)? {
        let Some(ask) = Ask::decode(message) else { continue };
        limit(true);
        parser.send(message)?;
        serve(&ask.query.subject(), parser)?;
        limit(false);
    }
    Ok(())
}

/// Opens what the parser wants for one question.
fn serve(subject: &Subject, parser: &Socket) -> Result<()> {
    let folder = |path: &str| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (folder, open): (_, Open) = match subject {
        // Of this process whatever comes: a descriptor of its folder is none of a later one with its pid.
        Subject::Process(pid) => (folder(&format!("/proc/{pid}")), open_of_process),
        Subject::Folder(home) => (folder(home), open_in_home),
    };
    let mut buffer = vec![0; LARGEST];
    loop {
        match parser.receive(&mut buffer)? {
            None => return Err(Errno::PIPE),
            Some(DONE) => return Ok(()),
            Some(wish) => {
                let file = Wanted::decode(wish).zip(folder.as_ref().ok()).and_then(|(w, f)| open(f, w).ok());
                parser.send_file(file.as_ref())?;
            }
        }
    }
}

type Open = fn(&OwnedFd, Wanted<'_>) -> Result<File>;

/// A file of the process. Never waits for the other end of a FIFO.
pub fn open_of_process(process: &OwnedFd, wanted: Wanted<'_>) -> Result<File> {
    let kernel = |name: &str| openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from);
    let path = OFlags::PATH | OFlags::CLOEXEC;
    match wanted {
        Wanted::Stat => kernel("stat"),
        Wanted::Status => kernel("status"),
        Wanted::Maps => kernel("maps"),
        Wanted::Environment => kernel("environ"),
        Wanted::Memory => kernel("mem"),
        Wanted::Mapped { start, end } => {
            regular(&openat(process, format!("map_files/{start:x}-{end:x}"), path, Mode::empty())?)
        }
        // This needs no more than CAP_SYS_PTRACE.
        Wanted::Executable => regular(&openat(process, "exe", path, Mode::empty())?),
        Wanted::InRoot(file) => {
            let root = openat(process, "root", path | OFlags::DIRECTORY, Mode::empty())?;
            in_root(&root, file)
        }
        Wanted::InHome(_) | Wanted::FolderInHome(_) | Wanted::Held => Err(Errno::INVAL),
    }
}

/// A file or folder below a home, which symbolic links do not leave; a file only where it is of the home's owner.
fn open_in_home(home: &OwnedFd, wanted: Wanted<'_>) -> Result<File> {
    let within = |path: &str, flags: OFlags| {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(home, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
    };
    match wanted {
        Wanted::FolderInHome(path) => within(path, OFlags::RDONLY | OFlags::DIRECTORY).map(File::from),
        Wanted::Held => rustix::io::dup(home).map(File::from),
        Wanted::InHome(path) => {
            let held = within(path, OFlags::PATH)?;
            let owner = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| s.st_uid);
            if owner(&held)? != owner(home)? {
                return Err(Errno::ACCESS);
            }
            regular(&held)
        }
        _ => Err(Errno::INVAL),
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

    /// A home's files are its owner's, and none elsewhere.
    #[test]
    fn only_files_of_the_homes_owner() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ann")).unwrap();
        let home = OwnedFd::from(File::open(dir.path().join("ann")).unwrap());
        let put = |file: &str| std::fs::write(dir.path().join(file), "inside").unwrap();
        let opens = |file: &str| open_in_home(&home, Wanted::InHome(file)).is_ok();
        put("ann/list");
        put("beside");
        symlink("../beside", dir.path().join("ann/out")).unwrap();
        symlink("list", dir.path().join("ann/link")).unwrap();
        assert!(opens("list") && opens("link"));
        assert!(!opens("out") && !opens("../beside") && !opens("/etc/passwd"));
        assert!(open_in_home(&home, Wanted::FolderInHome(".")).is_ok());
        assert!(open_in_home(&home, Wanted::Memory).is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path().join("ann/list"), Some(65534), None).unwrap();
            assert!(!opens("list") && !opens("link"));
        }
    }

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
