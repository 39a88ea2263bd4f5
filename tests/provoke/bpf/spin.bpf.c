// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Keeps one CPU busy inside the kernel, on purpose (needs bpf_loop: Linux 5.17).
 * spin_irq:      in the local timer interrupt of one CPU (interrupts off)
 * spin_syscall:  at system call entry of one process (preemption off, interrupts on)
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile struct {
	__u64 ms, times;
	__u32 cpu, pid;
} cfg;
__u64 done;

struct span { __u64 end; };

static long step(__u32 i, struct span *s)
{
	return bpf_ktime_get_ns() >= s->end;
}

static long leg(__u32 i, struct span *s)
{
	bpf_loop(1 << 22, step, s, 0);
	return bpf_ktime_get_ns() >= s->end;
}

static void spin(void)
{
	struct span s;

	if (done >= cfg.times)
		return;
	done += 1;
	s.end = bpf_ktime_get_ns() + cfg.ms * 1000000ULL;
	bpf_loop(1 << 12, leg, &s, 0);
}

SEC("raw_tp/local_timer_exit")
int spin_irq(void *ctx)
{
	if (bpf_get_smp_processor_id() == cfg.cpu)
		spin();
	return 0;
}
SEC("raw_tp/sys_enter")
int spin_syscall(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == cfg.pid)
		spin();
	return 0;
}

char _license[] SEC("license") = "GPL";
