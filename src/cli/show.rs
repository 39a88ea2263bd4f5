// SPDX-License-Identifier: Apache-2.0
//! `show ID`: one incident as a tree, with the flame graph of its captures; or one event.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::args::{self, Output};
use super::events::{place, severity_style, short_time};
use super::evidence::{self, DEFAULT_WIDTH, MAX_ROWS};
use super::incidents::{human_ns, lasted, time_ns};
use super::screen::{Screen, Style};
use super::source::{Item, Source};
use super::table::{cut, len, one_line};
use super::{Context, Done};
use crate::collectors::Registration;
use crate::signal::semconv::attr;

pub fn run(cx: &mut Context<'_>, args: &args::Show) -> Done {
    let item = Source::find(cx)?.item(args.id.trim())?;
    let units = Units::of(cx.registrations);
    let screen = &mut cx.screen;
    match (item, args.format.output) {
        (Item::Incident(json) | Item::Event(json), Output::Json) => screen.line(&json.to_string())?,
        (Item::Incident(tree), Output::Table) => incident(screen, &units, &tree)?,
        (Item::Event(e), Output::Table) => {
            let title = format!("Event {}", text(&e, "id"));
            head(screen, &units, &title, &e, "")?;
            details(screen, &units, &e, "  ")?;
        }
    }
    Ok(())
}

fn text<'a>(v: &'a Json, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

fn head(screen: &mut Screen, units: &Units, title: &str, v: &Json, time: &str) -> std::io::Result<()> {
    screen.line(&format!(
        "{}  {}  {}",
        screen.paint(Style::Bold, title),
        text(v, "name"),
        screen.paint(severity_style(text(v, "severity")), text(v, "severity")),
    ))?;
    let time = if time.is_empty() { text(v, "time") } else { time };
    for (name, value) in [("message", text(v, "message")), ("where", &place(v)), ("time", time)] {
        screen.line(&format!("  {} {}", screen.paint(Style::Dim, &format!("{name:<9}")), one_line(value)))?;
    }
    let resource: Vec<String> =
        v["resource"].as_object().into_iter().flatten().map(|(k, v)| units.attribute(k, v)).collect();
    if !resource.is_empty() {
        let line = cut(&resource.join("  "), screen.width.unwrap_or(usize::MAX).saturating_sub(12));
        screen.line(&format!("  {} {line}", screen.paint(Style::Dim, "resource ")))?;
    }
    Ok(())
}

fn incident(screen: &mut Screen, units: &Units, tree: &Json) -> std::io::Result<()> {
    let time = match (text(tree, "end"), text(tree, "end_reason")) {
        ("", _) => format!("{}, still open", text(tree, "time")),
        (end, why) => format!("{} to {} ({}), ended: {why}", text(tree, "time"), short_time(end), lasted(tree)),
    };
    head(screen, units, &format!("Incident {}", text(tree, "id")), tree, &time)?;
    if let Some(n) = tree["captures_under_way"].as_u64() {
        let said = format!("{} ended, {n} under way", tree["captures"]);
        screen.line(&format!("  {} {said}", screen.paint(Style::Dim, "captures ")))?;
    }
    screen.line("")?;
    let onset = time_ns(&tree["time"]).unwrap_or(0);
    // The incident's own span, written when it is closed, is what the head says.
    let own = |e: &&Json| e["attributes"].get(attr::LINUX_INCIDENT_STATE.name).is_some();
    let entries: Vec<&Json> = tree["entries"].as_array().into_iter().flatten().filter(|e| !own(e)).collect();
    for (i, e) in entries.iter().enumerate() {
        let (branch, below) = if i + 1 == entries.len() { ("└─", "   ") } else { ("├─", "│  ") };
        entry(screen, units, e, onset, branch, below)?;
    }
    for e in entries {
        evidence::flames(screen, e)?;
    }
    Ok(())
}

/// One entry of the tree, and what hangs below it.
fn entry(screen: &mut Screen, units: &Units, e: &Json, onset: u64, branch: &str, below: &str) -> std::io::Result<()> {
    let at = time_ns(&e["start"]).or_else(|| time_ns(&e["time"])).unwrap_or(onset);
    let when = if at >= onset { format!("+{}", human_ns(at - onset)) } else { format!("-{}", human_ns(onset - at)) };
    let long = duration(e).map_or(String::new(), |d| format!(" ({d})"));
    let severity = text(e, "severity");
    let what = if severity.is_empty() { "capture" } else { severity };
    let line = format!("{branch} {when:<8} {what:<7} {}{long}  {}", text(e, "name"), one_line(text(e, "message")));
    let line = cut(line.trim_end(), screen.width.unwrap_or(usize::MAX));
    screen.line(&screen.paint(severity_style(severity), &line))?;
    for related in e["related"].as_array().into_iter().flatten() {
        let long = duration(related).map_or(String::new(), |d| format!(" ({d})"));
        let attributes: Vec<String> =
            related["attributes"].as_object().into_iter().flatten().map(|(k, v)| units.attribute(k, v)).collect();
        let line = format!("{below}├─ {}{long}  {}", text(related, "name"), attributes.join("  "));
        screen.line(&cut(&line, screen.width.unwrap_or(usize::MAX)))?;
    }
    details(screen, units, e, &format!("{below}   "))
}

fn duration(v: &Json) -> Option<String> {
    let ns = v["duration_ns"].as_u64().or_else(|| v["duration_ns"].as_str()?.parse().ok())?;
    (ns > 0).then(|| human_ns(ns))
}

/// Attributes, tables and stacks.
fn details(screen: &mut Screen, units: &Units, e: &Json, indent: &str) -> std::io::Result<()> {
    let width = screen.width.unwrap_or(usize::MAX);
    let mut line = String::new();
    let (mut tables, mut lists) = (Vec::new(), Vec::new());
    for (key, value) in e["attributes"].as_object().into_iter().flatten() {
        if value.as_array().is_some_and(|rows| rows.iter().any(Json::is_object)) {
            tables.push((key, value));
            continue;
        }
        if let Some(figures) = value.as_object().filter(|o| !o.is_empty() && o.values().all(is_figure)) {
            lists.push((key, figures));
            continue;
        }
        let text = units.attribute(key, value);
        if !line.is_empty() && len(indent) + len(&line) + 2 + len(&text) > width.min(DEFAULT_WIDTH) {
            screen.line(&cut(&format!("{indent}{line}"), width))?;
            line.clear();
        }
        if !line.is_empty() {
            line.push_str("  ");
        }
        line.push_str(&text);
    }
    if !line.is_empty() {
        screen.line(&cut(&format!("{indent}{line}"), width))?;
    }
    for (key, figures) in lists {
        evidence::figures(screen, key, figures, units.of_key(key), indent)?;
    }
    for (key, rows) in tables {
        screen.line(&format!("{indent}{}", screen.paint(Style::Bold, key)))?;
        let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
        for row in rows.iter().take(MAX_ROWS) {
            let cells: Vec<String> =
                row.as_object().into_iter().flatten().map(|(k, v)| units.attribute(k, v)).collect();
            screen.line(&cut(&format!("{indent}  {}", cells.join("  ")), width))?;
        }
        if rows.len() > MAX_ROWS {
            screen.line(&format!("{indent}  … and {} more (-o json has them all)", rows.len() - MAX_ROWS))?;
        }
    }
    for link in e["links"].as_array().into_iter().flatten() {
        let of: Vec<String> =
            link["attributes"].as_object().into_iter().flatten().map(|(k, v)| units.attribute(k, v)).collect();
        let line = format!("{indent}span {}/{}  {}", text(link, "trace_id"), text(link, "span_id"), of.join("  "));
        screen.line(&cut(line.trim_end(), width))?;
    }
    evidence::details(screen, e, indent)?;
    for kind in ["kernel", "user"] {
        let Some(frames) = e["stacks"][kind].as_array().filter(|f| !f.is_empty()) else { continue };
        screen.line(&format!("{indent}{}", screen.paint(Style::Bold, &format!("{kind} stack"))))?;
        for frame in frames.iter().filter_map(Json::as_str) {
            screen.line(&cut(&format!("{indent}  {}", one_line(frame)), width))?;
        }
    }
    Ok(())
}

/// A number, or one that JSON has as text as it is too large.
fn is_figure(v: &Json) -> bool {
    v.is_number() || v.as_str().is_some_and(|s| s.parse::<u64>().is_ok())
}

/// In what units attributes are, by what their collectors declare.
struct Units(HashMap<&'static str, &'static str>);

impl Units {
    fn of(registrations: &[Registration]) -> Self {
        let events = registrations.iter().flat_map(|r| r.info.events.iter());
        let keys = events.flat_map(|e| e.attributes.iter()).chain([&attr::PROCESS_MEMORY_USAGE]);
        Units(keys.filter_map(|k| Some((k.name, k.unit?))).collect())
    }

    fn of_key(&self, key: &str) -> &'static str {
        self.0.get(key).copied().unwrap_or_default()
    }

    fn attribute(&self, key: &str, value: &Json) -> String {
        let unit = self.of_key(key);
        let value = match value {
            v if !unit.is_empty() && is_figure(v) => {
                evidence::figure(v).map_or_else(String::new, |f| evidence::amount(f, unit))
            }
            Json::String(s) => one_line(s),
            Json::Array(all) => {
                let all: Vec<String> = all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), one_line)).collect();
                format!("[{}]", all.join(" "))
            }
            other => one_line(&other.to_string()),
        };
        format!("{}={value}", one_line(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::collectors::BUILT_IN;

    /// Figures of memory are sizes in columns, whoever's attribute they are; counts among them stay counts, what is
    /// nothing is left out, and no line is wider than the screen.
    #[test]
    fn memory_is_shown_as_sizes() {
        let e = json!({ "attributes": {
            "linux.oom.limit": 41_943_040, "linux.oom.order": 0,
            "linux.oom.memory.stat": { "anon": 39_845_888, "file": "1048576", "shmem": 0, "pgfault": 12_345, "total_pgfault": 23_456, "slab": 2048 },
            "linux.oom.memory.events": { "oom": 1, "oom_kill": 1 },
            "linux.oom.processes": [{ "process.pid": 7, "process.memory.usage": 1_572_864 }],
        } });
        let (mut screen, written) = Screen::in_memory(Some(60));
        details(&mut screen, &Units::of(BUILT_IN), &e, "  ").unwrap();
        drop(screen);
        insta::assert_snapshot!(written.text(), @r"
  linux.oom.limit=40 MiB  linux.oom.order=0
  linux.oom.memory.stat
    anon           38 MiB    file            1 MiB
    pgfault         12345    total_pgfault   23456
    slab            2 KiB
    1 more are 0
  linux.oom.memory.events
    oom       1    oom_kill  1
  linux.oom.processes
    process.pid=7  process.memory.usage=1.50 MiB
");
    }
}
