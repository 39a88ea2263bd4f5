// SPDX-License-Identifier: Apache-2.0
//! `setup`: makes on a server what delivery to it needs, having said what that is.

use super::screen::Style;
use super::{Context, Done, Failure, args, block_on};
use crate::exporters::elasticsearch::setup::{Plan, apply, plan};
use crate::exporters::elasticsearch::{Client, Settings};

pub fn run(cx: &mut Context<'_>, command: &args::SetupCommand) -> Done {
    let args::SetupCommand::Elasticsearch(args) = command;
    let loaded = cx.load()?;
    let settings = &loaded.config.exporters.elasticsearch;
    if settings.url.0.is_empty() {
        let what = "no address: name one in exporters.elasticsearch.url, or by --set exporters.elasticsearch.url=…";
        return Err(Failure::Usage(what.to_owned()));
    }
    block_on(elasticsearch(cx, settings, args))?
}

async fn elasticsearch(cx: &mut Context<'_>, settings: &Settings, args: &args::SetupElasticsearch) -> Done {
    let client = Client::new(settings, 0)?;
    let plan = plan(&client, &args.retention).await?;
    show(cx, &client, &plan, args.bodies)?;
    let due: Vec<_> = plan.steps.iter().filter(|s| s.change.is_due()).collect();
    if due.is_empty() {
        cx.screen.line("Nothing is to be done.")?;
        return Ok(());
    }
    if !args.yes {
        cx.screen.line("Nothing was changed. Again with --yes, this is done.")?;
        return Ok(());
    }
    for step in due {
        apply(&client, step).await?;
    }
    cx.screen.line("Done.")?;
    Ok(())
}

fn show(cx: &mut Context<'_>, client: &Client, plan: &Plan, bodies: bool) -> Done {
    let screen = &mut cx.screen;
    screen.line(&format!("Elasticsearch {} at {}", plan.version, client.target()))?;
    for step in &plan.steps {
        let style = if step.change.is_due() { Style::Yellow } else { Style::Dim };
        let change = screen.paint(style, step.change.name());
        screen.line(&format!("  PUT {:<50} {change}", step.path))?;
        if bodies {
            let body = serde_json::to_string_pretty(&step.body)?;
            for line in body.lines() {
                screen.line(&format!("      {line}"))?;
            }
        }
    }
    if !plan.left_out.is_empty() {
        screen.line("Left out, as this server lacks it:")?;
    }
    for what in &plan.left_out {
        screen.line(&format!("  {what}"))?;
    }
    Ok(())
}
