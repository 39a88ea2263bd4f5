// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What is reported of a stall in reclaim, and where it is read.
 *
 * What was asked for, how hard it was tried and which cgroup was reclaimed is read at the end from
 * the kernel's own scan_control: current->reclaim_state stands within it from before the begin to
 * behind the end, on every kernel, whatever arguments its tracepoints have.
 */

#define UNKNOWN_ORDER (-1)

enum reclaim_kind {
	RECLAIM_NONE,
	RECLAIM_DIRECT,
	RECLAIM_MEMCG,
	RECLAIM_COMPACTION,
};

/* What was found and done, in pages. */
struct reclaim_work {
	u64 scanned;
	u64 reclaimed;
};

struct reclaim_stall {
	struct limited limited;
	u64 time_ns;
	/* of this one, or of all in the window */
	u64 stall_ns;
	/* from the window's first stall to now; 0: this is a single one */
	u64 window_ns;
	struct reclaim_work work;
	/* the memory cgroup that was reclaimed; id 0: the node */
	struct cgroup_ref reclaimed;
	u64 usage_pages;
	u64 limit_pages;
	/* who paid, in the memory controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	struct call_stack stack;
	enum reclaim_kind kind;
	u32 stalls;
	/* -1: not known */
	s32 order;
	u32 gfp_mask;
	/* 12: at first, 0: as hard as can be; of compaction 0 */
	s32 priority;
	u32 reserved;
};

RECORDS(reclaim_stall, 64 * 1024);

/* Short stalls of one kind that add up. */
struct stall_window {
	u64 begun_ns;
	u64 sum_ns;
	struct reclaim_work work;
	u64 stalls;
};

/* By kind; a power of two, so that old verifiers see the bound in the mask. */
#define WINDOWS 4

struct task_stalls {
	/* their owners: thread ids are reused */
	u64 start_ns;
	/* the one under way; 0: none */
	u64 begun_ns;
	struct reclaim_work work;
	struct stall_window windows[WINDOWS];
	/* what compaction is asked for */
	s32 order;
	u32 gfp_mask;
};

static __always_inline struct scan_control *scan_control_of(struct task_struct *task)
{
	void *state = BPF_CORE_READ(task, reclaim_state);

	return state ? state - bpf_core_field_offset(struct scan_control, reclaim_state) : NULL;
}

/* What the kernel knows of this reclaim; false: somebody asked for it, and nobody's allocation waits. */
static __always_inline bool read_control(struct reclaim_stall *r, struct task_struct *task)
{
	struct scan_control *sc = scan_control_of(task);
	struct mem_cgroup *memcg;
	u64 scanned;

	if (!sc)
		return true;
	/* memory.reclaim, since 6.0: 73b73bac90d9 ("mm: vmpressure: don't count proactive reclaim in vmpressure") */
	if (bpf_core_field_exists(sc->proactive) && BPF_CORE_READ_BITFIELD_PROBED(sc, proactive))
		return false;
	r->order = BPF_CORE_READ(sc, order);
	r->gfp_mask = BPF_CORE_READ(sc, gfp_mask);
	r->priority = BPF_CORE_READ(sc, priority);
	/* Of the last pass only; the multi-gen LRU shows no more before 6.8. */
	scanned = BPF_CORE_READ(sc, nr_scanned);
	if (r->work.scanned < scanned)
		r->work.scanned = scanned;
	memcg = BPF_CORE_READ(sc, target_mem_cgroup);
	if (!memcg)
		return true;
	cgroup_ref_of(&r->reclaimed, BPF_CORE_READ(memcg, css.cgroup));
	r->usage_pages = BPF_CORE_READ(memcg, memory.usage.counter);
	r->limit_pages = BPF_CORE_READ(memcg, memory.max);
	return true;
}

static __always_inline void report(void *ctx, struct task_stalls *s, struct task_struct *task, enum reclaim_kind kind,
				   u64 now, u64 ns, const struct stall_window *window)
{
	struct limit_key key = { .reason = kind << 1 | !!window };
	struct reclaim_stall *r;

	cgroup_of_any(&key.cgroup, task, memory_cgrp_id);
	if (FILTERED(reclaim_stall, &key.cgroup))
		return;
	r = RESERVE(reclaim_stall, &key, now);
	if (!r)
		return;
	r->order = UNKNOWN_ORDER;
	r->work = window ? window->work : s->work;
	if (kind == RECLAIM_COMPACTION) {
		r->order = s->order;
		r->gfp_mask = s->gfp_mask;
	} else if (!read_control(r, task)) {
		DISCARD(reclaim_stall, r);
		return;
	}
	r->time_ns = bpf_ktime_get_boot_ns();
	r->stall_ns = ns;
	r->window_ns = window ? now - window->begun_ns : 0;
	r->stalls = window ? window->stalls : 1;
	r->kind = kind;
	r->cgroup = key.cgroup;
	thread_of(&r->thread, task);
	take_stack(ctx, &r->stack);
	SUBMIT(reclaim_stall, r);
}
