// SPDX-License-Identifier: Apache-2.0
//! No two folders, and no two files of a folder, import each other, directly or by way of others.
//!
//! A folder counts as one with all that is below it. Between a module and its own submodules both
//! directions are fine: the one is made of the others. An import by way of a re-export (`use
//! super::Outcome`, where the parent has `pub use outcome::Outcome`) is one of the file behind it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, leaves, none, rust};

type Path = Vec<String>;

/// Who imports whom, of the direct children of one folder, and one import that shows it.
type Edges = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn nobody_imports_each_other() {
    let folders = by_folder(&rust("src"));
    let of = |(folder, edges): (&String, &Edges)| {
        circles(edges).into_iter().map(|members| describe(folder, &members, edges)).collect::<Vec<_>>()
    };
    let problems: Vec<String> = folders.iter().flat_map(of).collect();
    none(&problems, "no circles: move what both sides need to a file of its own");
}

fn describe(folder: &str, members: &[String], edges: &Edges) -> String {
    let within = |to: &String| members.contains(to);
    let shown = members.iter().flat_map(|m| edges[m].iter().filter(|(to, _)| within(to)).map(|(_, how)| how.as_str()));
    format!("{folder}: {} import each other: {}", members.join(", "), shown.collect::<Vec<_>>().join("; "))
}

/// The module that a source is: `src/api/mod.rs` is `api`.
fn module(path: &str) -> Path {
    let rest = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Path = rest.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

fn by_folder(sources: &[Source]) -> BTreeMap<String, Edges> {
    let sources = sources.iter().filter(|s| s.path != "src/main.rs" && !s.code.is_empty());
    let modules: BTreeMap<Path, &Source> = sources.map(|s| (module(&s.path), s)).collect();
    let handed_on = handed_on(&modules);
    let mut out: BTreeMap<String, Edges> = BTreeMap::new();
    for (from, source) in &modules {
        for (line, base, path) in mentions(&source.code, from) {
            let to = target(&modules, &handed_on, base, path);
            // The last folder that both are in, and its children that they are or are in.
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) {
                let folder = [&["src".to_owned()], &from[..shared]].concat().join("/");
                let how = format!("{}:{line} imports {}", source.path, to.join("::"));
                let edges = out.entry(folder).or_default();
                edges.entry(a.clone()).or_default().entry(b.clone()).or_insert(how);
                edges.entry(b.clone()).or_default();
            }
        }
    }
    out
}

/// The file in which a path ends, past re-exports.
fn target(
    modules: &BTreeMap<Path, &Source>,
    handed_on: &BTreeMap<(Path, String), Path>,
    base: Path,
    path: Path,
) -> Path {
    let (mut at, mut rest) = longest(modules, [base, path].concat());
    // Re-exports may follow each other; none goes deeper than the tree.
    for _ in 0..8 {
        let Some(next) = rest.first().and_then(|name| handed_on.get(&(at.clone(), name.clone()))) else { break };
        (at, rest) = (next.clone(), rest);
    }
    at
}

/// The longest beginning of a path that is a module, and what follows it.
fn longest(modules: &BTreeMap<Path, &Source>, mut path: Path) -> (Path, Path) {
    let mut len = path.len();
    while len > 0 && !modules.contains_key(&path[..len]) {
        len -= 1;
    }
    let rest = path.split_off(len);
    (path, rest)
}

/// What modules hand on of their submodules, by name: `use outcome::Outcome` in `exporters::otlp`.
fn handed_on(modules: &BTreeMap<Path, &Source>) -> BTreeMap<(Path, String), Path> {
    let mut out = BTreeMap::new();
    for (module, source) in modules {
        for (at, _) in source.code.match_indices("use ") {
            if source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let mut all = Vec::new();
            leaves(&source.code[at + 4..], &[], &mut all);
            for path in all {
                let name = path.last().cloned().unwrap_or_default();
                let (to, _) = longest(modules, [module.clone(), path].concat());
                if to.len() > module.len() && to.starts_with(module) {
                    out.insert((module.clone(), name), to);
                }
            }
        }
    }
    out
}

/// Paths that begin with `crate::` or `super::`: their line, the module that they begin at, the rest.
fn mentions(code: &str, module: &[String]) -> Vec<(usize, Path, Path)> {
    let mut out = Vec::new();
    for word in ["crate::", "super::"] {
        for (at, _) in code.match_indices(word) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':')) {
                continue;
            }
            let mut rest = &code[at..];
            let mut base = if word == "crate::" { Path::new() } else { module.to_vec() };
            while let Some(more) = rest.strip_prefix("super::") {
                base.pop();
                rest = more;
            }
            let mut all = Vec::new();
            leaves(rest.strip_prefix("crate::").unwrap_or(rest), &[], &mut all);
            let line = code[..at].matches('\n').count() + 1;
            out.extend(all.into_iter().map(|path| (line, base.clone(), path)));
        }
    }
    out
}

/// Groups of members that reach each other.
fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = edges.keys().map(|from| (from, reach(edges, from))).collect();
    let mut out = BTreeSet::new();
    for (from, to) in &reached {
        if to.contains(from) {
            out.insert(to.iter().filter(|t| reached[*t].contains(from)).map(|t| (*t).clone()).collect::<Vec<_>>());
        }
    }
    out.into_iter().collect()
}

fn reach<'a>(edges: &'a Edges, from: &String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = edges[from].keys().collect();
    while let Some(to) = next.pop() {
        if seen.insert(to) {
            next.extend(edges[to].keys());
        }
    }
    seen
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> = files.iter().map(|(p, t)| Source::parse((*p).to_owned(), (*t).to_owned())).collect();
    let folders = by_folder(&sources);
    folders.iter().flat_map(|(f, e)| circles(e).into_iter().map(move |c| format!("{f}: {}", c.join(" ")))).collect()
}

/// Circles of two and of three, between folders and within one; a parent and its child are none.
#[test]
fn circles_are_found() {
    let parent = [("src/a/mod.rs", "mod b; use b::B; pub struct A;"), ("src/a/b.rs", "use super::A; pub struct B;")];
    assert_eq!(found(&parent), [""; 0]);
    let folders = [("src/a/x.rs", "use crate::b::{self, y::{Y, Z}};"), ("src/b/y.rs", "fn f() -> crate::a::x::X {}")];
    assert_eq!(found(&folders), ["src: a b"]);
    let three = [
        ("src/a/x.rs", "use super::y::Y;"),
        ("src/a/y.rs", "use super::{q, z::Z as Other};"),
        ("src/a/z.rs", "use crate::{a::x::X, b};"),
        ("src/a/q.rs", "pub struct Q;"),
        ("src/b.rs", "// use crate::a;\n#[cfg(test)]\nmod tests { use crate::a; }"),
    ];
    assert_eq!(found(&three), ["src/a: x y z"]);
}

/// What a parent hands on is the file's that it comes from.
#[test]
fn reexports_are_followed() {
    let files = [
        ("src/a/mod.rs", "mod x; mod y; pub use x::X; pub(crate) use y::{Y, Z};"),
        ("src/a/x.rs", "use super::{Z}; pub struct X;"),
        ("src/a/y.rs", "use crate::a::X; pub struct Y; pub struct Z;"),
    ];
    assert_eq!(found(&files), ["src/a: x y"]);
}
