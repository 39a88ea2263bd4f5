// SPDX-License-Identifier: Apache-2.0
//! `list`: the collectors and what became of them.

use serde_json::{Value as Json, json};

use super::args::{self, Output};
use super::screen::{Screen, Style};
use super::table::Table;
use super::{Context, Done, block_on};
use crate::api::{Client, ClientError};
use crate::collectors::Registration;
use crate::config::Config;

pub fn run(cx: &mut Context<'_>, args: args::List) -> Done {
    let config = cx.load()?.config;
    let rows = match block_on(ask(&Client::unix(&config.api.socket)))? {
        Ok(rows) => rows,
        Err(ClientError::NobodyListens(place)) => {
            let reason = format!("no agent listens on {place}");
            cx.registrations.iter().map(|r| from_config(r, &config, &reason)).collect()
        }
        Err(e) => return Err(e.into()),
    };
    if args.format.output == Output::Json {
        for row in rows {
            cx.screen.line(&row.to_string())?;
        }
        return Ok(());
    }
    Ok(write(&mut cx.screen, &rows, args.verbose)?)
}

fn write(screen: &mut Screen, rows: &[Json], verbose: bool) -> std::io::Result<()> {
    let details: &[&str] = if verbose { &["HOOK", "EMITS"] } else { &[] };
    let mut table = Table::wrapped(&[&["NAME", "KIND", "STATE", "REASON"], details].concat());
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let emits: Vec<&str> = row["emits"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let plain = |key: &str| (text(key), Style::Plain);
        let mut cells = vec![
            (text("name"), Style::Bold),
            plain("kind"),
            (text("state"), state_style(&text("state"))),
            plain("reason"),
        ];
        if verbose {
            cells.extend([plain("hook"), (emits.join(" "), Style::Plain)]);
        }
        table.row(cells);
    }
    table.write(screen)
}

fn state_style(state: &str) -> Style {
    match state {
        "running" => Style::Green,
        "unavailable" => Style::Yellow,
        "failed" => Style::Red,
        _ => Style::Dim,
    }
}

async fn ask(client: &Client) -> Result<Vec<Json>, ClientError> {
    let mut lines = client.get("/v1/collectors", &[]).await?;
    let mut rows = Vec::new();
    while let Some(line) = lines.next().await? {
        rows.push(serde_json::from_str(&line).map_err(anyhow::Error::from)?);
    }
    Ok(rows)
}

/// What can be said while no agent runs: whether it would be started.
fn from_config(r: &Registration, config: &Config, reason: &str) -> Json {
    let enabled = config.collector(r.info.name).enabled;
    let (state, reason) = if enabled { ("unknown", reason) } else { ("disabled", "not enabled in the configuration") };
    json!({
        "name": r.info.name, "kind": r.kind.name(), "state": state, "hook": null, "reason": reason,
        "emits": emits(r),
    })
}

/// Names of what a collector emits.
pub fn emits(r: &Registration) -> Vec<&'static str> {
    r.info.metrics.iter().map(|m| m.name).chain(r.info.events.iter().map(|e| e.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::len;
    use crate::collectors::BUILT_IN;

    /// All collectors, as an agent that runs them all and one that can run none has them, in 100 columns; hooks and
    /// signals come with `-v`, no wider.
    #[test]
    fn fits_a_hundred_columns() {
        let rows: Vec<Json> = BUILT_IN
            .iter()
            .flat_map(|r| {
                let programs = r.info.object.iter().flat_map(|o| o.programs.iter().map(ToString::to_string));
                let hook = programs.collect::<Vec<_>>().join(", ");
                let of = |state: &str, reason: &str| {
                    json!({ "name": r.info.name, "kind": r.kind.name(), "state": state, "hook": hook, "reason": reason,
                            "emits": emits(r) })
                };
                let why = format!("no hook for {}: needs a type, field or value that this kernel lacks; ", r.info.name);
                [of("running", ""), of("unavailable", &why.repeat(4))]
            })
            .collect();
        for (verbose, has) in [(false, false), (true, true)] {
            let (mut screen, written) = Screen::in_memory(None);
            write(&mut screen, &rows, verbose).unwrap();
            drop(screen);
            let text = written.text();
            assert!(text.lines().all(|l| len(l) <= 100), "{text}");
            assert_eq!(text.contains("linux.memory.oom") || text.contains("HOOK"), has, "{text}");
            assert!(BUILT_IN.iter().all(|r| text.contains(r.info.name)));
        }
    }
}
