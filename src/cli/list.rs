// SPDX-License-Identifier: Apache-2.0
//! `list`: the collectors and what became of them.

use serde_json::{Value as Json, json};

use super::args::{Format, Output};
use super::screen::Style;
use super::table::Table;
use super::{Context, Done, block_on};
use crate::api::{Client, ClientError};
use crate::collectors::Registration;
use crate::config::Config;

pub fn run(cx: &mut Context<'_>, format: Format) -> Done {
    let config = cx.load()?.config;
    let rows = match block_on(ask(&Client::unix(&config.api.socket)))? {
        Ok(rows) => rows,
        Err(ClientError::NobodyListens(place)) => {
            let reason = format!("no agent listens on {place}");
            cx.registrations.iter().map(|r| from_config(r, &config, &reason)).collect()
        }
        Err(e) => return Err(e.into()),
    };
    if format.output == Output::Json {
        for row in rows {
            cx.screen.line(&row.to_string())?;
        }
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "KIND", "STATE", "HOOK", "EMITS", "REASON"]);
    for row in &rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let emits: Vec<&str> = row["emits"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let plain = |key: &str| (text(key), Style::Plain);
        table.row([
            (text("name"), Style::Bold),
            plain("kind"),
            (text("state"), state_style(&text("state"))),
            plain("hook"),
            (emits.join(" "), Style::Plain),
            plain("reason"),
        ]);
    }
    Ok(table.write(&mut cx.screen)?)
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
