// SPDX-License-Identifier: Apache-2.0
//! What the skeleton needs of an object that clang wrote for BPF: sections, variables, programs.

use anyhow::{Context, Result};
use object::read::elf::{ElfFile64, ElfSection64, ElfSymbol64};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

type File<'a> = ElfFile64<'a, LittleEndian>;

/// A parsed object.
pub struct Object<'a>(File<'a>);

/// The place of a variable.
pub struct Place<'a> {
    /// Where its section begins in the file.
    pub section_at: u64,
    /// Its section's bytes.
    pub section: &'a [u8],
    /// Offset within the section.
    pub offset: u64,
}

impl<'a> Object<'a> {
    /// # Errors
    /// The bytes are no little-endian 64-bit ELF object.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        File::parse(file).map(Object).context("not a little-endian 64-bit ELF object")
    }

    /// The bytes of a section; `None` when there is none of that name.
    ///
    /// # Errors
    /// The section lies outside the file.
    pub fn section(&self, name: &str) -> Result<Option<&'a [u8]>> {
        Ok(self.0.section_by_name(name).map(|s| s.data()).transpose()?)
    }

    /// Where a variable is. BTF has zero for the offsets of global ones, to be filled in by a loader.
    ///
    /// # Errors
    /// It is not in the object, or lies outside the file.
    pub fn variable(&self, name: &str) -> Result<Place<'a>> {
        let (symbol, section) = self.find(name, SymbolKind::Data).with_context(|| format!("no variable {name}"))?;
        let (section_at, _) = section.file_range().with_context(|| format!("{name} has no bytes in the file"))?;
        Ok(Place { section_at, section: section.data()?, offset: symbol.address() })
    }

    /// Name of the section that a program is in.
    pub fn program_section(&self, name: &str) -> Option<String> {
        self.find(name, SymbolKind::Text)?.1.name().ok().map(str::to_owned)
    }

    fn find(&self, name: &str, kind: SymbolKind) -> Option<(Symbol<'a, '_>, Section<'a, '_>)> {
        let symbol = self.0.symbols().find(|s| s.kind() == kind && s.name() == Ok(name))?;
        let section = self.0.section_by_index(symbol.section_index()?).ok()?;
        Some((symbol, section))
    }
}

type Symbol<'a, 'f> = ElfSymbol64<'a, 'f, LittleEndian>;
type Section<'a, 'f> = ElfSection64<'a, 'f, LittleEndian>;
