// SPDX-License-Identifier: Apache-2.0
//! Symbols of ELF files by blazesym. Files are given by descriptor and kept open: the library opens them
//! by `/proc/self/fd/N`, which the sandbox answers with that descriptor.
//!
//! It maps them: where the owner cuts one meanwhile, or its file system fails, the signal SIGBUS ends
//! this process, and nothing else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer, evict};

use super::names::demangled;
use crate::signal::Hex;

/// Files whose symbols are kept.
const FILES: usize = 32;

/// A file by device, inode, size, and times of change of content and of itself, which its owner cannot set.
pub type FileKey = (u64, u64, u64, (i64, i64), (i64, i64));

/// A symbol and the offset into it.
type Named = (Arc<str>, u64);

struct ElfFile {
    file: File,
    build_id: Option<Arc<str>>,
    used: u64,
}

/// ELF files that are open, whichever process showed them to us.
pub struct ElfFiles {
    open: HashMap<FileKey, ElfFile>,
    vdso: Option<File>,
    symbolizer: Symbolizer,
}

impl Default for ElfFiles {
    fn default() -> Self {
        ElfFiles { open: HashMap::new(), vdso: None, symbolizer: symbolizer() }
    }
}

/// Names of functions only: DWARF of a large program would take hundreds of MiB.
fn symbolizer() -> Symbolizer {
    let builder = Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false);
    builder.enable_auto_reload(false).enable_demangling(false).build()
}

impl ElfFiles {
    pub fn new(vdso: Option<File>) -> Self {
        ElfFiles { vdso, ..Self::default() }
    }

    pub fn has(&self, key: &FileKey) -> bool {
        self.open.contains_key(key)
    }

    /// Keeps a file, if it is not there already.
    pub fn add(&mut self, file: File) -> Option<FileKey> {
        let m = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let key = (m.dev(), m.ino(), m.size(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
        if let Entry::Vacant(place) = self.open.entry(key) {
            let build_id = blazesym::helper::read_elf_build_id(&fd_path(&file)).ok().flatten();
            let build_id = build_id.filter(|id| id.len() <= 64);
            let build_id = build_id.map(|id| Hex(&id).to_string().into());
            place.insert(ElfFile { file, build_id, used: u64::MAX });
            if self.open.len() > FILES {
                self.forget_oldest();
            }
        }
        Some(key)
    }

    fn forget_oldest(&mut self) {
        let Some(key) = self.open.iter().min_by_key(|(_, f)| f.used).map(|(k, _)| *k) else { return };
        if let Some(f) = self.open.remove(&key) {
            // Before the number of the descriptor is used again.
            if self.symbolizer.evict(&evict::Elf::new(fd_path(&f.file)).into()).is_err() {
                self.symbolizer = symbolizer();
            }
        }
    }

    /// What is at an offset of a file, if it has a name, and the file's build id; `None` when the file is not open.
    pub fn symbol(&mut self, key: &FileKey, offset: u64, now: u64) -> Option<(Option<Named>, Option<Arc<str>>)> {
        let f = self.open.get_mut(key)?;
        f.used = now;
        let build_id = f.build_id.clone();
        let path = fd_path(&f.file);
        Some((self.find(path, offset), build_id))
    }

    /// What is at an offset of the vDSO, of which the kernel has one for all processes of the machine's
    /// own word size; others are known by their size.
    pub fn vdso(&self, offset: u64, size: u64) -> Option<Named> {
        let vdso = self.vdso.as_ref().filter(|f| f.metadata().is_ok_and(|m| m.len() == size))?;
        self.find(fd_path(vdso), offset)
    }

    fn find(&self, path: PathBuf, offset: u64) -> Option<Named> {
        let source = Source::Elf(Elf { debug_syms: false, ..Elf::new(path) });
        match self.symbolizer.symbolize_single(&source, Input::FileOffset(offset)) {
            Ok(Symbolized::Sym(s)) => Some((demangled(&s.name), s.offset as u64)),
            _ => None,
        }
    }
}

/// Opens the same file again, also when its path is in another mount namespace or gone.
fn fd_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
