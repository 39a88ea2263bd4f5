// SPDX-License-Identifier: Apache-2.0
//! Against the running kernel, and on written kallsyms.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::kernel::Kallsyms;
use super::{LateNames, Named, Symbols, Urgency, UserSymbols};
use crate::signal::Frame;
use crate::signal::ids::StackKey;

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
    let wait = || std::thread::sleep(Duration::from_millis(1100));
    loaded("ffff1000 t g\t[xfs]\n", XFS);
    let mut k = Kallsyms::under(d.path());
    assert_eq!(k.stack(&[0xffff_1004]).text(), "g+0x4 [xfs]");
    assert_eq!(k.stack(&[0xffff_3004]).text(), "0xffff3004");
    std::thread::sleep(Duration::from_millis(110));
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

/// Answers as it is made to, and keeps what it was asked.
#[derive(Default)]
struct Scripted {
    answer: Option<Vec<Frame>>,
    asked: Mutex<Vec<(Urgency, Duration)>>,
}

impl UserSymbols for Scripted {
    fn frames(&self, _: u32, _: &[u64], urgency: Urgency, until: Instant) -> Named {
        self.asked.lock().unwrap().push((urgency, until.saturating_duration_since(Instant::now())));
        self.answer.clone().map_or(Named::Late(StackKey(5)), Named::Frames)
    }
    fn trim(&self, _: Duration) {}
    fn impaired(&self) -> Option<String> {
        None
    }
}

/// Without an answer, addresses as they were; with one, offsets are of the return addresses again.
#[test]
fn user_stacks_are_as_far_as_they_are_named() {
    let silent = Arc::new(Scripted::default());
    let unnamed = Symbols::new().with_user(silent.clone()).user(1, &[0x10, 0x20]);
    assert_eq!((unnamed.text(), unnamed.late()), ("0x10\n0x20", Some(StackKey(5))));
    let frame = |address, offset| Frame { symbol: Some("f".into()), address, offset, ..Frame::default() };
    let answer = Some(vec![frame(0x10, 0), frame(0x1f, 3)]);
    let symbols = Symbols::new().with_user(Arc::new(Scripted { answer, ..Scripted::default() }));
    assert_eq!(symbols.user(1, &[0x10, 0x20]).text(), "f+0x0\nf+0x4");
    // The same when they come late, for the stack as it was.
    let late = LateNames::new(StackKey(5), 1, &[0x10, 0x1f], vec![frame(0x10, 0), frame(0x1f, 3)]);
    assert_eq!((late.named.text(), late.before.id()), ("f+0x0\nf+0x4", unnamed.id()));
    assert_eq!(Symbols::new().user(1, &[0x10]).text(), "0x10");
}

/// An event waits a tenth of a second, a capture two seconds a stack and ten in all.
#[test]
fn who_waits_how_long() {
    let user = Arc::new(Scripted::default());
    let symbols = Symbols::new().with_user(user.clone());
    let _ = symbols.user(1, &[1]);
    let capture = symbols.for_capture();
    let _ = capture.user(1, &[1]);
    let spent = Symbols { capture: Some(Instant::now()), ..capture };
    let _ = spent.user(1, &[1]);
    // What is left of the time since the record was read, and of each collector apart.
    let (late, other) = (symbols.for_collector(), symbols.for_collector());
    late.begin_event(Instant::now().checked_sub(Duration::from_millis(80)).unwrap());
    for symbols in [&late, &other] {
        let _ = symbols.user(1, &[1]);
    }
    let asked = user.asked.lock().unwrap();
    assert!(asked[0].0 == Urgency::Event && asked[0].1 <= Duration::from_millis(100));
    assert!(asked[1].0 == Urgency::Capture && asked[1].1 <= Duration::from_secs(2));
    assert_eq!(asked[2], (Urgency::Capture, Duration::ZERO));
    assert!(asked[3].1 <= Duration::from_millis(20), "{:?}", asked[3]);
    assert_eq!(asked[4].0, Urgency::Event);
}
