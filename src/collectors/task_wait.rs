// SPDX-License-Identifier: Apache-2.0
//! What a blocked task waits for, as far as the names of the functions on its stack tell.

use crate::signal::Frame;

/// Functions that only put a task to sleep: who called them is of interest.
const SLEEPS: &[&str] = &[
    "__schedule",
    "schedule",
    "schedule_timeout",
    "schedule_timeout_uninterruptible",
    "schedule_timeout_killable",
    "schedule_preempt_disabled",
    "schedule_hrtimeout_range",
    "schedule_hrtimeout_range_clock",
    "io_schedule",
    "io_schedule_timeout",
    "bit_wait",
    "bit_wait_io",
    "__wait_on_bit",
    "__wait_on_bit_lock",
    "out_of_line_wait_on_bit",
    "out_of_line_wait_on_bit_lock",
    "preempt_schedule_common",
    "__cond_resched",
    "__switch_to",
    "__switch_to_asm",
];

/// Beginnings of functions' names, and what is waited for in them. The innermost function that is
/// listed decides; of two beginnings of one name the first.
const WAITS: &[(&str, &str)] = &[
    ("percpu_rwsem_wait", "percpu_rwsem"),
    ("__percpu_down_read", "percpu_rwsem"),
    ("percpu_down_write", "percpu_rwsem"),
    ("__mutex_lock", "mutex"),
    ("mutex_lock", "mutex"),
    ("__ww_mutex_lock", "mutex"),
    ("rwsem_down_read", "rwsem_read"),
    ("rwsem_down_write", "rwsem_write"),
    ("__down", "semaphore"),
    ("rt_mutex", "rt_mutex"),
    ("__rt_mutex", "rt_mutex"),
    ("folio_wait", "page"),
    ("__folio_lock", "page"),
    ("wait_on_page", "page"),
    ("__lock_page", "page"),
    ("__wait_on_buffer", "buffer"),
    ("__lock_buffer", "buffer"),
    ("blk_mq_get_tag", "block_request"),
    ("rq_qos_wait", "block_request"),
    ("wbt_wait", "block_request"),
    ("blk_mq_freeze_queue_wait", "block_queue"),
    ("blk_queue_enter", "block_queue"),
    ("__bio_queue_enter", "block_queue"),
    ("submit_bio_wait", "block_io"),
    ("__blkdev_direct_IO", "block_io"),
    ("blkdev_", "block_io"),
    ("__iomap_dio_rw", "block_io"),
    ("dm_", "device_mapper"),
    ("md_", "md"),
    ("raid", "md"),
    ("wait_transaction_locked", "journal"),
    ("jbd2_", "journal"),
    ("xlog_", "journal"),
    ("xfs_log_", "journal"),
    ("wait_current_trans", "journal"),
    ("rpc_", "nfs"),
    ("nfs", "nfs"),
    ("request_wait_answer", "fuse"),
    ("fuse_", "fuse"),
    ("wait_for_response", "smb"),
    ("cifs_", "smb"),
    ("ceph_", "ceph"),
    ("balance_dirty_pages", "writeback"),
    ("wb_wait_for_completion", "writeback"),
    ("inode_sleep_on_writeback", "writeback"),
    ("__inode_wait_for_writeback", "writeback"),
    ("mem_cgroup_handle_over_high", "memory_high"),
    ("__mem_cgroup_handle_over_high", "memory_high"),
    ("throttle_direct_reclaim", "reclaim"),
    ("reclaim_throttle", "reclaim"),
    ("shrink_", "reclaim"),
    ("synchronize_", "rcu"),
    ("__wait_rcu_gp", "rcu"),
    ("rcu_barrier", "rcu"),
    ("wait_for_vfork_done", "vfork_child"),
    ("zap_pid_ns_processes", "pid_namespace"),
    ("coredump", "core_dump"),
    ("__flush_work", "workqueue"),
    ("flush_work", "workqueue"),
    ("__flush_workqueue", "workqueue"),
    ("msleep", "sleep"),
    ("usleep_range", "sleep"),
    ("wait_for_completion", "completion"),
    ("__wait_for_common", "completion"),
];

/// Functions of the generic layer that a frozen file system holds back (sb_start_write() of
/// include/linux/fs.h, which is inlined into them).
const WRITES: &[&str] = &[
    "mnt_want_write",
    "mnt_get_write_access",
    "sb_start_write",
    "file_start_write",
    "vfs_",
    "do_",
    "ksys_",
    "iter_file",
];

/// File systems by the beginning of their functions' names, where they are not modules.
const FILESYSTEMS: &[&str] = &[
    "ext4", "xfs", "btrfs", "nfs", "fuse", "f2fs", "ovl", "ceph", "cifs", "gfs2", "ocfs2", "bcachefs", "zfs", "erofs",
];

/// What can be said of a wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wait {
    /// The innermost function that does more than sleep.
    pub function: Option<String>,
    pub on: Option<&'static str>,
    pub filesystem: Option<&'static str>,
}

impl Wait {
    pub fn of(stack: &[Frame]) -> Self {
        let names: Vec<&str> = stack.iter().filter_map(|f| f.symbol.as_deref()).collect();
        let deeper: Vec<&str> = names.iter().copied().skip_while(|n| SLEEPS.contains(&plain(n))).collect();
        let what = |name: &&str| WAITS.iter().find(|(begin, _)| plain(name).starts_with(begin)).map(|(_, what)| *what);
        let mut on = deeper.iter().find_map(what);
        if on == Some("percpu_rwsem") && is_write(&deeper) {
            on = Some("frozen_filesystem");
        }
        let module = |f: &Frame| FILESYSTEMS.iter().find(|fs| f.module.as_deref() == Some(**fs)).copied();
        let prefix = |n: &&str| FILESYSTEMS.iter().find(|fs| begins_with_word(plain(n), fs)).copied();
        Wait {
            function: deeper.first().map(|n| (*n).to_owned()),
            on,
            filesystem: stack.iter().find_map(module).or_else(|| names.iter().find_map(prefix)),
        }
    }

    /// It waits for somebody who may well take long, not for the kernel: a parent for the child that has its
    /// memory, or who may be frozen where it sleeps, if not for a server or a program that serves as one.
    pub fn is_ordinary(&self, freezable: bool) -> bool {
        let for_server = matches!(self.on, Some("nfs" | "fuse" | "smb" | "ceph"));
        self.on == Some("vfork_child") || (freezable && !for_server)
    }

    /// What is waited for, in words.
    pub fn words(&self) -> Option<String> {
        let on = match self.on {
            Some("frozen_filesystem") => "a frozen file system".to_owned(),
            Some("page") => "a page's I/O".to_owned(),
            Some("block_request" | "block_io" | "block_queue") => "a block device".to_owned(),
            Some("journal") => "the file system's journal".to_owned(),
            Some("nfs" | "smb" | "ceph") => "a file server".to_owned(),
            Some("fuse") => "a FUSE server".to_owned(),
            Some(other) => format!("{}: {}", other.replace('_', " "), self.function.as_deref().unwrap_or("?")),
            None => format!("something in {}", self.function.as_ref()?),
        };
        Some(match self.filesystem {
            Some(fs) => format!("{on} ({fs})"),
            None => on,
        })
    }
}

/// A function's name without what the compiler put behind it: `.isra.0`, `.constprop.0`.
fn plain(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

fn begins_with_word(name: &str, word: &str) -> bool {
    name.strip_prefix(word).is_some_and(|rest| rest.starts_with(['_', '4', '3']))
}

fn is_write(names: &[&str]) -> bool {
    // Freezing is the only per-CPU rwsem that writers of files take below these.
    let caller = names.iter().find(|n| !plain(n).contains("percpu"));
    caller
        .is_some_and(|n| WRITES.iter().any(|w| plain(n).starts_with(w)) || FILESYSTEMS.iter().any(|f| n.starts_with(f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|n| Frame { symbol: Some((*n).into()), ..Frame::default() }).collect()
    }

    /// Stacks of real hangs.
    #[test]
    fn known_waits() {
        let frozen = Wait::of(&stack(&[
            "__schedule",
            "schedule",
            "percpu_rwsem_wait",
            "__percpu_down_read",
            "mnt_want_write",
            "open_last_lookups",
            "path_openat",
        ]));
        assert_eq!((frozen.on, frozen.function.as_deref()), (Some("frozen_filesystem"), Some("percpu_rwsem_wait")));
        let nfs = Wait::of(&stack(&["__schedule", "schedule", "rpc_wait_bit_killable", "nfs4_run_open_task"]));
        assert_eq!((nfs.on, nfs.filesystem), (Some("nfs"), Some("nfs")));
        assert!(!nfs.is_ordinary(true));
        let mutex =
            Wait::of(&stack(&["schedule_preempt_disabled", "__mutex_lock.constprop.0", "ext4_file_write_iter"]));
        assert_eq!((mutex.on, mutex.filesystem), (Some("mutex"), Some("ext4")));
        let group = Wait::of(&stack(&["schedule", "percpu_rwsem_wait", "__percpu_down_read", "copy_process"]));
        assert_eq!(group.on, Some("percpu_rwsem"));
        assert!(group.is_ordinary(true) && !group.is_ordinary(false));
        assert!(Wait::of(&stack(&["schedule", "wait_for_vfork_done", "kernel_clone"])).is_ordinary(false));
    }

    /// Without symbols nothing is made up.
    #[test]
    fn unknown_waits() {
        let none = Wait::of(&[Frame { address: 1, ..Frame::default() }]);
        assert_eq!((none.clone(), none.words()), (Wait::default(), None));
        let odd = Wait::of(&stack(&["schedule", "some_driver_read"]));
        assert_eq!((odd.on, odd.words().as_deref()), (None, Some("something in some_driver_read")));
    }
}
