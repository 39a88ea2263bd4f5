// SPDX-License-Identifier: Apache-2.0
//! Against this very process and the running kernel, and on written kallsyms and perf maps.

use super::Symbols;
use super::jit::PerfMap;
use super::kernel::Kallsyms;

/// A function of our own to find.
#[inline(never)]
fn a_function_to_be_found() -> u64 {
    std::hint::black_box(a_function_to_be_found as fn() -> u64 as usize as u64)
}

/// An address of this process gets its demangled name, offset, file and build id.
#[test]
fn own_function_is_named() {
    let address = a_function_to_be_found();
    let frames = Symbols::new().user(std::process::id(), &[address + 1]);
    let symbol = frames[0].symbol.as_deref().unwrap();
    assert!(symbol.ends_with("stacks::tests::a_function_to_be_found"), "{symbol}");
    assert_eq!(frames[0].offset, 1);
    assert_eq!(frames[0].module.as_deref(), std::env::current_exe().unwrap().to_str());
}

/// A stack ends where it leaves the mapped code; its innermost address is the CPU's own and stays.
#[test]
fn broken_stacks_end_where_they_break() {
    let code = a_function_to_be_found();
    let addresses = |stack: &[u64]| -> Vec<u64> {
        Symbols::new().user(std::process::id(), stack).iter().map(|f| f.address).collect()
    };
    assert_eq!(addresses(&[code, code + 2, 0x10, code]), [code, code + 2]);
    assert_eq!(addresses(&[0x10, code]), [0x10, code]);
}

/// A shared library's function: the C library's, with its build id.
#[test]
fn library_function_is_named() {
    let frames = Symbols::new().user(std::process::id(), &[libc::getpid as *const () as u64]);
    assert!(frames[0].symbol.as_deref().unwrap().contains("getpid"), "{:?}", frames[0]);
    assert!(frames[0].module.as_deref().unwrap().contains("libc"));
    assert!(frames[0].build_id.as_deref().is_some_and(|b| b.len() >= 16));
}

/// What is kept of processes goes when nobody asks for it, once, and is found again.
#[test]
fn processes_are_forgotten_when_nobody_asks() {
    let symbols = Symbols::new();
    let quiet = std::time::Duration::from_millis(50);
    assert!(!symbols.trim(std::time::Duration::ZERO), "nothing was kept");
    let address = [a_function_to_be_found()];
    let before = symbols.user(std::process::id(), &address);
    assert!(!symbols.trim(std::time::Duration::from_secs(3600)), "asked for just now");
    std::thread::sleep(quiet);
    assert!(symbols.trim(quiet) && !symbols.trim(quiet));
    assert_eq!(symbols.user(std::process::id(), &address), before);
}

/// A process that nobody has: addresses, no error, no delay.
#[test]
fn gone_process_gives_addresses() {
    let frames = Symbols::new().user(u32::MAX - 1, &[0x1234]);
    assert_eq!(format!("{}", frames[0]), "0x1234");
}

/// A process that ends after it was seen is still named.
#[test]
#[expect(clippy::disallowed_methods, reason = "a process to look at")]
fn process_seen_before_is_named_after_its_end() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let symbols = Symbols::new();
    // Until exec, the child is a copy of us; then its libraries come one by one.
    let exe = std::fs::canonicalize("/proc/self/exe").unwrap();
    let (link, maps) = (format!("/proc/{}/exe", child.id()), format!("/proc/{}/maps", child.id()));
    let address = loop {
        let maps = std::fs::read_to_string(&maps).unwrap();
        let libc = maps.lines().find(|l| l.contains("r-xp") && l.contains("libc"));
        if let Some(l) = libc.filter(|_| std::fs::read_link(&link).is_ok_and(|l| l != exe)) {
            break u64::from_str_radix(l.split('-').next().unwrap(), 16).unwrap() + 0x100;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let before = symbols.user(child.id(), &[address]);
    assert!(before[0].module.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(symbols.user(child.id(), &[address]), before);
}

/// The running kernel's functions are named, or it is said why not.
#[test]
fn kernel_function_is_named_or_the_reason_given() {
    let symbols = Symbols::new();
    if let Some(why) = symbols.kernel_hidden() {
        assert!(why.contains("CAP_SYSLOG"), "{why}");
        return;
    }
    let all = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let line = all.lines().find(|l| l.ends_with(" T schedule")).unwrap();
    let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    let frame = &symbols.kernel(&[address + 4])[0];
    assert_eq!((frame.symbol.as_deref(), frame.offset), (Some("schedule"), 4));
}

/// These symbols and modules, in a folder that is to be kept.
fn written(kallsyms: &str, modules: &str) -> (tempfile::TempDir, Kallsyms) {
    let d = tempfile::tempdir().unwrap();
    std::fs::write(d.path().join("kallsyms"), kallsyms).unwrap();
    std::fs::write(d.path().join("modules"), modules).unwrap();
    let k = Kallsyms::under(d.path());
    (d, k)
}

const XFS: &str = "xfs 8192 1 - Live 0x00000000ffff1000\n";

/// A stack that comes again is not named again: it is the same one, until the symbols are read anew.
#[test]
fn equal_kernel_stacks_are_named_once() {
    let text = "ffff0000 T _text\nffff0020 t f\nffff1000 t g\t[xfs]\n";
    let (_folder, mut k) = written(text, XFS);
    let (first, again) = (k.stack(&[0xffff_0024, 0xffff_1008]), k.stack(&[0xffff_0024, 0xffff_1008]));
    assert_eq!(first.text(), "f+0x4\ng+0x8 [xfs]");
    assert!(std::ptr::eq(first.text(), again.text()), "made anew");
    let other = k.stack(&[0xffff_0025, 0xffff_1008]);
    assert!(other != first && other.id() != first.id());
    // What has no name may have one later.
    let unknown = [0x10_u64];
    assert!(!std::ptr::eq(k.stack(&unknown).text(), k.stack(&unknown).text()));
}

/// Modules are told, padding and data are passed over, far addresses are not guessed.
#[test]
fn kallsyms_text() {
    let text = "ffff0000 T _text\nffff0010 t __pfx_f\nffff0020 t f\nffff0030 D data\nffff1000 t g\t[xfs]\n";
    let (_folder, mut k) = written(text, XFS);
    assert_eq!(k.frame(0xffff_0034).to_string(), "f+0x14");
    assert_eq!(k.frame(0xffff_1001).to_string(), "g+0x1 [xfs]");
    let (_folder, mut zeroed) = written("0000000000000000 T schedule\n", "");
    assert!(zeroed.hidden().is_some());
}

/// Behind the end of a module, and far behind generated code, nobody is named.
#[test]
fn names_end_with_their_module() {
    let text = "ffff1000 t g\t[xfs]\nffff8000 t bpf_prog_1\t[bpf]\n";
    let (_folder, mut k) = written(text, XFS);
    assert_eq!(k.frame(0xffff_2fff).to_string(), "g+0x1fff [xfs]");
    assert_eq!(k.frame(0xffff_3000).symbol, None);
    assert_eq!(k.frame(0xffff_8010).to_string(), "bpf_prog_1+0x10 [bpf]");
    assert_eq!(k.frame(0x1_0001_8000).symbol, None);
}

/// A module that was loaded after the symbols were read is named, beside another and in its place; how
/// many use one is no change.
#[test]
fn modules_loaded_later_are_named() {
    let d = tempfile::tempdir().unwrap();
    let loaded = |symbols: &str, modules: &str| {
        std::fs::write(d.path().join("kallsyms"), symbols).unwrap();
        std::fs::write(d.path().join("modules"), modules).unwrap();
    };
    let wait = || std::thread::sleep(std::time::Duration::from_millis(1100));
    loaded("ffff1000 t g\t[xfs]\n", XFS);
    let mut k = Kallsyms::under(d.path());
    assert_eq!(k.stack(&[0xffff_1004]).text(), "g+0x4 [xfs]");
    assert_eq!(k.stack(&[0xffff_3004]).text(), "0xffff3004");
    std::thread::sleep(std::time::Duration::from_millis(110));
    let second = "nfs 4096 0 - Live 0x00000000ffff3000\n";
    loaded("ffff1000 t g\t[xfs]\nffff3000 t h\t[nfs]\n", &format!("{XFS}{second}"));
    assert_eq!(k.stack(&[0xffff_3004]).text(), "h+0x4 [nfs]", "soon: the address had no name");
    loaded("ffff1000 t i\t[nfs]\n", "nfs 8192 0 - Live 0x00000000ffff1000\n");
    wait();
    assert_eq!(k.stack(&[0xffff_1004]).text(), "i+0x4 [nfs]");
    loaded("ffff1000 t wrong\t[nfs]\n", "nfs 8192 3 a,b Live 0x00000000ffff1000\n");
    wait();
    assert_eq!(k.stack(&[0xffff_1004]).text(), "i+0x4 [nfs]");
}

/// Of code compiled twice at one place, the later name holds; gaps have none.
#[test]
fn perf_map_text() {
    let map = PerfMap::parse("1000 20 LFoo;::bar\nbroken\n1000 10 new name\n2000 8 other\n");
    assert_eq!(map.find(0x1004).unwrap(), ("new name".into(), 4));
    assert_eq!(map.find(0x2007).unwrap().1, 7);
    assert!(map.find(0x2008).is_none() && map.find(0xfff).is_none());
}

/// In a mount namespace of its own, a program whose path the host does not have gets its module and
/// build id, and the names of the perf map that lies in its own /tmp.
#[test]
#[expect(clippy::disallowed_methods, reason = "a process to look at")]
fn process_in_its_own_mount_namespace() {
    if !crate::probe::tests::can_load() {
        return;
    }
    let script = "mount -t tmpfs none /tmp && cp \"$(command -v sleep)\" /tmp/only-here && exec /tmp/only-here 60";
    let mut child = std::process::Command::new("unshare").args(["-m", "sh", "-c", script]).spawn().unwrap();
    let maps = format!("/proc/{}/maps", child.id());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let start = loop {
        let maps = std::fs::read_to_string(&maps).unwrap();
        if let Some(l) = maps.lines().find(|l| l.contains("r-xp") && l.ends_with("/only-here")) {
            break u64::from_str_radix(l.split('-').next().unwrap(), 16).unwrap();
        }
        assert!(std::time::Instant::now() < until, "{maps}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(!std::path::Path::new("/tmp/only-here").exists());
    let symbols = Symbols::new();
    let unnamed = &symbols.user(child.id(), &[start + 0x10])[0];
    assert_eq!(unnamed.module.as_deref(), Some("/tmp/only-here"));
    assert!(unnamed.build_id.is_some() && unnamed.offset > 0, "{unnamed:?}");
    let map = format!("/proc/{0}/root/tmp/perf-{0}.map", child.id());
    std::fs::write(map, format!("{start:x} 100 jitted function\n")).unwrap();
    let named = &symbols.user(child.id(), &[start + 0x10])[0];
    child.kill().unwrap();
    child.wait().unwrap();
    // Debian's sleep is stripped; where it is not, the ELF symbol goes first.
    assert_eq!((named.symbol.as_deref(), named.offset), (Some("jitted function"), 0x10));
}

/// A symbolic link that a container put in place of its perf map leads nowhere outside of it, and
/// a FIFO does not hold us up.
#[test]
fn links_do_not_lead_out_of_the_root() {
    use crate::probe::sys::open_in_root;
    use std::path::Path;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("tmp/out.map")).unwrap();
    std::os::unix::fs::symlink("/tmp/in.map", dir.path().join("tmp/link.map")).unwrap();
    std::fs::write(dir.path().join("tmp/in.map"), "inside").unwrap();
    assert!(open_in_root(dir.path(), Path::new("tmp/out.map")).is_err());
    assert!(open_in_root(dir.path(), Path::new("../../etc/passwd")).is_err());
    let inside = open_in_root(dir.path(), Path::new("tmp/link.map")).unwrap();
    assert_eq!(inside.metadata().unwrap().len(), 6);
}
