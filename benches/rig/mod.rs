// SPDX-License-Identifier: Apache-2.0
//! The real agent as benchmarks run it: all default collectors, a store, socket and port of its own.
//! `BENCH_AGENT` names another build of it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The agent's binary.
pub fn binary() -> PathBuf {
    std::env::var_os("BENCH_AGENT").map_or_else(|| env!("CARGO_BIN_EXE_bianque").into(), PathBuf::from)
}

/// Ends when dropped.
pub struct Agent {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Agent {
    /// Starts it and waits until it is ready.
    pub fn start() -> Agent {
        Self::with(tempfile::tempdir().unwrap(), &[])
    }

    /// With settings of its own, and with what is in the folder's `store` already.
    pub fn with(dir: tempfile::TempDir, settings: &[(String, String)]) -> Agent {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut c = Command::new(binary());
        c.arg("run").stdin(Stdio::null()).stdout(Stdio::null());
        c.stderr(std::fs::File::create(dir.path().join("log")).unwrap());
        c.env("BIANQUE_STORE__PATH", dir.path().join("store"));
        c.env("BIANQUE_API__SOCKET", dir.path().join("api.sock"));
        c.env("BIANQUE_HTTP__LISTEN", format!("127.0.0.1:{port}"));
        c.envs(settings.iter().map(|(k, v)| (k, v)));
        let mut agent = Agent { child: c.spawn().unwrap(), dir, port };
        let end = Instant::now() + Duration::from_secs(60);
        while agent.get("/readyz").is_none() {
            let over = agent.child.try_wait().unwrap().is_some() || Instant::now() > end;
            assert!(!over, "the agent did not get ready:\n{}", agent.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        agent
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// The body of an answer with status 200.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
