// SPDX-License-Identifier: Apache-2.0
//! `show ID`: one incident as a tree, with the flame graph of its captures; or one event.

use serde_json::Value as Json;

use super::args::{self, Output};
use super::events::{place, severity_style, short_time};
use super::evidence::{self, DEFAULT_WIDTH, MAX_ROWS};
use super::incidents::{human_ns, lasted, time_ns};
use super::screen::{Screen, Style};
use super::source::{Item, Source};
use super::table::{cut, len, one_line};
use super::{Context, Done};
use crate::signal::semconv::attr;

pub fn run(cx: &mut Context<'_>, args: &args::Show) -> Done {
    let item = Source::find(cx)?.item(args.id.trim())?;
    let screen = &mut cx.screen;
    match (item, args.format.output) {
        (Item::Incident(json) | Item::Event(json), Output::Json) => screen.line(&json.to_string())?,
        (Item::Incident(tree), Output::Table) => incident(screen, &tree)?,
        (Item::Event(e), Output::Table) => {
            let title = format!("Event {}", text(&e, "id"));
            head(screen, &title, &e, "")?;
            details(screen, &e, "  ")?;
        }
    }
    Ok(())
}

fn text<'a>(v: &'a Json, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

fn head(screen: &mut Screen, title: &str, v: &Json, time: &str) -> std::io::Result<()> {
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
    let resource: Vec<String> = v["resource"].as_object().into_iter().flatten().map(|(k, v)| attribute(k, v)).collect();
    if !resource.is_empty() {
        let line = cut(&resource.join("  "), screen.width.unwrap_or(usize::MAX).saturating_sub(12));
        screen.line(&format!("  {} {line}", screen.paint(Style::Dim, "resource ")))?;
    }
    Ok(())
}

fn incident(screen: &mut Screen, tree: &Json) -> std::io::Result<()> {
    let time = match (text(tree, "end"), text(tree, "end_reason")) {
        ("", _) => format!("{}, still open", text(tree, "time")),
        (end, why) => format!("{} to {} ({}), ended: {why}", text(tree, "time"), short_time(end), lasted(tree)),
    };
    head(screen, &format!("Incident {}", text(tree, "id")), tree, &time)?;
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
        entry(screen, e, onset, branch, below)?;
    }
    for e in entries {
        evidence::flames(screen, e)?;
    }
    Ok(())
}

/// One entry of the tree, and what hangs below it.
fn entry(screen: &mut Screen, e: &Json, onset: u64, branch: &str, below: &str) -> std::io::Result<()> {
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
            related["attributes"].as_object().into_iter().flatten().map(|(k, v)| attribute(k, v)).collect();
        let line = format!("{below}├─ {}{long}  {}", text(related, "name"), attributes.join("  "));
        screen.line(&cut(&line, screen.width.unwrap_or(usize::MAX)))?;
    }
    details(screen, e, &format!("{below}   "))
}

fn duration(v: &Json) -> Option<String> {
    let ns = v["duration_ns"].as_u64().or_else(|| v["duration_ns"].as_str()?.parse().ok())?;
    (ns > 0).then(|| human_ns(ns))
}

/// Attributes, tables and stacks.
fn details(screen: &mut Screen, e: &Json, indent: &str) -> std::io::Result<()> {
    let width = screen.width.unwrap_or(usize::MAX);
    let mut line = String::new();
    let mut tables = Vec::new();
    for (key, value) in e["attributes"].as_object().into_iter().flatten() {
        if value.as_array().is_some_and(|rows| rows.iter().any(Json::is_object)) {
            tables.push((key, value));
            continue;
        }
        let text = attribute(key, value);
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
    for (key, rows) in tables {
        screen.line(&format!("{indent}{}", screen.paint(Style::Bold, key)))?;
        let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
        for row in rows.iter().take(MAX_ROWS) {
            let cells: Vec<String> = row.as_object().into_iter().flatten().map(|(k, v)| attribute(k, v)).collect();
            screen.line(&cut(&format!("{indent}  {}", cells.join("  ")), width))?;
        }
        if rows.len() > MAX_ROWS {
            screen.line(&format!("{indent}  … and {} more (-o json has them all)", rows.len() - MAX_ROWS))?;
        }
    }
    for link in e["links"].as_array().into_iter().flatten() {
        let of: Vec<String> =
            link["attributes"].as_object().into_iter().flatten().map(|(k, v)| attribute(k, v)).collect();
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

fn attribute(key: &str, value: &Json) -> String {
    let value = match value {
        Json::String(s) => one_line(s),
        Json::Array(all) => {
            let all: Vec<String> = all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), one_line)).collect();
            format!("[{}]", all.join(" "))
        }
        other => other.to_string(),
    };
    format!("{key}={value}")
}
