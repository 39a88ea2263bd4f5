// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A task is chosen by the OOM killer.
 *
 * oom:mark_victim fires once for each task that is killed, group kills and
 * tasks that are exiting anyway included; the current task is the one whose
 * allocation could not be met. What only oom_control knows (constraint, order,
 * gfp) comes from a kprobe where there are kprobes; user space reads the
 * kernel's own oom-kill line where there are none.
 */
#include "call_stack.h"
#include "filter.h"
#include "limit.h"

LICENSE;

#define LEVELS 8
#define CONSTRAINT_UNKNOWN 0xffffffff

struct oom_victim {
	struct limited limited;
	u64 time_ns;
	/* in the memory controller's hierarchy */
	struct cgroup_ref victim_cgroup;
	struct cgroup_ref trigger_cgroup;
	struct thread_ref victim;
	struct thread_ref trigger;
	/* the trigger's */
	struct call_stack stack;
	u64 victim_start_ns;
	u64 total_vm_pages;
	u64 anon_pages;
	u64 file_pages;
	u64 swap_pages;
	u64 shmem_pages;
	/* oom_control: pages that this allocation could have used at all */
	u64 total_pages;
	/* the victim's memory cgroup and its ancestors, innermost first, as they stood at the kill */
	u64 group_id[LEVELS];
	u64 group_usage_pages[LEVELS];
	u64 group_limit_pages[LEVELS];
	u32 constraint;
	u32 gfp_mask;
	s32 order;
	s32 oom_score_adj;
	/* 0: the kernel passes no task here, only its pid is known */
	u32 victim_known;
	u32 reserved;
};

RECORDS(oom_victim, 128 * 1024);

/* What a kill in progress knows, keyed by the thread that runs it. */
struct kill {
	u64 total_pages;
	u64 chosen;
	u32 constraint;
	u32 gfp_mask;
	s32 order;
	u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, struct kill);
} kills SEC(".maps");

static __always_inline void read_groups(struct oom_victim *r, struct task_struct *task)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = NULL;
	u64 at = bpf_core_field_offset(struct css_set, subsys) +
		 8 * bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);

	bpf_probe_read_kernel(&css, sizeof(css), (void *)set + at);
	for (int i = 0; i < LEVELS && css; i++) {
		/* the css is the first field of struct mem_cgroup */
		struct mem_cgroup *memcg = (void *)css;

		r->group_id[i] = BPF_CORE_READ(css, cgroup, kn, id);
		r->group_usage_pages[i] = BPF_CORE_READ(memcg, memory.usage.counter);
		r->group_limit_pages[i] = BPF_CORE_READ(memcg, memory.max);
		css = BPF_CORE_READ(css, parent);
	}
}

static __always_inline void read_victim(struct oom_victim *r, struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);

	r->victim_known = 1;
	thread_of(&r->victim, task);
	r->victim_start_ns = task_start_boottime(task);
	r->oom_score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
	if (mm) {
		r->total_vm_pages = BPF_CORE_READ(mm, total_vm);
		r->file_pages = mm_counter(mm, MM_FILEPAGES);
		r->anon_pages = mm_counter(mm, MM_ANONPAGES);
		r->swap_pages = mm_counter(mm, MM_SWAPENTS);
		r->shmem_pages = mm_counter(mm, MM_SHMEMPAGES);
	}
	read_groups(r, task);
}

/* The task of this pid, where a kprobe saw it chosen. */
static __always_inline struct task_struct *chosen_task(struct kill *kill, u32 pid)
{
	struct task_struct *chosen = kill ? (void *)kill->chosen : NULL;

	return chosen && BPF_CORE_READ(chosen, pid) == (int)pid ? chosen : NULL;
}

static __always_inline int report(void *ctx, u32 pid, struct task_struct *task)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct kill *kill = bpf_map_lookup_elem(&kills, &tid);
	struct limit_key key = {};
	struct oom_victim *r;

	if (!task)
		task = chosen_task(kill, pid);
	if (!task && tid == pid)
		task = current;
	if (task)
		cgroup_of_any(&key.cgroup, task, memory_cgrp_id);
	if (FILTERED(oom_victim, &key.cgroup))
		goto out;
	r = RESERVE(oom_victim, &key, bpf_ktime_get_ns());
	if (!r)
		goto out;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->constraint = CONSTRAINT_UNKNOWN;
	r->victim.tgid = pid;
	r->victim.tid = pid;
	current_thread(&r->trigger);
	take_stack(ctx, &r->stack);
	cgroup_of_any(&r->trigger_cgroup, current, memory_cgrp_id);
	if (kill) {
		r->constraint = kill->constraint;
		r->gfp_mask = kill->gfp_mask;
		r->order = kill->order;
		r->total_pages = kill->total_pages;
	}
	r->victim_cgroup = key.cgroup;
	if (task)
		read_victim(r, task);
	SUBMIT(oom_victim, r);
out:
	if (kill)
		bpf_map_delete_elem(&kills, &tid);
	return 0;
}

/* Since 6.10: 72ba14deb40a ("mm: update mark_victim tracepoints fields"). */
SEC("tp_btf/mark_victim")
int PROBE(victim__task, struct task_struct *task)
{
	/* a direct load, so that kernels which pass a pid refuse this variant */
	u32 pid = task->pid;

	return report(ctx, pid, task);
}

SEC("tp_btf/mark_victim")
int PROBE(victim__pid, int pid)
{
	return report(ctx, pid, NULL);
}

SEC("kprobe/oom_kill_process")
int PROBE_CTX(kill__kprobe, struct pt_regs *ctx)
{
	struct oom_control *oc = (void *)first_argument(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct kill kill = {};

	kill.chosen = (u64)BPF_CORE_READ(oc, chosen);
	kill.total_pages = BPF_CORE_READ(oc, totalpages);
	kill.constraint = BPF_CORE_READ(oc, constraint);
	kill.gfp_mask = BPF_CORE_READ(oc, gfp_mask);
	kill.order = BPF_CORE_READ(oc, order);
	bpf_map_update_elem(&kills, &tid, &kill, BPF_ANY);
	return 0;
}
