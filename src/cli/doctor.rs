// SPDX-License-Identifier: Apache-2.0
//! `doctor`: what this node allows, and what becomes of each collector here. Loads every probe for a
//! moment and takes it away again.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::args::{self, Output};
use super::screen::{Progress, Screen, Style};
use super::table::Table;
use super::{Context, Done, Failure, block_on};
use crate::api::Client;
use crate::collectors::{BUILT_IN, Registration};
use crate::config::Config;
use crate::host::node::{Limit, Lockdown};
use crate::host::{Cgroups, Host, capabilities};
use crate::probe::shared::Feature;
use crate::probe::{Loader, Report, Skeleton};

/// Capabilities that the agent needs, whatever collectors it runs.
const NEEDED: [&str; 2] = ["CAP_BPF", "CAP_PERFMON"];

pub fn run(cx: &mut Context<'_>, args: &args::Doctor) -> Done {
    for name in &args.collectors {
        if !cx.registrations.iter().any(|r| r.info.name == name) {
            let all: Vec<&str> = cx.registrations.iter().map(|r| r.info.name).collect();
            return Err(Failure::Usage(format!("there is no collector {name:?}; there are {}", all.join(", "))));
        }
    }
    let config = cx.load()?.config;
    let host = Host::default();
    let mut facts = facts(&host);
    facts.extend(block_on(symbols(&Client::unix(&config.api.socket)))?);
    let mut progress = Progress::default();
    progress.step("reading the kernel's types");
    let mut loader = Loader::new();
    let mut rows = Vec::new();
    for r in cx.registrations {
        if args.collectors.is_empty() || args.collectors.iter().any(|n| n == r.info.name) {
            progress.step(&format!("trying {}", r.info.name));
            rows.push(examine(r, &config, &host, &mut loader));
        }
    }
    drop(progress);
    match args.format.output {
        Output::Json => {
            for fact in &facts {
                cx.screen.line(&fact.json().to_string())?;
            }
            for row in &rows {
                cx.screen.line(&row.to_string())?;
            }
        }
        Output::Table => write(&mut cx.screen, &facts, &rows, args.verbose)?,
    }
    // What is merely absent here is no failure; what the agent cannot live without is.
    if facts.iter().any(|f| f.verdict == Verdict::Bad) { Err(said(cx)) } else { Ok(()) }
}

fn said(cx: &mut Context<'_>) -> Failure {
    match cx.screen.flush() {
        Ok(()) => Failure::Said,
        Err(e) => e.into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It costs some collector something.
    Less,
    /// No probe can load.
    Bad,
}

/// One thing about the node.
struct Fact {
    name: &'static str,
    value: String,
    verdict: Verdict,
    /// What it means, and what to do.
    remedy: String,
}

impl Fact {
    fn new(name: &'static str, value: impl Into<String>, verdict: Verdict, remedy: &str) -> Self {
        let remedy = if verdict == Verdict::Good { String::new() } else { remedy.to_owned() };
        Fact { name, value: value.into(), verdict, remedy }
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Good => "ok",
            Verdict::Less => "limited",
            Verdict::Bad => "missing",
        }
    }

    fn json(&self) -> Json {
        let remedy = Some(&self.remedy).filter(|r| !r.is_empty());
        json!({ "type": "node", "name": self.name, "value": self.value, "state": self.word(), "remedy": remedy })
    }
}

fn verdict(good: bool, otherwise: Verdict) -> Verdict {
    if good { Verdict::Good } else { otherwise }
}

/// What the agent that runs here, if one does, says of programs without names.
async fn symbols(client: &Client) -> Option<Fact> {
    let line = client.get("/readyz", &[]).await.ok()?.next().await.ok()??;
    let state: Json = serde_json::from_str(&line).ok()?;
    let remedy =
        "find what mounts them in /proc/self/mountinfo of the programs; what they hold is let go when they answer";
    Some(Fact::new("symbols", state["symbols"].as_str()?, Verdict::Less, remedy))
}

/// What the node allows.
fn facts(host: &Host) -> Vec<Fact> {
    let unread = |e: crate::host::ReadError| e.to_string();
    let btf = host.btf();
    let lockdown = host.lockdown();
    let held = capabilities::effective(host).unwrap_or_default();
    let lacking: Vec<&str> = NEEDED.into_iter().filter(|c| !holds(&held, c)).collect();
    let tracefs = host.tracefs();
    vec![
        Fact::new("kernel", host.kernel_release().unwrap_or_else(unread), Verdict::Good, ""),
        Fact::new("arch", Host::arch(), Verdict::Good, ""),
        Fact::new(
            "btf",
            btf.as_ref().map_or("absent".into(), |p| p.display().to_string()),
            verdict(btf.is_some(), Verdict::Bad),
            "no probe can load: the kernel must be built with CONFIG_DEBUG_INFO_BTF=y",
        ),
        Fact::new(
            "lockdown",
            match lockdown {
                Lockdown::Absent => "absent",
                Lockdown::None => "none",
                Lockdown::Integrity => "integrity",
                Lockdown::Confidentiality => "confidentiality",
            },
            verdict(lockdown != Lockdown::Confidentiality, Verdict::Bad),
            "no probe may read kernel memory: boot with lockdown=integrity",
        ),
        cgroups(host),
        Fact::new(
            "capabilities",
            if lacking.is_empty() { NEEDED.join(" ") } else { format!("without {}", lacking.join(" ")) },
            verdict(lacking.is_empty(), Verdict::Bad),
            "run as root, or give the service these capabilities (AmbientCapabilities= in its unit)",
        ),
        memlock(host, &held),
        Fact::new(
            "tracefs",
            tracefs.as_ref().map_or("absent".into(), |p| p.display().to_string()),
            verdict(tracefs.is_some(), Verdict::Less),
            "hooks on plain tracepoints and kprobes are not to be had: mount -t tracefs tracefs /sys/kernel/tracing",
        ),
        Fact::new("kprobes", if host.has_kprobes() { "yes" } else { "no; tracepoints serve" }, Verdict::Good, ""),
        Fact::new(
            "fentry",
            match host.has_ftrace() {
                Some(true) => "yes",
                Some(false) => "no; tracepoints serve",
                None => "not known",
            },
            Verdict::Good,
            "",
        ),
    ]
}

/// `CAP_SYS_ADMIN` stands for the capabilities that were split from it in 5.8: capabilities(7).
fn holds(held: &BTreeSet<String>, capability: &str) -> bool {
    held.contains(capability)
        || (["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"].contains(&capability) && held.contains("CAP_SYS_ADMIN"))
}

fn cgroups(host: &Host) -> Fact {
    match Cgroups::read(host) {
        Ok(c) => Fact::new("cgroups", c.mode.as_str(), Verdict::Good, ""),
        Err(e) => Fact::new(
            "cgroups",
            e.to_string(),
            Verdict::Less,
            "nothing can be attributed to containers: mount cgroupfs",
        ),
    }
}

/// Since 5.11 BPF memory counts against the cgroup, not against RLIMIT_MEMLOCK.
fn memlock(host: &Host, held: &BTreeSet<String>) -> Fact {
    let limit = host.memlock_limit();
    let old = host.kernel_release().ok().and_then(|r| version(&r)).is_some_and(|v| v < (5, 11));
    let small = matches!(limit, Ok(Limit::Bytes(n)) if n < 64 << 20) && !held.contains("CAP_SYS_RESOURCE");
    let value = match limit {
        Ok(Limit::Unlimited) => "unlimited".into(),
        Ok(Limit::Bytes(n)) => crate::signal::ByteSize(n).to_string(),
        Err(e) => e.to_string(),
    };
    let remedy = "this kernel counts BPF maps against it: LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited";
    Fact::new("memlock", value, verdict(!(old && small), Verdict::Less), remedy)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What becomes of one collector here.
fn examine(r: &Registration, config: &Config, host: &Host, loader: &mut Loader) -> Json {
    let mut hooks = Vec::new();
    let mut lost: Vec<String> = Vec::new();
    let mut reason = None;
    for skeleton in skeletons(r) {
        let report = loader.try_load(skeleton, &optional_slots(r, skeleton));
        for hook in &report.hooks {
            hooks.extend(hook.attached.map(ToString::to_string));
        }
        lost.extend(missing(r, &report));
        reason = reason.or(report.error.map(|e| e.to_string()));
    }
    let held = capabilities::effective(host).unwrap_or_default();
    let lacking: Vec<&str> = r.info.kept_capabilities().into_iter().filter(|c| !holds(&held, c)).collect();
    if !lacking.is_empty() {
        lost.push(format!("without {} some of its readings fail", lacking.join(", ")));
    }
    let hooked = reason.is_none();
    match (r.survey)(host) {
        Ok(files) => lost.extend(files),
        Err(e) => reason = reason.or(Some(e.to_string())),
    }
    let enabled = config.collector(r.info.name).enabled;
    let state = match (&reason, enabled) {
        (Some(_), _) => "unavailable",
        (None, false) => "disabled",
        (None, true) => "available",
    };
    let remedy = match (&reason, enabled, lacking.is_empty()) {
        // What is to be done for a file is in the reason.
        (Some(_), _, _) if hooked => None,
        (Some(_), _, _) => Some("see the node's lines marked missing or limited; else a newer kernel".to_owned()),
        (None, false, _) => Some(format!("set collectors.{}.enabled = true", r.info.name)),
        (None, true, false) => Some(format!("give the agent {}", lacking.join(", "))),
        (None, true, true) => None,
    };
    let hook = (!hooks.is_empty()).then(|| hooks.join(", "));
    json!({
        "type": "collector", "name": r.info.name, "kind": r.kind.name(), "state": state, "hook": hook,
        "reason": reason, "lost": lost, "remedy": remedy,
    })
}

/// Hooks that may be missing: of a shared probe those of all its features, as another's are not loaded for this one.
fn optional_slots(r: &Registration, skeleton: &Skeleton) -> Vec<&'static str> {
    let others = BUILT_IN.iter().flat_map(|other| other.info.needs).filter(|f| f.skeleton().name == skeleton.name);
    r.info.optional.iter().chain(others.flat_map(Feature::optional)).map(|o| o.slot).collect()
}

/// Its own object and the shared probes that it reads, each once.
fn skeletons(r: &Registration) -> Vec<&'static Skeleton> {
    let mut all: Vec<&Skeleton> = r.info.object.into_iter().collect();
    for shared in r.info.needs.iter().map(|f| f.skeleton()) {
        if !all.iter().any(|s| s.name == shared.name) {
            all.push(shared);
        }
    }
    all
}

/// What the collector does without, by its own words.
fn missing(r: &Registration, report: &Report) -> Vec<String> {
    let gone = report.hooks.iter().filter(|h| h.attached.is_none());
    gone.filter_map(|h| {
        let optional = r.info.all_optional().find(|o| o.slot == h.slot)?;
        Some(format!("{} ({})", optional.lost, h.refused.join("; ")))
    })
    .collect()
}

fn write(screen: &mut Screen, facts: &[Fact], rows: &[Json], verbose: bool) -> std::io::Result<()> {
    let plain = |text: &str| (text.to_owned(), Style::Plain);
    let mut table = Table::wrapped(&["NODE", "STATE", "VALUE", "WHAT TO DO"]);
    for f in facts {
        let style = match f.verdict {
            Verdict::Good => Style::Green,
            Verdict::Less => Style::Yellow,
            Verdict::Bad => Style::Red,
        };
        table.row([plain(f.name), (f.word().into(), style), plain(&f.value), plain(&f.remedy)]);
    }
    table.write(screen)?;
    if rows.is_empty() {
        return Ok(());
    }
    screen.line("")?;
    let hooks: &[&str] = if verbose { &["HOOK"] } else { &[] };
    let mut table = Table::wrapped(&[&["COLLECTOR", "KIND", "STATE", "LOST", "WHAT TO DO"], hooks].concat());
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let style = match text("state") {
            "available" => Style::Green,
            "unavailable" => Style::Red,
            _ => Style::Dim,
        };
        let lost: Vec<&str> = row["lost"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let lost = if text("reason").is_empty() { lost.join("; ") } else { text("reason").to_owned() };
        let cells = [
            (text("name").into(), Style::Bold),
            plain(text("kind")),
            (text("state").into(), style),
            plain(&lost),
            plain(text("remedy")),
        ];
        table.row(cells.into_iter().chain(verbose.then(|| plain(text("hook")))));
    }
    table.write(screen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CAP_SYS_ADMIN stands for what was split from it, and for nothing else.
    #[test]
    fn capabilities_that_stand_for_others() {
        let held = BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]);
        assert!(holds(&held, "CAP_BPF") && holds(&held, "CAP_PERFMON"));
        assert!(!holds(&held, "CAP_NET_ADMIN"));
    }

    /// Releases of distributions are read to their first two numbers.
    #[test]
    fn releases() {
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("6.18.5"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }

    /// All collectors of a node that has none of their hooks, and that node's facts, in 100 columns, `-v` or not; no error
    /// is a number.
    #[test]
    fn fits_a_hundred_columns() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::under(dir.path());
        let kernel = crate::probe::Memory::new(&host.proc, 1);
        let refuse = |verbose| {
            let mut loader = Loader::in_memory(&kernel);
            let config = Config::default();
            let rows: Vec<Json> = BUILT_IN.iter().map(|r| examine(r, &config, &host, &mut loader)).collect();
            let (mut screen, written) = Screen::in_memory(None);
            write(&mut screen, &facts(&host), &rows, verbose).unwrap();
            drop(screen);
            written.text()
        };
        for r in BUILT_IN {
            for skeleton in skeletons(r) {
                let why = "tracepoint sched/sched_with_a_long_name: not on this kernel";
                skeleton.slots().into_iter().for_each(|slot| kernel.refuse(skeleton, slot, why));
            }
        }
        for verbose in [false, true] {
            let text = refuse(verbose);
            assert!(text.lines().all(|l| crate::cli::table::len(l) <= 100), "{text}");
            assert_eq!(text.contains("HOOK"), verbose);
            assert!(BUILT_IN.iter().all(|r| text.contains(r.info.name)));
        }
    }

    /// A hook that only another collector has an optional use for costs this one nothing, as in the agent.
    #[test]
    fn hooks_of_others_are_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::under(dir.path());
        let kernel = crate::probe::Memory::new(&host.proc, 1);
        kernel.refuse(&crate::probe::skeletons::net::SKELETON, "trapped", "not on this kernel");
        let state = |name: &str| {
            let r = BUILT_IN.iter().find(|r| r.info.name == name).unwrap();
            examine(r, &Config::default(), &host, &mut Loader::in_memory(&kernel))
        };
        for name in ["dropwatch", "tcp_retransmit", "netrecvlat"] {
            assert!(state(name)["reason"].is_null(), "{name}: {}", state(name));
        }
        assert!(state("dropwatch")["lost"].to_string().contains("devlink"));
        assert!(!state("tcp_retransmit")["lost"].to_string().contains("devlink"));
    }

    /// A collector without the files that it reads is unavailable, with what they would take; one without a part says which.
    #[test]
    fn files_that_a_node_does_not_have() {
        let rig = crate::collectors::testing::Rig::new().unwrap();
        let row = |name: &str| {
            let r = BUILT_IN.iter().find(|r| r.info.name == name).unwrap();
            examine(r, &Config::default(), rig.host(), &mut Loader::in_memory(rig.kernel()))
        };
        assert!(row("schedstat")["reason"].is_null() && row("pressure")["reason"].is_null());
        rig.remove("proc/schedstat").unwrap();
        rig.remove("proc/pressure").unwrap();
        for (name, option) in [("schedstat", "CONFIG_SCHEDSTATS"), ("pressure", "CONFIG_PSI")] {
            let row = row(name);
            assert!(row["state"] == "unavailable" && row["remedy"].is_null(), "{row}");
            assert!(row["reason"].as_str().is_some_and(|why| why.contains(option)), "{row}");
        }
        assert!(row("cpufreq")["reason"].is_null() && row("cpufreq")["lost"].to_string().contains("driver"));
    }

    /// On a node without anything, every fact says what is missing and what to do.
    #[test]
    fn facts_of_an_empty_node() {
        let dir = tempfile::tempdir().unwrap();
        let facts = facts(&Host::under(dir.path()));
        let fact = |name: &str| facts.iter().find(|f| f.name == name).unwrap();
        assert_eq!(fact("btf").verdict, Verdict::Bad);
        assert!(fact("btf").remedy.contains("CONFIG_DEBUG_INFO_BTF"));
        assert_eq!(fact("capabilities").verdict, Verdict::Bad);
        assert_ne!(fact("tracefs").verdict, Verdict::Good);
        assert_eq!(fact("tracefs").json()["state"], "limited");
    }
}
