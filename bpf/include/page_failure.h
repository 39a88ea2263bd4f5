/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose page was it that memory_failure() took out of use? It sends SIGBUS to those that had it
 * mapped (kill_proc in mm/memory-failure.c) before it reports, in the same thread.
 */
#pragma once

#include "hw_error.h"

#define SIGBUS 7
/* uapi/asm-generic/siginfo.h */
#define BUS_MCEERR_AR 4
#define BUS_MCEERR_AO 5

struct page_owner {
	u64 address;
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	u32 owners;
	u32 reserved;
};

/* By the thread that runs memory_failure(). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, u64);
	__type(value, struct page_owner);
} page_owners SEC(".maps");

/* The signal's own data, which is the same on every 64-bit machine: signal(7). */
struct signal_data {
	int number;
	int error;
	int code;
	int reserved;
	u64 address;
};

static __always_inline void note_owner(int signal, const void *info, struct task_struct *task)
{
	u64 key = bpf_get_current_pid_tgid();
	struct page_owner owner = {}, *known;
	struct signal_data data = {};

	/* 0 and 1 stand for signals without data: SEND_SIG_NOINFO, SEND_SIG_PRIV */
	if (signal != SIGBUS || (u64)info <= 1)
		return;
	bpf_probe_read_kernel(&data, sizeof(data), info);
	if (data.code != BUS_MCEERR_AR && data.code != BUS_MCEERR_AO)
		return;
	known = bpf_map_lookup_elem(&page_owners, &key);
	if (known) {
		known->owners++;
		return;
	}
	owner.address = data.address;
	owner.owners = 1;
	thread_of(&owner.thread, task);
	cgroup_of_any(&owner.cgroup, task, memory_cgrp_id);
	bpf_map_update_elem(&page_owners, &key, &owner, BPF_ANY);
}

/* Takes what was noted in this thread. */
static __always_inline void take_owner(struct page_failure *r)
{
	u64 key = bpf_get_current_pid_tgid();
	struct page_owner *owner = bpf_map_lookup_elem(&page_owners, &key);

	r->time_ns = bpf_ktime_get_boot_ns();
	if (!owner)
		return;
	r->owner = owner->thread;
	r->owner_cgroup = owner->cgroup;
	r->owner_address = owner->address;
	r->owners = owner->owners;
	bpf_map_delete_elem(&page_owners, &key);
}

#define IS_KIND(number, name)                                           \
	if (bpf_core_enum_value_exists(enum mf_action_page_type, name) && \
	    kind == (int)bpf_core_enum_value(enum mf_action_page_type, name)) \
		return number

/* A page's kind under a number of our own, as the kernel's differ; 0 is unknown. In the order of PAGE_KINDS. */
static __always_inline u32 page_kind(int kind)
{
	IS_KIND(1, MF_MSG_KERNEL);
	IS_KIND(2, MF_MSG_KERNEL_HIGH_ORDER);
	IS_KIND(3, MF_MSG_SLAB);
	IS_KIND(4, MF_MSG_DIFFERENT_COMPOUND);
	IS_KIND(5, MF_MSG_HUGE);
	IS_KIND(6, MF_MSG_FREE_HUGE);
	IS_KIND(7, MF_MSG_GET_HWPOISON);
	IS_KIND(8, MF_MSG_UNMAP_FAILED);
	IS_KIND(9, MF_MSG_DIRTY_SWAPCACHE);
	IS_KIND(10, MF_MSG_CLEAN_SWAPCACHE);
	IS_KIND(11, MF_MSG_DIRTY_MLOCKED_LRU);
	IS_KIND(12, MF_MSG_CLEAN_MLOCKED_LRU);
	IS_KIND(13, MF_MSG_DIRTY_UNEVICTABLE_LRU);
	IS_KIND(14, MF_MSG_CLEAN_UNEVICTABLE_LRU);
	IS_KIND(15, MF_MSG_DIRTY_LRU);
	IS_KIND(16, MF_MSG_CLEAN_LRU);
	IS_KIND(17, MF_MSG_TRUNCATED_LRU);
	IS_KIND(18, MF_MSG_BUDDY);
	IS_KIND(19, MF_MSG_DAX);
	IS_KIND(20, MF_MSG_UNSPLIT_THP);
	IS_KIND(21, MF_MSG_ALREADY_POISONED);
	IS_KIND(22, MF_MSG_PFN_MAP);
	return 0;
}
