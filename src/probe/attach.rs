// SPDX-License-Identifier: Apache-2.0
//! Loads and attaches one program, and says in plain words why that failed.

use std::any::Any;

use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe, PerfEvent, ProgramError, RawTracePoint, TracePoint};
use aya::{Btf, BtfError, Ebpf};

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
    run(ebpf, program, btf).map_err(|e| absent(program, &e).unwrap_or_else(|| explain(&e)))
}

/// Options of the kernel's configuration that bring a tracepoint.
const OPTIONS: &[(&str, &str)] = &[
    ("aer_event", "CONFIG_PCIEAER and CONFIG_RAS"),
    ("arm_event", "CONFIG_RAS, on arm64"),
    ("cgroup_mkdir", "CONFIG_CGROUPS"),
    ("devlink_trap_report", "CONFIG_NET_DEVLINK"),
    ("extlog_mem_event", "CONFIG_ACPI_EXTLOG"),
    ("mc_event", "CONFIG_EDAC and CONFIG_RAS"),
    ("mce_record", "CONFIG_X86_MCE"),
    ("memory_failure_event", "CONFIG_MEMORY_FAILURE and CONFIG_RAS"),
    ("mm_compaction_begin", "CONFIG_COMPACTION"),
    ("mm_compaction_end", "CONFIG_COMPACTION"),
    ("mm_compaction_try_to_compact_pages", "CONFIG_COMPACTION"),
    ("mm_vmscan_memcg_reclaim_begin", "CONFIG_MEMCG"),
    ("mm_vmscan_memcg_reclaim_end", "CONFIG_MEMCG"),
    ("non_standard_event", "CONFIG_RAS"),
    ("sched_process_hang", "CONFIG_DETECT_HUNG_TASK"),
];

/// What is said of a hook that this kernel does not have: an error number would help nobody.
fn absent(program: &Program, e: &ProgramError) -> Option<String> {
    let unknown = matches!(e, ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }));
    let is = |io: &std::io::Error, number| io.raw_os_error() == Some(number);
    let any = |number| {
        let own = matches!(e, ProgramError::IOError(io) if is(io, number));
        let sources = std::iter::successors(std::error::Error::source(e), |e| e.source());
        own || sources.filter_map(|s| s.downcast_ref::<std::io::Error>()).any(|io| is(io, number))
    };
    let name = program.target.rsplit('/').next().unwrap_or(program.target);
    let option = OPTIONS.iter().find(|(target, _)| *target == name).map(|(_, option)| *option);
    let has = |path: &str| std::path::Path::new(path).exists();
    Some(match program.kind {
        HookKind::Fentry | HookKind::Fexit if any(ENOTSUPP) || any(libc::EOPNOTSUPP) => {
            "needs CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS".into()
        }
        _ if !unknown && !any(libc::ENOENT) => return None,
        HookKind::Kprobe | HookKind::Kretprobe if !has("/sys/bus/event_source/devices/kprobe") => {
            "needs CONFIG_KPROBE_EVENTS".into()
        }
        HookKind::Tracepoint if !has("/sys/kernel/tracing/events") && !has("/sys/kernel/debug/tracing/events") => {
            "needs tracefs: mount -t tracefs tracefs /sys/kernel/tracing".into()
        }
        HookKind::Kprobe | HookKind::Kretprobe | HookKind::Fentry | HookKind::Fexit => {
            "there is no such function on this kernel, or it is built into its callers".into()
        }
        _ => option.map_or("not on this kernel".into(), |o| format!("not on this kernel; needs {o}")),
    })
}

/// The kernel's own number, which user space has no name for (include/linux/errno.h): no ftrace trampolines.
const ENOTSUPP: i32 = 524;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn program(kind: HookKind, target: &'static str) -> Program {
        Program { name: "p", slot: "p", kind, target, stat: None }
    }

    fn refused(number: i32) -> ProgramError {
        ProgramError::IOError(std::io::Error::from_raw_os_error(number))
    }

    /// A hook that is not there is said to be so, with the option that brings it; no error is a number alone. Others keep
    /// what the kernel said.
    #[test]
    fn what_is_not_there() {
        for (kind, target, number, said) in [
            (HookKind::RawTracepoint, "mce_record", libc::ENOENT, "not on this kernel; needs CONFIG_X86_MCE"),
            (HookKind::RawTracepoint, "signal_generate", libc::ENOENT, "not on this kernel"),
            (HookKind::TpBtf, "mm_compaction_end", libc::ENOENT, "not on this kernel; needs CONFIG_COMPACTION"),
            (HookKind::Fentry, "x", ENOTSUPP, "needs CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"),
            (
                HookKind::Fexit,
                "x",
                libc::ENOENT,
                "there is no such function on this kernel, or it is built into its callers",
            ),
        ] {
            assert_eq!(absent(&program(kind, target), &refused(number)).as_deref(), Some(said));
        }
        let unknown = ProgramError::Btf(BtfError::UnknownBtfTypeName { type_name: "btf_trace_x".into() });
        assert_eq!(absent(&program(HookKind::TpBtf, "x"), &unknown).as_deref(), Some("not on this kernel"));
        let kprobe = absent(&program(HookKind::Kprobe, "x"), &refused(libc::ENOENT)).unwrap();
        assert!(kprobe.contains("CONFIG_KPROBE_EVENTS") || kprobe.contains("no such function"), "{kprobe}");
        assert_eq!(absent(&program(HookKind::TpBtf, "x"), &refused(libc::EPERM)), None);
    }
}
