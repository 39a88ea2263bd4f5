// SPDX-License-Identifier: Apache-2.0
//! Names of the running kernel's enumerators, from its BTF (Documentation/bpf/btf.rst): numbers that
//! differ from kernel to kernel, such as why a packet was dropped, get the names of this one.

use std::io;
use std::path::Path;

/// One enumerator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enumerator {
    /// The enum's name.
    pub of: String,
    pub name: String,
    pub value: u64,
}

const MAGIC: u16 = 0xeb9f;
const ENUM: u32 = 6;
const ENUM64: u32 = 19;

/// All enumerators of the enums whose name ends so, from a kernel's BTF (`/sys/kernel/btf/vmlinux`).
///
/// # Errors
/// The kernel shows no BTF, or it is cut short.
pub fn kernel_enums(btf: &Path, name_ends: &str) -> io::Result<Vec<Enumerator>> {
    read(btf, |of, _| of.ends_with(name_ends))
}

/// The enumerators of these names, whatever their enums are called: those of some have no name.
///
/// # Errors
/// The kernel shows no BTF, or it is cut short.
pub(super) fn kernel_enumerators(btf: &Path, names: &[&str]) -> io::Result<Vec<Enumerator>> {
    read(btf, |_, name| names.contains(&name))
}

fn read(btf: &Path, wanted: impl Fn(&str, &str) -> bool) -> io::Result<Vec<Enumerator>> {
    let bytes = std::fs::read(btf)?;
    parse(&bytes, wanted).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "BTF is cut short"))
}

/// `wanted`: of an enum's and an enumerator's name.
fn parse(bytes: &[u8], wanted: impl Fn(&str, &str) -> bool) -> Option<Vec<Enumerator>> {
    if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
        return None;
    }
    let header = u32_at(bytes, 4)? as usize;
    let section = |at: usize| Some((header + u32_at(bytes, at)? as usize, u32_at(bytes, at + 4)? as usize));
    let ((types, types_len), (strings, strings_len)) = (section(8)?, section(16)?);
    let types = bytes.get(types..types + types_len)?;
    let strings = bytes.get(strings..strings + strings_len)?;
    let (mut at, mut found) = (0, Vec::new());
    while at < types.len() {
        let info = u32_at(types, at + 4)?;
        let (kind, len) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let name = text(strings, u32_at(types, at)?)?;
        let body = at + 12;
        let size = body_size(kind, len)?;
        if kind == ENUM || kind == ENUM64 {
            let step = if kind == ENUM { 8 } else { 12 };
            for entry in (body..body + len * step).step_by(step) {
                let enumerator = text(strings, u32_at(types, entry)?)?;
                if wanted(name, enumerator) {
                    let high = if kind == ENUM { 0 } else { u64::from(u32_at(types, entry + 8)?) };
                    let value = high << 32 | u64::from(u32_at(types, entry + 4)?);
                    found.push(Enumerator { of: name.to_owned(), name: enumerator.to_owned(), value });
                }
            }
        }
        at = body + size;
    }
    Some(found)
}

/// What follows the 12 bytes of a type, by its kind. `None`: a kind of a later kernel.
fn body_size(kind: u32, len: usize) -> Option<usize> {
    Some(match kind {
        // pointers, forwards, typedefs, qualifiers, functions, floats, type tags
        2 | 7..=12 | 16 | 18 => 0,
        // integers, variables, declaration tags
        1 | 14 | 17 => 4,
        // arrays
        3 => 12,
        // structs, unions, data sections, enums of 64 bits
        4 | 5 | 15 | ENUM64 => len * 12,
        // enums, prototypes
        ENUM | 13 => len * 8,
        _ => return None,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(strings: &[u8], at: u32) -> Option<&str> {
    let rest = strings.get(at as usize..)?;
    std::str::from_utf8(&rest[..rest.iter().position(|b| *b == 0)?]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are the kernel's ABI are found under their names, on the running kernel.
    #[test]
    fn reads_the_running_kernel() {
        let btf = Path::new("/sys/kernel/btf/vmlinux");
        if !btf.exists() {
            return;
        }
        let all = kernel_enums(btf, "bpf_map_type").unwrap();
        let value = |name: &str| all.iter().find(|e| e.name == name).map(|e| e.value);
        assert_eq!((value("BPF_MAP_TYPE_HASH"), value("BPF_MAP_TYPE_RINGBUF")), (Some(1), Some(27)));
        assert!(all.iter().all(|e| e.of == "bpf_map_type"));
        let one = kernel_enumerators(btf, &["BPF_MAP_TYPE_RINGBUF", "NO_SUCH_NAME"]).unwrap();
        assert_eq!(one.iter().map(|e| (e.of.as_str(), e.value)).collect::<Vec<_>>(), [("bpf_map_type", 27)]);
    }

    /// What is cut short is no panic.
    #[test]
    fn refuses_what_is_cut_short() {
        assert_eq!(parse(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0], |_, _| true), None);
        assert_eq!(parse(b"not BTF at all", |_, _| true), None);
    }
}
