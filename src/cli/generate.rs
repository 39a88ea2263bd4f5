// SPDX-License-Identifier: Apache-2.0
//! `completions`, `man` and `version`.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use super::args::{Cli, Format, Output};
use super::{Context, Done, Failure};

/// Writes completions for a shell.
pub fn completions(cx: &mut Context<'_>, shell: Shell) -> Done {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bianque", &mut out);
    Ok(cx.screen.text(&String::from_utf8_lossy(&out))?)
}

/// Writes the man page of the program or of one command.
pub fn man(cx: &mut Context<'_>, name: Option<&str>) -> Done {
    let mut root = Cli::command();
    root.build();
    let page = match name {
        None => root,
        Some(name) => find(&root, name)?,
    };
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out)?;
    Ok(cx.screen.text(&String::from_utf8_lossy(&out))?)
}

fn find(root: &Command, name: &str) -> Result<Command, Failure> {
    let Some(command) = root.get_subcommands().find(|c| c.get_name() == name) else {
        let all: Vec<&str> = root.get_subcommands().map(Command::get_name).collect();
        return Err(Failure::Usage(format!("there is no command {name:?}; there are {}", all.join(", "))));
    };
    Ok(command.clone())
}

/// Says which version this is.
pub fn version(cx: &mut Context<'_>, format: Format) -> Done {
    let version = env!("CARGO_PKG_VERSION");
    let text = match format.output {
        Output::Table => format!("bianque {version}"),
        Output::Json => json!({ "name": "bianque", "version": version }).to_string(),
    };
    Ok(cx.screen.line(&text)?)
}
