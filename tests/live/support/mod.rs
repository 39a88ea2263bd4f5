// SPDX-License-Identifier: Apache-2.0
//! What live tests share: a place to run, the agent under test, containers, provocations.

mod agent;
mod machine;
mod place;
mod shared;

use std::time::{Duration, Instant};

pub use agent::{Agent, assert_all_run, attribute, bianque, events_of, is_about, status_of_all};
pub use machine::{
    Container, Containerd, CriPod, Group, Process, busy_program, has_drop_reasons, hierarchy, podman, program, provoke,
    provoke_in_background, reader_program, shell, unique,
};
pub(crate) use place::place;
pub use place::{Need, find, own_machine};

/// A timeout for what takes `seconds` on an idle machine. An emulated CPU is some twenty
/// times slower; a busy builder is slow too.
pub fn timeout(seconds: u64) -> Duration {
    Duration::from_secs(seconds * if own_machine() { 5 } else { 1 })
}

/// How often to repeat what counts by its number: `few` times in `make test`, `many` in `make soak`.
pub fn repeats(few: usize, many: usize) -> usize {
    if std::env::var_os("BIANQUE_SOAK_SECONDS").is_some() { many } else { few }
}

/// Asks until `answer` has one.
///
/// # Panics
/// When there is none in time, with `what` was awaited.
pub fn wait_for<T>(what: &str, limit: Duration, mut answer: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(t) = answer() {
            return t;
        }
        assert!(start.elapsed() < limit, "in {limit:?} there was no {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
