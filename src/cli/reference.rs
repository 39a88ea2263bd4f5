// SPDX-License-Identifier: Apache-2.0
//! The reference under `docs/reference/`, made from what the collectors, the settings and the command
//! line declare. `tests/generated.rs` keeps it fresh.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use super::args::Cli;
use super::list::emits;
use super::monitoring;
use crate::collectors::{Kind, Registration};
use crate::config::{render, schema};
use crate::pipeline::metrics::own;
use crate::signal::{Instrument, Key};

/// Where the README's table of collectors stands.
pub const TABLE_BEGIN: &str = "<!-- collectors: made by `make regen` -->";
/// Where it ends.
pub const TABLE_END: &str = "<!-- /collectors -->";

const MADE: &str = "<!-- Made by `make regen` from the sources; do not edit. -->\n\n";

/// Every file of the reference: its path below the project, and its text.
#[must_use]
pub fn files(registrations: &[Registration]) -> Vec<(String, String)> {
    let page = |name: &str, text: String| (format!("docs/reference/{name}"), text);
    let mut out = vec![
        page("README.md", index(registrations)),
        page("metrics.md", metrics(registrations)),
        page("events.md", events(registrations)),
        page("alerts.md", format!("{MADE}{}", monitoring::page(registrations))),
        page("configuration.md", configuration(registrations)),
        page("config.toml", render::default_file(registrations)),
        page("schema.json", format!("{:#}\n", schema::schema(registrations))),
        page("cli.md", command_line()),
    ];
    out.extend(registrations.iter().map(|r| page(&format!("collectors/{}.md", r.info.name), collector(r))));
    out
}

/// The README's table of collectors, with links that hold from the project's root.
#[must_use]
pub fn table(registrations: &[Registration]) -> String {
    linked_table(registrations, "docs/reference/")
}

/// A text with its table of collectors made anew; `None` when it has no place for one. `make regen` asks.
#[cfg(feature = "internals")]
#[must_use]
pub fn with_table(text: &str, registrations: &[Registration]) -> Option<String> {
    let (before, rest) = text.split_once(TABLE_BEGIN)?;
    let (_, after) = rest.split_once(TABLE_END)?;
    Some(format!("{before}{TABLE_BEGIN}\n{}{TABLE_END}{after}", table(registrations)))
}

fn linked_table(registrations: &[Registration], base: &str) -> String {
    let mut out = String::from("| collector | kind | reports | by default |\n|---|---|---|---|\n");
    for kind in [Kind::Metrics, Kind::Events, Kind::Autotracing] {
        for r in registrations.iter().filter(|r| r.kind == kind) {
            let (name, on) = (r.info.name, if r.info.enabled { "on" } else { "off" });
            let _ = writeln!(
                out,
                "| [{name}]({base}collectors/{name}.md) | {} | {} | {on} |",
                kind.name(),
                cell(r.info.summary)
            );
        }
    }
    out
}

fn index(registrations: &[Registration]) -> String {
    format!(
        "{MADE}# Reference\n\n{}\nAll [metrics](metrics.md), [events](events.md) and [alerts](alerts.md); the [configuration](configuration.md), \
         its [default file](config.toml) and [JSON schema](schema.json); the [command line](cli.md).\n",
        linked_table(registrations, "")
    )
}

fn collector(r: &Registration) -> String {
    let info = r.info;
    // rustdoc's first heading is the page's second.
    let deeper = |l: &str| if l.starts_with("# ") { format!("#{l}\n") } else { format!("{l}\n") };
    let text: String = info.markdown().trim_end().lines().map(deeper).collect();
    let mut out = format!("{MADE}# {} ({})\n\n{text}", info.name, r.kind.name());
    if !info.metrics.is_empty() {
        out.push_str("\n## Metrics\n\n");
        out.push_str(METRICS_HEAD);
        info.metrics.iter().for_each(|m| metric_row(&mut out, m, None));
    }
    for e in info.events {
        let _ = writeln!(out, "\n## Event `{}`\n\n{}. Severity {}.\n", e.name, e.summary, e.severity.name());
        attributes(&mut out, e.attributes);
    }
    let own: Vec<_> = info.all_optional().map(|o| format!("- without `{}`: {}\n", o.slot, o.lost)).collect();
    if !own.is_empty() {
        let _ = write!(out, "\n## Where a hook is missing\n\n{}", own.concat());
    }
    let capabilities = info.kept_capabilities();
    if !capabilities.is_empty() {
        let _ = writeln!(out, "\nKeeps while it runs: {}.", capabilities.join(", "));
    }
    let _ = write!(out, "\n## Settings\n\n```toml\n{}```\n", render::default_section(r));
    out
}

const METRICS_HEAD: &str = "| metric | instrument | unit | what it is | attributes |\n|---|---|---|---|---|\n";

fn metric_row(out: &mut String, m: &crate::signal::MetricDef, collector: Option<&str>) {
    let collector = collector.map_or(String::new(), |c| format!(" [{c}](collectors/{c}.md) |"));
    let instrument = match m.instrument {
        Instrument::Counter => "counter",
        Instrument::UpDownCounter => "up-down counter",
        Instrument::Gauge => "gauge",
        Instrument::Histogram => "histogram",
    };
    let names: Vec<String> = m.attributes.iter().map(|k| format!("`{}`", k.name)).collect();
    let (name, unit, help) = (m.name, cell(m.unit), cell(m.help));
    let _ = writeln!(out, "|{collector} `{name}` | {instrument} | `{unit}` | {help} | {} |", names.join(", "));
}

fn metrics(registrations: &[Registration]) -> String {
    let mut out = format!("{MADE}# Metrics\n\n");
    out.push_str(
        "In Prometheus text, dots are underscores, and units and `_total` are added as its conventions ask.\n\n",
    );
    out.push_str("| collector | metric | instrument | unit | what it is | attributes |\n|---|---|---|---|---|---|\n");
    for r in registrations {
        r.metrics().into_iter().for_each(|m| metric_row(&mut out, m, Some(r.info.name)));
    }
    out.push_str("\n## The agent's own\n\n");
    out.push_str(METRICS_HEAD);
    own::ALL.iter().for_each(|m| metric_row(&mut out, m, None));
    out
}

fn events(registrations: &[Registration]) -> String {
    let mut out = format!("{MADE}# Events\n");
    for r in registrations {
        for e in r.info.events {
            let _ = writeln!(out, "\n## `{}`\n\n{}. Severity {}.", e.name, e.summary, e.severity.name());
            let _ = writeln!(out, "From [{0}](collectors/{0}.md), with {1}.\n", r.info.name, emits(r).join(", "));
            attributes(&mut out, e.attributes);
        }
    }
    out
}

fn attributes(out: &mut String, keys: &[Key]) {
    if keys.is_empty() {
        return;
    }
    out.push_str("| attribute | what it is |\n|---|---|\n");
    for k in keys {
        let _ = writeln!(out, "| `{}` | {} |", k.name, cell(k.help));
    }
}

fn configuration(registrations: &[Registration]) -> String {
    format!(
        "{MADE}# Configuration\n\n`bianque config print` shows what is in force and where each value came from, \
         `bianque config check` everything that is wrong. Every setting with its default:\n\n```toml\n{}```\n",
        render::default_file(registrations)
    )
}

fn command_line() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut out = format!("{MADE}# Command line\n");
    help(&mut root, 2, &mut out);
    out
}

fn help(command: &mut Command, level: usize, out: &mut String) {
    let name = command.get_bin_name().unwrap_or("bianque").to_owned();
    let text = command.render_long_help().to_string();
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    let _ = write!(out, "\n{} `{name}`\n\n```text\n{}\n```\n", "#".repeat(level), text.join("\n").trim_end());
    for sub in command.get_subcommands_mut().filter(|s| s.get_name() != "help") {
        help(sub, (level + 1).min(4), out);
    }
}

/// Text that may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
