// SPDX-License-Identifier: Apache-2.0
//! What a cgroup writes to a device, to the byte.

use crate::support::{Agent, Group, Need, place, shell, timeout, wait_for};

const BYTES: f64 = 32.0 * 1024.0 * 1024.0;

/// Writes that go past the page cache are the device's and the cgroup's, all of them, on v1 and v2; what was
/// read meanwhile is neither's.
///
/// On every kernel.
#[test]
fn what_is_written_is_the_devices_and_the_cgroups() {
    let _place = place!(Need::Agent, Need::LoopDevice);
    let agent = Agent::start("[metrics]\ninterval = \"1s\"\n");
    let group = Group::of("blkio", "writer");
    let (ok, said) = shell(&format!(
        "set -e; f=$(mktemp); truncate -s 64M $f; d=$(losetup -f --show $f); trap 'losetup -d $d; rm -f $f' EXIT\n\
         (echo $BASHPID > {}/cgroup.procs && exec dd if=/dev/zero of=$d bs=1M count=32 oflag=direct status=none)\n\
         echo device ${{d#/dev/}}; sleep {}",
        group.dir(),
        timeout(3).as_secs()
    ));
    assert!(ok, "{said}");
    let device = said.lines().find_map(|l| l.strip_prefix("device ")).expect("a device").to_owned();
    let io = |name: &str, more: &[(&str, &str)], way: &str| {
        let mut labels = vec![("system_device", device.as_str()), ("disk_io_direction", way)];
        labels.extend_from_slice(more);
        agent.metric(name, &labels)
    };
    let path = group.path();
    let own = [("container_name", path.as_str())];
    wait_for("what the cgroup wrote", timeout(10), || {
        io("container_disk_io_bytes_total", &own, "write").filter(|n| *n == BYTES)
    });
    assert_eq!(io("linux_container_disk_operations_total", &own, "read").unwrap_or(0.0), 0.0);
    assert!(io("system_disk_io_bytes_total", &[], "write") >= Some(BYTES));
    assert!(io("system_disk_operations_total", &[], "write") >= Some(32.0));
}
