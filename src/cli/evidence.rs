// SPDX-License-Identifier: Apache-2.0
//! Evidence in text, by its type: tables with their units, series as a line of bars, profiles as flame
//! graphs.

use serde_json::Value as Json;

use super::flame::Flame;
use super::incidents::{human_ns, time_ns};
use super::screen::{Screen, Style};
use super::table::{cut, len, one_line};

/// Width of a flame graph that goes into a file or a pipe.
pub const DEFAULT_WIDTH: usize = 120;
/// Rows of a table; all of them are in the JSON form.
pub const MAX_ROWS: usize = 10;
/// Bars of a series; each is the highest of its points.
const MAX_BARS: usize = 60;
const GAP: usize = 2;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

fn text<'a>(v: &'a Json, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

fn items<'a>(v: &'a Json, key: &str) -> &'a [Json] {
    v[key].as_array().map_or(&[], Vec::as_slice)
}

fn pieces<'a>(e: &'a Json, kind: &str) -> impl Iterator<Item = &'a Json> {
    items(e, "evidence").iter().filter(move |p| text(p, "type") == kind)
}

/// A figure, also where JSON has it as text.
pub fn figure(v: &Json) -> Option<f64> {
    v.as_f64().or_else(|| v.as_str()?.parse().ok())
}

/// A figure in its unit (UCUM, or pprof's): sizes, times and shares as a human says them.
pub fn amount(v: f64, unit: &str) -> String {
    match unit {
        "By" | "bytes" => size(v),
        "s" => time(v * 1e9),
        "ns" | "nanoseconds" => time(v),
        "1" => format!("{} %", rounded(v * 100.0)),
        _ => rounded(v),
    }
}

fn size(v: f64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let found = units.into_iter().find(|(power, _)| v.abs() >= 2_f64.powi(*power));
    found.map_or_else(|| format!("{v} B"), |(power, unit)| format!("{} {unit}", rounded(v / 2_f64.powi(power))))
}

fn time(ns: f64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
    let found = units.into_iter().find(|(least, _)| ns.abs() >= *least);
    match found {
        _ if ns >= 60e9 => human_ns(ns as u64),
        Some((least, unit)) => format!("{} {unit}", rounded(ns / least)),
        None => format!("{} s", rounded(ns / 1e9)),
    }
}

/// Three digits, but no whole number is cut.
fn rounded(v: f64) -> String {
    let digits = match v.abs() {
        _ if v.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0..100.0 => 1,
        1.0..10.0 => 2,
        _ => 3,
    };
    format!("{v:.digits$}")
}

/// Tables and series of an entry.
pub fn details(screen: &mut Screen, e: &Json, indent: &str) -> std::io::Result<()> {
    for piece in items(e, "evidence") {
        match text(piece, "type") {
            "table" => table(screen, piece, indent)?,
            "series" => series(screen, piece, indent)?,
            _ => {}
        }
    }
    Ok(())
}

fn table(screen: &mut Screen, piece: &Json, indent: &str) -> std::io::Result<()> {
    let (columns, rows) = (items(piece, "columns"), items(piece, "rows"));
    screen.line(&format!("{indent}{}", screen.paint(Style::Bold, text(piece, "name"))))?;
    let head = columns.iter().map(|c| one_line(text(c, "name"))).collect();
    let shown = rows.iter().take(MAX_ROWS).map(|r| columns.iter().map(|c| cell(c, &r[text(c, "name")])).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(shown).collect();
    let width = |i: usize| lines.iter().map(|l| len(&l[i])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for (n, cells) in lines.iter().enumerate() {
        let padded = cells.iter().zip(&widths).zip(columns).map(|((cell, width), column)| {
            let pad = " ".repeat(width - len(cell));
            if text(column, "type") == "text" { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        let line = format!("{indent}  {}", padded.collect::<Vec<_>>().join(&" ".repeat(GAP)));
        let line = cut(line.trim_end(), screen.width.unwrap_or(usize::MAX));
        screen.line(&screen.paint(if n == 0 { Style::Dim } else { Style::Plain }, &line))?;
    }
    let more = rows.len().saturating_sub(MAX_ROWS);
    if more > 0 {
        screen.line(&format!("{indent}  … and {more} more (-o json has them all)"))?;
    }
    left_out(screen, piece, indent, "rows")
}

/// Of the kernel's figures in bytes, such as `memory.stat`, those that are counts (Documentation/admin-guide/
/// cgroup-v2.rst).
const COUNTS: &[&str] = &["pg", "workingset_", "thp_", "zswp", "numa_", "HugePages_"];

/// `total_`: with all cgroups below, cgroup-v1/memory.rst.
fn is_count(name: &str) -> bool {
    let name = name.strip_prefix("total_").unwrap_or(name);
    COUNTS.iter().any(|c| name.starts_with(c))
}

/// Figures under the kernel's names, in columns; those that are zero are left out.
pub fn figures(
    screen: &mut Screen,
    name: &str,
    all: &serde_json::Map<String, Json>,
    unit: &str,
    indent: &str,
) -> std::io::Result<()> {
    screen.line(&format!("{indent}{}", screen.paint(Style::Bold, &one_line(name))))?;
    let said = |(k, v): (&String, &Json)| {
        let unit = if is_count(k) { "" } else { unit };
        Some((one_line(k), amount(figure(v).filter(|f| *f != 0.0)?, unit)))
    };
    let cells: Vec<(String, String)> = all.iter().filter_map(said).collect();
    let widest = |of: fn(&(String, String)) -> &String| cells.iter().map(|c| len(of(c))).max().unwrap_or(0);
    let (names, values) = (widest(|c| &c.0), widest(|c| &c.1));
    let room = screen.width.unwrap_or(DEFAULT_WIDTH).saturating_sub(len(indent) + 2);
    let columns = ((room + 2 * GAP) / (names + values + 3 * GAP)).max(1);
    for row in cells.chunks(columns) {
        let text = row.iter().map(|(k, v)| format!("{k:<names$}{:GAP$}{v:>values$}", ""));
        let line = format!("{indent}  {}", text.collect::<Vec<_>>().join(&" ".repeat(2 * GAP)));
        screen.line(&cut(&line, screen.width.unwrap_or(usize::MAX)))?;
    }
    if cells.len() < all.len() {
        screen.line(&format!("{indent}  {} more are 0", all.len() - cells.len()))?;
    }
    Ok(())
}

fn left_out(screen: &mut Screen, piece: &Json, indent: &str, what: &str) -> std::io::Result<()> {
    let n = piece["left_out"].as_u64().unwrap_or(0);
    if n == 0 { Ok(()) } else { screen.line(&format!("{indent}  {n} more {what} had no room")) }
}

fn cell(column: &Json, v: &Json) -> String {
    match (v, text(column, "type")) {
        (Json::Null, _) => "-".to_owned(),
        (_, "text") => v.as_str().map_or_else(|| v.to_string(), one_line),
        _ => figure(v).map_or_else(|| v.to_string(), |f| amount(f, text(column, "unit"))),
    }
}

fn series(screen: &mut Screen, piece: &Json, indent: &str) -> std::io::Result<()> {
    let points = items(piece, "points");
    let values: Vec<f64> = points.iter().filter_map(|p| figure(&p["value"])).collect();
    let (Some(first), Some(last)) = (points.first(), values.last()) else { return Ok(()) };
    let highest = values.iter().copied().fold(f64::MIN, f64::max);
    let lowest = values.iter().copied().fold(f64::MAX, f64::min);
    let lasted =
        points.last().and_then(|p| time_ns(&p["time"])).zip(time_ns(&first["time"])).map(|(to, from)| to - from);
    let unit = text(piece, "unit");
    let range = format!(
        "{} to {}, last {}, over {}",
        amount(lowest, unit),
        amount(highest, unit),
        amount(*last, unit),
        human_ns(lasted.unwrap_or(0))
    );
    let line = format!("{indent}{}  {}  {range}", text(piece, "name"), bars(&values, highest));
    screen.line(&cut(&line, screen.width.unwrap_or(usize::MAX)))?;
    left_out(screen, piece, indent, "points")
}

/// A line of bars from 0 to the highest value.
fn bars(values: &[f64], highest: f64) -> String {
    let each = values.len().div_ceil(MAX_BARS).max(1);
    let bar = |some: &[f64]| {
        let v = some.iter().copied().fold(0.0, f64::max);
        let share = if highest > 0.0 { v / highest } else { 0.0 };
        BARS[((share * 8.0) as usize).min(7)]
    };
    values.chunks(each).map(bar).collect()
}

/// The flame graphs of an entry, each with what it measures.
pub fn flames(screen: &mut Screen, e: &Json) -> std::io::Result<()> {
    for profile in pieces(e, "profile") {
        let mut flame = Flame::default();
        for stack in items(profile, "stacks") {
            let frames: Vec<String> = items(stack, "frames").iter().filter_map(Json::as_str).map(function).collect();
            flame.add(frames.iter().map(String::as_str), whole(&stack["value"]));
        }
        if flame.total() == 0 {
            continue;
        }
        screen.line("")?;
        screen.line(&screen.paint(Style::Bold, &format!("{}: {}", text(e, "name"), caption(profile))))?;
        for line in flame.draw(screen.width.unwrap_or(DEFAULT_WIDTH)) {
            screen.line(&line)?;
        }
    }
    Ok(())
}

fn whole(v: &Json) -> u64 {
    v.as_u64().or_else(|| v.as_str()?.parse().ok()).unwrap_or(0)
}

/// `cpu, 42 samples (424 ms)`; `off_cpu, 1.50 s`.
fn caption(profile: &Json) -> String {
    let (total, unit) = (whole(&profile["total"]), text(profile, "unit"));
    let amount_of = match (unit, profile["period"].as_u64()) {
        ("count", Some(period)) => {
            format!("{total} samples ({})", amount((total * period) as f64, text(profile, "period_unit")))
        }
        ("count", None) => format!("{total} samples"),
        _ => amount(total as f64, unit),
    };
    let lost = whole(&profile["lost"]);
    let lost = if lost > 0 { format!(", {lost} lost") } else { String::new() };
    format!("{}, {amount_of}{lost}", text(profile, "name"))
}

/// A frame without the offset: samples of one function are one box.
fn function(frame: &str) -> String {
    let frame = one_line(frame);
    match frame.split_once("+0x") {
        Some((name, _)) if !name.starts_with("0x") => name.to_owned(),
        _ => frame,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entry::IncidentRecord;
    use crate::signal::json::incident_tree;
    use crate::signal::testing::entry;

    /// Offsets do not split a function into many boxes; bare addresses stay as they are.
    #[test]
    fn frames_are_functions() {
        assert_eq!(function("spin+0x1f [/bin/app]"), "spin");
        assert_eq!(function("0x7f00 [/bin/app+0x20]"), "0x7f00 [/bin/app+0x20]");
        assert_eq!(function("core::iter::map"), "core::iter::map");
    }

    /// Every kind of evidence is shown by its type, with its unit.
    #[test]
    fn one_of_each() {
        let tree = incident_tree(&IncidentRecord::default(), None, [(&entry(), None)], &[]);
        let (mut screen, written) = Screen::in_memory(Some(60));
        details(&mut screen, &tree["entries"][0], "  ").unwrap();
        flames(&mut screen, &tree["entries"][0]).unwrap();
        drop(screen);
        insta::assert_snapshot!(written.text(), @r#"
  files
    path      read     wait  reads
    /data/a  3 MiB  1.50 ms   1200
    /data/b  512 B        -      1
  pressure  ▁▅█  0 % to 100 %, last 100 %, over 2s

stall: cpu, 7 samples (70.7 ms), 3 lost
│main                                                  100%
│leaf                                 71% │other        29%

stall: off_cpu, 1.50 s, 3 lost
│main › futex_wait                                     100%
"#);
    }

    /// Figures are said as a human says them, and no whole number is cut.
    #[test]
    fn amounts() {
        for (v, unit, said) in [
            (1_536.0, "By", "1.50 KiB"),
            (f64::from(3 << 20), "bytes", "3 MiB"),
            (5.0 * 2_f64.powi(40), "By", "5 TiB"),
            (0.0015, "s", "1.50 ms"),
            (1_500_000_000.0, "nanoseconds", "1.50 s"),
            (90.0, "s", "1m30s"),
            (0.0, "s", "0 s"),
            (0.256, "1", "25.6 %"),
            (123_456.0, "{request}", "123456"),
            (0.12345, "", "0.123"),
        ] {
            assert_eq!(amount(v, unit), said, "{v} {unit}");
        }
    }
}
