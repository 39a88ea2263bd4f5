/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Rings of events: each workload and reason has a limit of its own, before there is room in the ring,
 * so that a flood of one hides nothing of another. What becomes of an event is counted by workload and
 * reason: handed over, over the limit, or lost as the ring was full.
 *
 * Counts only grow, on kernels from 5.10: no program can take one off without an atomic exchange, which
 * is of 5.12, or a spin lock, which tracing programs may not have. User space takes differences.
 *
 *	struct late_wakeup {
 *		struct limited limited;		// the head of each record
 *		…
 *	};
 *	RECORDS(late_wakeup, 64 * 1024);
 *
 *	struct limit_key key = { .reason = … };	// reason: what else has tokens of its own; 0: nothing
 *
 *	cgroup_of(&key.cgroup, next, memory_cgrp_id);
 *	r = RESERVE(late_wakeup, &key, bpf_ktime_get_ns());
 */
#pragma once

#include "probe.h"

/* So many records at once, and one more each LIMIT_REFILL_NS. */
#define LIMIT_BURST 20
#define LIMIT_REFILL_NS 1000000000ULL
#define LIMIT_FULL_NS (LIMIT_BURST * LIMIT_REFILL_NS)

/* Who shares tokens. → bianque::probe::LimitKey */
struct limit_key {
	struct cgroup_ref cgroup;
	u64 reason;
	/* Inode of the network namespace, where a cgroup may be unknown or be that of several containers. */
	u32 netns;
	/* The ring's number; RESERVE writes it. */
	u32 ring;
};

/* Head of a record. → bianque::probe::Limited */
struct limited {
	struct limit_key key;
	/* Events of this key over the limit, since begun_ns. */
	u64 suppressed;
	/* Tells it from an earlier entry of this key, which had to make room. 0: it has none. */
	u64 begun_ns;
};

/* → bianque::probe::Limiter */
struct limiter {
	/* The time from here to now is the tokens that are left, LIMIT_REFILL_NS each. */
	u64 spent_ns;
	u64 suppressed;
	/* Had tokens, but no room in the ring. */
	u64 lost;
	u64 begun_ns;
};

/* The least recently used make room: whoever floods it with keys frees but its own tokens. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	/* the loader makes it larger on large machines */
	__uint(max_entries, 1024);
	__type(key, struct limit_key);
	__type(value, struct limiter);
} limits SEC(".maps");

/* All of a ring, those of entries that are gone included. → bianque::probe::LimitCount */
struct limit_count {
	u64 suppressed;
	/* Found no entry, and no token left among all such. */
	u64 crowded;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBE_STATS_MAX);
	__type(key, u32);
	__type(value, struct limit_count);
} limit_counts SEC(".maps");

/* For keys that find no entry, by ring. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROBE_STATS_MAX);
	__type(key, u32);
	__type(value, struct limiter);
} crowded_limits SEC(".maps");

#define LIMITED_RING(type_, bytes, flags)                                                    \
	_Static_assert(__builtin_types_compatible_p(typeof(((struct type_ *)0)->limited), struct limited) && \
			       !__builtin_offsetof(struct type_, limited),                   \
		       "a record begins with `struct limited limited`");                     \
	PROBE_RING(type_, bytes, flags, PROBE_LIMITED)

/* A ring buffer of `struct type`; `bytes` is a power of two, at least a page. */
#define RECORDS(type, bytes) LIMITED_RING(type, bytes, 0)

/* The same, for more than 100 records a second: the reader looks every 100 ms. */
#define POLLED_RECORDS(type, bytes) LIMITED_RING(type, bytes, BPF_RB_NO_WAKEUP)

/*
 * A record with its head written, the rest zeroed; NULL, and counted, when its key has no token or the
 * ring has no room. `now` is of any clock, the same for all of a ring.
 */
#define RESERVE(type, key, now) \
	((struct type *)limited_reserve(&type, sizeof(struct type), key, now, type##__stat, NULL, true))

/* The same where a tally (tally.h) counts; what is suppressed only if it is `shared` by several keys. */
#define RESERVE_TALLIED(type, key, now, tally, shared) \
	((struct type *)limited_reserve(&type, sizeof(struct type), key, now, type##__stat, &(tally)->lost, shared))

static __always_inline struct limiter *limiter_of(const struct limit_key *key, u64 now)
{
	struct limiter *l = bpf_map_lookup_elem(&limits, key);
	struct limiter fresh = {};

	if (l)
		return l;
	fresh.spent_ns = now - LIMIT_FULL_NS;
	fresh.begun_ns = now;
	bpf_map_update_elem(&limits, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&limits, key);
}

/*
 * Takes a token. CPUs that race for the last one may each have it; it is taken so many times, so that the
 * next come later. Differences are signed, as the clock of another CPU may be ahead.
 */
static __always_inline bool limit_take(struct limiter *l, u64 now)
{
	u64 full = now - LIMIT_FULL_NS;

	if ((s64)(full - l->spent_ns) > 0)
		l->spent_ns = full;
	if ((s64)(now - l->spent_ns) < (s64)LIMIT_REFILL_NS)
		return false;
	__sync_fetch_and_add(&l->spent_ns, LIMIT_REFILL_NS);
	return true;
}

static __always_inline void limit_refused(struct limiter *l, u32 ring)
{
	struct limit_count *count = bpf_map_lookup_elem(&limit_counts, &ring);

	if (l)
		__sync_fetch_and_add(&l->suppressed, 1);
	if (count && l)
		count->suppressed++;
	else if (count)
		count->crowded++;
}

static __always_inline void *limited_reserve(void *ring, u64 size, struct limit_key *key, u64 now, u32 index,
					     u64 *tally_lost, bool counts)
{
	struct limiter *l, *bucket;
	struct limited *head;

	key->ring = index;
	l = limiter_of(key, now);
	bucket = l ? l : bpf_map_lookup_elem(&crowded_limits, &index);
	if (!bucket)
		return NULL;
	if (!limit_take(bucket, now)) {
		if (counts || !l)
			limit_refused(l, index);
		return NULL;
	}
	head = probe_reserve(ring, size, index);
	if (!head) {
		if (tally_lost)
			++*tally_lost;
		if (l)
			__sync_fetch_and_add(&l->lost, 1);
		return NULL;
	}
	head->key = *key;
	if (l) {
		head->suppressed = l->suppressed;
		head->begun_ns = l->begun_ns;
	}
	return head;
}
