/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A limit on records that is fair: each reason of each cgroup has tokens of its own, so that one
 * noisy source starves no other. What is over is counted, and is a number on the next record of
 * the same reason and cgroup.
 */
#pragma once

#include "limit.h"

struct limit_key {
	struct cgroup_ref cgroup;
	u64 reason;
};

/* `LIMIT_BY(name, entries)`: at file level, one for each kind of record. */
#define LIMIT_BY(name, entries)                      \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_LRU_HASH); \
		__uint(max_entries, entries);        \
		__type(key, struct limit_key);       \
		__type(value, struct limiter);       \
	} name SEC(".maps")

/*
 * May a record of this reason and cgroup be made now? If so, `suppressed` is how many were not
 * since the last one. CPUs that race may let one more through; none is counted twice or not at all.
 */
static __always_inline bool allowed_by(void *limits, const struct limit_key *key, u64 now, u32 *suppressed)
{
	struct limiter fresh = { .refilled_ns = now, .tokens = BURST };
	struct limiter *l = bpf_map_lookup_elem(limits, key);

	*suppressed = 0;
	if (!l) {
		bpf_map_update_elem(limits, key, &fresh, BPF_NOEXIST);
		l = bpf_map_lookup_elem(limits, key);
		if (!l)
			return true;
	}
	refill(l, now);
	if (!l->tokens) {
		__sync_fetch_and_add(&l->suppressed, 1);
		return false;
	}
	l->tokens--;
	/* Without an atomic exchange, which is of 5.12: what was read is taken off. */
	*suppressed = l->suppressed;
	if (*suppressed)
		__sync_fetch_and_add(&l->suppressed, -*suppressed);
	return true;
}
