/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Latency histograms in powers of two of a second, so that slots are buckets of an exponential
 * histogram of scale 0 as they are: in units of 2^-30 s, log2 is the bucket plus 30.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

/* 2^30 / 10^9, times 2^16: exact to 2 in a million, and an hour of nanoseconds does not overflow. */
#define LATENCY_UNITS(ns) (((ns) * 70369) >> 16)
/* What is below 2^10 units, 0.95 us, is counted as zero. */
#define LATENCY_FIRST 10
/* The last slot holds 32 s and all that is longer. */
#define LATENCY_SLOTS 26

/* How often, and how long → bianque::probe::Latencies */
struct latencies {
	u64 total_ns;
	u64 zero;
	u64 slots[LATENCY_SLOTS];
};

/* 0..31 by five steps; a loop or a call would cost more. */
static __always_inline u32 log2_of(u32 v)
{
	u32 log = 0;

	if (v >> 16) {
		log += 16;
		v >>= 16;
	}
	if (v >> 8) {
		log += 8;
		v >>= 8;
	}
	if (v >> 4) {
		log += 4;
		v >>= 4;
	}
	if (v >> 2) {
		log += 2;
		v >>= 2;
	}
	return log + (v >> 1);
}

/* The slot of a latency, or -1 for zero. Slot i is bucket i + LATENCY_FIRST - 30. */
static __always_inline int latency_slot(u64 ns)
{
	u64 units = LATENCY_UNITS(ns) >> LATENCY_FIRST;

	if (!units)
		return -1;
	return units >> (LATENCY_SLOTS - 1) ? LATENCY_SLOTS - 1 : log2_of(units);
}

/* The clock may go back by a little while the kernel sets it (ktime_get_mono_fast_ns). */
static __always_inline u64 between(u64 then, u64 now)
{
	return (s64)(now - then) > 0 ? now - then : 0;
}

static __always_inline void count_latency(struct latencies *to, u64 ns)
{
	int slot = latency_slot(ns);

	to->total_ns += ns;
	if (slot < 0)
		to->zero++;
	else if (slot < LATENCY_SLOTS)
		to->slots[slot]++;
}

/* The same where all CPUs count into one. */
static __always_inline void count_latency_of_all(struct latencies *to, u64 ns)
{
	int slot = latency_slot(ns);

	__sync_fetch_and_add(&to->total_ns, ns);
	if (slot < 0)
		__sync_fetch_and_add(&to->zero, 1);
	else if (slot < LATENCY_SLOTS)
		__sync_fetch_and_add(&to->slots[slot], 1);
}
