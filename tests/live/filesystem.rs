// SPDX-License-Identifier: Apache-2.0
//! Room on file systems, and one that does not answer.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Agent, Need, Process, place, program, shell, timeout, wait_for};

const SILENT: &str = r#"
#define SILENT_ABOUT_SPACE
#include "silent.h"
static void on_read(const struct fuse_in_header *h, const struct fuse_read_in *read)
{
}
int main(int argc, char **argv)
{
    int file = argc < 2 ? -1 : mount_silent(argv[1], "file", 1);
    if (file < 0)
        return 1;
    /* Its end would wait for its own answer to that. */
    close(file);
    for (;;)
        pause();
}
"#;

/// A mount that goes with the test.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        shell(&format!("umount -l {}", self.0));
    }
}

/// What is written is used, to the page, beside size and inodes; a file system that does not answer is named, delays
/// no other's figures, and does not hold the agent when it is ended by force.
///
/// On every kernel.
#[test]
fn a_mount_that_hangs_is_named_and_holds_up_nobody() {
    let _place = place!(Need::Agent, Need::Compiler);
    if !Path::new("/dev/fuse").exists() && !shell("modprobe fuse && test -e /dev/fuse").0 {
        eprintln!("skipped: no FUSE");
        return;
    }
    let mut agent = Agent::start("[metrics]\ninterval = \"2s\"\n");
    let dir = tempfile::tempdir().unwrap();
    let [room, hung] = ["room", "hung"].map(|name| dir.path().join(name).display().to_string());
    let (made, said) =
        shell(&format!("mkdir {room} {hung} && mount -t tmpfs -o size=64m,nr_inodes=1000 bq-room {room}"));
    assert!(made, "{said}");
    let _room = Mounted(room.clone());
    let write = |name: &str, mib: u32| shell(&format!("dd if=/dev/zero of={room}/{name} bs=1M count={mib}")).0;
    assert!(write("first", 16));
    let of = |metric: &str, at: &str, more: &[(&str, &str)]| {
        agent.metric(metric, &[&[("system_filesystem_mountpoint", at)], more].concat())
    };
    let used = || of("system_filesystem_usage_bytes", &room, &[("system_filesystem_state", "used")]);
    let mib = |n: u32| Some(f64::from(n << 20));
    wait_for("what was written", timeout(20), || (used() == mib(16)).then_some(()));
    assert_eq!(of("system_filesystem_limit_bytes", &room, &[]), mib(64));
    assert_eq!(of("linux_filesystem_inode_limit", &room, &[]), Some(1000.0));
    assert_eq!(of("linux_filesystem_hung", &room, &[]), Some(0.0));

    let (silent, _silent) = program("silentroom", SILENT);
    let _hung = Mounted(hung.clone());
    let server = Process::start(&format!("exec {} {hung}", silent.display()));
    wait_for("the mount that hangs", timeout(30), || of("linux_filesystem_hung", &hung, &[]).filter(|n| *n == 1.0));
    assert!(write("second", 8));
    wait_for("another's figures", timeout(20), || (used() == mib(24)).then_some(()));
    assert_eq!(of("linux_filesystem_hung", &room, &[]), Some(0.0));

    let begin = Instant::now();
    agent.kill();
    let took = begin.elapsed();
    eprintln!("SIGKILL ended the agent within {took:?}");
    assert!(took < timeout(1).max(Duration::from_secs(1)), "it took {took:?} to end it");
    drop(server);
}
