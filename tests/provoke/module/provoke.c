// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Provokes kernel anomalies on purpose, for tests in a throw-away virtual machine.
 *
 *   echo 'VERB [ARG…]' > /sys/kernel/debug/provoke
 *
 *   spin MS             busy loop in the writer's context, preemption off (soft lockup, RCU stall)
 *   irqoff MS           the same with interrupts off (late timer tick, softirq delay, RCU stall)
 *   bhoff MS            the same with bottom halves off (softirq delay)
 *   hang MS             uninterruptible sleep (hung task)
 *   mc_event            report one corrected memory error   (ras:mc_event)
 *   non_standard_event  report one vendor-defined error      (ras:non_standard_event)
 *   txtimeout           (un)register a network device whose queue never drains: `txtimeout 1|0`
 */
#include <linux/module.h>
#include <linux/debugfs.h>
#include <linux/uaccess.h>
#include <linux/delay.h>
#include <linux/sched.h>
#include <linux/ktime.h>
#include <linux/netdevice.h>
#include <linux/etherdevice.h>
#include <linux/version.h>
#include <linux/ras.h>
#include <linux/cper.h>
#include <ras/ras_event.h>

static struct dentry *file;
static struct net_device *stuck;

static netdev_tx_t stuck_xmit(struct sk_buff *skb, struct net_device *dev)
{
	/* The "hardware" took one packet and never completes it. */
	netif_stop_queue(dev);
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 6, 0)
static void stuck_timeout(struct net_device *dev, unsigned int q)
#else
static void stuck_timeout(struct net_device *dev)
#endif
{
	dev->stats.tx_errors++;
}

static int stuck_open(struct net_device *dev)
{
	netif_carrier_on(dev);
	netif_start_queue(dev);
	return 0;
}

static int stuck_stop(struct net_device *dev)
{
	netif_stop_queue(dev);
	return 0;
}

static const struct net_device_ops stuck_ops = {
	.ndo_open = stuck_open,
	.ndo_stop = stuck_stop,
	.ndo_start_xmit = stuck_xmit,
	.ndo_tx_timeout = stuck_timeout,
	.ndo_set_mac_address = eth_mac_addr,
};

static void stuck_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &stuck_ops;
	dev->watchdog_timeo = HZ;
	eth_hw_addr_random(dev);
}

static int stuck_set(int on)
{
	int rc;

	if (!on) {
		if (stuck) {
			unregister_netdev(stuck);
			free_netdev(stuck);
			stuck = NULL;
		}
		return 0;
	}
	if (stuck)
		return -EEXIST;
	stuck = alloc_netdev(0, "stuck0", NET_NAME_UNKNOWN, stuck_setup);
	if (!stuck)
		return -ENOMEM;
	rc = register_netdev(stuck);
	if (rc) {
		free_netdev(stuck);
		stuck = NULL;
	}
	return rc;
}

static void burn(unsigned int ms)
{
	u64 end = ktime_get_mono_fast_ns() + (u64)ms * NSEC_PER_MSEC;

	while (ktime_get_mono_fast_ns() < end)
		cpu_relax();
}

static ssize_t provoke_write(struct file *f, const char __user *ubuf, size_t n, loff_t *pos)
{
	char buf[64], verb[32] = "";
	unsigned int ms = 0;
	unsigned long flags;
	int rc = 0;

	if (n >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, ubuf, n))
		return -EFAULT;
	buf[n] = 0;
	if (sscanf(buf, "%31s %u", verb, &ms) < 1)
		return -EINVAL;
	if (ms > 120000)
		return -ERANGE;
	if (!strcmp(verb, "spin")) {
		preempt_disable();
		burn(ms);
		preempt_enable();
	} else if (!strcmp(verb, "irqoff")) {
		local_irq_save(flags);
		burn(ms);
		local_irq_restore(flags);
	} else if (!strcmp(verb, "bhoff")) {
		local_bh_disable();
		burn(ms);
		local_bh_enable();
	} else if (!strcmp(verb, "hang")) {
		long left = msecs_to_jiffies(ms);

		while (left > 0) {
			set_current_state(TASK_UNINTERRUPTIBLE);
			left = schedule_timeout(left);
		}
	} else if (!strcmp(verb, "mc_event")) {
		trace_mc_event(HW_EVENT_ERR_CORRECTED, "provoked", "DIMM_A1", 1, 0, 0, 0, -1,
			       0x12345000, 12, 0xabcd, "memory read error");
	} else if (!strcmp(verb, "non_standard_event")) {
		guid_t sec = GUID_INIT(0x61ec04fc, 0x48e6, 0xd813, 0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12);
		guid_t fru = GUID_INIT(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
		u8 data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

		trace_non_standard_event(&sec, &fru, "provoked", 2, data, sizeof(data));
	} else if (!strcmp(verb, "txtimeout")) {
		rc = stuck_set(ms);
	} else {
		rc = -EINVAL;
	}
	return rc ? rc : n;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.write = provoke_write,
	.llseek = noop_llseek,
};

static int __init provoke_init(void)
{
	file = debugfs_create_file("provoke", 0200, NULL, NULL, &fops);
	return IS_ERR(file) ? PTR_ERR(file) : 0;
}

static void __exit provoke_exit(void)
{
	stuck_set(0);
	debugfs_remove(file);
}

module_init(provoke_init);
module_exit(provoke_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("provokes kernel anomalies for tests");
