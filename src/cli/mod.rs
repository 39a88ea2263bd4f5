// SPDX-License-Identifier: Apache-2.0
//! The command line. One file a command; [`main`] reads the arguments and turns what a command says
//! into an exit code.

pub mod args;
mod config;
mod doctor;
mod events;
mod evidence;
pub mod flame;
mod generate;
mod incidents;
mod list;
#[cfg(feature = "internals")]
pub mod monitoring;
#[cfg(feature = "internals")]
pub mod reference;
mod run;
mod screen;
mod setup;
mod show;
mod source;
mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser as _;

use crate::collectors::Registration;
use crate::config::{ConfigError, Loaded, load};
use args::{Cli, Command, Common};
use screen::{Screen, complain};

/// Exit code of wrong usage and of settings that cannot be.
const USAGE: u8 = 2;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
enum Failure {
    /// Wrong usage.
    Usage(String),
    Config(ConfigError),
    Failed(anyhow::Error),
    /// Something was found wrong and has been said: only the exit code is left.
    Said,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::Failed(e.into())
    }
}

type Done = Result<(), Failure>;

/// What a command works with.
struct Context<'a> {
    registrations: &'a [Registration],
    common: Common,
    env: BTreeMap<String, String>,
    screen: Screen,
}

impl Context<'_> {
    fn load(&self) -> Result<Loaded, Failure> {
        load(&self.common.sources(&self.env), self.registrations).map_err(Failure::Config)
    }
}

/// The whole program with these collectors: reads arguments and environment, does what they say.
#[must_use]
pub fn main(registrations: &[Registration]) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way as well.
        Err(e) => {
            let code = e.exit_code();
            return if e.print().is_ok() {
                ExitCode::from(u8::try_from(code).unwrap_or(USAGE))
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let env: BTreeMap<String, String> = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
        .collect();
    let screen = Screen::stdout(&env);
    let mut cx = Context { registrations, common: cli.common, env, screen };
    let done = dispatch(&mut cx, cli.command);
    let done = done.and_then(|()| Ok(cx.screen.flush()?));
    exit_code(done)
}

fn dispatch(cx: &mut Context<'_>, command: Command) -> Done {
    match command {
        Command::Run(args) => run::run(cx, &args),
        Command::List(format) => list::run(cx, format),
        Command::Doctor(args) => doctor::run(cx, &args),
        Command::Events(args) => events::run(cx, &args),
        Command::Incidents(filter) => incidents::run(cx, &filter),
        Command::Show(args) => show::run(cx, &args),
        Command::Config(command) => config::run(cx, command),
        Command::Setup(command) => setup::run(cx, &command),
        Command::Completions { shell } => generate::completions(cx, shell),
        Command::Man { command } => generate::man(cx, command.as_deref()),
        Command::Version(format) => generate::version(cx, format),
    }
}

fn exit_code(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(what)) => {
            complain(&format!("error: {what}"));
            ExitCode::from(USAGE)
        }
        Err(Failure::Config(e)) => {
            complain(&e.to_string());
            ExitCode::from(USAGE)
        }
        Err(Failure::Said) => ExitCode::FAILURE,
        // Whoever read our output has enough: `bianque events | head`.
        Err(Failure::Failed(e)) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(Failure::Failed(e)) => {
            complain(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    let io = e.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Runs what waits for the network.
fn block_on<T>(what: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(anyhow::Error::from)?.block_on(what))
}
