// SPDX-License-Identifier: Apache-2.0
//! An autotracing collector of your own: when the file handles in use jump, list who holds the most.
//!
//! `cargo run --example autotracing -- run`, open many files, then `bianque incidents`.

use std::future::Future;

use bianque::prelude::*;

const OPEN: Key = Key::new("acme.file.open", "File handles in use");
const USUAL: Key = Key::new("acme.file.usual", "File handles usually in use");

static COUNT: MetricDef = MetricDef::counter("acme.file.bursts", "{event}", "Jumps of the file handles in use");
static CONTAINER_COUNT: MetricDef =
    MetricDef::counter("acme.container.file.bursts", "{event}", "The same of a workload");
static BURST: EventDef = EventDef {
    name: "acme.file.burst",
    summary: "The file handles in use jumped",
    severity: Severity::Warn,
    worst: Severity::Warn,
    attributes: &[OPEN, USUAL],
    counter: &COUNT,
    container_counter: Some(&CONTAINER_COUNT),
};

/// Settings: `collectors.file_burst`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// So many more than a check before is a jump.
    jump: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { jump: 1000 }
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<(), Invalid> {
        if self.jump > 0 {
            return Ok(());
        }
        Err(Invalid { key: "jump", value: self.jump.to_string(), expected: "at least 1".to_owned() })
    }
}

struct FileBurst {
    config: Config,
    host: Host,
    usual: Option<u64>,
    open: bool,
}

impl Collector for FileBurst {
    const INFO: Info = Info {
        name: "file_burst",
        summary: "jumps of the file handles in use, and who holds them",
        doc: head_doc(include_str!("autotracing.rs")),
        // To look at what other users' processes have open.
        capabilities: &["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"],
        events: &[&BURST],
        ..Info::DEFAULT
    };
    type Config = Config;

    fn new(config: Config, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        Ok(FileBurst { config, host: cx.host.clone(), usual: None, open: false })
    }

    fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        self.config = config;
        Ok(())
    }
}

impl AutoTracer for FileBurst {
    fn check(&mut self, now: Now) -> anyhow::Result<Vec<Change>> {
        let text = std::fs::read_to_string(self.host.proc.join("sys/fs/file-nr"))?;
        let in_use: u64 = text.split_whitespace().next().unwrap_or("0").parse()?;
        let usual = *self.usual.get_or_insert(in_use);
        let over = in_use >= usual + self.config.jump;
        let change = match (self.open, over) {
            (false, true) => Some(Change::Onset(trigger(in_use, usual, now.wall))),
            (true, false) => Some(Change::Recovered(target(), now.wall)),
            _ => None,
        };
        self.open = over;
        if !over {
            self.usual = Some((usual * 9 + in_use) / 10);
        }
        Ok(change.into_iter().collect())
    }

    fn capture(
        &mut self,
        t: &Trigger,
        _: Limits,
        _: Parts,
    ) -> impl Future<Output = anyhow::Result<Capture>> + Send + 'static {
        let (host, target, start) = (self.host.clone(), t.target.clone(), t.detected);
        async move {
            let evidence = vec![Evidence::Table(holders(&host)?)];
            Ok(Capture { evidence, ..Capture::new("file_holders", target, start, start) })
        }
    }
}

fn target() -> Target {
    Target { collector: FileBurst::INFO.name, workload: None, detail: None }
}

fn trigger(in_use: u64, usual: u64, now: Timestamp) -> Trigger {
    let mut attributes = Attributes::new();
    attributes.set(OPEN, in_use).set(USUAL, usual);
    Trigger {
        target: target(),
        def: &BURST,
        severity: BURST.severity,
        onset: now,
        detected: now,
        workload: None,
        message: format!("{in_use} file handles in use, usually {usual}"),
        attributes,
        links: Links::default(),
        capture: true,
    }
}

/// The five processes with the most open files.
fn holders(host: &Host) -> anyhow::Result<Table> {
    let mut rows: Vec<(usize, u32, String)> = host
        .processes()?
        .0
        .into_iter()
        .filter_map(|p| {
            // One that is gone meanwhile holds nothing.
            let held = std::fs::read_dir(host.proc.join(p.pid.to_string()).join("fd")).ok()?.count();
            Some((held, p.pid, p.comm))
        })
        .collect();
    rows.sort_by(|a, b| b.cmp(a));
    rows.truncate(5);
    let columns = [Column::int("pid", ""), Column::text("command"), Column::int("open", "{file}")];
    let mut table = Table::new("holders", &columns);
    rows.into_iter()
        .for_each(|(held, pid, comm)| table.row(vec![Some(pid.into()), Some(comm.into()), Some(held.into())]));
    Ok(table)
}

fn main() -> std::process::ExitCode {
    bianque::agent().with(collectors::autotracing::<FileBurst>()).main()
}
