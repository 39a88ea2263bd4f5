// SPDX-License-Identifier: Apache-2.0
//! A metric collector of your own: how many file handles the node has open. How long it takes to read
//! them is an instrument of the OpenTelemetry API, as a library might bring its own.
//!
//! `cargo run --example metrics -- run`, then look for `acme_` on `/metrics`.

use bianque::opentelemetry::global;
use bianque::opentelemetry::metrics::Histogram;
use bianque::prelude::*;

const STATE: Key = Key::new("acme.state", "open: in use; limit: the most there can be");

static HANDLES: MetricDef =
    MetricDef::up_down_counter("acme.file.handle.count", "{handle}", "File handles of the node").by(&[STATE]);

struct FileHandles {
    file: std::path::PathBuf,
    took: Histogram<f64>,
}

impl Collector for FileHandles {
    const INFO: Info = Info {
        name: "file_handles",
        summary: "file handles that are open on the node",
        doc: head_doc(include_str!("metrics.rs")),
        metrics: &[&HANDLES],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let meter = global::meter(Self::INFO.name);
        let took = meter.f64_histogram("acme.file.handle.read.duration").with_unit("s").build();
        Ok(FileHandles { file: cx.host.proc.join("sys/fs/file-nr"), took })
    }
}

impl MetricCollector for FileHandles {
    fn collect(&mut self, out: &mut Metrics) -> anyhow::Result<()> {
        // allocated, allocated but unused (always 0 since 2.6), maximum
        let start = std::time::Instant::now();
        let text = std::fs::read_to_string(&self.file)?;
        self.took.record(start.elapsed().as_secs_f64(), &[]);
        let mut numbers = text.split_whitespace().map(str::parse);
        let open: u64 = numbers.next().ok_or_else(|| anyhow::anyhow!("file-nr is empty"))??;
        let limit: u64 = numbers.next_back().ok_or_else(|| anyhow::anyhow!("file-nr has one number"))??;
        out.count(&HANDLES, None, &[(STATE, "open".into())], open);
        out.count(&HANDLES, None, &[(STATE, "limit".into())], limit);
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    bianque::agent().with(collectors::metrics::<FileHandles>()).main()
}
