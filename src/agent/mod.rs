// SPDX-License-Identifier: Apache-2.0
//! Builds the stages in the data's order and stops them in the same order, draining. The only one
//! that sees all of them, and the only one that spawns threads and tasks.

mod collectors;
mod deliver;
mod downstream;
mod helper;
mod housekeeping;
mod kernel_filter;
mod kernel_limits;
mod node;
mod occurrences;
mod queries;
mod router;
mod service;
mod stages;
mod threads;
mod upstream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::collectors::Registration;
use crate::config::{Config, Loaded, Sources};

/// How long the agent takes at most to stop: captures and deliveries that are under way end by then.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// Runs the agent until SIGTERM or SIGINT; SIGHUP reads the configuration again.
///
/// # Errors
/// What keeps it from starting. Once it runs, nothing ends it but a signal.
pub fn run(loaded: Loaded, sources: Sources, registrations: &[Registration]) -> anyhow::Result<()> {
    // Else fjall's threads keep tens of MiB that were free long ago.
    crate::host::sys::limit_malloc();
    // Of followers of events there may be a thousand.
    crate::host::sys::raise_file_limit();
    let retained_caps = retained_capabilities(&loaded.config, registrations);
    let of_tasks = retained_caps.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .on_thread_start(move || drop_privileges(&of_tasks))
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("tasks")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(supervise(loaded, &sources, registrations, &retained_caps));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Capabilities that the agent retains after startup.
type RetainedCaps = Arc<[&'static str]>;

/// To read maps and rings and to open perf events; to read cgroupfs and who a process is; and what
/// enabled collectors name.
fn retained_capabilities(config: &Config, registrations: &[Registration]) -> RetainedCaps {
    let enabled = registrations.iter().filter(|r| config.collector(r.info.name).enabled);
    let mut all: Vec<_> = enabled.flat_map(|r| r.info.kept_capabilities()).collect();
    all.extend(["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    all.sort_unstable();
    all.dedup();
    all.into()
}

/// Of this thread; those that it starts have no more.
fn drop_privileges(retained_caps: &RetainedCaps) {
    if let Err(e) = crate::host::capabilities::keep_only(retained_caps) {
        tracing::warn!("could not drop capabilities: {e:#}");
    }
}

async fn supervise(
    loaded: Loaded,
    sources: &Sources,
    registrations: &[Registration],
    retained_caps: &RetainedCaps,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut stages = stages::Stages::start(loaded, sources, registrations, retained_caps).await?;
    let mut service = service::Service::new(&sources.env, stages::LOOPS);
    service.ready(&stages.readiness());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                service.reloading();
                stages.reload(sources, registrations);
                service.ready(&stages.readiness());
            }
            () = service.turn() => {
                service.check(stages.ended(), &stages.readiness(), |who, answer| stages.ask(who, answer));
            }
        }
    }
    tracing::info!("stopping");
    service.stopping();
    stages.stop(Instant::now() + STOP_LIMIT).await;
    Ok(())
}

#[cfg(test)]
mod tests;
