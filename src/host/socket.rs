// SPDX-License-Identifier: Apache-2.0
//! Sockets of this node, with one deadline for all that is done on a connection: a daemon that is stopped, or hands
//! its answer over byte by byte, holds nobody longer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A connection to a socket of this node.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    until: Instant,
}

impl Connection {
    /// `within`: for the connection and for all that is read and written on it. A listener that accepts nothing
    /// while its backlog is full would be waited for without an end.
    ///
    /// # Errors
    /// Nobody listens there, or the time is over ([`ErrorKind::TimedOut`]).
    pub fn open(path: &Path, within: Duration) -> io::Result<Self> {
        let until = Instant::now() + within;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // It holds for connect(2), too (unix_stream_connect in net/unix/af_unix.c).
        limit(&socket, Timeout::Send, until)?;
        connect(&socket, &SocketAddrUnix::new(path)?).map_err(|e| in_time(e.into()))?;
        Ok(Connection { socket: socket.into(), until })
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        limit(&self.socket, Timeout::Recv, self.until)?;
        self.socket.read(buffer).map_err(in_time)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        limit(&self.socket, Timeout::Send, self.until)?;
        self.socket.write(bytes).map_err(in_time)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The kernel's word for the end of the time is that it would have to wait.
fn in_time(e: io::Error) -> io::Error {
    if e.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { e }
}

fn limit(socket: impl AsFd, which: Timeout, until: Instant) -> io::Result<()> {
    // None at all would be no limit, and the kernel rounds to its ticks.
    let left = until.checked_duration_since(Instant::now()).filter(|d| *d >= Duration::from_millis(1));
    let left = left.ok_or(ErrorKind::TimedOut)?;
    Ok(sockopt::set_socket_timeout(socket, which, Some(left))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::{bind, listen};

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(60);

    fn path() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        (folder, path)
    }

    /// Where nothing is accepted and the backlog is full, a connection has its time and no more.
    #[test]
    fn a_full_backlog_is_waited_for_within_a_limit() {
        let (_folder, path) = path();
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let waiting = Connection::open(&path, LONG).unwrap();
        let began = Instant::now();
        assert_eq!(Connection::open(&path, SHORT).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
        drop((waiting, listener));
        let nobody = Connection::open(&path, LONG).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused);
    }

    /// The time is that of all together: an answer that never ends, and one that never comes.
    #[test]
    fn one_limit_for_all_of_an_answer() {
        let (_folder, path) = path();
        let listener = UnixListener::bind(&path).unwrap();
        let trickling = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            while socket.write_all(b"x").is_ok() {
                std::thread::sleep(SHORT / 20);
            }
            // Kept open, without an answer.
            listener.accept().map(|(socket, _)| socket)
        });
        let began = Instant::now();
        let mut connection = Connection::open(&path, SHORT).unwrap();
        let mut answer = Vec::new();
        assert_eq!(connection.read_to_end(&mut answer).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(began.elapsed() < LONG / 2 && !answer.is_empty(), "{:?}", began.elapsed());
        drop(connection);
        let mut silent = Connection::open(&path, SHORT).unwrap();
        let _socket = trickling.join().unwrap().unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        let endless = vec![0; 4 << 20];
        assert_eq!(silent.write_all(&endless).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
