// SPDX-License-Identifier: Apache-2.0
//! The command line's grammar; help, completions and man pages are made from it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::{LogLevel, Sources, environment};
use crate::exporters::elasticsearch;
use crate::signal::{Query, Timestamp, query};

const AFTER: &str = "\
Exit codes:
  0  it was done
  1  it failed
  2  wrong usage, or a setting that cannot be

Settings come from /etc/bianque/config.toml (or --config, or BIANQUE_CONFIG), then OTEL_ and BIANQUE_ variables, then flags;
`bianque config print` shows what is in force and where it came from.";

/// Finds kernel-level trouble on this node and captures the evidence while it lasts.
#[derive(Debug, Parser)]
#[command(name = "bianque", version, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct Common {
    /// Configuration file, instead of /etc/bianque/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key of the configuration; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// The agent's local socket (api.socket)
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Directory of the store (store.path)
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

impl Common {
    /// The sources of settings that these flags and the environment name.
    #[must_use]
    pub fn sources(&self, env: &std::collections::BTreeMap<String, String>) -> Sources {
        let file = environment::file(self.config.clone(), env);
        let mut sources = Sources { file, env: env.clone(), flags: Vec::new() };
        for (key, value) in &self.set {
            sources.flag(&format!("--set {key}"), key, value);
        }
        for (flag, key, path) in [("--socket", "api.socket", &self.socket), ("--store", "store.path", &self.store)] {
            if let Some(path) = path {
                sources.flag(flag, key, path.display());
            }
        }
        sources
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as store.max_age=3d")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent until SIGTERM or Ctrl-C
    Run(Run),
    /// List the collectors and what became of them
    List(List),
    /// Say what this node allows: will each collector run, by which hook, what is lost, what to do
    Doctor(Doctor),
    /// Show events, newest last
    Events(Events),
    /// Show incidents, newest last
    Incidents(Filter),
    /// Show one incident as a tree with its flame graph, or one event
    Show(Show),
    /// Show and check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make on a server what delivery to it needs
    #[command(subcommand)]
    Setup(SetupCommand),
    /// Write completions for a shell to standard output
    Completions { shell: Shell },
    /// Write a man page to standard output
    Man {
        /// The command whose page it is; without one, that of bianque
        command: Option<String>,
    },
    /// Say which version this is
    Version(Format),
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Address and port of the HTTP side (http.listen)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// What is logged: error, warn, info, debug, trace (log.level)
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<LogLevel>,
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    let all = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    all.into_iter().find(|l| l.as_str() == text).ok_or_else(|| "expected error, warn, info, debug or trace".into())
}

#[derive(Debug, Clone, Copy, Args)]
pub struct List {
    /// Also where each is attached, and what it emits
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Only these collectors
    #[arg(value_name = "COLLECTOR")]
    pub collectors: Vec<String>,
    /// Also where each would be attached
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Events {
    #[command(flatten)]
    pub filter: Filter,
    /// Only this severity and above: debug, info, warn, error, fatal
    #[arg(long, value_name = "SEVERITY")]
    pub severity: Option<String>,
    /// Go on as events come; with --since or --limit, after those of the past
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// From this time on: a duration back from now (10m, 2h, 1d12h) or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, in the same forms
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only this event name, a dotted part of it, or this collector
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only this container, pod or unit, or the container with an id that begins so
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// At most so many, the newest [default: 100]
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<String>,
    #[command(flatten)]
    pub format: Format,
}

/// How many rows a query shows when nothing is said.
const DEFAULT_LIMIT: usize = 100;

impl Filter {
    /// The question that the flags ask.
    ///
    /// # Errors
    /// Names the flag, its value and what would be valid.
    pub fn query(&self, severity: Option<&str>, now: Timestamp) -> Result<Query, query::BadQuery> {
        let mut q = Query { limit: Some(DEFAULT_LIMIT), ..Query::default() };
        let flags = [
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("name", self.name.as_deref()),
            ("container", self.container.as_deref()),
            ("severity", severity),
            ("limit", self.limit.as_deref()),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                q.set(key, value, now).map_err(|e| query::BadQuery { key: format!("--{key}"), ..e })?;
            }
        }
        Ok(q)
    }
}

#[derive(Debug, Args)]
pub struct Show {
    /// Id of an incident or event, or as much of its beginning as is unique
    pub id: String,
    #[command(flatten)]
    pub format: Format,
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what is in force and where each value came from; secrets are redacted
    Print {
        /// Write the commented default file instead
        #[arg(long)]
        default: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Say everything that is wrong with the configuration
    Check,
    /// Write the JSON schema of the file
    Schema,
}

/// The servers that need something.
#[derive(Debug, Subcommand)]
pub enum SetupCommand {
    /// Index templates and life cycle of the data streams, on the server of exporters.elasticsearch
    ///
    /// Says what it would do; with --yes, does it. Needs the cluster privileges manage_index_templates
    /// and manage_ilm. What is there as it should be is left alone, and so is a life cycle policy that
    /// is there; a component template bianque@custom, if you make one, has the last word.
    Elasticsearch(SetupElasticsearch),
}

#[derive(Debug, Args)]
pub struct SetupElasticsearch {
    /// Do it
    #[arg(long)]
    pub yes: bool,
    /// Show the whole requests
    #[arg(long)]
    pub bodies: bool,
    /// How long documents are kept, in days or hours
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = elasticsearch::setup::retention)]
    pub retention: String,
}
