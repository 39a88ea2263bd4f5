// SPDX-License-Identifier: Apache-2.0
//! BPF objects: what stands in which file, and how much of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{ROOT, files, has_extension, has_word, none, relative, take_apart};

/// Lines of a file, comments included.
const MAX_FILE: usize = 300;
/// Lines of an object: its file and all that it includes, save `bpf/include`.
const MAX_OBJECT: usize = 800;
/// Lines of a function's body, without comments and blank ones.
const MAX_FUNCTION: usize = 60;

fn is_source(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".bpf.c")
}

fn sources_and_headers() -> Vec<PathBuf> {
    files("bpf", |p| has_extension(p, "c") || has_extension(p, "h"))
}

/// Files that become an object each. Others of the kind are parts, which an object includes.
fn objects() -> Vec<PathBuf> {
    let folders = ["bpf", "bpf/shared"].map(|f| Path::new(ROOT).join(f));
    let is_object = |p: &Path| is_source(p) && p.parent().is_some_and(|d| folders.iter().any(|f| f == d));
    files("bpf", is_object)
}

/// `bpf/shared/net.bpf.c` → `net`.
fn stem(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("").trim_end_matches(".bpf.c")
}

/// The file and all that it includes, directly or not, from where it lies. Headers of `bpf/include` and of
/// the system are elsewhere.
fn whole(path: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let text = fs::read_to_string(&path).unwrap();
        let folder = path.parent().unwrap().to_owned();
        let names = text.lines().filter_map(|l| l.strip_prefix("#include \"")?.split('"').next());
        left.extend(names.map(|n| folder.join(n)).filter(|p| p.is_file()));
        all.insert(path);
    }
    all
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

/// What a probe defines, by line: a map, a ring, a variable that user space sets, a record's note, a program.
/// Macros that define such are none.
fn definitions(text: &str) -> Vec<(usize, String)> {
    const WORDS: &[&str] =
        &["SEC", "RECORDS", "POLLED_RECORDS", "UNLIMITED_RECORDS", "ITERATES", "SETTING", "SWITCH", "LICENSE"];
    let (code, _) = take_apart(text);
    let mut found = Vec::new();
    let mut in_macro = false;
    for (i, line) in code.lines().enumerate() {
        let of_macro = in_macro || line.trim_start().starts_with('#');
        in_macro = of_macro && line.ends_with('\\');
        if !of_macro && WORDS.iter().any(|w| has_word(line, w)) {
            found.push((i + 1, line.trim().to_owned()));
        }
    }
    found
}

/// What the macros of `bpf/include` need in each object, by header: how many definitions.
const COMMON: &[(&str, usize)] = &[("filter.h", 3), ("limit.h", 3), ("probe.h", 1)];

/// A header says what there may be; what there is says the object.
#[test]
fn headers_define_no_maps_and_programs() {
    let mut problems = Vec::new();
    for path in files("bpf", |p| has_extension(p, "h")) {
        let name = relative(&path);
        let found = definitions(&fs::read_to_string(&path).unwrap());
        let common = COMMON.iter().find(|(n, _)| name == format!("bpf/include/{n}")).map_or(0, |(_, n)| *n);
        if found.len() != common {
            problems.extend(found.iter().map(|(line, what)| format!("{name}:{line}: {what}")));
        }
    }
    none(&problems, "define it in a .bpf.c file; what needs it is written behind it, or takes it as an argument");
    let text = "#define RING(t) struct { \\\n\t} t SEC(\".maps\")\n/* SEC() */\nstruct {\n} m SEC(\".maps\");\nSWITCH(u32, a);\nSEC(\"iter/task\")\n";
    let lines: Vec<usize> = definitions(text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [5, 6, 7]);
}

/// A part of an object lies in the object's folder, and the object has it once.
#[test]
fn parts_belong_to_one_object() {
    let mut problems = Vec::new();
    let objects = objects();
    let included = |by: &Path| -> Vec<PathBuf> {
        let text = fs::read_to_string(by).unwrap();
        let names = text.lines().filter_map(|l| Some(l.strip_prefix("#include \"")?.split('"').next()?.to_owned()));
        names.filter(|n| n.ends_with(".bpf.c")).map(|n| by.parent().unwrap().join(n)).collect()
    };
    let all: Vec<PathBuf> = sources_and_headers().iter().flat_map(|p| included(p)).collect();
    for part in files("bpf", |p| is_source(p) && !objects.iter().any(|o| o == p)) {
        let object = part.parent().unwrap().with_extension("bpf.c");
        let times = all.iter().filter(|p| **p == part).count();
        if times != 1 || !object.exists() || !included(&object).contains(&part) {
            problems.push(format!("{}: not included once, by {}", relative(&part), relative(&object)));
        }
    }
    assert!(all.len() > 5, "parts are found: {}", all.len());
    none(&problems, "NAME.bpf.c includes NAME/PART.bpf.c");
}

/// A file can be read in one sitting, and so can an object: what it includes counts.
#[test]
fn bpf_objects_stay_readable() {
    let mut problems = Vec::new();
    for path in sources_and_headers().iter().filter(|p| lines(p) > MAX_FILE) {
        problems.push(format!("{}: {} lines, at most {MAX_FILE}", relative(path), lines(path)));
    }
    for path in objects() {
        let whole = whole(&path);
        let sum: usize = whole.iter().map(|p| lines(p)).sum();
        if sum > MAX_OBJECT {
            problems.push(format!("{}: {sum} lines in {} files, at most {MAX_OBJECT}", relative(&path), whole.len()));
        }
    }
    none(&problems, "two objects, by what their parts are for");
}

/// Functions of a C file that are too long, by the line that names them.
fn long_functions(text: &str, most: usize) -> Vec<(usize, usize)> {
    let (code, _) = take_apart(text);
    let lines: Vec<&str> = code.lines().collect();
    let begins = lines.iter().enumerate().filter(|(_, l)| **l == "{");
    let bodies = begins.filter_map(|(at, _)| Some((at, lines[at + 1..].iter().position(|l| *l == "}")?)));
    let count = |at: usize, len: usize| lines[at + 1..=at + len].iter().filter(|l| !l.trim().is_empty()).count();
    bodies.map(|(at, len)| (at, count(at, len))).filter(|(_, n)| *n > most).collect()
}

/// A function fits a screen.
#[test]
fn bpf_functions_stay_readable() {
    let mut problems = Vec::new();
    for path in sources_and_headers() {
        let text = fs::read_to_string(&path).unwrap();
        let long = long_functions(&text, MAX_FUNCTION);
        problems
            .extend(long.iter().map(|(at, n)| format!("{}:{at}: {n} lines, at most {MAX_FUNCTION}", relative(&path))));
    }
    none(&problems, "split the function");
    let text = "int f(void)\n{\n\t/* } */\n\ta();\n\n\tb(\"}\");\n}\n\nint g(void)\n{\n\ta();\n}\n";
    assert_eq!(long_functions(text, 1), [(1, 2)]);
}

/// Each BPF program is found beside its Rust half, by name.
#[test]
fn bpf_files_have_their_rust_half() {
    let mut problems = Vec::new();
    for path in objects() {
        let name = stem(&path);
        let shared = relative(&path).starts_with("bpf/shared/");
        let halves: Vec<String> = if shared {
            vec![format!("src/probe/shared/{name}")]
        } else {
            ["metrics", "events", "autotracing"].iter().map(|k| format!("src/collectors/{k}/{name}")).collect()
        };
        let found = halves.iter().any(|h| {
            Path::new(ROOT).join(format!("{h}.rs")).exists() || Path::new(ROOT).join(h).join("mod.rs").exists()
        });
        if !found {
            problems.push(format!("{}: no {}.rs", relative(&path), halves.join(".rs, nor ")));
        }
    }
    none(&problems, "a BPF file and its Rust file have the same stem");
}
