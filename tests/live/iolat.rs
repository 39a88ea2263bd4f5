// SPDX-License-Identifier: Apache-2.0
//! How long block I/O takes, beside the kernel's own sums of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use bianque::host::Host;
use bianque::host::proc::Disk;
use bianque::probe::shared::block::{IoOperation, IoTimes};
use bianque::probe::shared::{Block, Shared};
use bianque::probe::{Latencies, Loader};
use bianque::signal::Growing as _;

use crate::support::{Agent, Group, Need, place, shell, timeout, wait_for};

/// A loop device on a file, and a folder that goes with it.
struct Loop {
    dir: String,
    name: String,
}

impl Loop {
    /// On a tmpfs.
    fn new() -> Self {
        Self::of("d=$(mktemp -d /dev/shm/iolat.XXXXXX); f=$d/disk; truncate -s 64M $f")
    }

    /// On a file system of its own, which can be frozen.
    fn on_ext4() -> Self {
        Self::of(
            "d=$(mktemp -d /dev/shm/iolat.XXXXXX); mkdir $d/m; truncate -s 32M $d/img; mkfs.ext4 -q -O ^has_journal $d/img\n\
             mount -o loop $d/img $d/m || { modprobe ext4; mount -o loop $d/img $d/m; }\n\
             f=$d/m/disk; dd if=/dev/zero of=$f bs=1M count=8 status=none; sync -f $f",
        )
    }

    fn of(make: &str) -> Self {
        let (ok, said) = shell(&format!("set -e\n{make}\necho made $d $(losetup -f --show $f)"));
        let made = said.lines().find_map(|l| l.strip_prefix("made ")).and_then(|l| l.split_once(' '));
        let made = made.and_then(|(dir, device)| Some((dir, device.strip_prefix("/dev/")?)));
        let (Some((dir, name)), true) = (made, ok) else { panic!("no loop device: {said}") };
        Loop { dir: dir.to_owned(), name: name.to_owned() }
    }

    /// A write of a cgroup for which the device needs more than a second, as its file system is frozen.
    fn write_slowly(&self, group: &Group) {
        let Loop { dir, name } = self;
        let (ok, said) = shell(&format!(
            "set -e; fsfreeze -f {dir}/m; trap 'fsfreeze -u {dir}/m' EXIT\n\
             (echo $BASHPID > {}/cgroup.procs; exec dd if=/dev/zero of=/dev/{name} bs=4k count=1 oflag=direct status=none) &\n\
             for _ in $(seq 100); do read -r _ writes < /sys/block/{name}/inflight; [ $writes = 0 ] || break; sleep 0.1; done\n\
             sleep 1.1; trap - EXIT; fsfreeze -u {dir}/m; wait $!",
            group.dir()
        ));
        assert!(ok, "{said}");
    }

    /// What the kernel says of it.
    fn disk(&self) -> Disk {
        Host::default().disks().unwrap().into_iter().find(|d| d.name == self.name).expect("a line of diskstats")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let Loop { dir, name } = self;
        shell(&format!("losetup -d /dev/{name}; umount {dir}/m 2>/dev/null; rm -rf {dir}"));
    }
}

/// What the probe and the kernel say of a device.
struct Beside<'a> {
    probe: &'a Block,
    device: &'a Loop,
    before: Disk,
    ours_before: [IoTimes; 4],
}

const OPERATIONS: [IoOperation; 4] =
    [IoOperation::IO_READ, IoOperation::IO_WRITE, IoOperation::IO_FLUSH, IoOperation::IO_DISCARD];

fn probe() -> Block {
    Shared::load(&mut Loader::new(), &[Block::LATENCIES]).get().unwrap()
}

/// By operation; of one cgroup, by its inode, or of all.
fn ours(probe: &Block, device: &Loop, cgroup: Option<u64>) -> [IoTimes; 4] {
    let mut sums = [IoTimes::default(); 4];
    for t in probe.latencies().unwrap().iter().filter(|t| t.key.device() == device.name) {
        if cgroup.is_none() || t.key.cgroup.map(|c| c.id) == cgroup {
            sums[OPERATIONS.iter().position(|o| *o == t.key.operation).unwrap()].add(&t.total);
        }
    }
    sums
}

impl<'a> Beside<'a> {
    fn new(probe: &'a Block, device: &'a Loop) -> Self {
        let before = wait_for("idle device", timeout(10), || Some(device.disk()).filter(|d| d.in_flight == 0));
        Beside { probe, device, before, ours_before: ours(probe, device, None) }
    }

    /// Counts since then as the kernel has them: reads, writes, flushes, discards. The last two of ours are equal to them
    /// once the device is idle.
    fn settle(&self) -> ([IoTimes; 4], Disk) {
        wait_for("counts that are the kernel's", timeout(10), || {
            let now = self.device.disk();
            let ours: Vec<_> =
                ours(self.probe, self.device, None).iter().zip(&self.ours_before).map(|(n, b)| n.since(b)).collect();
            let ours: [IoTimes; 4] = ours.try_into().unwrap();
            let [reads, writes, flushes, discards] = &ours;
            let counted = [
                reads.request.count(),
                writes.request.count() + flushes.request.count(),
                flushes.device.count(),
                discards.request.count(),
            ];
            let kernel = kernel(&self.before, &now);
            eprintln!("{counted:?} counted, {kernel:?} by the kernel");
            (counted == kernel && now.in_flight == 0).then_some((ours, now))
        })
    }
}

/// What the kernel counted: reads, writes, flushes, discards.
fn kernel(before: &Disk, now: &Disk) -> [u64; 4] {
    let flushes = |d: &Disk| d.flush.map_or(0, |(n, _)| n);
    let discards = |d: &Disk| d.discard.map_or(0, |d| d.operations);
    [
        now.read.operations - before.read.operations,
        now.write.operations - before.write.operations,
        flushes(now) - flushes(before),
        discards(now) - discards(before),
    ]
}

/// Ours ends a little before the kernel's time, which is in whole milliseconds.
fn assert_time(what: &str, ours: &[&Latencies], kernel_ms: u32, n: u64) {
    let ours_ms = ours.iter().map(|l| l.total_ns).sum::<u64>() as f64 / 1e6;
    let kernel_ms = f64::from(kernel_ms);
    eprintln!("{what}: {n} in {ours_ms:.3} ms, by the kernel {kernel_ms} ms");
    assert!(ours_ms <= kernel_ms + 2.0, "{what}: {ours_ms} ms, by the kernel {kernel_ms}");
}

fn in_group(group: &Group, line: &str) {
    let (ok, said) = shell(&format!("set -e\necho $$ > {}/cgroup.procs\n{line}", group.dir()));
    assert!(ok, "{said}");
}

/// Reads, writes, writes that are merged, flushes and discards: each is counted once, as the kernel counts them, and no time is
/// longer than the kernel's. They are of the cgroup that made them, to the request.
///
/// On every kernel.
#[test]
fn requests_are_those_the_kernel_counts() {
    let _place = place!(Need::Agent, Need::LoopDevice);
    let (probe, device, group) = (probe(), Loop::new(), Group::of("blkio", "requests"));
    let beside = Beside::new(&probe, &device);
    let name = &device.name;
    in_group(
        &group,
        &format!(
            "dd if=/dev/zero of=/dev/{name} bs=4k count=200 oflag=direct status=none\n\
             for i in 1 2 3; do dd if=/dev/zero of=/dev/{name} bs=4k count=512 conv=fsync status=none; done\n\
             dd if=/dev/zero of=/dev/{name} bs=4k count=50 oflag=direct,dsync status=none\n\
             blkdiscard -o 16M -l 8M /dev/{name}"
        ),
    );
    // By itself: who opens a new device first also reads what partitions it has.
    let readers = Group::of("blkio", "reads");
    in_group(&readers, &format!("dd if=/dev/{name} of=/dev/null bs=4k count=100 iflag=direct status=none"));
    let ([reads, writes, flushes, discards], now) = beside.settle();
    let (before, id) = (&beside.before, |group: &Group| fs::metadata(group.dir()).unwrap().ino());
    let ms = |now: u32, before: u32| now.wrapping_sub(before);
    let of = |l: &Latencies| l.count();
    assert_time("reads", &[&reads.request], ms(now.read.time_ms, before.read.time_ms), of(&reads.request));
    let kernel_ms = ms(now.write.time_ms, before.write.time_ms);
    assert_time("writes", &[&writes.request, &flushes.request], kernel_ms, of(&writes.request));
    let kernel_ms = now.flush.zip(before.flush).map_or(0, |(n, b)| ms(n.1, b.1));
    assert_time("flushes", &[&flushes.device], kernel_ms, of(&flushes.device));
    let kernel_ms = now.discard.zip(before.discard).map_or(0, |(n, b)| ms(n.time_ms, b.time_ms));
    assert_time("discards", &[&discards.request], kernel_ms, of(&discards.request));
    // The device's part.
    for (what, t) in [("reads", &reads), ("writes", &writes), ("discards", &discards)] {
        assert_eq!(of(&t.device), of(&t.request), "{what}");
        assert!(t.device.total_ns > 0 && t.device.total_ns <= t.request.total_ns, "{what}: {t:?}");
    }
    // Whose.
    let [reads, none @ ..] = ours(&probe, &device, Some(id(&readers)));
    assert_eq!((of(&reads.request), of(&reads.device), none), (100, 100, [IoTimes::default(); 3]));
    let [_, writes, flushes, discards] = ours(&probe, &device, Some(id(&group)));
    assert_eq!(of(&flushes.device), 0, "a flush serves all who wait");
    assert!(of(&writes.request) >= 250 && of(&flushes.request) >= 3, "{writes:?} {flushes:?}");
    assert!(of(&discards.request) >= 1);
}

/// A device that needs more than a second for a request: in its bucket, in the sum and with whose it is.
#[test]
fn a_slow_device() {
    let _place = place!(Need::Agent, Need::LoopDevice, Need::Freeze);
    let (probe, device, group) = (probe(), Loop::on_ext4(), Group::of("blkio", "slow"));
    let beside = Beside::new(&probe, &device);
    device.write_slowly(&group);
    let ([_, writes, ..], now) = beside.settle();
    // Slot 20 is from 1 s on.
    let slow = |l: &Latencies| l.slots[20..].iter().sum::<u64>();
    assert_eq!((slow(&writes.request), slow(&writes.device)), (1, 1), "{writes:?}");
    let kernel_ms = f64::from(now.write.time_ms.wrapping_sub(beside.before.write.time_ms));
    let ours_ms = writes.request.total_ns as f64 / 1e6;
    assert!((ours_ms - kernel_ms).abs() <= 2.0 + kernel_ms * 0.02, "{ours_ms} ms, by the kernel {kernel_ms}");
    let [_, of_group, ..] = ours(&probe, &device, Some(fs::metadata(group.dir()).unwrap().ino()));
    assert_eq!((slow(&of_group.request), slow(&of_group.device)), (1, 1), "{of_group:?}");
}

/// The agent has them as histograms of seconds, of the node and of the cgroup.
#[test]
fn figures_of_a_workload() {
    let _place = place!(Need::Agent, Need::LoopDevice);
    let (agent, device, group) = (Agent::start(""), Loop::new(), Group::of("blkio", "figures"));
    in_group(&group, &format!("dd if=/dev/zero of=/dev/{} bs=64k count=32 oflag=direct status=none", device.name));
    let path = group.path();
    let figure = |name: &str, more: &[(&str, &str)]| {
        let labels = [&[("system_device", device.name.as_str()), ("disk_io_direction", "write")], more].concat();
        agent.metric(&format!("linux_{name}"), &labels)
    };
    let own = [("container_name", path.as_str())];
    wait_for("requests of the cgroup", timeout(20), || {
        figure("container_disk_request_duration_seconds_count", &own).filter(|n| *n == 32.0)
    });
    assert_eq!(figure("container_disk_device_duration_seconds_count", &own), Some(32.0));
    let (request, of_device) = (
        figure("container_disk_request_duration_seconds_sum", &own).unwrap(),
        figure("container_disk_device_duration_seconds_sum", &own).unwrap(),
    );
    assert!(of_device > 0.0 && of_device <= request && request < 32.0, "{of_device} s of {request} s");
    assert!(figure("disk_request_duration_seconds_count", &[]) >= Some(32.0));
}
