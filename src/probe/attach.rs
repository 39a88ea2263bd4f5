// SPDX-License-Identifier: Apache-2.0
//! Loads and attaches one program, and says in plain words why that failed.

use std::any::Any;

use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, PerfEvent, ProgramError, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf};

use super::{HookKind, Program};

/// Detaches when dropped.
pub type Link = Box<dyn Any + Send + Sync>;

/// What CO-RE leaves in place of an access that this kernel has no type or field for: a call of
/// helper 0xbad2310 (libbpf and aya alike), shown by the verifier in decimal.
const POISON: &str = "195896080";

/// How the statistics begin that end the verifier's log: the reason is what comes before.
const STATISTICS: &[&str] = &["processed ", "verification time", "stack depth", "insns processed"];

/// Lines of the verifier's log that are quoted.
const LOG_LINES: usize = 2;

/// Loads and attaches; perf events and iterators are loaded only, and give no link.
///
/// # Errors
/// The kernel's reason, for a human.
pub fn attach(ebpf: &mut Ebpf, program: &Program, btf: &Btf) -> Result<Option<Link>, String> {
    run(ebpf, program, btf).map_err(|e| explain(&e))
}

macro_rules! attach {
    ($ebpf:expr, $program:expr, $ty:ty, |$p:ident| $load:expr, $attach:expr) => {{
        let $p = typed::<$ty>($ebpf, $program)?;
        $load?;
        let id = $attach?;
        Ok(Some(Box::new($p.take_link(id)?) as Link))
    }};
}

fn run(ebpf: &mut Ebpf, program: &Program, btf: &Btf) -> Result<Option<Link>, ProgramError> {
    let target = program.target;
    match program.kind {
        HookKind::TpBtf => attach!(ebpf, program, BtfTracePoint, |p| p.load(target, btf), p.attach()),
        HookKind::RawTracepoint => attach!(ebpf, program, RawTracePoint, |p| p.load(), p.attach(target)),
        HookKind::Tracepoint => {
            let (group, name) = target.split_once('/').unwrap_or(("", target));
            attach!(ebpf, program, TracePoint, |p| p.load(), p.attach(group, name))
        }
        HookKind::Fentry => attach!(ebpf, program, FEntry, |p| p.load(target, btf), p.attach()),
        HookKind::Fexit => attach!(ebpf, program, FExit, |p| p.load(target, btf), p.attach()),
        HookKind::Kprobe | HookKind::Kretprobe => {
            attach!(ebpf, program, KProbe, |p| p.load(), p.attach(target, 0))
        }
        HookKind::PerfEvent => typed::<PerfEvent>(ebpf, program)?.load().map(|()| None),
        HookKind::Iterator => typed::<Iter>(ebpf, program)?.load(target, btf).map(|()| None),
    }
}

/// The program as aya's type for its kind.
///
/// # Errors
/// The object does not have it, or aya read another kind from its section.
pub fn typed<'a, P>(ebpf: &'a mut Ebpf, program: &Program) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(program.name).ok_or(ProgramError::UnexpectedProgramType)?.try_into()
}

/// One line: what the kernel said, and what to do where that is known.
pub fn explain(e: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = e {
        let log = verifier_log.to_string();
        if log.contains(POISON) {
            return "needs a type, field or value that this kernel does not have".into();
        }
        let said: Vec<&str> = log
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !STATISTICS.iter().any(|s| l.starts_with(s)))
            .collect();
        let tail = said[said.len().saturating_sub(LOG_LINES)..].join(" / ");
        return match (tail.is_empty(), hint(io_error)) {
            (true, hint) => format!("the kernel refuses to load it: {io_error}{hint}"),
            (false, hint) => format!("the verifier refuses it: {io_error}{hint}: {tail}"),
        };
    }
    chain(e)
}

/// An error and its causes in one line, without saying anything twice.
pub fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut next = Some(e);
    while let Some(e) = next {
        let said = e.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            text += hint(io);
        }
        next = e.source();
    }
    text
}

fn hint(e: &std::io::Error) -> &'static str {
    if e.raw_os_error() == Some(libc::EPERM) {
        " (CAP_BPF and CAP_PERFMON are needed; before Linux 5.11 also enough RLIMIT_MEMLOCK)"
    } else {
        ""
    }
}
