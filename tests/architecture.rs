// SPDX-License-Identifier: Apache-2.0
//! The rules of the architecture, kept by reading the sources: who may import whom, where the
//! kernel is named, what a file must carry. Each failure says file, line and what to do.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/bpf.rs"]
mod bpf;
#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/crates.rs"]
mod crates;
#[path = "architecture/face.rs"]
mod face;
#[path = "architecture/keys.rs"]
mod keys;
#[path = "architecture/processes.rs"]
mod processes;
#[path = "architecture/rings.rs"]
mod rings;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MAX_FILE: usize = 600;
const MAX_FUNCTION: usize = 80;

/// Who may import whom, by the first folder (or file) below `src/`. What is not listed is free:
/// `agent`, `cli` and `api` see more than one side.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("signal", &[]),
    ("probe", &["signal"]),
    ("host", &["signal"]),
    (
        "helper",
        &["signal", "host::capabilities", "host::mounts", "workload::service", "workload::names", "workload::runtime"],
    ),
    ("workload", &["signal", "host", "probe"]),
    ("settings", &[]),
    ("collectors", &["signal", "probe", "host", "workload", "settings"]),
    ("pipeline", &["signal"]),
    ("files", &[]),
    ("exporters", &["signal", "files", "pipeline::log", "pipeline::metrics", "pipeline::backing"]),
    ("telemetry", &["signal", "exporters::otlp", "exporters::prometheus"]),
];

// --- reading ------------------------------------------------------------------------------------

/// A Rust source, taken apart as far as the rules need it. Line numbers are kept.
struct Source {
    /// Relative to the project.
    path: String,
    text: String,
    /// Without comments, test modules and what is inside string literals.
    code: String,
    /// String literals outside comments and test modules, with their lines.
    strings: Vec<(usize, String)>,
}

fn files(below: &str, keep: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            match path.file_name().and_then(|n| n.to_str()) {
                Some("target" | ".git") | None => {}
                Some(_) if path.is_dir() => walk(&path, out),
                Some(_) => out.push(path),
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(ROOT).join(below), &mut out);
    out.retain(|p| keep(p));
    out.sort();
    out
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

fn relative(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap_or(path).display().to_string()
}

fn rust(below: &str) -> Vec<Source> {
    files(below, |p| has_extension(p, "rs")).iter().map(|p| Source::read(p)).collect()
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        Self::parse(relative(path), text)
    }

    fn parse(path: String, text: String) -> Self {
        // `mod tests;` lies in a file of its own.
        let all_tests = path.starts_with("src/") && (path.ends_with("/tests.rs") || path.contains("/tests/"));
        let (code, strings) = take_apart(if all_tests { "" } else { without_tests(&text) });
        Source { path, text, code, strings }
    }

    /// Lines of code in which `found` sees something, as `path:line: what`.
    fn find(&self, found: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let lines = self.code.lines().enumerate();
        lines.filter_map(|(i, l)| found(l).map(|what| format!("{}:{}: {what}", self.path, i + 1))).collect()
    }

    /// Before each of [`Self::strings`]: the code that leads to it, on one line.
    fn before_strings(&self) -> Vec<String> {
        let before = |at: usize| {
            let start = self.code[..at].rfind(['=', ';']).map_or(0, |at| at + 1);
            self.code[start..at].split_whitespace().collect::<Vec<_>>().join(" ")
        };
        self.code.match_indices("\"\"").map(|(at, _)| before(at)).collect()
    }

    /// The first folder or file below `src/`.
    fn module(&self) -> &str {
        let rest = self.path.strip_prefix("src/").unwrap_or("");
        rest.split('/').next().unwrap_or("").trim_end_matches(".rs")
    }

    /// Modules of ours that the code names, as far as two levels: `pipeline::log`.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            if self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let line = self.code[..at].matches('\n').count() + 1;
            let mut all = Vec::new();
            leaves(&self.code[at + "crate::".len()..], &[], &mut all);
            let mut two: Vec<String> = all.iter().map(|path| path[..path.len().min(2)].join("::")).collect();
            two.dedup();
            out.extend(two.into_iter().map(|path| (line, path)));
        }
        out
    }
}

/// All paths of a use tree, in full; returns how many bytes it took.
fn leaves(tree: &str, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut rest = tree.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if rest.is_empty() || rest.starts_with('}') {
                return tree.len() - rest.len() + 1;
            }
            let used = leaves(rest, prefix, out).max(1);
            rest = rest.get(used..).unwrap_or("");
        }
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let path = if end == 0 { prefix.to_vec() } else { [prefix, &[rest[..end].to_owned()]].concat() };
    rest = &rest[end..];
    if let Some(more) = rest.strip_prefix("::").filter(|_| end > 0) {
        return tree.len() - more.len() + leaves(more, &path, out);
    }
    out.push(path);
    if let Some(name) = rest.strip_prefix(" as ") {
        rest = name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
    }
    tree.len() - rest.len()
}

/// What stands before the tests of a file: they are last, by custom.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..=at])
}

/// Code without comments and with empty string literals, and the literals themselves.
fn take_apart(text: &str) -> (String, Vec<(usize, String)>) {
    let mut code = String::with_capacity(text.len());
    let mut strings = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = raw_string(rest);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some((start, end, len)) =
            raw.filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        {
            strings.push((line, rest[start..end].to_owned()));
            code.push_str("\"\"");
            len
        } else if c == '"' {
            let end = end_of_string(&rest[1..]) + 1;
            strings.push((line, rest[1..end].to_owned()));
            code.push_str("\"\"");
            (end + 1).min(rest.len())
        } else if let Some(len) = char_literal(rest) {
            code.push_str("' '");
            len
        } else {
            code.push(c);
            c.len_utf8()
        };
        let newlines = rest[..skipped].matches('\n').count();
        line += newlines;
        if skipped > c.len_utf8() {
            code.extend(std::iter::repeat_n('\n', newlines));
        }
        rest = &rest[skipped..];
    }
    (code, strings)
}

/// Start and end of the content, and length, of the raw string that `rest` begins with.
fn raw_string(rest: &str) -> Option<(usize, usize, usize)> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].strip_prefix('"')?;
    let start = rest.len() - body.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = start + rest[start..].find(&close)?;
    Some((start, end, end + close.len()))
}

fn end_of_string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return at,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// Length of a character literal; lifetimes are none.
fn char_literal(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if body.starts_with('\\') {
        return body[2..].find('\'').map(|at| at + 4);
    }
    let c = body.chars().next()?;
    body[c.len_utf8()..].starts_with('\'').then(|| c.len_utf8() + 2)
}

/// Does `line` have `word` as a word of its own?
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

fn none(problems: &[String], rule: &str) {
    let mut list = String::new();
    for p in problems {
        let _ = write!(list, "\n  {p}");
    }
    assert!(problems.is_empty(), "{rule}{list}");
}

// --- imports ------------------------------------------------------------------------------------

/// The data's way has one direction: nobody imports what comes after.
#[test]
fn modules_import_only_what_they_may() {
    let mut problems = Vec::new();
    for source in rust("src") {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(m, _)| *m == source.module()) else { continue };
        for (line, path) in source.imports() {
            let top = path.split("::").next().unwrap_or("");
            let known = Path::new(ROOT).join("src").join(top).is_dir()
                || Path::new(ROOT).join("src").join(format!("{top}.rs")).exists();
            let ours = top == source.module();
            let fine = allowed.iter().any(|a| *a == top || path == *a || path.starts_with(&format!("{a}::")));
            if known && !ours && !fine {
                problems.push(format!(
                    "{}:{line}: {} imports {path}; it may import {allowed:?} — what both need moves down",
                    source.path,
                    source.module()
                ));
            }
        }
    }
    none(&problems, "an import goes against the data's way");
}

/// One collector can be read, changed and removed without another.
#[test]
fn collectors_do_not_know_each_other() {
    let mut problems = Vec::new();
    for kind in ["metrics", "events", "autotracing"] {
        let sources = rust(&format!("src/collectors/{kind}"));
        let stems: Vec<String> = collectors(kind);
        for source in &sources {
            if source.path.ends_with(&format!("{kind}/mod.rs")) {
                continue;
            }
            let depth = source.path.matches('/').count();
            problems.extend(source.find(|line| {
                let across =
                    ["metrics", "events", "autotracing"].iter().any(|k| line.contains(&format!("collectors::{k}::")));
                let sibling = depth == 3 && stems.iter().any(|s| has_word(line, &format!("super::{s}")));
                (across || sibling).then(|| "names another collector; what they share moves down".to_owned())
            }));
        }
    }
    none(&problems, "collectors never import each other");
}

// --- names --------------------------------------------------------------------------------------

fn literals(below: &str, bad: impl Fn(&Source, &str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for source in rust(below) {
        for (line, text) in &source.strings {
            if let Some(what) = bad(&source, text) {
                problems.push(format!("{}:{line}: {what}", source.path));
            }
        }
    }
    problems
}

/// What declares names, as it stands before the literal, and what kind of name that is.
const DECLARATIONS: &[(&str, &str)] = &[
    ("MetricDef::counter(", "metric"),
    ("MetricDef::up_down_counter(", "metric"),
    ("MetricDef::gauge(", "metric"),
    ("MetricDef::histogram(", "metric"),
    ("EventDef { name:", "event"),
    ("Key::new(", "attribute"),
];

/// A name stands once, in its declaration, so that it cannot be spelled in two ways nor mean two things.
#[test]
fn names_of_signals_stand_in_their_declaration() {
    let mut problems = Vec::new();
    let mut seen: BTreeMap<(&str, String), String> = BTreeMap::new();
    for source in rust("src") {
        let names = source.strings.iter().zip(source.before_strings()).filter(|((_, text), _)| is_signal_name(text));
        for ((line, text), before) in names {
            let place = format!("{}:{line}", source.path);
            let Some((_, kind)) = DECLARATIONS.iter().find(|(d, _)| before.ends_with(d)) else {
                problems.push(format!("{place}: {text:?} is a name outside of a declaration: use the declared one"));
                continue;
            };
            if let Some(first) = seen.insert((kind, text.clone()), place.clone()) {
                problems.push(format!("{place}: the {kind} {text:?} is declared at {first} already"));
            }
        }
    }
    assert!(seen.len() > 100, "declarations are found: {}", seen.len());
    none(
        &problems,
        "names are literals in MetricDef, EventDef and Key only, each once; what several read is in signal::semconv",
    );
}

fn is_signal_name(text: &str) -> bool {
    const SPACES: &[&str] =
        &["linux.", "system.", "container.", "k8s.", "process.", "thread.", "host.", "service.", "hw."];
    SPACES.iter().any(|s| text.starts_with(s))
        && !text.ends_with('.')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_'))
}

/// Names of collectors, over all kinds: files or folders below `src/collectors/KIND`.
fn collectors(kind: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(Path::new(ROOT).join("src/collectors").join(kind)) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| {
        let path = e.path();
        let folder = path.is_dir() && path.join("mod.rs").exists();
        let stem = path.file_stem()?.to_str()?.to_owned();
        (folder || has_extension(&path, "rs")).then_some(stem).filter(|s| s != "mod")
    });
    names.collect()
}

/// A collector's name is its file's, and one name means one collector.
#[test]
fn collectors_have_one_name_each() {
    let mut problems = Vec::new();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for kind in ["metrics", "events", "autotracing"] {
        for name in collectors(kind) {
            if let Some(other) = seen.insert(name.clone(), kind) {
                problems.push(format!("{name} is a collector of {other} and of {kind}"));
            }
            let base = Path::new(ROOT).join("src/collectors").join(kind);
            let text = fs::read_to_string(base.join(format!("{name}.rs")))
                .or_else(|_| fs::read_to_string(base.join(&name).join("mod.rs")))
                .unwrap();
            let info = text.find("const INFO").map_or("", |at| &text[at..]);
            if !info.contains(&format!("name: \"{name}\"")) {
                problems.push(format!("src/collectors/{kind}/{name}: INFO.name is not {name:?}, the file's name"));
            }
        }
    }
    none(&problems, "a collector's name is unique over the three kinds, and its file's");
}

// --- form ---------------------------------------------------------------------------------------

/// The head of a script's or source's text says what it may be used for.
#[test]
fn every_source_says_its_licence() {
    let mut problems = Vec::new();
    let is_source = |p: &Path| {
        let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let script = || fs::read(p).is_ok_and(|b| b.starts_with(b"#!"));
        ["rs", "c", "h", "sh"].iter().any(|e| has_extension(p, e)) || name == "Makefile" || script()
    };
    let mut all: Vec<PathBuf> = ["src", "build", "bpf", "tests", "examples", "benches", ".ci", "deploy"]
        .iter()
        .flat_map(|dir| files(dir, is_source))
        .collect();
    all.extend(["build.rs", "Makefile"].iter().map(|f| Path::new(ROOT).join(f)).filter(|p| p.exists()));
    for path in all {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let name = relative(&path);
        let wanted = if name.starts_with("bpf/") || name.ends_with(".bpf.c") {
            "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
        } else {
            "SPDX-License-Identifier: "
        };
        let count = text.lines().take(4).filter(|l| l.contains(wanted)).count();
        if count != 1 {
            problems.push(format!("{name}: no line with `{wanted}` at its head"));
        }
    }
    none(&problems, "one SPDX line a file");
}

/// A file can be read in one sitting.
#[test]
fn files_stay_readable() {
    let mut problems = Vec::new();
    for below in ["src", "build", "tests", "examples", "benches"] {
        for source in rust(below) {
            let lines = source.text.lines().count();
            if lines > MAX_FILE {
                problems.push(format!("{}: {lines} lines, at most {MAX_FILE}", source.path));
            }
            let documented =
                source.path.ends_with("/tests.rs") || source.text.lines().take(3).any(|l| l.starts_with("//! "));
            if below == "src" && !documented {
                problems.push(format!("{}: does not begin with `//! ` and what it is for", source.path));
            }
        }
    }
    none(&problems, "split the file by what its parts are for");
}

/// A function fits a screen. The formatter puts its end in the column of its beginning.
#[test]
fn functions_stay_readable() {
    let mut problems = Vec::new();
    for below in ["src", "build", "tests", "examples", "benches"] {
        for source in rust(below) {
            let lines: Vec<&str> = source.text.lines().collect();
            for (start, line) in lines.iter().enumerate() {
                let body = line.trim_start();
                let indent = &line[..line.len() - body.len()];
                if body.starts_with("//") || !has_word(body, "fn") || !begins_function(body) {
                    continue;
                }
                let end = lines[start..].iter().position(|l| *l == format!("{indent}}}"));
                let counts = |l: &&&str| !l.trim().is_empty() && !l.trim_start().starts_with("//");
                // As clippy counts: the body's lines, without comments and blank ones.
                let length = end.map(|n| lines[start + 1..start + n].iter().filter(counts).count());
                if let Some(length) = length.filter(|n| *n > MAX_FUNCTION) {
                    problems.push(format!("{}:{}: {length} lines, at most {MAX_FUNCTION}", source.path, start + 1));
                }
            }
        }
    }
    none(&problems, "split the function");
}

fn begins_function(body: &str) -> bool {
    let words = body.split_whitespace();
    let mut words = words.skip_while(|w| w.starts_with("pub") || matches!(*w, "async" | "const" | "unsafe" | "extern"));
    words.next() == Some("fn") && !body.ends_with(';') && !body.ends_with('}')
}

// --- the reader itself --------------------------------------------------------------------------

/// Comments, strings, characters and tests are no code; everything else is, on its own line.
#[test]
fn sources_are_taken_apart() {
    let text = "use crate::a; // crate::no\nlet s = \"/proc/x \\\" y\"; let c = '\"';\n/* unsafe\n */ let r = r#\"a\"b\"#;\nfn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod tests { unsafe {} }\n";
    let source = Source::parse("src/x.rs".into(), text.into());
    assert_eq!(source.strings, [(2, "/proc/x \\\" y".to_owned()), (4, "a\"b".to_owned())]);
    assert!(!source.code.contains("unsafe") && !source.code.contains("no"));
    assert_eq!(source.before_strings(), ["", ""]);
    assert_eq!(source.code.lines().nth(4), Some("fn f<'a>(x: &'a str) {}"));
}

/// Nested imports are followed to the second level, and no deeper path is mistaken for a module.
#[test]
fn imports_are_found() {
    let text = "use crate::{host::Host, pipeline::{log::Reader, metrics}, signal};\nfn f() -> crate::exporters::store::Store {}\nuse mycrate::agent;\n";
    let source = Source::parse("src/x.rs".into(), text.into());
    let found: Vec<String> = source.imports().into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(found, ["1 host::Host", "1 pipeline::log", "1 pipeline::metrics", "1 signal", "2 exporters::store"]);
}
