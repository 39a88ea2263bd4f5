// SPDX-License-Identifier: Apache-2.0
//! Writes C types of an object as Rust types of the same layout, and refuses those that have none.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};

use crate::btf::{Btf, Id, Type};

/// Types of `bpf/include` that all objects share: `bianque::probe` has them.
const SHARED: &[(&str, &str, u32)] = &[
    ("cgroup_ref", "bianque::probe::CgroupRef", 16),
    ("thread_ref", "bianque::probe::ThreadRef", 24),
    ("call_stack", "bianque::probe::CallStack", 648),
    ("latencies", "bianque::probe::Latencies", 224),
    ("limit_key", "bianque::probe::LimitKey", 32),
    ("limited", "bianque::probe::Limited", 48),
    ("limiter", "bianque::probe::Limiter", 32),
    ("limit_count", "bianque::probe::LimitCount", 16),
    ("probe_stat", "bianque::probe::ProbeStat", 24),
];

const DERIVES: &str = "#[derive(Clone, Copy, Debug, bianque::zerocopy::FromBytes, bianque::zerocopy::IntoBytes, \
                       bianque::zerocopy::Immutable, bianque::zerocopy::KnownLayout";

/// Collects the text of all types that are asked for.
pub struct Types<'a> {
    btf: &'a Btf,
    done: BTreeSet<String>,
    pub text: String,
}

impl<'a> Types<'a> {
    pub fn new(btf: &'a Btf) -> Self {
        Types { btf, done: BTreeSet::new(), text: String::new() }
    }

    /// The Rust name of a type; `place` is the struct and field for errors.
    pub fn rust(&mut self, id: Id, place: &str) -> Result<String> {
        let (id, ty) = self.btf.resolve(id);
        Ok(match ty {
            Type::Int { boolean: true, .. } => bail!("{place}: bool: use u8 or u32, whose every value is valid"),
            Type::Int { name, .. } if is_long(name) => {
                bail!("{place}: {name}: its size depends on the machine: use u32, s32, u64 or s64")
            }
            Type::Int { name, size: 1, .. } if name == "char" => "u8".into(),
            Type::Int { size, bits, signed, .. } => {
                ensure!(*bits == size * 8, "{place}: bit-field: use whole integers");
                ensure!(*size <= 8, "{place}: integers of {size} bytes are not supported");
                format!("{}{bits}", if *signed { 'i' } else { 'u' })
            }
            Type::Array { element, count } => format!("[{}; {count}]", self.rust(*element, place)?),
            Type::Struct { name, .. } => self.structure(id, name, place)?,
            Type::Enum { name, size, values } => {
                ensure!(*size == 4, "{place}: enum of {size} bytes: only 4 are supported");
                self.enumeration(name, values)
            }
            Type::Ptr(_) => bail!("{place}: pointer: kernel addresses do not leave the kernel; copy what it points to"),
            Type::Union { name } => bail!("{place}: union {name}: use a struct with all members, or two record types"),
            other => bail!("{place}: {}: not supported", describe(other)),
        })
    }

    fn structure(&mut self, id: Id, name: &str, place: &str) -> Result<String> {
        ensure!(!name.is_empty(), "{place}: struct without a name: give it one");
        let size = self.btf.size(id);
        if let Some((_, rust, want)) = SHARED.iter().find(|(c, ..)| *c == name) {
            ensure!(size == *want, "{place}: struct {name} is of bpf/include and has {want} bytes");
            if self.done.insert(name.to_owned()) {
                self.same_layout(id, rust)?;
            }
            return Ok((*rust).to_owned());
        }
        let rust = camel(name);
        if !self.done.insert(name.to_owned()) {
            return Ok(rust);
        }
        let Type::Struct { members, .. } = self.btf.get(id).clone() else { bail!("{place}: not a struct") };
        let mut body =
            format!("{DERIVES})]\n#[zerocopy(crate = \"bianque::zerocopy\")]\n#[repr(C)]\npub struct {rust} {{\n");
        let mut asserts = String::new();
        let mut end = 0;
        for m in &members {
            let place = format!("struct {name}, field {}", m.name);
            ensure!(!m.name.is_empty(), "struct {name}: member without a name: give it one");
            ensure!(m.bit_size == 0 && m.bit_offset.is_multiple_of(8), "{place}: bit-field: use whole integers");
            let rust_type = self.rust(m.ty, &place)?;
            let offset = m.bit_offset / 8;
            let align = self.btf.align(m.ty);
            ensure!(
                offset.is_multiple_of(align),
                "{place}: packed: at byte {offset}, but its type is aligned to {align}"
            );
            ensure!(
                offset == end,
                "{place}: {} bytes of implicit padding before it: add a named field, so that they are zeroed",
                offset - end
            );
            end = offset + self.btf.size(m.ty);
            let field = ident(&m.name);
            writeln!(body, "    pub {field}: {rust_type},")?;
            writeln!(asserts, "    assert!(core::mem::offset_of!({rust}, {field}) == {offset});")?;
        }
        ensure!(
            end == size,
            "struct {name}: {} bytes of implicit padding at its end: add a named field, so that they are zeroed",
            size - end
        );
        write!(
            self.text,
            "/// `struct {name}`\n{body}}}\nconst _: () = {{\n    assert!(core::mem::size_of::<{rust}>() == {size});\n{asserts}}};\n\n"
        )?;
        Ok(rust)
    }

    /// Asserts that the type by hand is laid out as clang did it.
    fn same_layout(&mut self, id: Id, rust: &str) -> Result<()> {
        let Type::Struct { members, .. } = self.btf.get(id) else { bail!("{rust}: not a struct") };
        writeln!(self.text, "const _: () = {{\n    assert!(core::mem::size_of::<{rust}>() == {});", self.btf.size(id))?;
        for m in members {
            let (field, offset) = (ident(&m.name), m.bit_offset / 8);
            writeln!(self.text, "    assert!(core::mem::offset_of!({rust}, {field}) == {offset});")?;
        }
        self.text += "};\n\n";
        Ok(())
    }

    fn enumeration(&mut self, name: &str, values: &[(String, u32)]) -> String {
        if name.is_empty() {
            return "u32".into();
        }
        let rust = camel(name);
        if self.done.insert(format!("enum {name}")) {
            let mut constants = String::new();
            for (name, value) in values {
                constants += &format!("    pub const {}: Self = Self({value});\n", name.to_uppercase());
            }
            self.text += &format!(
                "/// `enum {name}`: values that are not named here are possible.\n{DERIVES}, PartialEq, Eq, Hash)]\n\
                 #[zerocopy(crate = \"bianque::zerocopy\")]\n#[repr(transparent)]\npub struct {rust}(pub u32);\n\
                 impl {rust} {{\n{constants}}}\n\n"
            );
        }
        rust
    }
}

fn is_long(name: &str) -> bool {
    name.split(' ').filter(|w| *w == "long").count() == 1
}

fn describe(ty: &Type) -> &'static str {
    match ty {
        Type::Void => "void",
        Type::Other(what) => what,
        _ => "this type",
    }
}

/// `oom_record` → `OomRecord`.
pub fn camel(name: &str) -> String {
    let mut out = String::new();
    for word in name.split('_').filter(|w| !w.is_empty()) {
        let mut chars = word.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

/// A C name that may be a Rust keyword.
pub fn ident(name: &str) -> String {
    const KEYWORDS: &[&str] = &[
        "as", "async", "await", "box", "dyn", "fn", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "priv",
        "pub", "ref", "trait", "try", "type", "unsafe", "use", "where", "yield", "gen", "final", "virtual", "abstract",
        "become", "macro", "override", "final", "true", "false",
    ];
    if KEYWORDS.contains(&name) { format!("r#{name}") } else { name.to_owned() }
}
