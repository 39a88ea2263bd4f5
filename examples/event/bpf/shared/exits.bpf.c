// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Processes that ended, counted for whoever wants to judge a number of failures by. */
#include "probe.h"

LICENSE;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} ended SEC(".maps");

SEC("tp_btf/sched_process_exit")
int PROBE(exited__btf, struct task_struct *task)
{
	u64 *count = bpf_map_lookup_elem(&ended, &(u32){ 0 });

	if (count && task->pid == task->tgid)
		*count += 1;
	return 0;
}
