/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A limit on records, for state that one CPU has for itself: what is over is counted, not lost. */
#pragma once

#include "probe.h"

/* At most BURST records at once, one more each REFILL_NS. */
#define BURST 20
#define REFILL_NS 1000000000ULL

struct limiter {
	u64 refilled_ns;
	u32 tokens;
	u32 suppressed;
};

static __always_inline void refill(struct limiter *l, u64 now)
{
	u64 since = now - l->refilled_ns;

	if (since >= REFILL_NS) {
		u64 tokens = l->tokens + since / REFILL_NS;

		l->tokens = tokens > BURST ? BURST : tokens;
		l->refilled_ns = now;
	}
}

static __always_inline bool allowed(struct limiter *l, u64 now)
{
	refill(l, now);
	if (!l->tokens) {
		l->suppressed++;
		return false;
	}
	l->tokens--;
	return true;
}
