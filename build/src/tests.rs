// SPDX-License-Identifier: Apache-2.0
//! Compiles small probes with the clang at hand.

use std::fs;
use std::path::Path;

use crate::{HEADERS, Toolchain, compile_to};

const HEAD: &str = "#include \"probe.h\"\nLICENSE;\n";
const PROGRAM: &str = "SEC(\"tp_btf/sched_switch\")\nint PROBE(hook__btf, u64 a)\n{\n\treturn a == 1;\n}\n";

/// What the generator makes of a probe with these declarations.
fn skeleton(declarations: &str) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.bpf.c"), format!("{HEAD}{declarations}\n{PROGRAM}")).unwrap();
    compile_to(dir.path(), dir.path(), "out", &Toolchain::default()).map_err(|e| format!("{e:#}"))?;
    Ok(fs::read_to_string(dir.path().join("out/skeletons.rs")).unwrap())
}

/// What it says of a record with this member.
fn refused(member: &str) -> String {
    skeleton(&format!("struct inner {{ u8 a; u32 b; }};\nunion either {{ u64 a; u64 b; }};\nstruct r {{ u64 first; {member} }};\nUNLIMITED_RECORDS(r, 4096);"))
        .unwrap_err()
}

/// Everything that has no safe form in Rust, or would leak kernel memory, is refused with the name
/// of the struct and the field.
#[test]
fn unsafe_layouts_are_refused_by_struct_and_field() {
    for (member, field, why) in [
        ("u32 a; u64 b;", "struct r, field b", "4 bytes of implicit padding before it"),
        ("u32 a; u8 b[4]; u8 c; u8 d[6];", "struct r", "1 bytes of implicit padding at its end"),
        ("u32 a : 3; u32 b : 29; u32 c;", "struct r, field a", "bit-field"),
        ("void *a;", "struct r, field a", "pointer"),
        ("union either a;", "struct r, field a", "union either"),
        ("bool a; u8 b[7];", "struct r, field a", "bool"),
        ("long a;", "struct r, field a", "long"),
        ("unsigned long a[2];", "struct r, field a", "long"),
        ("struct inner a;", "struct inner, field b", "3 bytes of implicit padding"),
        ("struct { u64 x; } a;", "struct r, field a", "without a name"),
        ("u32 a; u64 b; u32 c; } __attribute__((packed)); struct unused {", "struct r, field b", "packed"),
    ] {
        let said = refused(member);
        assert!(said.contains(field) && said.contains(why), "{member}\n{said}");
        assert!(said.contains("x.bpf.c"), "the file is named: {said}");
    }
}

/// Integers, arrays, nested structs, typedefs, enums and names that Rust reserves have one.
#[test]
fn layouts_become_rust_types() {
    let text = skeleton(
        "enum color { RED = 1, BLUE = 4 };\ntypedef u32 port_t;\nstruct point { s16 x; s16 y; };\n\
         struct big_record { u64 id; struct point at[2]; char name[16]; enum color color; port_t type; long long left; };\n\
         UNLIMITED_RECORDS(big_record, 4096);\nSETTING(u64, limit_ns, 5);\nSWITCH(enum color, shade);\n\
         struct key { u32 a; u32 b; };\n\
         struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 7); __type(key, struct key); __type(value, u64); } m SEC(\".maps\");",
    )
    .unwrap();
    for part in [
        "pub id: u64,",
        "pub at: [Point; 2],",
        "pub name: [u8; 16],",
        "pub color: Color,",
        "pub r#type: u32,",
        "pub left: i64,",
        "pub struct Color(pub u32);",
        "pub const BLUE: Self = Self(4);",
        "assert!(core::mem::offset_of!(BigRecord, color) == 32);",
        "assert!(core::mem::size_of::<BigRecord>() == 48);",
        "BigRecord(&'a BigRecord)",
        "pub const LIMIT_NS: bianque::probe::Setting<u64>",
        "pub const SHADE: bianque::probe::Switch<super::Color>",
        "name: \"m\", kind: 1, max_entries: 7, key_size: 8, value_size: 8",
        "pub struct Key {",
        "name: \"hook__btf\", slot: \"hook\", kind: bianque::probe::HookKind::TpBtf, target: \"sched_switch\"",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

/// What an iterator writes has a type; that it is written needs the declaration.
#[test]
fn records_of_iterators_have_a_type() {
    let source = |declaration: &str| {
        format!(
            "struct item {{ u64 id; u32 a; u32 b; }};\n{declaration}\n\
             SEC(\"iter/task\")\nint PROBE_CTX(walk__task, struct bpf_iter__task *ctx)\n{{\n\tstruct item i = {{ .id = 1 }};\n\n\
             \tWRITE(item, ctx->meta->seq, &i);\n\treturn 0;\n}}\n"
        )
    };
    let text = skeleton(&source("ITERATES(item);")).unwrap();
    assert!(text.contains("pub struct Item {") && text.contains("size_of::<Item>() == 16"), "{text}");
    let said = skeleton(&source("")).unwrap_err();
    assert!(said.contains("item__iterated"), "{said}");
}

/// A header can be included alone, and all of the folder come with the crate.
#[test]
fn headers_include_what_they_use() {
    let dir = tempfile::tempdir().unwrap();
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../bpf/include")).unwrap();
    for (i, entry) in folder.enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        fs::write(dir.path().join(format!("h{i}.bpf.c")), format!("#include \"{name}\"\n{HEAD}{PROGRAM}")).unwrap();
    }
    compile_to(dir.path(), dir.path(), "out", &Toolchain::default()).unwrap();
    assert!(HEADERS.len() > 5);
}

/// Variants come in the order of the file, whatever sections they are in.
#[test]
fn programs_are_in_file_order() {
    let program = |section: &str, name: &str| {
        format!("SEC(\"{section}\")\nint PROBE_CTX({name}, void *c)\n{{\n\treturn c == NULL;\n}}\n")
    };
    let text =
        skeleton(&[program("tp/a/b", "z__tp"), program("raw_tp/a", "y__raw"), program("tp/a/b", "y__tp")].concat())
            .unwrap();
    let at = |name: &str| text.find(&format!("name: \"{name}\"")).unwrap();
    assert!(at("z__tp") < at("y__raw") && at("y__raw") < at("y__tp") && at("y__tp") < at("hook__btf"));
}

/// The object is the same bytes, whatever folder the source and the output are in.
#[test]
fn objects_do_not_depend_on_the_folder() {
    let build = |nested: &str| {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join(nested);
        fs::create_dir_all(&source).unwrap();
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/bpf/selftest.bpf.c"), source.join("s.bpf.c"))
            .unwrap();
        compile_to(&source, dir.path(), nested, &Toolchain::default()).unwrap();
        fs::read(dir.path().join(nested).join("s.bpf.o")).unwrap()
    };
    assert!(build("a") == build("some/other/place"));
}

/// Without clang, with one that is too old, or without libbpf's headers, one line says what to install.
#[test]
fn missing_tools_are_reported_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.bpf.c"), HEAD).unwrap();
    let old = dir.path().join("clang-9");
    fs::write(&old, "#!/bin/sh\necho 'Debian clang version 9.0.1-16'\n").unwrap();
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = |tools: Toolchain| compile_to(dir.path(), dir.path(), "out", &tools).unwrap_err().to_string();
    let nowhere = || Path::new("/nowhere").to_path_buf();
    for (said, part) in [
        (
            said(Toolchain { clang: nowhere().join("clang"), ..Toolchain::default() }),
            "apt-get install clang libbpf-dev",
        ),
        (said(Toolchain { clang: old, ..Toolchain::default() }), "version 9"),
        (said(Toolchain { system_include: nowhere(), ..Toolchain::default() }), "apt-get install libbpf-dev"),
    ] {
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    }
}

/// A mistake in C comes back as clang said it; a hook that cannot be attached is named.
#[test]
fn mistakes_are_named() {
    let said = skeleton("int broken(").unwrap_err();
    assert!(said.contains("x.bpf.c") && said.contains("error:"), "{said}");
    let said = skeleton("SEC(\"xdp\")\nint PROBE_CTX(p, void *c)\n{\n\treturn c == NULL;\n}").unwrap_err();
    assert!(said.contains("program p: SEC(\"xdp\")"), "{said}");
}
