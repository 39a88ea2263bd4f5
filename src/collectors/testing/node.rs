// SPDX-License-Identifier: Apache-2.0
//! The files of a made-up node, in a folder that goes with it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What a node has that is no tree's: the rest is made by the test.
const FILES: &[(&str, &str)] = &[
    ("proc/interrupts", "  CPU0 CPU1\nLOC:  1 1  Local timer interrupts\n"),
    (
        "proc/net/stat/arp_cache",
        "entries  allocs   destroys hash_grows lookups  hits     res_failed\n00000001 00000001 00000000 00000000 00000001 00000000 00000000\n",
    ),
    ("proc/schedstat", "version 15\ncpu0 0 0 0 0 0 0 1 1 1\ncpu1 0 0 0 0 0 0 1 1 1\n"),
    ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("proc/stat", "cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 5 0 5 50 0 0 0 0 0 0\ncpu1 5 0 5 50 0 0 0 0 0 0\n"),
    ("proc/self/mountinfo", "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
    ("proc/self/cgroup", "0::/\n"),
    ("proc/sys/kernel/random/boot_id", "00000000-1111-2222-3333-444444444444\n"),
    ("sys/devices/system/cpu/online", "0-1\n"),
    ("sys/devices/system/cpu/present", "0-1\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
];

/// Why packets are dropped, as this kernel numbers it.
const DROP_REASONS: &[(&str, u32)] = &[
    ("SKB_NOT_DROPPED_YET", 0),
    ("SKB_CONSUMED", 1),
    ("SKB_DROP_REASON_NOT_SPECIFIED", 2),
    ("SKB_DROP_REASON_NO_SOCKET", 3),
    ("SKB_DROP_REASON_NETFILTER_DROP", 8),
];

/// The folder.
pub struct Node {
    root: PathBuf,
}

impl Node {
    pub fn new() -> io::Result<Self> {
        let node = Self::empty()?;
        for (path, content) in FILES {
            node.write(path, content.as_bytes())?;
        }
        node.complete()
    }

    pub fn copy_of(tree: &Path) -> io::Result<Self> {
        let node = Self::empty()?;
        copy(tree, &node.root)?;
        node.complete()
    }

    /// In a folder that nobody else has.
    fn empty() -> io::Result<Self> {
        let mut n = 0;
        loop {
            let root = std::env::temp_dir().join(format!("bianque-rig-{}-{n}", std::process::id()));
            match fs::create_dir(&root) {
                Ok(()) => return Ok(Node { root }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// What no tree can hold: a namespace, and the kernel's types.
    fn complete(self) -> io::Result<Self> {
        self.write("proc/self/ns/net", b"")?;
        self.write("sys/kernel/btf/vmlinux", &btf("skb_drop_reason", DROP_REASONS))?;
        Ok(self)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn write(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let path = self.root.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, content)
    }

    pub fn append(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let path = self.root.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(content)
    }

    pub fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.root.join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.root));
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// BTF of a kernel that has this one enum: Documentation/bpf/btf.rst.
fn btf(name: &str, enumerators: &[(&str, u32)]) -> Vec<u8> {
    const ENUM: u32 = 6;
    let mut strings = vec![0];
    let mut string = |s: &str| {
        let at = u32::try_from(strings.len()).unwrap_or(0);
        strings.extend(s.bytes().chain([0]));
        at
    };
    let len = u32::try_from(enumerators.len()).unwrap_or(0);
    let mut types = vec![string(name), ENUM << 24 | len, 4];
    for (name, value) in enumerators {
        types.extend([string(name), *value]);
    }
    let types: Vec<u8> = types.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let size = |v: &Vec<u8>| u32::try_from(v.len()).unwrap_or(0);
    let mut out = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
    let header = [24, 0, size(&types), size(&types), size(&strings)];
    out.extend(header.iter().flat_map(|w| w.to_ne_bytes()));
    [out, types, strings].concat()
}
