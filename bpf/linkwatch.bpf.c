// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Who set a network device up or down. That it was done, rtnetlink reports to user
 * space; by whom, only the thread that does it knows, in which these hooks run
 * before rtnetlink's notice is made.
 */
#include "limit.h"
#include "netdev.h"

LICENSE;

#define IFF_UP 1
#define LINK_STATE_START 0
#define TC_H_ROOT 0xffffffff

struct admin_change {
	struct limited limited;
	u64 time_ns;
	/* in the cpu controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	u32 ifindex;
	u32 netns;
	u32 up;
	u32 reserved;
};

RECORDS(admin_change, 16 * 1024);

static __always_inline int report(const struct net_device *dev, u32 up)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct limit_key key = {};
	struct admin_change *r;

	if (!dev)
		return 0;
	cgroup_of_any(&key.cgroup, task, cpu_cgrp_id);
	key.netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	key.reason = BPF_CORE_READ(dev, ifindex);
	r = RESERVE(admin_change, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->cgroup = key.cgroup;
	current_thread(&r->thread);
	r->ifindex = key.reason;
	r->netns = key.netns;
	r->up = up;
	SUBMIT(admin_change, r);
	return 0;
}

/* net/core/dev.c: after the flags are set, before the notice. */
SEC("fentry/__dev_notify_flags")
int PROBE(admin__fentry, struct net_device *dev, unsigned int old_flags)
{
	unsigned int flags = dev->flags;

	return (flags ^ old_flags) & IFF_UP ? report(dev, flags & IFF_UP) : 0;
}

/*
 * __dev_close_many() clears __LINK_STATE_START, resets the queues, and takes IFF_UP off at last: in between,
 * the reset of the first queue stands for all. Queues are reset when the carrier is lost, too.
 */
SEC("tp_btf/qdisc_reset")
int PROBE(admin__reset, struct Qdisc *qdisc)
{
	struct netdev_queue *queue = BPF_CORE_READ(qdisc, dev_queue);
	struct net_device *dev = BPF_CORE_READ(queue, dev);

	if (queue != BPF_CORE_READ(dev, _tx) || BPF_CORE_READ(dev, state) & 1 << LINK_STATE_START)
		return 0;
	return BPF_CORE_READ(dev, flags) & IFF_UP ? report(dev, 0) : 0;
}

struct Qdisc_ops;

/* A device gets its queues when it is set up for the first time; those of single queues are below the root. */
SEC("tp_btf/qdisc_create")
int PROBE(first_up__btf, const struct Qdisc_ops *ops, struct net_device *dev, u32 parent)
{
	return parent == TC_H_ROOT ? report(dev, 1) : 0;
}
