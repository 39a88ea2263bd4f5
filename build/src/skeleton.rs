// SPDX-License-Identifier: Apache-2.0
//! Writes the Rust module of one compiled object.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};

use crate::btf::{Btf, Id, Type, u32_at};
use crate::elf::Object;
use crate::types::{Types, camel, ident};

/// Map types whose values user space never reads: task, inode, socket and cgroup storage.
const LOCAL_STORAGE: &[u32] = &[24, 28, 29, 32];

/// `BPF_RB_NO_WAKEUP`, as `POLLED_RECORDS` leaves it in a ring's note.
const NO_WAKEUP: u32 = 1;
/// `PROBE_LIMITED` of `probe.h`: its records begin with `struct limited`.
const LIMITED: u32 = 0x100;

/// Rust text of the module for `object`, which is in `OUT_DIR` under the name `file`.
///
/// # Errors
/// What cannot be expressed in Rust, by struct and field; a program without a hook.
pub fn write(name: &str, object: &[u8], file: &str) -> Result<String> {
    let object = Object::parse(object)?;
    let btf = Btf::parse(object.section(".BTF")?.context("no BTF: was the object compiled with -g?")?)?;
    let mut types = Types::new(&btf);
    let records = records(&object, &btf, &mut types)?;
    iterated(&btf, &mut types)?;
    let maps = maps(&btf, &mut types)?;
    let settings = variables(&object, &btf, &mut types, ".data.setting", "Setting")?;
    let switches = variables(&object, &btf, &mut types, ".rodata.switch", "Switch")?;
    let programs = programs(&object, &btf)?;
    let mut out = String::new();
    write!(
        out,
        "/// Skeleton of `{name}.bpf.c`.\npub mod {module} {{\n
         static OBJECT: &bianque::probe::Aligned<[u8]> =\n    \
         &bianque::probe::Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")));\n\n\
         /// The object, its programs and maps.\n\
         pub static SKELETON: bianque::probe::Skeleton = bianque::probe::Skeleton {{\n    name: {name:?},\n    \
         object: OBJECT,\n    programs: &[\n{programs}    ],\n    rings: &[\n{rings}    ],\n    switches: &[\n{switch_defs}    ],\n    \
         settings: &[\n{setting_defs}    ],\n    maps: &[\n{maps}    ],\n}};\n\n",
        module = ident(name),
        rings = records.defs,
        switch_defs = switches.defs,
        setting_defs = settings.defs,
    )?;
    write!(
        out,
        "/// Thresholds and limits: `.data`, may change while the programs run.\npub mod setting {{\n{}}}\n\n",
        settings.names
    )?;
    write!(out, "/// Features: rodata, fixed at load.\npub mod switch {{\n{}}}\n\n", switches.names)?;
    out += &types.text;
    out += &records.text;
    out += "}\n\n";
    Ok(out)
}

struct Records {
    defs: String,
    text: String,
}

fn records(object: &Object<'_>, btf: &Btf, types: &mut Types<'_>) -> Result<Records> {
    let (mut defs, mut variants, mut arms, mut lifetime) = (String::new(), String::new(), String::new(), "");
    for (i, (note, ty, _)) in btf.section(".bianque.rings").into_iter().enumerate() {
        let name = note.strip_suffix("__note").unwrap_or(note);
        let value = note_value(object, note)?;
        let (_, Type::Ptr(record)) = btf.resolve(ty) else { bail!("{name}: not declared by RECORDS") };
        let rust = types.rust(*record, name)?;
        let (stat, flags, size) = (value & 0xffff, value >> 16, btf.size(*record));
        let (polled, limited) = (flags & NO_WAKEUP != 0, flags & LIMITED != 0);
        writeln!(
            defs,
            "        bianque::probe::RingDef {{ name: {name:?}, size: {size}, polled: {polled}, limited: {limited}, stat: {stat} }},"
        )?;
        writeln!(variants, "    {}(&'a {rust}),", camel(name))?;
        writeln!(
            arms,
            "            {i} => bianque::probe::record::<{rust}>(ring, bytes).map(Record::{}),",
            camel(name)
        )?;
        lifetime = "<'a>";
    }
    let elided = if lifetime.is_empty() { "" } else { "<'_>" };
    let unknown = "Err(bianque::probe::DecodeError { ring, got: bytes.len(), want: 0 })";
    let body = if arms.is_empty() {
        unknown.to_owned()
    } else {
        format!("match ring {{\n{arms}            _ => {unknown},\n        }}")
    };
    let text = format!(
        "/// A record of any ring.\n#[derive(Debug, Clone, Copy)]\npub enum Record{lifetime} {{\n{variants}}}\n\n\
         /// Decodes the records of all rings.\n#[derive(Debug)]\npub enum Records {{}}\n\n\
         impl bianque::probe::RecordSet for Records {{\n    type Ref<'a> = Record{lifetime};\n\n    \
         fn decode(ring: usize, bytes: &[u8]) -> Result<Record{elided}, bianque::probe::DecodeError> {{\n        {body}\n    }}\n\n    \
         fn rings() -> &'static [bianque::probe::RingDef] {{\n        SKELETON.rings\n    }}\n}}\n"
    );
    Ok(Records { defs, text })
}

/// Types of what iterators write, by the notes of `ITERATES`.
fn iterated(btf: &Btf, types: &mut Types<'_>) -> Result<()> {
    for (note, ty, _) in btf.section(".bianque.iterated") {
        let name = note.strip_suffix("__iterated").unwrap_or(note);
        let (_, Type::Ptr(record)) = btf.resolve(ty) else { bail!("{name}: not declared by ITERATES") };
        types.rust(*record, name)?;
    }
    Ok(())
}

/// A type of the module as its sub-modules see it.
fn from_child(rust: &str) -> String {
    match rust.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) if rust[at..].starts_with(|c: char| c.is_ascii_uppercase()) => {
            format!("{}super::{}", &rust[..at], &rust[at..])
        }
        _ => rust.to_owned(),
    }
}

/// The number that a macro of `probe.h` left for us.
fn note_value(object: &Object<'_>, name: &str) -> Result<u32> {
    let place = object.variable(name)?;
    u32_at(place.section, usize::try_from(place.offset)?)
}

struct Variables {
    defs: String,
    names: String,
}

fn variables(object: &Object<'_>, btf: &Btf, types: &mut Types<'_>, section: &str, kind: &str) -> Result<Variables> {
    let (mut defs, mut names) = (String::new(), String::new());
    for (name, ty, size) in btf.section(section) {
        let rust = from_child(&types.rust(ty, name)?);
        let place = object.variable(name)?;
        let (offset, file) = (place.offset, place.section_at + place.offset);
        writeln!(
            defs,
            "        bianque::probe::VariableDef {{ name: {name:?}, offset: {offset}, size: {size}, file_offset: {file} }},"
        )?;
        writeln!(
            names,
            "    pub const {}: bianque::probe::{kind}<{rust}> = bianque::probe::{kind}::new({name:?});",
            name.to_uppercase()
        )?;
    }
    Ok(Variables { defs, names })
}

fn maps(btf: &Btf, types: &mut Types<'_>) -> Result<String> {
    let mut out = String::new();
    for (name, ty, _) in btf.section(".maps") {
        let (_, Type::Struct { members, .. }) = btf.resolve(ty) else { bail!("map {name}: not a struct") };
        let (mut kind, mut entries, mut key, mut value) = (0, 0, None, None);
        for m in members {
            match m.name.as_str() {
                "type" => kind = number(btf, m.ty)?,
                "max_entries" => entries = number(btf, m.ty)?,
                "key" => key = pointee(btf, m.ty),
                "value" => value = pointee(btf, m.ty),
                _ => {}
            }
        }
        let size = |t: Option<Id>| t.map_or(0, |t| btf.size(t));
        writeln!(
            out,
            "        bianque::probe::MapDef {{ name: {name:?}, kind: {kind}, max_entries: {entries}, key_size: {}, value_size: {} }},",
            size(key),
            size(value)
        )?;
        if LOCAL_STORAGE.contains(&kind) {
            continue;
        }
        for t in [key, value].into_iter().flatten() {
            types.rust(t, &format!("map {name}"))?;
        }
    }
    Ok(out)
}

/// `__uint(name, n)` is a pointer to an array of `n`.
fn number(btf: &Btf, ty: Id) -> Result<u32> {
    match pointee(btf, ty).map(|t| btf.resolve(t).1) {
        Some(Type::Array { count, .. }) => Ok(*count),
        _ => bail!("a map's number is not written with __uint"),
    }
}

fn pointee(btf: &Btf, ty: Id) -> Option<Id> {
    match btf.resolve(ty).1 {
        Type::Ptr(to) => Some(*to),
        _ => None,
    }
}

fn programs(object: &Object<'_>, btf: &Btf) -> Result<String> {
    let notes = btf.section(".bianque.programs");
    let mut out = String::new();
    let mut stats = Vec::new();
    for name in btf.functions() {
        let Some(section) = object.program_section(name).filter(|s| s != ".text") else { continue };
        let (kind, target) =
            hook(&section).with_context(|| format!("program {name}: SEC({section:?}) is not supported"))?;
        let slot = name.split_once("__").map_or(name, |(slot, _)| slot);
        let stat = match notes.iter().find(|(n, ..)| n.strip_suffix("__note") == Some(name)) {
            Some((note, ..)) => format!("Some({})", note_value(object, note)?),
            None => "None".into(),
        };
        ensure!(
            stat == "None" || !stats.contains(&stat),
            "program {name}: shares its counter: __COUNTER__ is probe.h's"
        );
        stats.push(stat.clone());
        writeln!(
            out,
            "        bianque::probe::Program {{ name: {name:?}, slot: {slot:?}, kind: bianque::probe::HookKind::{kind}, target: {target:?}, stat: {stat} }},"
        )?;
    }
    ensure!(!out.is_empty(), "no program: a program is a function with SEC(\"tp_btf/…\") or the like");
    Ok(out)
}

/// Kind and target from `SEC()`; those that aya knows and we attach.
fn hook(section: &str) -> Option<(&'static str, &str)> {
    let (kind, target) = section.split_once('/').unwrap_or((section, ""));
    let kind = match kind {
        "tp_btf" => "TpBtf",
        "raw_tp" | "raw_tracepoint" => "RawTracepoint",
        "tp" | "tracepoint" if target.contains('/') => "Tracepoint",
        "fentry" => "Fentry",
        "fexit" => "Fexit",
        "kprobe" => "Kprobe",
        "kretprobe" => "Kretprobe",
        "perf_event" if target.is_empty() => return Some(("PerfEvent", "")),
        "iter" => "Iterator",
        _ => return None,
    };
    (!target.is_empty()).then_some((kind, target))
}
