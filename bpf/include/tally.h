/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts hits of one kind on one CPU, and decides which of them make a record: the first after a
 * quiet time, then the second, fourth, eighth …, and one a minute while they go on. A storm of a
 * million makes some twenty records; the others are counted:
 * hits = reported + lost + suppressed.
 */
#pragma once

#include "probe.h"

/* After this long without a hit, the next one makes a record again. */
#define TALLY_QUIET_NS 5000000000ULL
#define TALLY_LONGEST_NS 60000000000ULL

struct tally {
	u64 hits;
	/* what they were of: packets or segments, of which one hit may have many (GSO, GRO) */
	u64 units;
	/* of them: records handed over, and records without room */
	u64 reported;
	u64 lost;
	/* suppressed ones that a record or a filter has counted */
	u64 spoken_of;
	/* hits until the next record, and since the last */
	u64 wait;
	u64 since;
	u64 last_ns;
	u64 reported_ns;
	/* the tick of last_ns: the clock, which costs more than all the rest, is read once a tick */
	u64 tick;
};

static __always_inline bool tally_hit(struct tally *t, u32 units)
{
	u64 tick = bpf_jiffies64();
	bool quiet = false;

	t->hits++;
	t->units += units;
	t->since++;
	if (tick != t->tick) {
		u64 now = bpf_ktime_get_ns();

		quiet = now - t->last_ns > TALLY_QUIET_NS;
		t->last_ns = now;
		t->tick = tick;
	}
	if (quiet)
		t->wait = 1;
	if (t->since < t->wait && t->last_ns - t->reported_ns < TALLY_LONGEST_NS)
		return false;
	t->wait = quiet ? 1 : t->wait * 2;
	t->since = 0;
	t->reported_ns = t->last_ns;
	return true;
}

/* Suppresses this one: returns how many suppressed hits, it included, no record has counted yet. */
static __always_inline u64 tally_suppress(struct tally *t)
{
	u64 suppressed = t->hits - t->reported - t->lost;
	u64 news = suppressed - t->spoken_of;

	t->spoken_of = suppressed;
	return news;
}

/* Reports this one: returns how many were suppressed since the last record. */
static __always_inline u64 tally_report(struct tally *t)
{
	u64 suppressed = t->hits - 1 - t->reported - t->lost;
	u64 news = suppressed - t->spoken_of;

	t->spoken_of = suppressed;
	t->reported++;
	return news;
}
