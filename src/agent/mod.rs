// SPDX-License-Identifier: Apache-2.0
//! Builds the stages in the data's order and stops them in the same order, draining. The only one
//! that sees all of them, and the only one that spawns threads and tasks.

mod collectors;
mod deliver;
mod housekeeping;
mod node;
mod outlet;
mod queries;
mod stages;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::collectors::{BUILT_IN, Registration};
use crate::config::{Loaded, Sources};

/// How long the agent takes at most to stop: captures and deliveries that are under way end by then.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// The agent with its collectors: the built-in ones, and those that were added.
#[derive(Clone)]
pub struct Agent {
    registrations: Vec<Registration>,
}

/// The agent with all built-in collectors.
#[must_use]
pub fn agent() -> Agent {
    Agent { registrations: BUILT_IN.to_vec() }
}

impl Agent {
    /// Adds a collector of yours: `agent().with(collectors::events::<Mine>())`.
    #[must_use]
    pub fn with(mut self, collector: Registration) -> Self {
        self.registrations.push(collector);
        self
    }

    /// The command line, with all commands of `bianque`; for the `main` of your binary.
    #[must_use]
    pub fn main(self) -> ExitCode {
        crate::cli::main(&self.registrations)
    }
}

/// Runs the agent until SIGTERM or SIGINT; SIGHUP reads the configuration again.
///
/// # Errors
/// What keeps it from starting. Once it runs, nothing ends it but a signal.
pub fn run(loaded: Loaded, sources: Sources, registrations: &[Registration]) -> anyhow::Result<()> {
    // One arena: with more, fjall's threads keep tens of MiB that were free long ago.
    crate::host::sys::limit_malloc_arenas(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("tasks")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(supervise(loaded, &sources, registrations));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn supervise(loaded: Loaded, sources: &Sources, registrations: &[Registration]) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut stages = stages::Stages::start(loaded, sources, registrations).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => stages.reload(sources, registrations),
        }
    }
    tracing::info!("stopping");
    stages.stop(Instant::now() + STOP_LIMIT).await;
    Ok(())
}
