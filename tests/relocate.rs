// SPDX-License-Identifier: Apache-2.0
//! Relocates every BPF object against the types of the kernels that we promise to run on, without
//! root and without booting one: each slot must have a variant that needs nothing the kernel lacks.

use std::collections::HashMap;
use std::path::PathBuf;

use aya_obj::Object;
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::bpf_insn;
use bianque::probe::{HookKind, Program, Skeleton};

#[expect(dead_code, reason = "only the object is of interest")]
mod fixtures {
    bianque::include_skeletons!("fixtures");
}

/// As `tests/vm/btf` names them.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "newest"];

/// What CO-RE puts in place of an access that the kernel has no type or field for.
const POISON: i32 = 0x0bad_2310;

fn btf_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    var("BIANQUE_BTF_DIR").or_else(|| Some(var("BIANQUE_VM_CACHE")?.join("btf"))).unwrap_or_else(|| {
        let cache = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
        cache.unwrap_or_else(|| "/root/.cache".into()).join("bianque/vm/btf")
    })
}

#[expect(clippy::panic, reason = "a test that cannot run says how to make it run")]
fn kernel(name: &str) -> Btf {
    let file = btf_dir().join(format!("{name}.btf"));
    Btf::parse_file(&file, Default::default()).unwrap_or_else(|e| {
        panic!("no types of kernel {name} in {}: run `tests/vm/btf` first, or set BIANQUE_BTF_DIR: {e}", file.display())
    })
}

/// Slots that the collectors of an object can do without.
fn optional(skeleton: &Skeleton) -> Vec<&'static str> {
    let users = || bianque::collectors::BUILT_IN.iter().map(|r| r.info);
    let own = users().filter(|i| i.object.is_some_and(|o| std::ptr::eq(o, skeleton))).flat_map(|i| i.optional);
    let features = users().flat_map(|i| i.needs).filter(|f| std::ptr::eq(f.skeleton(), skeleton));
    own.chain(features.flat_map(|f| f.optional())).map(|o| o.slot).collect()
}

/// Every slot of every object relocates on every kernel, but for those declared optional.
#[test]
fn every_slot_has_a_variant_on_every_kernel() {
    let mut failures = Vec::new();
    for name in KERNELS {
        let btf = kernel(name);
        for skeleton in bianque::probe::skeletons::ALL {
            failures.extend(check(name, &btf, skeleton, &optional(skeleton)));
        }
        failures.extend(check(name, &btf, fixtures::ALL[0], &["extra"]));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The check itself sees a missing type: a probe that reads a field which no kernel has fails.
#[test]
fn a_field_that_no_kernel_has_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let source = "#include \"probe.h\"\nLICENSE;\n\
        struct task_struct___x { int no_such_field; } __attribute__((preserve_access_index));\n\
        SEC(\"tp_btf/sched_switch\")\nint PROBE(bad__btf, u64 preempt, struct task_struct___x *t)\n\
        {\n\treturn t->no_such_field + (int)preempt;\n}\n\
        SEC(\"tp_btf/sched_switch\")\nint PROBE(guarded__btf, u64 preempt, struct task_struct___x *t)\n\
        {\n\treturn bpf_core_field_exists(t->no_such_field) ? t->no_such_field : (int)preempt;\n}\n";
    std::fs::write(dir.path().join("bad.bpf.c"), source).unwrap();
    bianque_build::compile_to(dir.path(), dir.path(), "", &bianque_build::Toolchain::default()).unwrap();
    let bytes = std::fs::read(dir.path().join("bad.bpf.o")).unwrap();
    let btf = kernel("newest");
    let poisoned = poisoned(&bytes, &btf).unwrap();
    assert_eq!((poisoned["bad__btf"], poisoned["guarded__btf"]), (true, false));
}

fn check(kernel: &str, btf: &Btf, skeleton: &Skeleton, optional: &[&str]) -> Vec<String> {
    let poisoned = match poisoned(&skeleton.object.0, btf) {
        Ok(p) => p,
        Err(e) => return vec![format!("{kernel}: {}: {e}", skeleton.name)],
    };
    let mut failures = Vec::new();
    for slot in skeleton.slots() {
        let mut tried = Vec::new();
        for p in skeleton.programs.iter().filter(|p| p.slot == slot) {
            if !target_exists(btf, p) {
                tried.push(format!("{}: no {p}", p.name));
            } else if poisoned[p.name] {
                tried.push(format!("{}: reads a type or field that is not there", p.name));
            } else {
                tried.clear();
                break;
            }
        }
        if !tried.is_empty() && !optional.contains(&slot) {
            failures.push(format!("{kernel}: {}: slot {slot}: {}", skeleton.name, tried.join("; ")));
        }
    }
    failures
}

/// Whether the kernel has the hook, according to its types.
fn target_exists(btf: &Btf, p: &Program) -> bool {
    let (name, kind) = match p.kind {
        HookKind::TpBtf => (format!("btf_trace_{}", p.target), BtfKind::Typedef),
        HookKind::Fentry | HookKind::Fexit => (p.target.to_owned(), BtfKind::Func),
        HookKind::Iterator => (format!("bpf_iter_{}", p.target), BtfKind::Func),
        _ => return true,
    };
    btf.id_by_type_name_kind(&name, kind).is_ok()
}

/// Which programs would run into poison.
fn poisoned(object: &[u8], btf: &Btf) -> Result<HashMap<String, bool>, String> {
    let mut object = Object::parse(object).map_err(|e| format!("{e:?}"))?;
    object.relocate_btf(btf).map_err(|e| format!("{e:?}"))?;
    // Sub-programs are shared, so one that is poisoned is charged to all programs.
    let is_program = |key: &(usize, u64)| object.programs.values().any(|p| p.function_key() == *key);
    let shared = object.functions.iter().any(|(k, f)| !is_program(k) && reaches_poison(&f.instructions));
    let programs = object.programs.iter().map(|(name, p)| {
        let own = object.functions.get(&p.function_key()).is_none_or(|f| reaches_poison(&f.instructions));
        (name.clone(), own || shared)
    });
    Ok(programs.collect())
}

/// What is known of the registers at an instruction: a constant, or nothing.
type Registers = [Option<i64>; 11];

/// Walks the program as the verifier does, with constants only: a branch that `bpf_core_*_exists`
/// rules out is not taken, so the poison behind it does not count.
fn reaches_poison(code: &[bpf_insn]) -> bool {
    let mut seen: HashMap<usize, Registers> = HashMap::new();
    let mut todo = vec![(0_usize, [None; 11])];
    while let Some((at, registers)) = todo.pop() {
        let registers = match seen.get(&at) {
            None => registers,
            Some(old) => {
                let merged: Registers = std::array::from_fn(|i| if old[i] == registers[i] { old[i] } else { None });
                if merged == *old {
                    continue;
                }
                merged
            }
        };
        seen.insert(at, registers);
        let Some(insn) = code.get(at) else { continue };
        if insn.code == 0x85 && insn.imm == POISON {
            return true;
        }
        todo.extend(step(code, at, registers));
    }
    false
}

fn step(code: &[bpf_insn], at: usize, mut r: Registers) -> Vec<(usize, Registers)> {
    let insn = &code[at];
    let (dst, src, imm) = (usize::from(insn.dst_reg()), usize::from(insn.src_reg()), i64::from(insn.imm));
    let class = insn.code & 7;
    // Only of a jump; of a store the same field is an offset into memory.
    let target = at.wrapping_add_signed(isize::from(insn.off)).wrapping_add(1);
    let operand = if insn.code & 8 == 0 { Some(imm) } else { r[src] };
    match class {
        // ld: only the 64-bit immediate, in two slots.
        0 => {
            let high = code.get(at + 1).map_or(0, |i| i64::from(i.imm));
            r[dst] = (src == 0).then_some(high << 32 | (imm & 0xffff_ffff));
            vec![(at + 2, r)]
        }
        // ldx
        1 => {
            r[dst] = None;
            vec![(at + 1, r)]
        }
        // alu, alu64: moves keep constants; and, shifts and adds of constants too, as clang uses them.
        4 | 7 => {
            let value = match (insn.code >> 4, r[dst], operand) {
                (0xb, _, v) => v,
                (0x0, Some(a), Some(b)) => Some(a.wrapping_add(b)),
                (0x5, Some(a), Some(b)) => Some(a & b),
                (0x4, Some(a), Some(b)) => Some(a | b),
                (0x6, Some(a), Some(b)) => Some(a.wrapping_shl(b as u32)),
                (0x7, Some(a), Some(b)) => Some((a as u64).wrapping_shr(b as u32) as i64),
                _ => None,
            };
            r[dst] = if class == 4 { value.map(|v| v & 0xffff_ffff) } else { value };
            vec![(at + 1, r)]
        }
        // jmp, jmp32
        5 | 6 => match insn.code >> 4 {
            0x0 => vec![(target, r)],
            0x8 => {
                r[..6].fill(None);
                vec![(at + 1, r)]
            }
            0x9 => vec![],
            op => match (op, r[dst], operand) {
                (0x1, Some(a), Some(b)) => vec![(if a == b { target } else { at + 1 }, r)],
                (0x5, Some(a), Some(b)) => vec![(if a == b { at + 1 } else { target }, r)],
                _ => vec![(at + 1, r), (target, r)],
            },
        },
        _ => vec![(at + 1, r)],
    }
}
