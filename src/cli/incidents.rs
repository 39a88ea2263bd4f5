// SPDX-License-Identifier: Apache-2.0
//! `incidents`: what happened to whom, from onset to recovery.

use std::time::Duration;

use serde_json::Value as Json;

use super::args::{Filter, Output};
use super::events::{parse, place, print_lines, severity_style, short_time};
use super::screen::{Style, complain};
use super::source::Source;
use super::table::Table;
use super::{Context, Done, Failure};
use crate::host::sys;
use crate::signal::{HumanDuration, Timestamp};

pub fn run(cx: &mut Context<'_>, filter: &Filter) -> Done {
    let query = filter.query(None, Timestamp(sys::wall_ns())).map_err(|e| Failure::Usage(e.to_string()))?;
    let rows = Source::find(cx)?.incidents(&query)?;
    if filter.format.output == Output::Json {
        return print_lines(cx, &rows);
    }
    let mut table =
        Table::new(&["ID", "TIME", "LASTED", "STATE", "SEVERITY", "NAME", "WHERE", "EVENTS", "CAPTURES", "MESSAGE"]);
    for row in &rows {
        let i = parse(row)?;
        let text = |key: &str| i[key].as_str().unwrap_or_default().to_owned();
        let plain = |text: String| (text, Style::Plain);
        let open = text("state") == "open";
        table.row([
            (text("id").get(..12).unwrap_or_default().to_owned(), Style::Bold),
            plain(short_time(&text("time"))),
            plain(lasted(&i)),
            (text("state"), if open { Style::Yellow } else { Style::Dim }),
            (text("severity"), severity_style(&text("severity"))),
            plain(text("name")),
            (place(&i), Style::Bold),
            plain(i["events"].to_string()),
            plain(i["captures"].to_string()),
            plain(text("message")),
        ]);
    }
    if table.is_empty() {
        complain("no incidents");
        return Ok(());
    }
    Ok(table.write(&mut cx.screen)?)
}

/// From onset to end, or nothing while it is open.
pub fn lasted(incident: &Json) -> String {
    match (time_ns(&incident["time"]), time_ns(&incident["end"])) {
        (Some(from), Some(to)) => human_ns(to.saturating_sub(from)),
        _ => String::new(),
    }
}

pub fn time_ns(v: &Json) -> Option<u64> {
    let t: jiff::Timestamp = v.as_str()?.parse().ok()?;
    u64::try_from(t.as_nanosecond()).ok()
}

/// Three digits or so: nobody reads nanoseconds of a minute.
pub fn human_ns(ns: u64) -> String {
    let unit = match ns {
        0..1_000 => 1,
        1_000..1_000_000 => 1_000,
        1_000_000..10_000_000_000 => 1_000_000,
        _ => 1_000_000_000,
    };
    HumanDuration(Duration::from_nanos(ns / unit * unit)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths of time are shown to a sensible precision.
    #[test]
    fn lengths_of_time() {
        for (ns, text) in
            [(0, "0s"), (999, "999ns"), (1_234_567, "1ms"), (9_876_543_210, "9s876ms"), (75_500_000_000, "1m15s")]
        {
            assert_eq!(human_ns(ns), text);
        }
    }
}
