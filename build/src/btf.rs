// SPDX-License-Identifier: Apache-2.0
//! Reads the BTF that clang wrote into an object (Documentation/bpf/btf.rst of the kernel).

use anyhow::{Context, Result, bail, ensure};

/// Reads a number at `at`; every reader of bytes here goes through it.
fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    at.checked_add(N)
        .and_then(|end| bytes.get(at..end))
        .and_then(|b| b.try_into().ok())
        .with_context(|| format!("the section ends within a number at byte {at}"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    read(bytes, at).map(u16::from_le_bytes)
}

pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    read(bytes, at).map(u32::from_le_bytes)
}

/// The NUL-terminated string at `at`.
fn str_at(bytes: &[u8], at: usize) -> Result<&str> {
    let tail = bytes.get(at..).with_context(|| format!("no string at byte {at}"))?;
    let end = tail.iter().position(|b| *b == 0).context("a string without an end")?;
    Ok(std::str::from_utf8(&tail[..end])?)
}

pub type Id = u32;

/// A member of a struct.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub ty: Id,
    pub bit_offset: u32,
    pub bit_size: u32,
}

/// A variable of a section. Its offset is in the symbol table.
#[derive(Debug, Clone)]
pub struct Placed {
    pub var: Id,
    pub size: u32,
}

#[derive(Debug, Clone)]
pub enum Type {
    Void,
    Int {
        name: String,
        size: u32,
        signed: bool,
        boolean: bool,
        bits: u32,
    },
    Ptr(Id),
    Array {
        element: Id,
        count: u32,
    },
    Struct {
        name: String,
        size: u32,
        members: Vec<Member>,
    },
    Union {
        name: String,
    },
    Enum {
        name: String,
        size: u32,
        values: Vec<(String, u32)>,
    },
    Typedef(Id),
    /// const, volatile, restrict, type tag: not of interest here.
    Qualifier(Id),
    Func {
        name: String,
        global: bool,
    },
    Var {
        name: String,
        ty: Id,
    },
    Section {
        name: String,
        vars: Vec<Placed>,
    },
    Other(&'static str),
}

/// All types of an object; the index is the type's id.
pub struct Btf {
    pub types: Vec<Type>,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn u32(&mut self) -> Result<u32> {
        let v = u32_at(self.bytes, self.at)?;
        self.at += 4;
        Ok(v)
    }
}

impl Btf {
    /// # Errors
    /// The section is cut short, or has kinds that clang 14 to 21 do not write for C.
    pub fn parse(section: &[u8]) -> Result<Self> {
        ensure!(u16_at(section, 0)? == 0xeb9f, "no BTF magic: was the object compiled with -g?");
        let header = u32_at(section, 4)? as usize;
        let types_at = header + u32_at(section, 8)? as usize;
        let types_len = u32_at(section, 12)? as usize;
        let strings_at = header + u32_at(section, 16)? as usize;
        let strings = section.get(strings_at..).context("BTF without strings")?;
        let bytes = section.get(types_at..types_at + types_len).context("BTF types lie outside the section")?;
        let mut c = Cursor { bytes, at: 0 };
        let mut types = vec![Type::Void];
        while c.at < bytes.len() {
            types.push(Self::one(&mut c, strings)?);
        }
        Ok(Btf { types })
    }

    fn one(c: &mut Cursor<'_>, strings: &[u8]) -> Result<Type> {
        let text = |at: u32| str_at(strings, at as usize).map(str::to_owned);
        let (name, info, size) = (text(c.u32()?)?, c.u32()?, c.u32()?);
        let (count, kind, flag) = (info & 0xffff, (info >> 24) & 0x1f, info >> 31 != 0);
        Ok(match kind {
            1 => {
                let v = c.u32()?;
                let encoding = (v >> 24) & 0xf;
                Type::Int { name, size, signed: encoding & 1 != 0, boolean: encoding & 4 != 0, bits: v & 0xff }
            }
            2 => Type::Ptr(size),
            3 => {
                let (element, _index, count) = (c.u32()?, c.u32()?, c.u32()?);
                Type::Array { element, count }
            }
            4 | 5 => {
                let mut members = Vec::new();
                for _ in 0..count {
                    let (name, ty, offset) = (text(c.u32()?)?, c.u32()?, c.u32()?);
                    let (bit_offset, bit_size) = if flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
                    members.push(Member { name, ty, bit_offset, bit_size });
                }
                if kind == 4 { Type::Struct { name, size, members } } else { Type::Union { name } }
            }
            6 => {
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push((text(c.u32()?)?, c.u32()?));
                }
                Type::Enum { name, size, values }
            }
            7 => Type::Other("struct that is only declared"),
            8 => Type::Typedef(size),
            9 | 10 | 11 | 18 => Type::Qualifier(size),
            12 => Type::Func { name, global: count == 1 },
            13 => {
                c.at += 8 * count as usize;
                Type::Other("function type")
            }
            14 => {
                c.u32()?;
                Type::Var { name, ty: size }
            }
            15 => {
                let mut vars = Vec::new();
                for _ in 0..count {
                    let (var, _offset, size) = (c.u32()?, c.u32()?, c.u32()?);
                    vars.push(Placed { var, size });
                }
                Type::Section { name, vars }
            }
            16 => Type::Other("floating-point number"),
            17 => {
                c.u32()?;
                Type::Other("tag")
            }
            19 => {
                c.at += 12 * count as usize;
                Type::Other("64-bit enum")
            }
            k => bail!("BTF kind {k} is not known here"),
        })
    }

    /// The type of an id; `Void` for one that is not there.
    pub fn get(&self, id: Id) -> &Type {
        self.types.get(id as usize).unwrap_or(&Type::Void)
    }

    /// Through typedefs and qualifiers to the type itself.
    pub fn resolve(&self, mut id: Id) -> (Id, &Type) {
        loop {
            match self.get(id) {
                Type::Typedef(ty) | Type::Qualifier(ty) => id = *ty,
                t => return (id, t),
            }
        }
    }

    pub fn size(&self, id: Id) -> u32 {
        match self.resolve(id).1 {
            Type::Int { size, .. } | Type::Struct { size, .. } | Type::Enum { size, .. } => *size,
            Type::Ptr(_) => 8,
            Type::Array { element, count } => self.size(*element) * count,
            _ => 0,
        }
    }

    /// The alignment that C gives the type.
    pub fn align(&self, id: Id) -> u32 {
        match self.resolve(id).1 {
            Type::Array { element, .. } => self.align(*element),
            Type::Struct { members, .. } => members.iter().map(|m| self.align(m.ty)).max().unwrap_or(1),
            _ => self.size(id).max(1),
        }
    }

    /// Name, type and size of a section's variables, in the order they were written.
    pub fn section(&self, wanted: &str) -> Vec<(&str, Id, u32)> {
        let mut out = Vec::new();
        for t in &self.types {
            let Type::Section { name, vars } = t else { continue };
            if name != wanted {
                continue;
            }
            for p in vars {
                if let Type::Var { name, ty } = self.get(p.var) {
                    out.push((name.as_str(), *ty, p.size));
                }
            }
        }
        out
    }

    /// Global functions in file order.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.types.iter().filter_map(|t| match t {
            Type::Func { name, global: true } => Some(name.as_str()),
            _ => None,
        })
    }
}
