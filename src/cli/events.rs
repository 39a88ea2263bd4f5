// SPDX-License-Identifier: Apache-2.0
//! `events`: what happened, and with `--follow` what happens.

use serde_json::Value as Json;

use super::args::{self, Output};
use super::screen::{Style, complain};
use super::source::Source;
use super::table::{Table, layout, one_line};
use super::{Context, Done, Failure, block_on};
use crate::api::{Client, Followed};
use crate::host::sys;
use crate::signal::ids::EventId;
use crate::signal::semconv::attr;
use crate::signal::{Key, Query, Timestamp};

const HEADINGS: [&str; 6] = ["TIME", "SEVERITY", "NAME", "WHERE", "INCIDENT", "MESSAGE"];
/// While following, the widths cannot wait for the content.
const WIDTHS: [usize; 5] = [24, 8, 26, 24, 12];

pub fn run(cx: &mut Context<'_>, args: &args::Events) -> Done {
    let now = Timestamp(sys::wall_ns());
    let query = args.filter.query(args.severity.as_deref(), now).map_err(|e| Failure::Usage(e.to_string()))?;
    if args.follow {
        return follow(cx, args, query, now);
    }
    let rows = Source::find(cx)?.events(&query)?;
    if args.filter.format.output == Output::Json {
        return print_lines(cx, &rows);
    }
    let mut table = Table::new(&HEADINGS);
    for row in &rows {
        table.row(cells(&parse(row)?));
    }
    if table.is_empty() {
        complain("no events");
        return Ok(());
    }
    Ok(table.write(&mut cx.screen)?)
}

/// JSON texts, one a line.
pub fn print_lines(cx: &mut Context<'_>, rows: &[String]) -> Done {
    for row in rows {
        cx.screen.line(row)?;
    }
    Ok(())
}

pub fn parse(text: &str) -> Result<Json, Failure> {
    Ok(serde_json::from_str(text)?)
}

fn cells(e: &Json) -> [(String, Style); 6] {
    let text = |key: &str| e[key].as_str().unwrap_or_default().to_owned();
    let incident = text("trace_id");
    [
        (short_time(&text("time")), Style::Plain),
        (text("severity"), severity_style(&text("severity"))),
        (text("name"), Style::Plain),
        (place(e), Style::Bold),
        (incident.get(..12).unwrap_or_default().to_owned(), Style::Dim),
        (text("message"), Style::Plain),
    ]
}

/// To the millisecond; all digits are in the JSON form.
pub fn short_time(rfc3339: &str) -> String {
    match rfc3339.split_once('.') {
        Some((seconds, rest)) => format!("{seconds}.{}Z", rest.get(..3).unwrap_or("000")),
        None => rfc3339.to_owned(),
    }
}

pub fn severity_style(severity: &str) -> Style {
    match severity {
        "FATAL" | "ERROR" => Style::Red,
        "WARN" => Style::Yellow,
        _ => Style::Plain,
    }
}

/// Whose it is, in one word: container, pod, unit or cgroup; else the node.
pub fn place(e: &Json) -> String {
    let get = |key: Key| e["resource"][key.name].as_str().filter(|v| !v.is_empty());
    match (get(attr::K8S_NAMESPACE_NAME), get(attr::K8S_POD_NAME)) {
        (Some(ns), Some(pod)) => {
            let container = get(attr::K8S_CONTAINER_NAME).map_or(String::new(), |c| format!("/{c}"));
            return format!("{ns}/{pod}{container}");
        }
        (None, Some(pod)) => return pod.to_owned(),
        _ => {}
    }
    let id = get(attr::CONTAINER_ID).map(|id| id.get(..12).unwrap_or(id));
    let name = get(attr::CONTAINER_NAME).or(id).or(get(attr::LINUX_SYSTEMD_UNIT)).or(get(attr::LINUX_CGROUP_PATH));
    name.or(get(attr::HOST_NAME)).unwrap_or("node").to_owned()
}

/// Prints events as the agent accepts them. The past, where it is asked for, comes from the same
/// stream, so that nothing falls between.
fn follow(cx: &mut Context<'_>, args: &args::Events, mut query: Query, now: Timestamp) -> Done {
    if args.filter.until.is_some() {
        return Err(Failure::Usage("--until and --follow exclude each other".into()));
    }
    let config = cx.load()?.config;
    let json = args.filter.format.output == Output::Json;
    if args.filter.limit.is_some() {
        let rows = Source::find(cx)?.events(&query)?;
        let last = rows.last().map(|row| parse(row)).transpose()?;
        let last = last.and_then(|e| EventId::parse(e["id"].as_str()?));
        query.after = Some(last.unwrap_or_else(|| EventId::before(now.0)));
        head(cx, json)?;
        for row in &rows {
            print(cx, row, json)?;
        }
    } else {
        query.after = query.since.map(|t| EventId::before(t.0));
        head(cx, json)?;
    }
    query.limit = None;
    let mut follower = Client::unix(&config.api.socket).follow(query);
    block_on(async {
        loop {
            match follower.next().await? {
                Followed::Event { json: row, .. } => print(cx, &row, json)?,
                Followed::Missed { since, until, count } => {
                    let until = until.map_or(String::new(), |u| format!(" until {u}"));
                    let count = count.map_or(String::new(), |n| format!("{n} "));
                    complain(&format!("{count}events since {since}{until} are gone: they were not read in time"));
                }
                Followed::Disconnected(why) => complain(&format!("connection lost ({why}); trying again")),
            }
        }
    })?
}

fn head(cx: &mut Context<'_>, json: bool) -> Done {
    if !json {
        let row = HEADINGS.map(|h| (h.to_owned(), Style::Bold));
        line(cx, &row)?;
    }
    Ok(cx.screen.flush()?)
}

fn print(cx: &mut Context<'_>, row: &str, json: bool) -> Done {
    if json {
        cx.screen.line(row)?;
    } else {
        let cells = cells(&parse(row)?).map(|(text, style)| (one_line(&text), style));
        line(cx, &cells)?;
    }
    Ok(cx.screen.flush()?)
}

fn line(cx: &mut Context<'_>, row: &[(String, Style); 6]) -> Done {
    let before: usize = WIDTHS.iter().map(|w| w + 2).sum();
    let rest = cx.screen.width.map_or(usize::MAX / 2, |w| w.saturating_sub(before).max(20));
    let widths: Vec<usize> = WIDTHS.into_iter().chain([rest]).collect();
    let text = layout(&cx.screen, row, &widths);
    Ok(cx.screen.line(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The shortest name that a person would use.
    #[test]
    fn owner_column() {
        let p = |r: Json| place(&json!({ "resource": r }));
        assert_eq!(
            p(json!({ "k8s.namespace.name": "shop", "k8s.pod.name": "cart-1", "k8s.container.name": "app" })),
            "shop/cart-1/app"
        );
        assert_eq!(p(json!({ "container.name": "busy", "host.name": "n1" })), "busy");
        assert_eq!(p(json!({ "container.id": "0123456789abcdef", "host.name": "n1" })), "0123456789ab");
        assert_eq!(p(json!({ "linux.systemd.unit": "cron.service" })), "cron.service");
        assert_eq!((p(json!({ "host.name": "n1" })), p(json!({}))), ("n1".into(), "node".into()));
    }

    /// Times keep their milliseconds.
    #[test]
    fn times_are_short() {
        assert_eq!(short_time("2026-01-31T12:00:00.123456789Z"), "2026-01-31T12:00:00.123Z");
        assert_eq!(short_time("2026-01-31T12:00:00Z"), "2026-01-31T12:00:00Z");
    }
}
