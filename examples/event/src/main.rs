// SPDX-License-Identifier: Apache-2.0
//! An event collector of your own, with its own BPF program: processes that crash.
//!
//! `cargo run -- run`, then `sh -c 'kill -SEGV $$'`, then `cargo run -- events --name acme.process.crash`.

use bianque::prelude::*;

#[expect(dead_code, reason = "the setting stays at its default")]
mod probes {
    bianque::include_skeletons!();
}
use probes::crash::{Record, Records, SKELETON};

const SIGNAL: Key = Key::new("acme.signal", "The signal that ended it");

static COUNT: MetricDef = MetricDef::counter("acme.process.crashes", "{event}", "Processes that crashed").by(&[SIGNAL]);
static CONTAINER_COUNT: MetricDef =
    MetricDef::counter("acme.container.process.crashes", "{event}", "Processes of this workload that crashed").by(&[SIGNAL]);
static CRASH: EventDef = EventDef {
    name: "acme.process.crash",
    summary: "A process ended by a signal that means a bug",
    severity: Severity::Error,
    attributes: &[SIGNAL],
    counter: &COUNT,
    container_counter: Some(&CONTAINER_COUNT),
};

struct Crash {
    clock: Clock,
    workloads: Workloads,
}

impl Collector for Crash {
    const INFO: Info = Info {
        name: "crash",
        summary: "processes that end by a signal that means a bug",
        doc: head_doc(include_str!("main.rs")),
        object: Some(&SKELETON),
        capabilities: &["CAP_BPF", "CAP_PERFMON"],
        events: &[&CRASH],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        cx.load(SKELETON.options())?;
        Ok(Crash { clock: cx.clock.clone(), workloads: cx.workloads.clone() })
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
        out.emit(e);
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    bianque::agent().with(collectors::events::<Crash>()).main()
}
