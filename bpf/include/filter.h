/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Of whom no record is made: the cgroups that a collector's filter does not want, as user space
 * judged them when it learnt what they are. To be asked before a limit, so that what nobody wants
 * takes no tokens. What is not in the map passes, and is judged in user space.
 */
#pragma once

#include "probe.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	/* some 90 KiB; of more, the others are judged in user space only */
	__uint(max_entries, 1024);
	__type(key, struct cgroup_ref);
	/* one bit a ring of this object, by its number in probe_stats */
	__type(value, u64);
} filtered SEC(".maps");

/* Records that were not made, by the ring's number. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBE_STATS_MAX);
	__type(key, u32);
	__type(value, u64);
} filter_counts SEC(".maps");

/* 0: the map is empty */
SETTING(u32, filtering, 0);

/* `UNWANTED(type, cgroup)`: nobody wants a record of this type of this cgroup. */
#define UNWANTED(type, cgroup) probe_unwanted(cgroup, type##__stat)

/* `COUNT_FILTERED(type, n)`: so many were not made. */
#define COUNT_FILTERED(type, n) probe_count_filtered(type##__stat, n)

/* `FILTERED(type, cgroup)`: both, for one. */
#define FILTERED(type, cgroup) (UNWANTED(type, cgroup) && COUNT_FILTERED(type, 1))

static __always_inline bool probe_unwanted(const struct cgroup_ref *cgroup, u32 ring)
{
	u64 *rings;

	if (!filtering)
		return false;
	rings = bpf_map_lookup_elem(&filtered, cgroup);
	return rings && *rings & (1ULL << ring);
}

static __always_inline bool probe_count_filtered(u32 ring, u64 n)
{
	u64 *count = bpf_map_lookup_elem(&filter_counts, &ring);

	if (count)
		*count += n;
	return true;
}
