// SPDX-License-Identifier: Apache-2.0
//! `config print`, `config check` and `config schema`.

use super::args::{ConfigCommand, Output};
use super::screen::complain;
use super::{Context, Done};
use crate::config::{render, schema};

pub fn run(cx: &mut Context<'_>, command: ConfigCommand) -> Done {
    let text = match command {
        ConfigCommand::Print { default: true, .. } => render::default_file(cx.registrations),
        ConfigCommand::Print { format, .. } => {
            let loaded = cx.load()?;
            match format.output {
                Output::Table => render::effective(&loaded),
                Output::Json => format!("{}\n", render::redacted(&loaded)),
            }
        }
        ConfigCommand::Check => {
            for warning in cx.load()?.warnings {
                complain(&format!("warning: {warning}"));
            }
            "the configuration is valid\n".into()
        }
        ConfigCommand::Schema => format!("{:#}\n", schema::schema(cx.registrations)),
    };
    Ok(cx.screen.text(&text)?)
}
