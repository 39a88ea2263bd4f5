// SPDX-License-Identifier: Apache-2.0
//! An event collector of your own, with its own BPF program: processes that crash. It also reads a shared
//! probe of this crate.
//!
//! `cargo run -- run`, then `sh -c 'kill -SEGV $$'`, then `cargo run -- events --name acme.process.crash`.

mod exits;

use bianque::prelude::*;

use exits::Exits;

#[expect(dead_code, reason = "the setting stays at its default")]
mod probes {
    bianque::include_skeletons!();
}
use probes::crash::{Record, Records, SKELETON};

const SIGNAL: Key = Key::new("acme.signal", "The signal that ended it");
const ENDED: Key = Key::new("acme.processes.ended", "All processes that ended since the agent started");

static COUNT: MetricDef = MetricDef::counter("acme.process.crashes", "{event}", "Processes that crashed").by(&[SIGNAL]);
static CONTAINER_COUNT: MetricDef =
    MetricDef::counter("acme.container.process.crashes", "{event}", "Processes of this workload that crashed").by(&[SIGNAL]);
static CRASH: EventDef = EventDef {
    name: "acme.process.crash",
    summary: "A process ended by a signal that means a bug",
    severity: Severity::Error,
    worst: Severity::Error,
    attributes: &[SIGNAL, ENDED],
    counter: &COUNT,
    container_counter: Some(&CONTAINER_COUNT),
};

struct Crash {
    clock: Clock,
    workloads: Workloads,
    exits: Exits,
}

impl Collector for Crash {
    const INFO: Info = Info {
        name: "crash",
        summary: "processes that end by a signal that means a bug",
        doc: head_doc(include_str!("main.rs")),
        needs: &[Exits::ENDED],
        object: Some(&SKELETON),
        events: &[&CRASH],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        cx.load(SKELETON.options())?;
        Ok(Crash { clock: cx.clock.clone(), workloads: cx.workloads.clone(), exits: cx.shared()? })
    }
}

impl EventCollector for Crash {
    type Records = Records;

    fn on_record(&mut self, Record::Crash(r): Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        let workload = self.workloads.of_cgroup(r.cgroup.into());
        let message = format!("{} (pid {}) ended by signal {}", r.thread.comm(), r.thread.tgid, r.signal);
        let mut e = Event::new(&CRASH, self.clock.wall(r.time_ns), workload, message);
        e.thread = Some(r.thread.into());
        e.attributes.set(SIGNAL, r.signal);
        e.attributes.set(ENDED, self.exits.ended()?);
        out.emit(e);
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    bianque::agent().with(collectors::events::<Crash>()).main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bianque::probe::Loader;
    use bianque::probe::shared::Shared;

    /// The shared probe of this crate is loaded because `INFO.needs` names its feature, and counts.
    #[test]
    fn a_shared_probe_of_ones_own() {
        if bianque::host::capabilities::effective(&Host::default()).is_ok_and(|c| !c.contains("CAP_BPF")) {
            eprintln!("skipped: loading BPF programs needs root");
            return;
        }
        let shared = Shared::load(&mut Loader::new(), Crash::INFO.needs);
        let exits: Exits = shared.get().unwrap();
        let before = exits.ended().unwrap();
        assert!(std::process::Command::new("true").status().unwrap().success());
        assert!(exits.ended().unwrap() > before);
        assert!(Shared::load(&mut Loader::new(), &[]).get::<Exits>().is_err(), "nobody needs it");
    }
}
