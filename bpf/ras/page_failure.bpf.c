// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Bad pages: what kind they were, and who had one mapped. */

RECORDS(page_victim, 8 * 1024);

#define SIGBUS 7
/* uapi/asm-generic/siginfo.h */
#define BUS_MCEERR_AR 4
#define BUS_MCEERR_AO 5

/* The signal's own data, which is the same on every 64-bit machine: signal(7). */
struct signal_data {
	int number;
	int error;
	int code;
	int reserved;
	u64 address;
};

/* memory_failure() and a fault on a page that it took send this signal, nobody else does. */
static __always_inline int report_victim(int signal, const void *info, struct task_struct *task)
{
	struct signal_data data = {};
	struct limit_key key = {};
	struct page_victim *r;

	/* 0 and 1 stand for signals without data: SEND_SIG_NOINFO, SEND_SIG_PRIV */
	if (signal != SIGBUS || (u64)info <= 1)
		return 0;
	bpf_probe_read_kernel(&data, sizeof(data), info);
	if (data.code != BUS_MCEERR_AR && data.code != BUS_MCEERR_AO)
		return 0;
	cgroup_of_any(&key.cgroup, task, memory_cgrp_id);
	r = RESERVE(page_victim, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->address = data.address;
	thread_of(&r->thread, task);
	r->cgroup = key.cgroup;
	r->used = data.code == BUS_MCEERR_AR;
	SUBMIT(page_victim, r);
	return 0;
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
