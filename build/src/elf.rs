// SPDX-License-Identifier: Apache-2.0
//! Sections and symbols of a little-endian 64-bit ELF object, as clang writes for BPF (elf(5)).

use anyhow::{Context, Result, ensure};

/// One section.
pub struct Section<'a> {
    pub name: &'a str,
    /// Where its bytes begin in the file.
    pub offset: usize,
    pub data: &'a [u8],
}

/// A function or variable, and its place.
pub struct Symbol<'a> {
    pub name: &'a str,
    /// Index of its section.
    pub section: usize,
    /// Offset within the section.
    pub offset: usize,
    pub function: bool,
}

/// A parsed object.
pub struct Elf<'a> {
    pub sections: Vec<Section<'a>>,
    pub symbols: Vec<Symbol<'a>>,
}

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const STT_OBJECT: u8 = 1;
const STT_FUNC: u8 = 2;
const SYMBOL_SIZE: usize = 24;

/// Reads a number at `at`; every reader of bytes here goes through it.
pub fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    at.checked_add(N)
        .and_then(|end| bytes.get(at..end))
        .and_then(|b| b.try_into().ok())
        .with_context(|| format!("the object ends within a number at byte {at}"))
}

pub fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    read(bytes, at).map(u16::from_le_bytes)
}

pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    read(bytes, at).map(u32::from_le_bytes)
}

fn usize_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(read(bytes, at).map(u64::from_le_bytes)?)?)
}

/// The NUL-terminated string at `at`.
pub fn str_at(bytes: &[u8], at: usize) -> Result<&str> {
    let tail = bytes.get(at..).with_context(|| format!("no string at byte {at}"))?;
    let end = tail.iter().position(|b| *b == 0).context("a string without an end")?;
    Ok(std::str::from_utf8(&tail[..end])?)
}

impl<'a> Elf<'a> {
    /// # Errors
    /// The bytes are not such an object.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        ensure!(file.get(..6) == Some(b"\x7fELF\x02\x01"), "not a little-endian 64-bit ELF object");
        let table = usize_at(file, 0x28)?;
        let (entry, count) = (usize::from(u16_at(file, 0x3a)?), usize::from(u16_at(file, 0x3c)?));
        let names_index = usize::from(u16_at(file, 0x3e)?);
        let header = |i: usize| table + i * entry;
        let data = |i: usize| -> Result<(usize, &'a [u8])> {
            let (offset, size) = (usize_at(file, header(i) + 0x18)?, usize_at(file, header(i) + 0x20)?);
            if u32_at(file, header(i) + 4)? == SHT_NOBITS {
                return Ok((offset, &[]));
            }
            let bytes = offset.checked_add(size).and_then(|end| file.get(offset..end));
            Ok((offset, bytes.with_context(|| format!("section {i} lies outside the file"))?))
        };
        let (_, names) = data(names_index)?;
        let mut elf = Elf { sections: Vec::new(), symbols: Vec::new() };
        let mut symbols = None;
        for i in 0..count {
            let name = str_at(names, u32_at(file, header(i))? as usize)?;
            let (offset, bytes) = data(i)?;
            if u32_at(file, header(i) + 4)? == SHT_SYMTAB {
                symbols = Some((bytes, u32_at(file, header(i) + 0x28)? as usize));
            }
            elf.sections.push(Section { name, offset, data: bytes });
        }
        if let Some((table, strings)) = symbols {
            let (_, strings) = data(strings)?;
            for s in table.chunks_exact(SYMBOL_SIZE) {
                let kind = s[4] & 0xf;
                if kind == STT_FUNC || kind == STT_OBJECT {
                    elf.symbols.push(Symbol {
                        name: str_at(strings, u32_at(s, 0)? as usize)?,
                        section: usize::from(u16_at(s, 6)?),
                        offset: usize_at(s, 8)?,
                        function: kind == STT_FUNC,
                    });
                }
            }
        }
        Ok(elf)
    }

    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Section and place of a variable. BTF has zero for the offsets of global ones, to be filled
    /// in by a loader.
    pub fn variable(&self, name: &str) -> Option<(&Section<'a>, usize)> {
        let symbol = self.symbols.iter().find(|s| !s.function && s.name == name)?;
        Some((self.sections.get(symbol.section)?, symbol.offset))
    }

    /// Name of the section that a program is in.
    pub fn program_section(&self, name: &str) -> Option<&'a str> {
        let symbol = self.symbols.iter().find(|s| s.function && s.name == name)?;
        self.sections.get(symbol.section).map(|s| s.name)
    }
}
