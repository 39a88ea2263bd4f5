// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How late a hard timer of the monotonic clock is. It may be armed for a moment
 * that has passed already (an absolute timeout that is over): then it is late
 * from when it was armed.
 */

#define CLOCK_MONOTONIC 1

/* Timers that had expired when they were armed, and when that was. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u64);
} armed_late SEC(".maps");

/* Arming takes a while itself. */
#define ARMED_LATE_NS 1000000

SEC("tp_btf/hrtimer_start")
int PROBE(armed__btf, struct hrtimer *timer)
{
	u64 key = (u64)timer, now;

	if (timer->is_soft || timer->base->clockid != CLOCK_MONOTONIC)
		return 0;
	now = bpf_ktime_get_ns();
	if ((s64)(now - timer->node.expires) > ARMED_LATE_NS)
		bpf_map_update_elem(&armed_late, &key, &now, BPF_ANY);
	return 0;
}

/* How long a timer has been due: right from `limit` on, below it may be too much. */
static __always_inline s64 lateness(struct hrtimer *timer, u64 now, s64 limit)
{
	u64 key = (u64)timer, expires = timer->node.expires, *armed;

	if ((s64)(now - expires) < limit)
		return now - expires;
	armed = bpf_map_lookup_elem(&armed_late, &key);
	/* Else it is of an earlier life of the timer. */
	return armed && *armed > expires ? now - *armed : now - expires;
}
