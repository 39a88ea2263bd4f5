// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A task has to free memory before it gets some: direct reclaim, reclaim of its memory cgroup,
 * direct compaction. Each is timed from its begin to its end; one that is long is reported, and so are
 * many short ones that add up.
 */
#include "call_stack.h"
#include "filter.h"
#include "limit.h"

LICENSE;

#include "memreclaim/report.bpf.c"

SETTING(u64, stall_limit_ns, 500000000);
SETTING(u64, window_ns, 10000000000);
SETTING(u64, window_limit_ns, 1000000000);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct task_stalls);
} tasks SEC(".maps");

/* The running task's entry. */
static __always_inline struct task_stalls *stalls_of(struct task_struct *task, bool make)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_stalls *s = bpf_map_lookup_elem(&tasks, &tid);
	u64 start_ns;

	if (!s && !make)
		return NULL;
	start_ns = task_start_boottime(task);
	if (s && s->start_ns == start_ns)
		return s;
	if (!make)
		return NULL;
	struct task_stalls fresh = { .start_ns = start_ns };

	bpf_map_update_elem(&tasks, &tid, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&tasks, &tid);
}

static __always_inline int begin(bool make)
{
	struct task_stalls *s = stalls_of((void *)bpf_get_current_task(), make);

	if (!s)
		return 0;
	s->begun_ns = bpf_ktime_get_ns();
	s->work.scanned = 0;
	s->work.reclaimed = 0;
	return 0;
}

static __always_inline void open_window(struct stall_window *w, u64 at)
{
	w->begun_ns = at;
	w->sum_ns = 0;
	w->work.scanned = 0;
	w->work.reclaimed = 0;
	w->stalls = 0;
}

static __always_inline int end(void *ctx, enum reclaim_kind kind, u64 scanned, u64 reclaimed)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_stalls *s = stalls_of(task, false);
	struct stall_window *w;
	u64 now, ns;

	/* It began before we did. */
	if (!s || !s->begun_ns)
		return 0;
	now = bpf_ktime_get_ns();
	ns = now - s->begun_ns;
	s->work.scanned += scanned;
	s->work.reclaimed = reclaimed;
	if (ns >= stall_limit_ns) {
		report(ctx, s, task, kind, now, ns, NULL);
	} else {
		w = &s->windows[kind & (WINDOWS - 1)];
		if (now - w->begun_ns > window_ns)
			open_window(w, s->begun_ns);
		w->sum_ns += ns;
		w->work.scanned += s->work.scanned;
		w->work.reclaimed += s->work.reclaimed;
		w->stalls++;
		if (w->sum_ns >= window_limit_ns) {
			report(ctx, s, task, kind, now, w->sum_ns, w);
			open_window(w, now);
		}
	}
	s->begun_ns = 0;
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int PROBE(direct_begin__btf)
{
	return begin(true);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int PROBE(direct_end__btf, unsigned long reclaimed)
{
	return end(ctx, RECLAIM_DIRECT, 0, reclaimed);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int PROBE(memcg_begin__btf)
{
	return begin(true);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int PROBE(memcg_end__btf, unsigned long reclaimed)
{
	return end(ctx, RECLAIM_MEMCG, 0, reclaimed);
}

/* A batch of at most some dozens of pages; kswapd's too, which has no entry. */
SEC("tp_btf/mm_vmscan_lru_shrink_inactive")
int PROBE(shrink__btf, int node, unsigned long scanned)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_stalls *s = bpf_map_lookup_elem(&tasks, &tid);

	if (s && s->begun_ns)
		s->work.scanned += scanned;
	return 0;
}

/* Only for an allocation: kcompactd does not come here, and so has no entry below. */
SEC("tp_btf/mm_compaction_try_to_compact_pages")
int PROBE(compact_try__btf, int order, u32 gfp_mask)
{
	struct task_stalls *s = stalls_of((void *)bpf_get_current_task(), true);

	if (!s)
		return 0;
	s->order = order;
	s->gfp_mask = gfp_mask;
	return 0;
}

/* Of one zone. */
SEC("tp_btf/mm_compaction_begin")
int PROBE(compact_begin__btf)
{
	return begin(false);
}

/* Since 5.19: abd4349ff9b8 ("mm: compaction: cleanup the compaction trace events"). */
SEC("tp_btf/mm_compaction_end")
int PROBE(compact_end__control, struct compact_control *cc)
{
	/* direct loads, so that kernels which pass numbers refuse this variant */
	u64 scanned = cc->total_migrate_scanned + cc->total_free_scanned;

	return end(ctx, RECLAIM_COMPACTION, scanned, 0);
}

SEC("tp_btf/mm_compaction_end")
int PROBE(compact_end__numbers)
{
	return end(ctx, RECLAIM_COMPACTION, 0, 0);
}
