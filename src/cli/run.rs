// SPDX-License-Identifier: Apache-2.0
//! `run`: the agent itself.

use super::{Context, Done, args};

pub fn run(cx: &mut Context<'_>, args: &args::Run) -> Done {
    let mut sources = cx.common.sources(&cx.env);
    if let Some(listen) = args.listen {
        sources.flag("--listen", "http.listen", listen);
    }
    if let Some(level) = args.log_level {
        sources.flag("--log-level", "log.level", level.as_str());
    }
    let loaded = crate::config::load(&sources, cx.registrations).map_err(super::Failure::Config)?;
    Ok(crate::agent::run(loaded, sources, cx.registrations)?)
}
