// SPDX-License-Identifier: Apache-2.0
//! The binary as a user meets it: messages, exit codes and the shape of what it prints, on a node
//! without an agent.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

#[expect(clippy::disallowed_methods, reason = "the agent's own binary is what is tested")]
fn bianque(dir: &Path) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_bianque"));
    c.env_clear().current_dir(dir).stdin(Stdio::null());
    // Whatever runs on this machine is not asked.
    c.env("BIANQUE_API__SOCKET", dir.join("none.sock")).env("BIANQUE_STORE__PATH", dir.join("store"));
    c
}

fn run(args: &[&str], env: &[(&str, &str)], config: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), config).unwrap();
    let out: Output =
        bianque(dir.path()).args(["--config", "c.toml"]).args(args).envs(env.iter().copied()).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).replace(dir.path().to_str().unwrap(), "DIR");
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

/// All errors of a configuration are reported at once, with place, key, value and what would be valid; exit code 2.
#[test]
fn broken_configuration() {
    let config = "\
[metrics]
max_series = 'many'
interval = '15x'
[stor]
path = '/x'
[incident]
quiet = '20m'
[collectors.oomm]
enabled = true
[collectors.oom]
enabled = 'yes'
";
    let env = [("BIANQUE_LOG__LEVL", "info"), ("BIANQUE_METRICS__MAX_SERIES", "0")];
    let (code, out, err) = run(&["config", "check"], &env, config);
    let want = r#"
c.toml:3: metrics.interval = "15x": expected a duration such as "200ms", "15s", "1m30s" or "7d"
c.toml:4: stor: unknown key; did you mean `store`?
c.toml:7: incident.quiet = "20m": expected 1s to 10m
c.toml:8: collectors.oomm: unknown key; did you mean `oom`?
c.toml:11: collectors.oom.enabled = "yes": expected true or false
BIANQUE_LOG__LEVL: log.levl: unknown variable; did you mean `BIANQUE_LOG__LEVEL`?
BIANQUE_METRICS__MAX_SERIES: metrics.max_series = 0: expected 1 to 1000000
"#;
    // The faulty value of the file lies under the variable's, and shows once that is out of the way.
    let mut lines: Vec<&str> = err.lines().collect();
    lines.retain(|l| !l.starts_with("c.toml:2: metrics.max_series = \"many\": expected a whole number"));
    assert_eq!((code, out.as_str(), lines.join("\n").as_str()), (2, "", want.trim()));
    assert_eq!(err.lines().count(), lines.len() + 1, "{err}");
}

/// A file that was named must be there and must be TOML.
#[test]
fn broken_file() {
    let (code, _, err) = run(&["config", "check"], &[], "[metrics\n");
    assert_eq!(code, 2);
    assert!(err.starts_with("c.toml:1: is not TOML: "), "{err}");
    let dir = tempfile::tempdir().unwrap();
    let out = bianque(dir.path()).args(["run", "--config", "gone.toml"]).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{err}");
    assert!(err.starts_with("gone.toml: cannot be read: "), "{err}");
}

/// 0 for what was done, 1 for what failed, 2 for wrong usage.
#[test]
fn exit_codes() {
    for (args, code) in [
        (&["config", "check"][..], 0),
        (&["list"], 0),
        (&["--help"], 0),
        (&["version"], 0),
        (&["events"], 1),
        (&["show", "abc"], 1),
        (&["show"], 2),
        (&["events", "--since", "soon"], 2),
        (&["events", "--limit", "0"], 2),
        (&["incidents", "--set", "store.max_age=never"], 2),
        (&["doctor", "nosuch"], 2),
        (&["man", "nosuch"], 2),
        (&["nosuch"], 2),
    ] {
        let (got, out, err) = run(args, &[], "");
        assert_eq!(got, code, "{args:?}: {out}{err}");
        assert!(code == 0 || (out.is_empty() && !err.is_empty()), "{args:?}: {out}{err}");
    }
}

/// Without agent and without store, a query says both and what was looked for.
#[test]
fn nobody_answers() {
    let (_, _, err) = run(&["events"], &[], "");
    assert!(err.starts_with("error: no agent listens on DIR/none.sock: there is no store at DIR/store"), "{err}");
    let (code, _, err) = run(&["events", "--follow"], &[], "");
    assert_eq!(code, 1);
    assert!(err.contains("no agent listens on DIR/none.sock"), "{err}");
}

/// JSON output is one object a line with the documented keys.
#[test]
fn json_shapes() {
    let objects = |args: &[&str]| -> Vec<Json> {
        let (_, out, err) = run(args, &[], "[collectors.oom]\nenabled = false");
        let all: Vec<Json> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(!all.is_empty(), "{args:?}: {err}");
        all
    };
    for row in objects(&["list", "-o", "json"]) {
        let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "kind", "state", "hook", "reason", "emits"]);
        let state = if row["name"] == "oom" { "disabled" } else { "unknown" };
        assert!(row["name"] != "oom" || row["state"] == state, "{row}");
    }
    let doctor = objects(&["doctor", "oom", "-o", "json"]);
    for name in ["kernel", "btf", "lockdown", "cgroups", "capabilities", "memlock", "tracefs"] {
        assert!(doctor.iter().any(|f| f["type"] == "node" && f["name"] == name && f["state"].is_string()), "{name}");
    }
    assert!(doctor.iter().any(|f| f["type"] == "collector" && f["name"] == "oom"), "{doctor:?}");
    assert_eq!(objects(&["version", "-o", "json"])[0]["name"], "bianque");
    assert_eq!(objects(&["config", "print", "-o", "json"])[0]["metrics"]["interval"], "15s");
}

/// What is set wins in the documented order, and `config print` says where it came from.
#[test]
fn origins() {
    let env = [("BIANQUE_STORE__MAX_AGE", "2d"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")];
    let config = "[store]\nmax_age = '1d'\nmax_size = '2GiB'";
    let (code, out, err) = run(&["config", "print", "--set", "metrics.max_series=7"], &env, config);
    assert_eq!(code, 0, "{err}");
    let has =
        |value: &str, origin: &str| out.lines().any(|l| l.starts_with(value) && l.ends_with(&format!("# {origin}")));
    assert!(has("max_age = \"2d\"", "BIANQUE_STORE__MAX_AGE"), "{out}");
    assert!(has("max_size = \"2GiB\"", "c.toml:3"), "{out}");
    assert!(has("max_series = 7", "--set metrics.max_series"), "{out}");
    assert!(has("endpoint = \"http://c:4317\"", "OTEL_EXPORTER_OTLP_ENDPOINT"), "{out}");
}

/// The commented default file is a valid configuration, and the schema is JSON that knows the collectors.
#[test]
fn default_file_and_schema() {
    let (code, file, _) = run(&["config", "print", "--default"], &[], "");
    assert_eq!(code, 0);
    assert_eq!(run(&["config", "check"], &[], &file).0, 0);
    let (_, schema, _) = run(&["config", "schema"], &[], "");
    let schema: Json = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["properties"]["collectors"]["properties"]["oom"]["properties"]["enabled"]["default"], true);
}

/// Completions and man pages name the commands.
#[test]
fn completions_and_man() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completions", shell], &[], "");
        assert!(code == 0 && out.contains("incidents"), "{shell}");
    }
    let (code, page, _) = run(&["man"], &[], "");
    assert!(code == 0 && page.contains(".TH bianque") && page.contains("doctor"), "{page}");
    let (code, page, _) = run(&["man", "events"], &[], "");
    assert!(code == 0 && page.contains("follow"), "{page}");
    let (_, help, _) = run(&["--help"], &[], "");
    for code in ["0  it was done", "1  it failed", "2  wrong usage"] {
        assert!(help.contains(code), "{help}");
    }
}

/// Nothing is coloured and nothing is cut when the output is no terminal.
#[test]
fn plain_in_a_pipe() {
    let (_, out, _) = run(&["list"], &[], "");
    assert!(!out.contains('\x1b') && !out.contains('…'), "{out}");
    let (_, narrow, _) = run(&["list"], &[("COLUMNS", "60")], "");
    assert!(narrow.lines().all(|l| l.chars().count() <= 60), "{narrow}");
}

/// A reader that has enough is no failure: `bianque config schema | head -c1`.
#[test]
fn broken_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = bianque(dir.path())
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut one = [0];
    child.stdout.take().unwrap().read_exact(&mut one).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}
