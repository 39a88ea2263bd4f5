// SPDX-License-Identifier: Apache-2.0
//! One agent for the tests of a file that need no settings, and no end, of their own.

use std::ops::Deref;
use std::panic::Location;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bianque::signal::Timestamp;

use super::agent::Agent;

/// The agent that runs beside the tests, and for whom it was started.
struct Running {
    agent: Agent,
    file: &'static str,
    config: String,
    warden: Child,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

/// The shared agent for the length of a test. [`Agent::wait_event`] finds only events of this time.
pub struct Shared(MutexGuard<'static, Option<Running>>);

impl Agent {
    /// The agent of the calling file with this configuration: the one that its last test left behind, or
    /// a new one. Each test tells its own events by cgroup, container, address or device.
    ///
    /// # Panics
    /// When the last test has left a dead one behind.
    #[track_caller]
    pub fn shared(config: &str) -> Shared {
        let file = Location::caller().file();
        let mut running = lock();
        if running.as_ref().is_some_and(|r| r.file != file || r.config != config) {
            end(&mut running);
        }
        let r = running.get_or_insert_with(|| {
            let agent = Agent::start(config);
            let warden = warden(&agent);
            Running { agent, file, config: config.to_owned(), warden }
        });
        let alive = r.agent.is_running();
        r.agent.seen_since(&now());
        // Its log is shown as the test fails.
        let shared = Shared(running);
        assert!(alive, "the shared agent has ended");
        shared
    }
}

/// Ends the shared agent unless it belongs to this module: tests of others find a machine without it.
pub fn leave_to(module: &str) {
    let mut running = lock();
    let own = running.as_ref().and_then(|r| Path::new(r.file).file_stem()?.to_str());
    if own.is_some_and(|own| own != module) {
        end(&mut running);
    }
}

impl Deref for Shared {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.0.as_ref().expect("it runs while it is shared").agent
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // It goes with the test that failed, and shows its log; the next test gets a new one.
        if std::thread::panicking() {
            end(&mut self.0);
        }
    }
}

fn lock() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(running: &mut Option<Running>) {
    if let Some(Running { agent, mut warden, .. }) = running.take() {
        // First, for the agent's number may be somebody else's afterwards.
        let _ = warden.kill();
        let _ = warden.wait();
        drop(agent);
    }
}

/// Ends the agent with the test process, which drops no statics: its standard input closes then.
fn warden(agent: &Agent) -> Child {
    let script = "trap '' INT TERM; cat > /dev/null; kill -9 $0; rm -rf \"$1\"";
    let mut c = Command::new("sh");
    c.args(["-c", script, &agent.pid().to_string()]).arg(agent.dir()).stdin(Stdio::piped());
    c.spawn().expect("sh")
}

fn now() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)).rfc3339()
}
