// SPDX-License-Identifier: Apache-2.0
//! Opener and parser as threads, without a sandbox, against this very process and others.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use super::Role;
use super::messages::{Answer, Ask, Devices, Query, Wanted};
use super::processes::{Files, Processes};
use super::wire::{LARGEST, Socket};
use super::{opener, parser, sandbox};
use crate::signal::Frame;

/// A helper to ask.
struct Names {
    asks: Socket,
    answers: Socket,
}

impl Names {
    /// As the agent has it, in processes of their own.
    fn confined() -> (Self, [Child; 2]) {
        let ((asks, asked), (hands, gets), (replies, answers)) =
            (Socket::pair().unwrap(), Socket::pair().unwrap(), Socket::pair().unwrap());
        let parser = child("parser", gets, replies);
        (Names { asks, answers }, [child("opener", asked, hands), parser])
    }

    fn new() -> Self {
        let ((asks, asked), (hands, gets), (replies, answers)) =
            (Socket::pair().unwrap(), Socket::pair().unwrap(), Socket::pair().unwrap());
        std::thread::spawn(move || opener::run(&asked, &hands, |_| ()));
        std::thread::spawn(move || parser::run(&gets, &replies, Processes::new(parser::vdso()), |_| ()));
        Names { asks, answers }
    }

    fn user(&self, pid: u32, addresses: &[u64]) -> Vec<Frame> {
        self.ask(pid, addresses, Devices::AllBut(Vec::new())).0
    }

    /// Frames, and the devices that were touched.
    fn ask(&self, pid: u32, addresses: &[u64], devices: Devices) -> (Vec<Frame>, Vec<u64>) {
        let query = Query::Frames { pid, addresses: addresses.to_vec() };
        self.asks.send(&Ask { id: 7, devices, query }.encode()).unwrap();
        let (mut buffer, mut touched) = (vec![0; LARGEST], Vec::new());
        loop {
            match Answer::decode(self.answers.receive(&mut buffer).unwrap().unwrap()).unwrap() {
                Answer::Touches(device) => touched.push(device),
                Answer::Facts { .. } => panic!("nobody asked for them"),
                Answer::Frames { id, frames } => {
                    assert_eq!(id, 7);
                    return (frames, touched);
                }
            }
        }
    }
}

/// This very test program, with [`as_a_helper`] alone; what it writes must not be an answer.
#[expect(clippy::disallowed_methods, reason = "a helper, as the agent starts it")]
fn child(role: &str, asks: Socket, answers: Socket) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "helper::tests::as_a_helper", "--nocapture"]).env("BIANQUE_TEST_ROLE", role);
    command.stdin(OwnedFd::from(asks)).stdout(Stdio::null()).stderr(OwnedFd::from(answers));
    command.spawn().unwrap()
}

/// What [`child`] runs; by itself, nothing.
#[test]
fn as_a_helper() {
    let Ok(role) = std::env::var("BIANQUE_TEST_ROLE") else { return };
    if role == "canary" {
        std::process::exit((!is_confined()).into());
    }
    let arguments = ["", super::ARGUMENT, &role].map(OsString::from);
    let connection = |fd: BorrowedFd<'_>| Socket::from(fd.try_clone_to_owned().unwrap());
    let (asks, answers) = (connection(std::io::stdin().as_fd()), connection(std::io::stderr().as_fd()));
    let done = Role::of(arguments.into_iter()).unwrap().work(&asks, &answers);
    std::process::exit(done.is_err().into());
}

/// Whether nothing can be done any more but what the parser does.
#[expect(clippy::disallowed_methods, reason = "it fails")]
fn is_confined() -> bool {
    let open = std::fs::File::open("/proc/self/comm").unwrap();
    sandbox::limit(&[]).unwrap();
    sandbox::confine().unwrap();
    let own = format!("/proc/self/fd/{}", open.as_raw_fd());
    std::fs::File::open(own).is_ok()
        && std::fs::File::open("/etc/passwd").is_err()
        && std::fs::write("/tmp/bianque-canary", "").is_err()
        && std::os::unix::net::UnixStream::pair().is_err()
        && std::net::UdpSocket::bind("127.0.0.1:0").is_err()
        && std::fs::remove_file("/proc/self/fd/0").is_err()
        && Command::new("true").spawn().is_err()
        && Vec::<u8>::new().try_reserve(300 << 20).is_err()
}

/// The sandbox lets through what is open, and nothing else.
#[test]
fn the_sandbox_is_tight() {
    let ((a, _b), (c, _d)) = (Socket::pair().unwrap(), Socket::pair().unwrap());
    let status = child("canary", a, c).wait().unwrap();
    assert!(status.success(), "{status}");
}

/// A library that its owner cuts while a program runs it ends the parser, and nobody else.
#[test]
#[expect(clippy::disallowed_methods, reason = "a process to look at")]
fn a_file_that_is_cut_costs_one_helper() {
    use std::os::unix::process::ExitStatusExt as _;
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("libcut.so");
    let own = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = own.lines().find(|l| l.contains("/libc.so")).unwrap();
    std::fs::copy(&libc[libc.find('/').unwrap()..], &copy).unwrap();
    let mut program = Command::new("sleep").arg("60").env("LD_PRELOAD", &copy).spawn().unwrap();
    let maps = format!("/proc/{}/maps", program.id());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let start = loop {
        let maps = std::fs::read_to_string(&maps).unwrap();
        if let Some(l) = maps.lines().find(|l| l.contains("r-xp") && l.ends_with("/libcut.so")) {
            break u64::from_str_radix(l.split('-').next().unwrap(), 16).unwrap();
        }
        assert!(std::time::Instant::now() < until, "{maps}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let (names, [mut opener, mut parser]) = Names::confined();
    assert!(names.user(program.id(), &[start + 0x1000])[0].module.is_some());
    std::fs::File::options().write(true).open(&copy).unwrap().set_len(4096).unwrap();
    let addresses = (0..100).map(|i| start + 0x1000 + i * 0x1000).collect();
    let query = Query::Frames { pid: program.id(), addresses };
    let ask = Ask { id: 8, devices: Devices::AllBut(Vec::new()), query };
    names.asks.send(&ask.encode()).unwrap();
    let mut buffer = vec![0; LARGEST];
    while let Ok(Some(_)) = names.answers.receive(&mut buffer) {}
    assert_eq!(parser.wait().unwrap().signal(), Some(libc::SIGBUS));
    opener.wait().unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
}

/// In the sandbox all is named as without it.
#[test]
fn confined_helpers_name_the_same() {
    let addresses = [a_function_to_be_found(), libc::getpid as *const () as u64];
    let (names, children) = Names::confined();
    let frames = names.user(std::process::id(), &addresses);
    assert_eq!(frames, Names::new().user(std::process::id(), &addresses));
    assert!(frames.len() == 2 && frames.iter().all(|f| f.symbol.is_some() && f.module.is_some()));
    drop(names);
    // They end when nobody can ask.
    for mut child in children {
        child.wait().unwrap();
    }
}

/// The parser has nothing left to do harm with.
#[test]
fn the_parser_can_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (names, mut children) = Names::confined();
    let _ = names.user(std::process::id(), &[1]);
    // Of its thread that works: libtest has another.
    let tasks = |child: &Child| -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap()).collect()
    };
    let parser = tasks(&children[1]);
    assert!(parser.contains("CapPrm:\t0000000000000000") && parser.contains("Seccomp:\t2"), "{parser}");
    assert!(parser.contains("NoNewPrivs:\t1"), "{parser}");
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", children[1].id())).unwrap();
    assert_eq!(score.trim(), "1000");
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A function of our own to find.
#[inline(never)]
fn a_function_to_be_found() -> u64 {
    std::hint::black_box(a_function_to_be_found as fn() -> u64 as usize as u64)
}

/// An address of this process gets its demangled name, offset, file and build id.
#[test]
fn own_function_is_named() {
    let address = a_function_to_be_found();
    let frames = Names::new().user(std::process::id(), &[address + 1]);
    let symbol = frames[0].symbol.as_deref().unwrap();
    assert!(symbol.ends_with("helper::tests::a_function_to_be_found"), "{symbol}");
    assert_eq!(frames[0].offset, 1);
    assert_eq!(frames[0].module.as_deref(), std::env::current_exe().unwrap().to_str());
}

/// A stack ends where it leaves the mapped code; its innermost address is the CPU's own and stays.
#[test]
fn broken_stacks_end_where_they_break() {
    let code = a_function_to_be_found();
    let addresses = |stack: &[u64]| -> Vec<u64> {
        Names::new().user(std::process::id(), stack).iter().map(|f| f.address).collect()
    };
    assert_eq!(addresses(&[code, code + 2, 0x10, code]), [code, code + 2]);
    assert_eq!(addresses(&[0x10, code]), [0x10, code]);
}

/// A shared library's function: the C library's, with its build id.
#[test]
fn library_function_is_named() {
    let frames = Names::new().user(std::process::id(), &[libc::getpid as *const () as u64]);
    assert!(frames[0].symbol.as_deref().unwrap().contains("getpid"), "{:?}", frames[0]);
    assert!(frames[0].module.as_deref().unwrap().contains("libc"));
    assert!(frames[0].build_id.as_deref().is_some_and(|b| b.len() >= 16));
}

/// A file system that may not be asked is not touched: module and offset are the kernel's word.
#[test]
fn devices_that_may_not_be_asked() {
    let (names, address) = (Names::new(), [a_function_to_be_found()]);
    let (frames, touched) = names.ask(std::process::id(), &address, Devices::Only(Vec::new()));
    assert_eq!((touched, &frames[0].symbol, &frames[0].build_id), (Vec::new(), &None, &None));
    assert!(frames[0].module.is_some() && frames[0].offset > 0);
    let (_, touched) = names.ask(std::process::id(), &address, Devices::AllBut(Vec::new()));
    assert!(touched.len() == 1 && touched[0] != 0, "{touched:?}");
    let (frames, none) = names.ask(std::process::id(), &address, Devices::AllBut(touched));
    assert_eq!((none, &frames[0].symbol), (vec![0], &None), "the device of its perf map is not known");
}

/// Functions of the vDSO are named by this process's own copy.
#[test]
fn vdso_function_is_named() {
    let Some(copy) = parser::vdso() else { return };
    let mut elf = super::elf::ElfFiles::new(Some(copy.try_clone().unwrap()));
    let size = copy.metadata().unwrap().len();
    let key = elf.add(copy).unwrap();
    assert!(elf.symbol(&key, 0, 1).unwrap().1.is_some(), "it has a build id");
    let named = (0..size).step_by(16).find_map(|at| elf.vdso(at, size).filter(|(name, _)| name.contains("vdso")));
    assert!(named.is_some());
    assert_eq!(elf.vdso(0, size + 1), None, "of another word size");
}

/// A process that nobody has: addresses, no error, no delay.
#[test]
fn gone_process_gives_addresses() {
    let frames = Names::new().user(u32::MAX - 1, &[0x1234]);
    assert_eq!(format!("{}", frames[0]), "0x1234");
}

/// A process that ends after it was seen is still named.
#[test]
#[expect(clippy::disallowed_methods, reason = "a process to look at")]
fn process_seen_before_is_named_after_its_end() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let names = Names::new();
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
    let before = names.user(child.id(), &[address]);
    assert!(before[0].module.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names.user(child.id(), &[address]), before);
}

/// A program whose file was removed or replaced while it runs, as a package's upgrade does, is still read: without the
/// capability that the file of a mapping takes, which the agent does not keep.
#[test]
#[expect(clippy::disallowed_methods, reason = "a process to look at")]
fn a_replaced_program_is_still_read() {
    struct WithoutMapped(OwnedFd);
    impl Files for WithoutMapped {
        fn open(&mut self, wanted: Wanted<'_>) -> Option<File> {
            let is_mapped = matches!(wanted, Wanted::Mapped { .. });
            if is_mapped { None } else { opener::open_of_process(&self.0, wanted).ok() }
        }
        fn may_touch(&mut self, _: u64) -> bool {
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("upgraded");
    std::fs::copy(
        ["/usr/bin/sleep", "/bin/sleep"].iter().find(|p| std::path::Path::new(p).exists()).unwrap(),
        &program,
    )
    .unwrap();
    let mut child = Command::new(&program).arg("60").spawn().unwrap();
    let folder = format!("/proc/{}", child.id());
    let start = loop {
        let maps = std::fs::read_to_string(format!("{folder}/maps")).unwrap();
        if let Some(l) = maps.lines().find(|l| l.contains("r-xp") && l.ends_with("/upgraded")) {
            break u64::from_str_radix(l.split('-').next().unwrap(), 16).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    std::fs::remove_file(&program).unwrap();
    for another in [false, true] {
        if another {
            std::fs::write(&program, "of another version").unwrap();
        }
        let mut files = WithoutMapped(File::open(&folder).unwrap().into());
        let frames = Processes::new(None).frames(&mut files, child.id(), &[start + 0x10]);
        assert!(frames[0].module.as_ref().is_some_and(|m| m.ends_with("/upgraded (deleted)")), "{frames:?}");
        assert!(frames[0].build_id.is_some(), "{frames:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// In a mount namespace of its own, a program whose path the host does not have gets its module and
/// build id, and the names of the perf map that lies in its own /tmp.
#[test]
#[expect(clippy::disallowed_methods, reason = "a process to look at")]
fn process_in_its_own_mount_namespace() {
    if !rustix::process::geteuid().is_root() {
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
    let names = Names::new();
    let unnamed = &names.user(child.id(), &[start + 0x10])[0];
    assert_eq!(unnamed.module.as_deref(), Some("/tmp/only-here"));
    assert!(unnamed.build_id.is_some() && unnamed.offset > 0, "{unnamed:?}");
    let map = format!("/proc/{0}/root/tmp/perf-{0}.map", child.id());
    std::fs::write(map, format!("{start:x} 100 jitted function\n")).unwrap();
    let named = &names.user(child.id(), &[start + 0x10])[0];
    child.kill().unwrap();
    child.wait().unwrap();
    // Debian's sleep is stripped; where it is not, the ELF symbol goes first.
    assert_eq!((named.symbol.as_deref(), named.offset), (Some("jitted function"), 0x10));
}
